"""How many samples a source should give an epoch by the mixture's formula, beside how many the plan gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.data.mixture import Mixture
from llava_moe.data.source_index import SourceIndex
from llava_moe.datatools.stats.token_counts import Taken


@dataclass(frozen=True)
class CountBesideFormula:
    """What one source gives an epoch, or one phase of it.

    Attributes:
        phase: the phase's number from 0; None where an epoch has none.
        formula: how ``wanted`` comes about, in words and numbers.
        wanted: the formula's value before caps and rounding; with ``epoch_samples`` caps move what one source
            withholds to the others.
        given: samples in the plan.
    """

    source: str
    phase: int | None
    formula: str
    wanted: float
    cap: int | None
    given: int


def beside_formula(mixture: Mixture, indexes: Sequence[SourceIndex], epoch: Taken) -> tuple[CountBesideFormula, ...]:
    """The counts of an epoch beside what repeats or weights ask for; none where each source is taken as it is."""
    num_sources = len(mixture.sources)
    sizes = [len(index.rows) for index in indexes]
    given = np.bincount(epoch.source, minlength=num_sources).tolist()
    if mixture.epoch_samples is None:
        if given == sizes and all(source.repeats == 1 and source.cap is None for source in mixture.sources):
            return ()
        return tuple(
            CountBesideFormula(
                source.name, None, f"{source.repeats:g} x {size:,}", source.repeats * size, source.cap, count
            )
            for source, size, count in zip(mixture.sources, sizes, given, strict=True)
        )
    if not mixture.phases:
        weights = [source.weight for source in mixture.sources]
        return _by_weights(mixture, indexes, None, mixture.epoch_samples, weights, given)
    found: list[CountBesideFormula] = []
    ends = np.cumsum([sum(counts) for counts in mixture.phase_counts(indexes)]).tolist()
    for number, (phase, start, end) in enumerate(zip(mixture.phases, [0, *ends], ends, strict=False)):
        of_phase = np.bincount(epoch.source[start:end], minlength=num_sources).tolist()
        phase_weights = phase.source_weights(mixture.sources, f"data.phases[{number}]")
        found += _by_weights(mixture, indexes, number, phase.share * mixture.epoch_samples, phase_weights, of_phase)
    return tuple(found)


def _by_weights(
    mixture: Mixture,
    indexes: Sequence[SourceIndex],
    phase: int | None,
    total: float,
    weights: Sequence[float],
    given: Sequence[int],
) -> tuple[CountBesideFormula, ...]:
    shares, words = zip(*(_share(mixture, *pair) for pair in zip(weights, indexes, strict=True)), strict=True)
    return tuple(
        CountBesideFormula(
            source.name,
            phase,
            f"{total:,.6g} x {share / sum(shares):.4f}, {word}",
            total * share / sum(shares),
            source.cap,
            count,
        )
        for source, share, word, count in zip(mixture.sources, shares, words, given, strict=True)
    )


def _share(mixture: Mixture, weight: float, index: SourceIndex) -> tuple[float, str]:
    """A source's claim, before all claims are brought to the sum 1, and how it comes about."""
    size = len(index.rows)
    if not size:
        return 0.0, "no usable record"
    if mixture.weights == "tokens":
        mean = float(np.mean(index.lengths))
        return weight / mean, f"weight {weight:g} / {mean:.1f} tokens"
    if mixture.weights == "temperature":
        return weight * size ** (1 / mixture.temperature), f"weight {weight:g} x {size:,} ^ 1/{mixture.temperature:g}"
    return weight, f"weight {weight:g}"
