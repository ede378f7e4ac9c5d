"""What is compared: ways of training, each with several seeds, and how one does against another on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.grid.measured import Compared, Kind, compare
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways


@dataclass(frozen=True)
class Comparison:
    """What a page is about.

    Attributes:
        title: the keys and what they are given.
        command: that makes all of it.
        ways: the one first that others are held against, unless their keys have several values each.
        chosen: way's name to key to value.
        domains: whose losses are measured.
        scores: what else is asked: domains of the demo's questions, or benchmarks.
        words: of every run.
        is_embedded: whether the runs learn from the demo's data.
    """

    title: str
    command: str
    ways: tuple[Ways, ...]
    chosen: Mapping[str, Mapping[str, str]]
    seeds: tuple[int, ...]
    domains: tuple[str, ...]
    scores: tuple[str, ...]
    words: tuple[str, ...]
    is_embedded: bool

    def names(self, kind: Kind) -> tuple[str, ...]:
        """What a measure is taken of."""
        return self.domains if kind == "loss" else self.scores

    def pairs(self) -> tuple[tuple[Ways, Ways], ...]:
        """Each way with the one that it is held against: of one of its keys the value named first, all else equal."""
        first = self.chosen[self.ways[0].name]
        by_values = {tuple(self.chosen[way.name].items()): way for way in self.ways}
        found = []
        for way in self.ways:
            own = self.chosen[way.name]
            for key in own:
                if own[key] != first[key]:
                    found.append((by_values[tuple({**own, key: first[key]}.items())], way))
        return tuple(found)


def measured_of(results: Results, way: Ways, kind: Kind, names: Sequence[str]) -> tuple[str, ...]:
    """Of these domains or benchmarks those that a way was measured on, in every run of it that is there."""
    found = [*results.of(**way.labels).values()]
    return tuple(name for name in names if found and all((kind, name) in one.items for one in found))


def shared_names(results: Results, ways: Sequence[Ways], kind: Kind, names: Sequence[str]) -> tuple[str, ...]:
    """Those on which all ways that are there were measured, on the same items."""
    there = [way for way in ways if results.of(**way.labels)]
    return tuple(
        name for name in names if there and all(_are_alike(results, there[0], way, kind, name) for way in there)
    )


def _are_alike(results: Results, one: Ways, other: Ways, kind: Kind, name: str) -> bool:
    runs = [*results.of(**one.labels).values(), *results.of(**other.labels).values()]
    items = [run.items.get((kind, name)) for run in runs]
    first = items[0]
    return first is not None and all(own is not None and own.are_those_of(first) for own in items)


def by_seed(results: Results, way: Ways, kind: Kind, names: Sequence[str]) -> dict[int, float]:
    """Seed to the mean over domains; without names nothing."""
    runs = results.of(**way.labels) if names else {}
    return {seed: float(np.mean([run.items[kind, name].mean for name in names])) for seed, run in runs.items()}


def difference(results: Results, before: Ways, after: Ways, kind: Kind, names: Sequence[str]) -> Compared | None:
    """What ``after`` has more than ``before``, paired; None where they were not measured on the same items."""
    alike = (
        [name for name in names if _are_alike(results, before, after, kind, name)]
        if _both(results, before, after)
        else []
    )
    if not names or len(alike) < len(names):
        return None
    return compare(results.of(**before.labels), results.of(**after.labels), kind, names)


def _both(results: Results, *ways: Ways) -> bool:
    return all(results.of(**way.labels) for way in ways)
