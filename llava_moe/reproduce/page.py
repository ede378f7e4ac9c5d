"""A figure's page: what the paper shows and what our runs show, its drawings, its numbers, and what made them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llava_moe.eval.tasks.demo import CAVEATS
from llava_moe.files.atomic_write import write_atomically
from llava_moe.grid.in_words import MEASURES, interval, share, shown
from llava_moe.grid.measured import Compared
from llava_moe.grid.results import Results
from llava_moe.grid.ways import size_of
from llava_moe.pages.content import Picture
from llava_moe.pages.html_page import page_template
from llava_moe.pages.inline_svg import standalone_svg
from llava_moe.reproduce.curves import curve_picture
from llava_moe.reproduce.index import Entry, module_of
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, Finding

TEMPLATE = Path(__file__).with_name("page.html.j2")
PAGE, NUMBERS = "index.html", "results.json"


@dataclass(frozen=True)
class Written:
    """What was written: the page, and the sentences that it opens with."""

    page: Path
    sentences: tuple[str, ...]


def write_page(entry: Entry, setup: Setup, results: Results, folder: Path, command: str) -> Written:
    """Write ``index.html``, ``results.json`` and an SVG for each drawing.

    Args:
        command: that makes the figure, for the page.

    Raises:
        UserError: the measures of a cell are damaged, cells were asked different items, or the disk is full.
    """
    sheet = module_of(entry.paper, entry.figure).sheet(setup, results)
    pictures = [*sheet.pictures, *_curves(setup, results, sheet)]
    for picture in pictures:
        write_atomically(folder / f"{picture.name}.svg", standalone_svg(picture.drawing))
    facts = json.dumps(_numbers(entry, setup, results, sheet, command), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / NUMBERS, facts + "\n")
    opening: tuple[Contrast | Finding, ...] = (*sheet.answers, *sheet.findings)
    sentences = tuple(one.sentence for one in opening)
    page = page_template(TEMPLATE).render(
        entry=entry,
        setup=setup,
        command=command,
        sentences=sentences,
        verdicts=[one.verdict for one in opening],
        num_there=len(results.cells),
        num_cells=len(results.grid.cells),
        pictures=[(Markup(picture.drawing), picture.caption) for picture in pictures],
        tables=sheet.tables,
        contrasts=[_row(one) for one in (*sheet.answers, *sheet.contrasts) if one.compared is not None],
        published=[(one, sheet.ours.get(one.id, "")) for one in setup.published],
        sizes=_sizes(results, sheet),
        notes=(*sheet.notes, *(CAVEATS if setup.scale == "demo" else ())),
        cells=_cells(results),
        seconds=sum(card.seconds for card in results.cards.values()),
    )
    write_atomically(folder / PAGE, page)
    return Written(folder / PAGE, sentences)


def _curves(setup: Setup, results: Results, sheet: FigureContent) -> list[Picture]:
    names = {tuple(sorted(way.labels.items())): way.name for way in sheet.ways}
    picture = curve_picture(results, setup.domains, names)
    return [] if picture is None else [picture]


def _row(one: Contrast) -> tuple[str, ...]:
    assert one.compared is not None
    compared = one.compared
    scale = "nats" if one.kind == "loss" else "points"
    return (
        one.after.name,
        one.before.name,
        f"{MEASURES[one.kind]}, {scale}",
        ", ".join(one.domains),
        shown(one.kind, compared.before),
        shown(one.kind, compared.after),
        interval(compared),
        share(one.parameters),
        share(one.flops),
    )


def _sizes(results: Results, sheet: FigureContent) -> list[tuple[str, ...]]:
    """Each way's parameters and operations a token, and how far they are from the first's."""
    rows = []
    sizes = [size_of(results, way) for way in sheet.ways]
    for way, size in zip(sheet.ways, sizes, strict=True):
        row = [way.name]
        for own, first in zip(size, sizes[0], strict=True):
            row += ["\N{EN DASH}" if own is None else f"{own:,.0f}"]
            row += [share(None if own is None or first is None else own / first - 1)]
        rows.append(tuple(row))
    return rows


def _cells(results: Results) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for cell in results.cells:
        card, measured = results.cards[cell.name], results.measured.get(cell.name)
        size = "" if measured is None else f"{measured.parameters:,}"
        rows.append((cell.name, f"{card.steps:,}", f"{card.seconds:.0f}", size, (card.commit or "")[:12]))
    return rows


def _numbers(entry: Entry, setup: Setup, results: Results, sheet: FigureContent, command: str) -> dict[str, Any]:
    """What ``results.json`` holds: the cards of the cells with what was measured, and the contrasts."""
    cells = {}
    for cell in results.cells:
        card, measured = results.cards[cell.name], results.measured.get(cell.name)
        told: dict[str, Any] = {"labels": dict(cell.labels)}
        told |= {name: value for name, value in vars(card).items() if name not in ("cell", "is_finished")}
        if measured is not None:
            told |= {"parameters": measured.parameters, "flops_per_token": measured.flops_per_token}
            for (kind, domain), items in measured.items.items():
                told.setdefault(kind, {})[domain] = round(items.mean, 6)
        cells[cell.name] = told
    answers = [(_contrast(one), one) for one in sheet.answers] + [(dict(one.facts), one) for one in sheet.findings]
    return {
        "paper": entry.paper,
        "figure": entry.figure,
        "title": setup.title,
        "scale": setup.scale,
        "seeds": setup.seeds,
        "command": command,
        "effect": setup.effect,
        "answers": [facts | {"verdict": one.verdict, "sentence": one.sentence} for facts, one in answers],
        "contrasts": [_contrast(one) for one in sheet.contrasts],
        "published": [vars(one) | {"ours": sheet.ours.get(one.id)} for one in setup.published],
        "facts": dict(sheet.facts),
        "cells": cells,
    }


def _contrast(one: Contrast) -> dict[str, Any]:
    return {
        "before": dict(one.before.labels),
        "after": dict(one.after.labels),
        "measure": one.kind,
        "domains": one.domains,
        "expected": one.expected,
        "parameters": _rounded(one.parameters),
        "flops": _rounded(one.flops),
        **_compared(one.compared),
    }


def _compared(compared: Compared | None) -> dict[str, Any]:
    if compared is None:
        return {"seeds": []}
    effect = compared.effect
    interval_ = {} if effect is None else {name: _rounded(value) for name, value in vars(effect).items()}
    return {
        "seeds": compared.seeds,
        "levels": [_rounded(compared.before), _rounded(compared.after)],
        "effect": interval_,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 6)
