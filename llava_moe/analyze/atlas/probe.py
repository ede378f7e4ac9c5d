"""How well a record's domain can be read from its routing alone, by a linear classifier on records it has not seen.

Shape suffixes: N records, F features, M domains, J columns of targets, P penalties, R permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_FOLDS = 5
NUM_PERMUTATIONS = 200
# Times the mean eigenvalue of the training records' products.
_PENALTIES = np.logspace(-3, 3, 7)
_NUM_DRAWS = 10_000


@dataclass(frozen=True)
class Probe:
    """Accuracy of the probe: the mean over domains of the share of a domain's records that it tells right.

    Attributes:
        accuracy: on records in the folds that it was not fitted on.
        low, high: 95 % interval: each domain's share drawn from Beta(right + 1/2, wrong + 1/2) (Jeffreys), so that an
            accuracy of 1 has one too; records count as independent.
        chance: 1 / number of domains.
        chance_high: 95th percentile of the accuracy where the domains of each fold's clusters are shuffled.
        recall_M: the share by domain.
        num_folds: parts that the records were cut into.
    """

    accuracy: float
    low: float
    high: float
    chance: float
    chance_high: float
    recall_M: tuple[float, ...]
    num_folds: int


def probe_domains(
    features_NF: np.ndarray,
    domains_N: np.ndarray,
    num_domains: int,
    clusters_N: np.ndarray | None = None,
    seed: int = 0,
    num_permutations: int = NUM_PERMUTATIONS,
) -> Probe:
    """Cross-validate a ridge classifier of the domain: one-hot targets, the largest output wins.

    Features are standardised and the penalty is chosen by leave-one-out error within the training folds alone. Records
    of one cluster (one image) are in one fold; folds hold the domains in like shares.

    Args:
        features_NF: what a record is told by, such as its share vector over routers and experts.
        clusters_N: which records belong together; each stands alone by default.

    Raises:
        ValueError: a domain with fewer than two clusters.
    """
    clusters_N = np.arange(len(domains_N)) if clusters_N is None else clusters_N
    folds_N = deal_folds(domains_N, clusters_N, num_domains, seed)
    labels_RN = np.stack([domains_N, *_dealt(domains_N, clusters_N, folds_N, num_permutations, seed)])
    told_RN = np.empty_like(labels_RN)
    for fold in range(folds_N.max() + 1):
        is_test_N = folds_N == fold
        targets_NJ = _one_hot(labels_RN[:, ~is_test_N], num_domains)
        outputs_NJ = _ridge(features_NF[~is_test_N], targets_NJ, features_NF[is_test_N], num_domains)
        told_RN[:, is_test_N] = outputs_NJ.reshape(len(outputs_NJ), -1, num_domains).argmax(-1).T
    recalls_RM = np.stack(
        [_recalls(told_N, labels_N, num_domains) for told_N, labels_N in zip(told_RN, labels_RN, strict=True)]
    )
    low, high = _interval(recalls_RM[0], np.bincount(domains_N, minlength=num_domains), seed)
    accuracy = float(recalls_RM[0].mean())
    chances_R = recalls_RM[1:].mean(-1)
    return Probe(
        accuracy=accuracy,
        low=min(low, accuracy),
        high=max(high, accuracy),
        chance=1 / num_domains,
        chance_high=float(np.percentile(chances_R, 95)) if len(chances_R) else float("nan"),
        recall_M=tuple(recalls_RM[0].tolist()),
        num_folds=int(folds_N.max()) + 1,
    )


def deal_folds(domains_N: np.ndarray, clusters_N: np.ndarray, num_domains: int, seed: int) -> np.ndarray:
    """The fold of each record: the clusters of each domain, in an order drawn by the seed, dealt out in turn.

    There are five folds, or as many as the domain with the fewest clusters has.

    Raises:
        ValueError: a domain has fewer than two clusters.
    """
    first = {int(cluster): int(domain) for cluster, domain in zip(clusters_N[::-1], domains_N[::-1], strict=True)}
    of_domain: list[list[int]] = [[] for _ in range(num_domains)]
    for cluster in sorted(first):
        of_domain[first[cluster]].append(cluster)
    num_folds = min(NUM_FOLDS, *(len(clusters) for clusters in of_domain))
    if num_folds < 2:
        raise ValueError(f"{[len(clusters) for clusters in of_domain]} clusters by domain: two are the least")
    generator = np.random.default_rng([seed, 0])
    fold_of = {}
    for clusters in of_domain:
        for place, cluster in enumerate(generator.permutation(clusters).tolist()):
            fold_of[cluster] = place % num_folds
    return np.array([fold_of[int(cluster)] for cluster in clusters_N])


def _dealt(domains_N: np.ndarray, clusters_N: np.ndarray, folds_N: np.ndarray, num: int, seed: int) -> list[np.ndarray]:
    """Domains permuted over clusters, fold by fold.

    Over all folds at once a fold would teach less of a domain the more of it there is to tell, and chance would look
    worse than it is.
    """
    generator = np.random.default_rng([seed, 1])
    _, first_C, of_N = np.unique(clusters_N, return_index=True, return_inverse=True)
    labels_C, folds_C = domains_N[first_C], folds_N[first_C]
    dealt = []
    for _ in range(num):
        permuted_C = labels_C.copy()
        for fold in range(folds_N.max() + 1):
            permuted_C[folds_C == fold] = generator.permutation(labels_C[folds_C == fold])
        dealt.append(permuted_C[of_N])
    return dealt


def _one_hot(labels_RN: np.ndarray, num_domains: int) -> np.ndarray:
    """[N, R * M]."""
    hot_RNM = (labels_RN[..., None] == np.arange(num_domains)).astype(np.float64)
    return hot_RNM.transpose(1, 0, 2).reshape(labels_RN.shape[1], -1)


def _ridge(train_NF: np.ndarray, targets_NJ: np.ndarray, test_NF: np.ndarray, num_domains: int) -> np.ndarray:
    """Outputs for the test records; each group of M columns of targets has the penalty that suits it best.

    With X centred, X X^T = Q diag(s) Q^T, H = Q diag(s / (s + penalty)) Q^T + 1/N: the leave-one-out residual of record
    i is (y - H y)_i / (1 - H_ii) (Hastie, Tibshirani and Friedman 2009, eq. 7.64).
    """
    mean_F, spread_F = train_NF.mean(0), train_NF.std(0)
    # A share that hardly moves would be blown up to noise of size one.
    scale_F = np.where(spread_F > 1e-9, spread_F, np.inf)
    x_NF, other_NF = (train_NF - mean_F) / scale_F, (test_NF - mean_F) / scale_F
    s_N, q_NN = np.linalg.eigh(x_NF @ x_NF.T)
    s_N, offset_J = np.maximum(s_N, 0.0), targets_NJ.mean(0)
    turned_NJ = q_NN.T @ (targets_NJ - offset_J)
    penalties_P = _PENALTIES * max(float(s_N.mean()), 1e-12)
    errors, outputs = [], []
    for penalty in penalties_P:
        fitted_NJ = q_NN @ ((s_N / (s_N + penalty))[:, None] * turned_NJ) + offset_J
        leverage_N = (q_NN**2 * (s_N / (s_N + penalty))).sum(1) + 1 / len(x_NF)
        left_out_NJ = (targets_NJ - fitted_NJ) / np.maximum(1 - leverage_N, 1e-12)[:, None]
        errors.append((left_out_NJ**2).sum(0).reshape(-1, num_domains).sum(1))
        outputs.append(other_NF @ x_NF.T @ (q_NN @ (turned_NJ / (s_N + penalty)[:, None])) + offset_J)
    # Of equal errors the strongest penalty.
    chosen_R = len(penalties_P) - 1 - np.stack(errors)[::-1].argmin(0)
    by_group_PNRM = np.stack(outputs).reshape(len(penalties_P), len(test_NF), -1, num_domains)
    best_NRM = by_group_PNRM[chosen_R, :, np.arange(len(chosen_R))].transpose(1, 0, 2)
    return best_NRM.reshape(len(test_NF), -1)


def _recalls(told_N: np.ndarray, labels_N: np.ndarray, num_domains: int) -> np.ndarray:
    right_M = np.bincount(labels_N, weights=(told_N == labels_N), minlength=num_domains)
    # Clusters differ in size: a deal may leave a domain without a record.
    return right_M / np.maximum(np.bincount(labels_N, minlength=num_domains), 1)


def _interval(recalls_M: np.ndarray, sizes_M: np.ndarray, seed: int) -> tuple[float, float]:
    generator = np.random.default_rng([seed, 2])
    right_M = recalls_M * sizes_M
    draws_RM = generator.beta(right_M + 0.5, sizes_M - right_M + 0.5, size=(_NUM_DRAWS, len(sizes_M)))
    low, high = np.percentile(draws_RM.mean(-1), [2.5, 97.5])
    return float(low), float(high)
