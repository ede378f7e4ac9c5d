"""How many samples a source should give an epoch by the mixture's formula, beside how many the plan gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.data.lengths import SourceIndex
from llava_moe.data.mixture import Mixture


@dataclass(frozen=True)
class CountBesideFormula:
    """One source's count.

    Attributes:
        formula: how ``wanted`` comes about, in words and numbers.
        wanted: the formula's value before caps and rounding; with ``epoch_samples`` caps and rounding may move what
            one source withholds to the others.
        given: samples in the plan.
    """

    source: str
    usable: int
    formula: str
    wanted: float
    cap: int | None
    given: int


def beside_formula(
    mixture: Mixture, indexes: Sequence[SourceIndex], given: Sequence[int]
) -> tuple[CountBesideFormula, ...]:
    """The counts of an epoch beside what repeats or weights ask for."""
    if mixture.epoch_samples is None:
        wanted = [source.repeats * len(index.rows) for source, index in zip(mixture.sources, indexes, strict=True)]
        formulas = [
            f"{source.repeats:g} x {len(index.rows):,}" for source, index in zip(mixture.sources, indexes, strict=True)
        ]
    else:
        shares = [_share(mixture, place, index) for place, index in enumerate(indexes)]
        wanted = [mixture.epoch_samples * share / sum(shares) for share in shares]
        formulas = [
            f"{mixture.epoch_samples:,} x {share:.5g} / {sum(shares):.5g}, {_share_in_words(mixture, place, index)}"
            for place, (share, index) in enumerate(zip(shares, indexes, strict=True))
        ]
    return tuple(
        CountBesideFormula(source.name, len(index.rows), formula, value, source.cap, count)
        for source, index, formula, value, count in zip(mixture.sources, indexes, formulas, wanted, given, strict=True)
    )


def once(size: int) -> str:
    """The formula of a source that is taken as it is."""
    return f"1 x {size:,}"


def _share(mixture: Mixture, place: int, index: SourceIndex) -> float:
    weight, size = mixture.sources[place].weight, len(index.rows)
    if not size:
        return 0.0
    if mixture.weights == "tokens":
        return weight / float(np.mean(index.lengths))
    return weight * size ** (1 / mixture.temperature) if mixture.weights == "temperature" else weight


def _share_in_words(mixture: Mixture, place: int, index: SourceIndex) -> str:
    weight = f"{mixture.sources[place].weight:g}"
    if not len(index.rows):
        return "no usable record"
    if mixture.weights == "tokens":
        return f"weight {weight} / {float(np.mean(index.lengths)):.1f} tokens"
    if mixture.weights == "temperature":
        return f"weight {weight} x {len(index.rows):,} ^ (1 / {mixture.temperature:g})"
    return f"weight {weight}"
