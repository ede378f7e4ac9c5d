"""The questions of the study as contrasts of cells: what is taken from what, of which domain, rank and measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llava_moe.grid.effects import Effect, Stratum, effect_of, survives_holm
from studies.conflict.results import Asked, Result

Measure = Literal["loss", "accuracy"]
MEASURES: tuple[Measure, ...] = ("loss", "accuracy")


@dataclass(frozen=True)
class Contrast:
    """One row of the page: how much more ``method`` on all domains has than the baseline that it is held against.

    Attributes:
        against: ``alone``: the baseline trained on the domain alone; ``mix``: the baseline trained on all.
        domain, rank: None: the mean over all of them, each alike.
        seeds: the seeds of which both cells are there.
        before, after: the measure of what is held against, and of the method.
        stands: whether the effect is away from zero among all contrasts of the page (Holm).
    """

    method: str
    against: Literal["alone", "mix"]
    measure: Measure
    domain: str | None
    rank: int | None
    seeds: tuple[int, ...]
    before: float
    after: float
    effect: Effect
    stands: bool = False

    @property
    def is_worse(self) -> bool:
        """Whether the interval says that the method does worse: a higher loss, a lower accuracy."""
        return self.effect.low > 0 if self.measure == "loss" else self.effect.high < 0

    @property
    def is_better(self) -> bool:
        """Whether the interval says that the method does better."""
        return self.effect.high < 0 if self.measure == "loss" else self.effect.low > 0


@dataclass(frozen=True)
class Found:
    """All contrasts that the results allow, single ones first, then means over domains and ranks."""

    single: tuple[Contrast, ...]
    means: tuple[Contrast, ...]


class _Cells:
    """Results by what they are, and the items of a domain."""

    def __init__(self, results: Sequence[Result], asked: Asked) -> None:
        self.by_key = {(one.seed, one.rank, one.method, one.trained_on): one for one in results}
        self.domains = tuple(dict.fromkeys(asked.record_domains))
        self.asked = asked
        self.everything = max((one.trained_on for one in results), key=len)
        self.methods = tuple(dict.fromkeys(one.method for one in results if one.trained_on == self.everything))
        self.ranks = tuple(sorted({one.rank for one in results}))

    def pairs(
        self, method: str, baseline: str, against: str, domain: str, rank: int
    ) -> dict[int, tuple[Result, Result]]:
        """Seed to the cell held against and the method's, where both are there."""
        before = (domain,) if against == "alone" else self.everything
        found = {}
        for seed in sorted({key[0] for key in self.by_key}):
            pair = (
                self.by_key.get((seed, rank, baseline, before)),
                self.by_key.get((seed, rank, method, self.everything)),
            )
            if pair[0] is not None and pair[1] is not None:
                found[seed] = (pair[0], pair[1])
        return found

    def items(self, result: Result, measure: Measure, domain: str) -> tuple[np.ndarray, np.ndarray]:
        """Sums and weights of a domain's groups: nats and tokens of a record, right and all questions of an image."""
        if measure == "loss":
            inside_N = np.asarray([one == domain for one in self.asked.record_domains])
            return result.nats_N[inside_N], self.asked.tokens_N[inside_N]
        inside_Q = np.asarray([one == domain for one in self.asked.question_domains])
        groups_Q = np.unique(self.asked.images_Q[inside_Q], return_inverse=True)[1].reshape(-1)
        return np.bincount(groups_Q, result.right_Q[inside_Q]), np.bincount(groups_Q).astype(np.float64)


def find_contrasts(results: Sequence[Result], asked: Asked, baseline: str) -> Found:
    """Every contrast of which two seeds or more are there.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("there are no results")
    cells = _Cells(results, asked)
    questions = [(baseline, "alone"), *((method, "mix") for method in cells.methods if method != baseline)]
    single, means = [], []
    for method, against in questions:
        for measure in MEASURES:
            made = [
                _contrast(cells, method, baseline, against, measure, [domain], [rank])
                for domain in cells.domains
                for rank in cells.ranks
            ]
            there = [one for one in made if one is not None]
            single += there
            ranks = sorted({one.rank for one in there if one.rank is not None})
            mean = _contrast(cells, method, baseline, against, measure, cells.domains, ranks) if ranks else None
            means += [] if mean is None else [mean]
    stands = survives_holm([one.effect.p for one in single])
    marked = tuple(Contrast(**{**vars(one), "stands": stood}) for one, stood in zip(single, stands, strict=True))
    return Found(marked, tuple(means))


def _contrast(
    cells: _Cells,
    method: str,
    baseline: str,
    against: str,
    measure: Measure,
    domains: Sequence[str],
    ranks: Sequence[int],
) -> Contrast | None:
    """One contrast, or the mean of several over the seeds that all of them have; None with fewer than two seeds."""
    pairs = {(d, r): cells.pairs(method, baseline, against, d, r) for d in domains for r in ranks}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in pairs.values())))
    if len(seeds) < 2:
        return None
    strata, before, after = [], [], []
    for domain in domains:
        deltas, weights = [], np.empty(0)
        for seed in seeds:
            sums = []
            for rank in ranks:
                (low_G, weights), (high_G, _) = (cells.items(one, measure, domain) for one in pairs[domain, rank][seed])
                sums.append(high_G - low_G)
                before.append(low_G.sum() / weights.sum())
                after.append(high_G.sum() / weights.sum())
            deltas.append(np.mean(sums, axis=0))
        strata.append(Stratum(np.asarray(deltas), weights))
    return Contrast(
        method,
        "alone" if against == "alone" else "mix",
        measure,
        domains[0] if len(domains) == 1 else None,
        ranks[0] if len(ranks) == 1 else None,
        tuple(seeds),
        float(np.mean(before)),
        float(np.mean(after)),
        effect_of(strata),
    )
