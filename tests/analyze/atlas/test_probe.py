"""The linear probe of a record's domain: right where it can be, at chance where it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from llava_moe.analyze.atlas.probe import _ridge, deal_folds, probe_domains


def records(num: int, gap: float, seed: int = 0, num_features: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    domains_N = np.repeat(np.arange(3), num)
    features_NF = generator.normal(size=(3 * num, num_features))
    features_NF[:, :3] += gap * np.eye(3)[domains_N]
    return features_NF, domains_N


def test_domains_that_lie_apart_are_told_and_their_interval_does_not_vanish() -> None:
    features_NF, domains_N = records(16, gap=40)
    probe = probe_domains(features_NF, domains_N, 3)
    assert probe.accuracy == 1.0 and probe.recall_M == (1.0, 1.0, 1.0)
    assert 0.85 < probe.low < 0.99 and probe.high == 1.0
    assert probe.chance == pytest.approx(1 / 3) and 0.34 < probe.chance_high < 0.6


def test_features_without_the_domain_are_at_chance() -> None:
    probes = [probe_domains(*records(20, gap=0, seed=seed), 3, seed=seed, num_permutations=50) for seed in range(30)]
    assert np.mean([one.accuracy for one in probes]) == pytest.approx(1 / 3, abs=0.05)
    assert np.mean([one.accuracy > one.chance_high for one in probes]) <= 0.2


def test_records_of_an_image_stay_together_so_that_a_copy_teaches_nothing() -> None:
    generator = np.random.default_rng(0)
    features_NF = np.repeat(generator.normal(size=(30, 60)), 2, axis=0)
    domains_N = np.repeat(generator.permutation(np.repeat(np.arange(3), 10)), 2)
    together = probe_domains(features_NF, domains_N, 3, clusters_N=np.repeat(np.arange(30), 2))
    apart = probe_domains(features_NF, domains_N, 3)
    assert together.accuracy < 0.6 < apart.accuracy


def test_folds_hold_every_domain_and_no_cluster_twice() -> None:
    domains_N = np.repeat([0, 1], [14, 6])
    clusters_N = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22, 23, 24, 24])
    folds_N = deal_folds(domains_N, clusters_N, 2, seed=3)
    assert set(folds_N[domains_N == 1]) == set(range(5))
    for cluster in set(clusters_N.tolist()):
        assert len(set(folds_N[clusters_N == cluster].tolist())) == 1
    with pytest.raises(ValueError, match="two are the least"):
        deal_folds(np.array([0, 0, 1]), np.arange(3), 2, seed=0)


def test_ridge_and_its_choice_of_penalty_equal_plain_least_squares() -> None:
    """Against the primal solution, the penalty chosen by leaving every record out in turn."""
    generator = np.random.default_rng(1)
    train_NF, test_NF = generator.normal(size=(15, 4)), generator.normal(size=(6, 4))
    targets_NM = np.eye(3)[generator.integers(0, 3, size=15)]

    def fitted(x: np.ndarray, y: np.ndarray, z: np.ndarray, penalty: float) -> np.ndarray:
        solved = np.linalg.solve((x - x.mean(0)).T @ (x - x.mean(0)) + penalty * np.eye(4), (x - x.mean(0)).T @ y)
        return (z - x.mean(0)) @ solved + y.mean(0)

    x_NF = (train_NF - train_NF.mean(0)) / train_NF.std(0)
    z_NF = (test_NF - train_NF.mean(0)) / train_NF.std(0)
    unit = np.linalg.eigvalsh(x_NF @ x_NF.T).mean()
    penalties = np.logspace(-3, 3, 7) * unit
    errors = []
    for penalty in penalties:
        errors.append(0.0)
        for left in range(15):
            kept = np.arange(15) != left
            errors[-1] += float(
                ((fitted(x_NF[kept], targets_NM[kept], x_NF[left : left + 1], penalty) - targets_NM[left]) ** 2).sum()
            )
    best = penalties[int(np.argmin(errors))]
    assert np.allclose(_ridge(train_NF, targets_NM, test_NF, 3), fitted(x_NF, targets_NM, z_NF, best), atol=1e-9)
