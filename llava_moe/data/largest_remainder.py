"""Whole numbers in proportion: how many samples each source gives, over an epoch or a phase of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.data.records import Source
from llava_moe.errors import UserError


@dataclass(frozen=True)
class Phase:
    """A stretch of an epoch with weights of its own.

    Attributes:
        share: of the epoch's samples; the shares of all phases sum to 1.
        weights: by name of a source or of a domain. A source's name replaces its ``weight``; a domain's name gives a
            weight that its sources divide in proportion to their own ``weight`` (those named themselves apart). Who
            is not named sits the phase out.
    """

    share: float
    weights: Mapping[str, float]

    def source_weights(self, sources: Sequence[Source], where: str) -> tuple[float, ...]:
        """The weight of each source in this phase.

        Raises:
            UserError: a name that no source or domain has, or that both have; weights that sum to nothing.
        """
        names, domains = {source.name for source in sources}, {source.domain for source in sources}
        for name in self.weights:
            if name not in names | domains:
                raise UserError(
                    f"{where}.weights.{name}: neither a source ({', '.join(sorted(names))}) nor a domain "
                    f"({', '.join(sorted(domains))}) of this data"
                )
            if name in names and any(source.domain == name and source.name != name for source in sources):
                raise UserError(f"{where}.weights.{name}: both a source and a domain of several; rename the source")
        unnamed = [source for source in sources if source.name not in self.weights]
        totals = {domain: sum(one.weight for one in unnamed if one.domain == domain) for domain in domains}
        weights = []
        for source in sources:
            if source.name in self.weights:
                weights.append(float(self.weights[source.name]))
            else:
                total = totals[source.domain]
                weights.append(self.weights.get(source.domain, 0.0) * source.weight / total if total else 0.0)
        if not sum(weights):
            raise UserError(f"{where}.weights sum to nothing: give one of them a weight above 0")
        return tuple(weights)


def share_out(total: int, shares: Sequence[float], caps: Sequence[int | None], where: str) -> list[int]:
    """``total`` in proportion to ``shares``, nobody above its cap, what caps withhold shared among the others.

    Raises:
        UserError: the caps allow less than ``total``, or nobody has a share.
    """
    if not sum(shares):
        raise UserError(f"{where}={total}: no source with a weight above 0 has a record")
    counts = [0] * len(shares)
    open_places = [place for place, share in enumerate(shares) if share > 0]
    left = total
    while open_places and left:
        given = largest_remainders(left, [shares[place] for place in open_places])
        full = [place for place, count in zip(open_places, given, strict=True) if count > _room(caps[place], total)]
        if not full:
            for place, count in zip(open_places, given, strict=True):
                counts[place] = count
            return counts
        for place in full:
            counts[place] = _room(caps[place], total)
            left -= counts[place]
        open_places = [place for place in open_places if place not in full]
    if left:
        raise UserError(f"{where}={total}: the sources' caps allow {total - left}; raise a cap or lower epoch_samples")
    return counts


def _room(cap: int | None, total: int) -> int:
    return total if cap is None else cap


def largest_remainders(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that sum to ``total``, each within one of its exact share; ties go to the lower place."""
    exact = np.asarray(shares, dtype=np.float64) / np.sum(shares) * total
    counts = np.floor(exact).astype(int)
    order = sorted(range(len(shares)), key=lambda place: (counts[place] - exact[place], place))
    for place in order[: total - int(counts.sum())]:
        counts[place] += 1
    return counts.tolist()
