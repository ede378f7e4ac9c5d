"""The four files of ``analyze interference``: numbers, table, drawing and page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from llava_moe.analyze.exact_steps import Steps
from llava_moe.analyze.interference import SMALLEST_SHARE
from llava_moe.analyze.interference_result import (
    EXACT,
    FIRST_ORDER,
    HEADER,
    SAME_RECORDS,
    Agreement,
    PartResult,
    as_facts,
    as_rows,
)
from llava_moe.analyze.matrix_chart import matrix_chart
from llava_moe.analyze.output import Output, render_page
from llava_moe.analyze.parts import Scope
from llava_moe.analyze.records import HeldOutRecords

TEMPLATE = Path(__file__).with_name("interference.html.j2")
NEAR_ZERO = 0.005
"""A cell nearer to 0 is neither help nor harm."""


@dataclass(frozen=True)
class Costs:
    """What a measurement takes.

    Attributes:
        num_backwards: forward and backward passes of one record each.
        num_forwards: forward passes of packed rows.
        num_bytes: of gradients on the disk while it runs.
    """

    num_backwards: int
    num_forwards: int
    num_bytes: int

    @property
    def in_words(self) -> str:
        """For the console before it starts, and for the page."""
        rows = f", {self.num_forwards:,} forward passes of packed rows" if self.num_forwards else ""
        disk = f"{self.num_bytes / 1e9:.2f} GB of gradients on the disk until it ends"
        return f"{self.num_backwards:,} forward and backward passes of one record{rows}, {disk}"


@dataclass(frozen=True)
class Interference:
    """All that was found, and of what."""

    run: Mapping[str, Any]
    records: HeldOutRecords
    settings: Mapping[str, Any]
    num_values: int
    steps: Steps
    costs: Costs
    losses_N: np.ndarray
    results: tuple[PartResult, ...]
    agreements: Mapping[tuple[Scope, str], Agreement]

    def results_of(self, scope: Scope, order: str) -> list[PartResult]:
        """The results of a scope."""
        return [result for result in self.results if result.scope == scope and result.order == order]

    @property
    def loss_D(self) -> np.ndarray:
        """Mean loss of each group's records, nats per supervised token."""
        group_N = self.records.group_of
        return np.array([self.losses_N[group_N == group].mean() for group in range(len(self.records.groups))])


def interference_output(found: Interference) -> Output:
    """The contents of the four files."""
    names = found.records.names
    chart = _main_chart(found)
    return Output(_facts(found), HEADER, as_rows(found.results, names), chart, _page(found, chart))


def _facts(found: Interference) -> dict[str, Any]:
    return {
        "instrument": "interference",
        **found.run,
        "by": found.records.by,
        "names": list(found.records.names),
        "held_out": found.records.told,
        "records": [len(group.examples) for group in found.records.groups],
        "mean_loss": found.loss_D.tolist(),
        "settings": dict(found.settings),
        "parameters": found.num_values,
        "step_size": found.steps.size,
        "exact_records": len(found.steps.places),
        "costs": vars(found.costs),
        "smallest_share": SMALLEST_SHARE,
        "agreement": [{"scope": scope, "name": name, **vars(one)} for (scope, name), one in found.agreements.items()],
        "results": [as_facts(result) for result in found.results],
    }


def _main_chart(found: Interference) -> str:
    shown = (
        found.results_of("all", FIRST_ORDER) + found.results_of("all", EXACT) + found.results_of("side", FIRST_ORDER)
    )
    titles = {"all": "all parameters", "A": "A alone", "B": "B alone", "router": "routers alone"}
    panels = {f"{titles.get(one.name, one.name)}, {one.order}": one.values["ratio_of_means"] for one in shown}
    return matrix_chart(panels, found.records.names, "Interference: ratio of means")


def _page(found: Interference, chart: str) -> str:
    whole = found.results_of("all", FIRST_ORDER)[0]
    exact = found.results_of("all", EXACT)
    linears, layers = found.results_of("linear", FIRST_ORDER), found.results_of("layer", FIRST_ORDER)
    return render_page(
        TEMPLATE,
        instrument="interference",
        title=f"{found.run['run']}, step {found.run['step']:,}",
        heading="Who helps whom, who harms whom",
        facts=_headline_facts(found),
        names=found.records.names,
        by=found.records.by,
        chart=Markup(chart),
        whole=whole,
        exact=exact[0] if exact else None,
        same=next(iter(found.results_of("all", SAME_RECORDS)), None),
        sides=found.results_of("side", FIRST_ORDER),
        other_exact=[one for one in found.results if one.order == EXACT and one.scope != "all"],
        linears=linears,
        layers=layers,
        negative=_negative_cells(found),
        groups=_groups(found),
        agreements=[(name, one) for (_, name), one in found.agreements.items()],
        step_size=found.steps.size,
        exact_records=len(found.steps.places),
        settings=found.settings,
        costs=found.costs,
        records=found.records,
        smallest_share=SMALLEST_SHARE,
        routed=found.run["method"] != "lora",
        dtype=found.run["dtype"],
    )


def _headline_facts(found: Interference) -> list[tuple[str, str]]:
    counts = ", ".join(f"{group.name} {len(group.examples)}" for group in found.records.groups)
    return [
        ("adapter", str(found.run["method"])),
        ("trained values", f"{found.num_values:,}"),
        ("held-out records", f"{counts} ({found.records.told})"),
        ("precision", str(found.run["dtype"])),
        ("seed", str(found.settings["seed"])),
    ]


def _groups(found: Interference) -> list[dict[str, Any]]:
    """What stands behind the ratio, by group: loss, gradient's length, its shares by side, agreement, own effect."""
    whole, sides = found.results_of("all", FIRST_ORDER)[0], found.results_of("side", FIRST_ORDER)
    rows = []
    for place, name in enumerate(found.records.names):
        squares = np.array([side.norm_D[place] ** 2 for side in sides])
        shares = squares / squares.sum() if squares.sum() > 0 else np.full(len(sides), np.nan)
        rows.append(
            {
                "name": name,
                "loss": float(found.loss_D[place]),
                "norm": float(whole.norm_D[place]),
                "shares": [(side.name, float(share)) for side, share in zip(sides, shares, strict=True)],
                "coherence": float(whole.values["pairwise_cosine"][place, place]),
                "own_effect": float(whole.values["effect"][place, place]),
            }
        )
    return rows


def _negative_cells(found: Interference) -> list[dict[str, Any]]:
    """How many off-diagonal cells are below zero, and how many of those surely: by linear of a layer, and by scope."""
    is_pair_DD = ~np.eye(len(found.records.names), dtype=bool)
    rows = []
    for scope in ("all", "side", "linear", "layer", "module"):
        results = found.results_of(scope, FIRST_ORDER)
        cells = np.concatenate([one.values["ratio_of_means"][is_pair_DD] for one in results])
        highs = np.concatenate([one.intervals["ratio_of_means"][is_pair_DD][:, 1] for one in results])
        known = np.isfinite(cells)
        rows.append(
            {
                "scope": scope,
                "cells": int(known.sum()),
                "negative": int((cells[known] < -NEAR_ZERO).sum()),
                "surely": int((highs[np.isfinite(highs)] < 0).sum()),
            }
        )
    return rows
