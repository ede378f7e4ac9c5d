"""The four files of ``analyze routing``: numbers, table, drawing and page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from llava_moe.analyze.atlas.charts import KIND_INKS, Line, drift_chart, information_chart
from llava_moe.analyze.atlas.counts import Router
from llava_moe.analyze.atlas.findings import HEADER, Findings, as_facts, as_rows
from llava_moe.analyze.atlas.patches import PatchMap, expert_color
from llava_moe.analyze.atlas.summary import KindAtlas, strongest_routers
from llava_moe.analyze.output import Output, render_page
from llava_moe.pages.domain_colors import colors_of
from llava_moe.pages.inline_svg import INK

TEMPLATE = Path(__file__).with_name("routing.html.j2")
_MOST_CELLS = 32
"""Of a row of shares as numbers; above it each expert is a square."""
_MOST_ROWS = 48
_FEW_ROWS = 12
_MOST_COLUMNS = 8
_CERTAIN = 0.05
_TOLD = {"all": "all tokens", "image": "image", "prompt": "prompt", "answer": "answer", "record": "records"}


@dataclass(frozen=True)
class Cell:
    """A value of the table of information: in words, its interval, and its part of full colour."""

    told: str
    ends: str
    part: float
    is_chance: bool


@dataclass(frozen=True)
class ShareRow:
    """A router's shares by domain, and of each domain how many experts serve in effect and the doubt of a decision."""

    name: str
    shares: list[list[float]]
    dead: list[bool]
    effective: list[tuple[float, float]]


def routing_output(found: Findings, maps: Sequence[PatchMap], is_dense: bool, costs: str) -> Output:
    """The contents of the four files."""
    chart = information_chart(_lines(found), _most(found))
    return Output(as_facts(found), HEADER, as_rows(found), chart, _page(found, chart, maps, is_dense, costs))


def _page(found: Findings, chart: str, maps: Sequence[PatchMap], is_dense: bool, costs: str) -> str:
    names, experts = found.records.names, found.experts
    is_strip = len(names) * len(experts) > _MOST_CELLS
    colors = colors_of(names)
    return render_page(
        TEMPLATE,
        instrument="routing",
        title=f"{found.run['run']}, step {found.run['step']:,}",
        heading="Which expert serves what",
        facts=_headline(found),
        names=names,
        by=found.records.by,
        by_record=found.by_record,
        colors=colors,
        experts=experts,
        expert_colors=[expert_color(expert) for expert in range(len(experts))],
        chart=Markup(chart),
        chart_says=_chart_says(found),
        lines=[(line.name, _ink(line), _told_line(line)) for line in _lines(found)],
        most=_most(found),
        table=_information_table(found),
        probes=_probes(found),
        kinds=[_kind_view(found, kind, is_strip) for kind in found.last],
        is_strip=is_strip,
        full=min(1.0, 3 / len(experts)) if not found.routers.are_weights else 1.0,
        dead_below=found.settings["dead_below"],
        even_bits=math.log2(max(found.routers.num_experts_U)),
        drift=_drift_rows(found),
        drift_chart=Markup(drift_chart(*_drift_lines(found))) if len(found.atlases) > 1 else "",
        drift_lines=[(kind, KIND_INKS[kind].replace(INK, "currentColor"), _TOLD[kind]) for kind in found.last],
        maps=maps,
        records=found.records,
        num_clusters=found.num_clusters,
        settings=found.settings,
        is_dense=is_dense,
        costs=costs,
    )


