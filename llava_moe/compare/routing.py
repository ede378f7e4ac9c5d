"""Where the tokens of each domain went, by what the runs' logs say of their last steps.

Experts have no names: those of two seeds, or of two layers, are never added.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.compare.tables import NONE, PLUS_MINUS
from llava_moe.train.stage_log import ExpertShares, StageLog, last_expert_shares


@dataclass(frozen=True)
class Strip:
    """A domain's shares of the experts of a layer; ``tints`` are shares of the largest one of the picture."""

    shares: tuple[float, ...]
    tints: tuple[float, ...]


@dataclass(frozen=True)
class Routed:
    """How a way of training routes.

    Attributes:
        seed: of the run whose layers are shown.
        layers: of that run, a strip a domain each; empty: this way has no routing.
        apart: how far apart the domains are, over the seeds; in words.
        idle: the share of the experts' tokens that the least used one of a layer has, in words.
        even: the share that each would have.
    """

    name: str
    seed: int
    domains: tuple[str, ...] = ()
    layers: tuple[tuple[str, tuple[Strip, ...]], ...] = ()
    apart: str = NONE
    idle: str = NONE
    even: str = NONE


def routed(name: str, seeds: Sequence[int], logs: Sequence[StageLog]) -> Routed:
    """What a way's runs tell of their routing."""
    shares = [last_expert_shares(log) for log in logs]
    if not shares or not shares[0]:
        return Routed(name, seeds[0] if seeds else 0)
    first = shares[0]
    domains = tuple(dict.fromkeys(domain for layer in first for domain in layer.shares))
    largest = max(share for layer in first for own in layer.shares.values() for share in own) or 1.0
    layers = tuple(
        (layer.layer, tuple(_strip(layer.shares.get(domain, ()), largest) for domain in domains)) for layer in first
    )
    sizes = {len(own) for layer in first for own in layer.shares.values()}
    even = " or ".join(f"{1 / size:.0%}" for size in sorted(sizes) if size)
    apart = [far for one in shares if (far := how_far_apart(one)) is not None]
    idle = [_idlest(one) for one in shares]
    return Routed(name, seeds[0], domains, layers, _spread(apart), _spread(idle), even)


def how_far_apart(layers: Sequence[ExpertShares]) -> float | None:
    """The mean over layers and pairs of domains of half the sum of |share - share|; None of fewer than two domains.

    0: the domains use the experts alike; 1: no two share an expert.
    """
    found = [
        0.5 * float(np.abs(np.subtract(one, other)).sum())
        for layer in layers
        for one, other in itertools.combinations(layer.shares.values(), 2)
    ]
    return float(np.mean(found)) if found else None


def _idlest(layers: Sequence[ExpertShares]) -> float:
    return float(np.mean([np.mean([*layer.shares.values()], axis=0).min() for layer in layers]))


def _strip(shares: Sequence[float], largest: float) -> Strip:
    return Strip(tuple(shares), tuple(round(share / largest, 3) for share in shares))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean = f"{100 * np.mean(values):.1f} %"
    return mean if len(values) < 2 else f"{mean[:-2]} {PLUS_MINUS} {100 * np.std(values, ddof=1):.1f} %"
