"""Levels and differences of a comparison as tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava_moe.compare.comparison import Comparison, by_seed, difference, measured_of, shared_names
from llava_moe.grid.in_words import MEASURES, interval, shown
from llava_moe.grid.measured import KINDS, Kind
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Table

NONE = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
UNITS: dict[Kind, str] = {"accuracy": "%", "loss": "nats a token"}
ITEMS: dict[Kind, str] = {"accuracy": "questions", "loss": "records"}
"""What a measure is a mean of."""


def kinds_of(comparison: Comparison, results: Results) -> tuple[Kind, ...]:
    """The measures that any run has, the loss first."""
    items = {kind for run in results.measured.values() for kind, _ in run.items}
    return tuple(kind for kind in reversed(KINDS) if kind in items and comparison.names(kind))


def level_table(comparison: Comparison, results: Results, kind: Kind) -> Table:
    """Each way's mean over seeds with its interval, and how far the seeds spread."""
    names = comparison.names(kind)
    shared = shared_names(results, comparison.ways, kind, names)
    columns = [*([name] for name in names), *([shared] if len(shared) > 1 else [])]
    rows = []
    for way in comparison.ways:
        own = measured_of(results, way, kind, names)
        cells = [_level(results, way, kind, column) if set(column) <= set(own) else NONE for column in columns]
        rows.append((way.name, *cells, str(len(results.of(**way.labels)))))
    header = ("", *names, *(["mean"] if len(shared) > 1 else []), "seeds")
    better = "lower" if kind == "loss" else "higher"
    caption = (
        f"{MEASURES[kind].capitalize()}, {UNITS[kind]}, {better} is better: mean {PLUS_MINUS} standard deviation over "
        f"seeds, and the 95 % interval over seeds and {ITEMS[kind]}"
    )
    return Table(caption, header, tuple(rows))


def _level(results: Results, way: Ways, kind: Kind, names: Sequence[str]) -> str:
    values = [*by_seed(results, way, kind, names).values()]
    level = results.level(kind, names, **way.labels)
    if not values or level is None:
        return NONE
    mean = shown(kind, float(np.mean(values)))
    if len(values) < 2:
        return mean
    told = f"{mean} {PLUS_MINUS} {shown(kind, float(np.std(values, ddof=1)))}"
    return told if level.effect is None else f"{told}\n{interval(level, has_sign=False).partition(' ')[2]}"


def difference_table(comparison: Comparison, results: Results, kind: Kind, is_mean: bool) -> Table:
    """Every pair's difference, over all domains together or domain by domain; without what was measured apart."""
    names = shared_names(results, comparison.ways, kind, comparison.names(kind))
    rows = []
    for before, after in comparison.pairs():
        for column in [names] if is_mean else [(name,) for name in comparison.names(kind)]:
            paired = difference(results, before, after, kind, column)
            if paired is None:
                continue
            over = "mean of all" if is_mean and len(names) > 1 else ", ".join(column)
            stands = "" if paired.effect is None else "yes" if paired.effect.is_away_from_zero else "no"
            seeds = str(len(paired.seeds))
            label = f"{against(before, after)}: {over}"
            rows.append((label, _stacked(interval(paired)), stands or "one seed", seeds))
    unit = "points" if kind == "accuracy" else UNITS[kind]
    better = f"{'below' if kind == 'loss' else 'above'} 0 the first is better"
    told = f"{MEASURES[kind].capitalize()}, difference in {unit}, the first less the second"
    caption = f"{told}, with its 95 % interval; {better}"
    return Table(caption, ("", "difference", "away from 0", "seeds"), tuple(rows))


def against(before: Ways, after: Ways) -> str:
    """How a page calls the difference of ``after`` less ``before``."""
    return f"{after.name} against {before.name}"


def _stacked(told: str) -> str:
    """An interval below its mean, so that both stand on a telephone."""
    return told.replace(" (", "\n(", 1)