def _headline(found: Findings) -> list[tuple[str, str]]:
    lead = found.last[found.lead]
    num_experts = int(lead.num_experts_U.sum())
    facts = [
        ("method", str(found.run["method"])),
        ("step", f"{found.run['step']:,}"),
        ("routers", f"{len(found.routers.routers):,}"),
        ("experts a router", f"{max(found.routers.num_experts_U)}"),
        ("records", f"{len(found.records.examples):,}"),
        ("dead experts", f"{int(lead.is_dead_UK.sum()):,} of {num_experts:,}"),
    ]
    if lead.information is not None and lead.information.mean is not None:
        mean = lead.information.mean
        ends = f"{mean.low[0]:.3f} … {mean.high[0]:.3f}"
        facts.append((f"bits about the {found.records.by}", f"{mean.bits[0]:.3f} ({ends})"))
    if lead.probe is not None:
        facts.append(("probe", f"{100 * lead.probe.accuracy:.0f} % right, chance {100 * lead.probe.chance:.0f} %"))
    return facts


def _most(found: Findings) -> float:
    """The bits that name the domain, or all that so many experts can say."""
    return math.log2(min(len(found.records.names), int(max(found.routers.num_experts_U))))


# --- information by layer -------------------------------------------------------------------------------------------


def _side(router: Router) -> str:
    last = router.part.rpartition(".")[2]
    return last if last in ("A", "B") else "gates"


def _lines(found: Findings) -> list[Line]:
    """A line a kind of token; where records are decided on, one a side, over what it decides for in a layer."""
    routers = found.routers.routers
    if found.by_record or len({router.part for router in routers}) > 1:
        return _lines_by_side(found)
    lines = []
    for kind, atlas in found.last.items():
        if (one := atlas.information) is not None:
            lines.append(Line(kind, [router.layer for router in routers], one.bits, one.low, one.high))
    return lines


def _lines_by_side(found: Findings) -> list[Line]:
    information = found.last[found.lead].information
    if information is None:
        return []
    lines = []
    for side in dict.fromkeys(map(_side, found.routers.routers)):
        rows: dict[int, list[int]] = {}
        for row, router in enumerate(found.routers.routers):
            if _side(router) == side:
                rows.setdefault(router.layer, []).append(row)
        bits = [information.bits[own] for own in rows.values()]
        values, lows, highs = (np.array([of(one) for one in bits]) for of in (np.mean, np.min, np.max))
        lines.append(Line(side, list(rows), values, lows, highs))
    return lines


def _ink(line: Line) -> str:
    return KIND_INKS.get(line.name, INK).replace(INK, "currentColor")


def _told_line(line: Line) -> str:
    sides = {"A": "factors of A", "B": "factors of B", "gates": "gates"}
    return sides.get(line.name, _TOLD.get(line.name, line.name))


def _chart_says(found: Findings) -> str:
    by = found.records.by
    if found.by_record or len({router.part for router in found.routers.routers}) > 1:
        return f"Mean over what is decided on in a layer; bars reach from the least to the most. 0: every {by} alike."
    return f"Bars: 95 % intervals over records. 0: every {by} uses the experts alike."


@dataclass(frozen=True)
class InformationTable:
    """Rows are layers, columns kinds of token or parts of a layer; colour is full at so many bits."""

    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    has_ends: bool
    full: float


def _information_table(found: Findings) -> InformationTable:
    routers = found.routers.routers
    parts = list(dict.fromkeys(router.part for router in routers))
    kinds = list(found.last) if len(parts) * len(found.last) <= _MOST_COLUMNS else [found.lead]
    places = [(part, kind) for part in parts for kind in kinds]
    row_of = {(router.layer, router.part): row for row, router in enumerate(routers)}
    told = [one.bits for kind in kinds if (one := found.last[kind].information) is not None]
    # A tenth of what there could be at least: else chance alone would shine.
    full = max([0.1 * _most(found), *(float(np.nan_to_num(bits_U).max()) for bits_U in told)])
    rows = []
    for layer in dict.fromkeys(router.layer for router in routers):
        cells = [_cell(found.last[kind], row_of.get((layer, part)), full) for part, kind in places]
        rows.append(("whole model" if layer < 0 else str(layer), cells))
    # Of self_attn.q_proj.A the end tells enough, where columns are many.
    short = {part: " ".join(part.split(".")[-2:]) for part in parts}
    named = [
        kind if len(parts) == 1 else short[part] if len(kinds) == 1 else f"{short[part]}, {kind}"
        for part, kind in places
    ]
    return InformationTable([_TOLD.get(name, name) for name in named], rows, len(places) <= _MOST_COLUMNS, full)


