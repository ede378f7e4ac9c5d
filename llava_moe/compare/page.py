"""``index.html`` and ``results.json`` of a comparison, by the runs that are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llava_moe.compare.best import Best, best_of
from llava_moe.compare.comparison import Comparison, by_seed, difference, measured_of, shared_names
from llava_moe.compare.cost import cost_table
from llava_moe.compare.curves import curve_picture
from llava_moe.compare.levels import level_chart
from llava_moe.compare.routing import routed
from llava_moe.compare.tables import ITEMS, difference_table, kinds_of, level_table
from llava_moe.eval.tasks.demo import CAVEATS
from llava_moe.files.atomic_write import write_atomically
from llava_moe.grid.measured import Kind
from llava_moe.grid.results import Results
from llava_moe.pages.html_page import page_template
from llava_moe.train.stage_log import read_stage

TEMPLATE = Path(__file__).with_name("page.html.j2")
PAGE, NUMBERS = "index.html", "results.json"
_TITLES: dict[Kind, str] = {"loss": "Held-out loss", "accuracy": "Scores"}
_LABELS: dict[Kind, str] = {"loss": "Held-out loss by domain", "accuracy": "Scores by domain or benchmark"}


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        sentence: which way is best, and how sure that is; "" where nothing tells.
        commands: that keep the best.
    """

    page: Path
    sentence: str
    commands: tuple[str, ...]


def write_page(
    comparison: Comparison,
    results: Results,
    folder: Path,
    keep: Callable[[Best], Sequence[str]],
    notes: Sequence[str] = (),
) -> Written:
    """Write the page and its numbers.

    Args:
        keep: the commands to type for the best run.
        notes: what a reader has to know, a sentence each.

    Raises:
        UserError: what a run left is damaged, runs of one way were asked different items, or the disk is full.
    """
    cells = {way.name: results.find(**way.labels) for way in comparison.ways}
    logs = {name: [read_stage(results.folder / cell.name) for cell in found.values()] for name, found in cells.items()}
    best = best_of(comparison, results)
    commands = tuple(keep(best)) if best is not None else ()
    curves = curve_picture(comparison, logs)
    page = page_template(TEMPLATE, percent=_percent).render(
        comparison=comparison,
        best=best,
        commands=commands,
        num_there=len(results.cells),
        num_cells=len(results.grid.cells),
        measures=[_measure(comparison, results, kind) for kind in kinds_of(comparison, results)],
        curves=None if curves is None else (Markup(curves.drawing), curves.caption),
        routing=[routed(way.name, [*cells[way.name]], logs[way.name]) for way in comparison.ways if logs[way.name]],
        costs=cost_table(comparison, results, logs),
        notes=(*notes, *(CAVEATS if comparison.is_embedded else ())),
        cells=[_cell(results, cell.name) for cell in results.cells],
        seconds=sum(card.seconds for card in results.cards.values()),
    )
    facts = json.dumps(_numbers(comparison, results, best), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / NUMBERS, facts + "\n")
    write_atomically(folder / PAGE, page)
    return Written(folder / PAGE, "" if best is None else best.sentence, commands)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _measure(comparison: Comparison, results: Results, kind: Kind) -> dict[str, Any]:
    """A section of the page: drawing and tables of one measure."""
    names = comparison.names(kind)
    there = [way for way in comparison.ways if results.of(**way.labels)]
    shared = shared_names(results, comparison.ways, kind, names)
    panels: list[tuple[str, tuple[str, ...]]]
    panels = [(name, (name,)) for name in names if any(measured_of(results, way, kind, [name]) for way in there)]
    panels += [("mean", shared)] if len(shared) > 1 else []
    return {
        "title": _TITLES[kind],
        "counted": ITEMS[kind],
        "drawing": Markup(level_chart(results, comparison.ways, panels, kind, _LABELS[kind])) if panels else "",
        "levels": level_table(comparison, results, kind),
        "differences": difference_table(comparison, results, kind, is_mean=True),
        "by_domain": difference_table(comparison, results, kind, is_mean=False) if len(names) > 1 else None,
        "apart": [name for name in names if name not in shared],
    }


def _cell(results: Results, name: str) -> tuple[str, ...]:
    card = results.cards[name]
    return name, f"{card.steps:,}", f"{card.seconds:.0f}", (card.commit or "")[:12]


def _numbers(comparison: Comparison, results: Results, best: Best | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "command": comparison.command,
        "seeds": comparison.seeds,
        "best": None if best is None else {"way": best.way.name, "run": best.cell.name, "is_sure": best.is_sure},
        "ways": {},
        "differences": [],
        "runs": {},
    }
    for way in comparison.ways:
        own: dict[str, Any] = {"chosen": dict(comparison.chosen[way.name])}
        for kind in kinds_of(comparison, results):
            for name in measured_of(results, way, kind, comparison.names(kind)):
                values = by_seed(results, way, kind, [name])
                own.setdefault(kind, {})[name] = {str(seed): round(value, 6) for seed, value in values.items()}
        told["ways"][way.name] = own
    for kind in kinds_of(comparison, results):
        names = shared_names(results, comparison.ways, kind, comparison.names(kind))
        for before, after in comparison.pairs():
            paired = difference(results, before, after, kind, names)
            if paired is not None:
                effect = (
                    {} if paired.effect is None else {key: round(one, 6) for key, one in vars(paired.effect).items()}
                )
                levels = [round(paired.before, 6), round(paired.after, 6)]
                own = {"measure": kind, "before": before.name, "after": after.name, "over": names}
                told["differences"].append(own | {"levels": levels, "seeds": paired.seeds, "effect": effect})
    for cell in results.cells:
        card = vars(results.cards[cell.name])
        told["runs"][cell.name] = {key: value for key, value in card.items() if key not in ("cell", "is_finished")}
    return told
