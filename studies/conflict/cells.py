"""The cells of a study, each one training: which words it is, what it trains on, and in which order they are made.

What makes a cell that trains on one domain see the very records of it that the mix sees: a source gives its ``cap``
samples by the seed and its own name (``llava_moe.data.mixture.Mixture``), so that sources beside it change nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from studies.conflict.study import Study

ALL = "all"


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        rank: of the baseline; another method's settings stand for its size.
        trained_on: the domains, one of them or all.
        words: of ``llava-moe train``, but for ``out=`` and ``init_from=``.
        settings: eight hex digits that change with any word of the cell, of its stage 1 and of what is measured.
    """

    seed: int
    rank: int
    method: str
    trained_on: tuple[str, ...]
    words: tuple[str, ...]
    settings: str

    @property
    def name(self) -> str:
        """Names the cell in its study, and its folder."""
        domains = self.trained_on[0] if len(self.trained_on) == 1 else ALL
        return f"seed{self.seed}-r{self.rank}-{self.method}-{domains}"


def cells_of(study: Study) -> list[Cell]:
    """All cells, seed by seed: what is there after any of them is a smaller study of fewer seeds."""
    cells = []
    for seed in study.seeds:
        for rank in study.ranks:
            cells += [_cell(study, seed, rank, study.baseline, (domain,)) for domain in study.domains]
            for method, by_rank in study.methods.items():
                if rank in by_rank:
                    cells.append(_cell(study, seed, rank, method, tuple(study.domains)))
    return cells


def stage1_words(study: Study, seed: int) -> tuple[str, ...]:
    """The words of the training that all cells of a seed start from."""
    return (*study.stage1, *study.both, f"seed={seed}")


def _cell(study: Study, seed: int, rank: int, method: str, domains: Sequence[str]) -> Cell:
    words = (
        *study.words,
        *study.both,
        f"seed={seed}",
        f"domains=[{','.join(domains)}]",
        *(f"data.sources.{name}.cap={num}" for domain in domains for name, num in study.domains[domain].items()),
        f"train.epochs={study.epochs}",
        "train.max_steps=null",
        *study.methods[method][rank],
    )
    measures = [study.measures.split, study.measures.benchmark, study.measures.limit]
    decided = json.dumps([words, stage1_words(study, seed), measures])
    return Cell(seed, rank, method, tuple(domains), words, hashlib.sha256(decided.encode()).hexdigest()[:8])