def _cell(atlas: KindAtlas, row: int | None, full: float) -> Cell | None:
    one = atlas.information
    if row is None or one is None or math.isnan(one.bits[row]):
        return None
    ends = f"{one.low[row]:.3f} … {one.high[row]:.3f}"
    return Cell(f"{one.bits[row]:.3f}", ends, float(one.bits[row]) / full, bool(one.p_value[row] >= _CERTAIN))


def _probes(found: Findings) -> list[dict[str, Any]]:
    rows = []
    for kind, atlas in found.last.items():
        if (probe := atlas.probe) is not None:
            recall = dict(zip(atlas.domains, probe.recall_M, strict=True))
            recalls = [recall.get(name) for name in found.records.names]
            rows.append({"kind": _TOLD[kind], "probe": probe, "recalls": recalls})
    return rows


# --- shares ---------------------------------------------------------------------------------------------------------


def _kind_view(found: Findings, kind: str, is_strip: bool) -> dict[str, Any]:
    atlas, num = found.last[kind], len(found.routers.routers)
    is_cut = num > _MOST_ROWS or (is_strip and num > _FEW_ROWS)
    rows = strongest_routers(found.last, kind, _FEW_ROWS if is_strip else _MOST_ROWS) if is_cut else range(num)
    return {"told": _TOLD[kind], "rows": [_share_row(found, atlas, row) for row in rows], "is_cut": is_cut}


def _share_row(found: Findings, atlas: KindAtlas, row: int) -> ShareRow:
    width, domains = int(found.routers.num_experts_U[row]), range(len(found.records.names))
    return ShareRow(
        name=_router_name(found.routers.routers[row]),
        shares=[atlas.share_MUK[domain, row, :width].tolist() for domain in domains],
        dead=atlas.is_dead_UK[row, :width].tolist(),
        effective=[(float(2 ** atlas.entropy_MU[one, row]), float(atlas.doubt_MU[one, row])) for one in domains],
    )


def _router_name(router: Router) -> str:
    if router.layer < 0:
        return "whole model"
    return f"layer {router.layer}" + ("" if router.part in ("mlp", "block") else f" {router.part}")


# --- drift ----------------------------------------------------------------------------------------------------------


def _drift_rows(found: Findings) -> list[dict[str, Any]]:
    if len(found.atlases) < 2:
        return []
    rows = []
    for step, kinds in found.atlases.items():
        atlas = kinds[found.lead]
        changed = None if atlas.changed_MU is None else np.nanmean(atlas.changed_MU, axis=1).tolist()
        mean = None if atlas.information is None else atlas.information.mean
        rows.append(
            {
                "step": step,
                "changed": changed or [None] * len(found.records.names),
                "bits": "-" if mean is None else f"{mean.bits[0]:.3f} ({mean.low[0]:.3f} … {mean.high[0]:.3f})",
                "probe": "-" if atlas.probe is None else f"{100 * atlas.probe.accuracy:.0f}",
            }
        )
    return rows


def _drift_lines(found: Findings) -> tuple[list[Line], list[Line]]:
    changed, told = [], []
    for kind in found.last:
        by_step: Mapping[int, KindAtlas] = {step: kinds[kind] for step, kinds in found.atlases.items()}
        moved = {step: one.changed_MU for step, one in by_step.items() if one.changed_MU is not None}
        shares = np.array([np.nanmean(values_MU) for values_MU in moved.values()])
        changed.append(Line(kind, list(moved), shares, shares, shares))
        means = {step: one.information.mean for step, one in by_step.items() if one.information is not None}
        ends = [
            np.array([getattr(mean, field)[0] for mean in means.values() if mean is not None])
            for field in ("bits", "low", "high")
        ]
        told.append(Line(kind, list(means), *ends))
    return changed, told
