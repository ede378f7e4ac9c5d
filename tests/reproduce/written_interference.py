"""Interference matrices of cells as if they had been measured: a share of their cells is below 0, as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llava_moe.grid.results import Results
from llava_moe.reproduce.interference import Moment, moments
from llava_moe.reproduce.setup import Setup

Negative = Callable[[Mapping[str, Any], Moment], float]
"""The share of a cell's matrices that lies below 0."""
_LAYERS, _LINEARS = 3, ("q_proj", "up_proj", "down_proj")


def write_matrices(folder: Path, setup: Setup, results: Results, negative: Negative) -> None:
    """Write ``interference.json`` of every measured cell of a figure, at both moments."""
    for cell in results.cells:
        for moment in moments(setup) if cell.measured else ():
            path = folder / cell.name / moment.place
            path.parent.mkdir(parents=True, exist_ok=True)
            share = negative(cell.labels, moment)
            told = facts(setup.domains, share, cell.labels["seed"]) | {"step": moment.step or 1200}
            path.write_text(json.dumps(told))


def facts(names: tuple[str, ...], share: float, seed: int) -> dict[str, Any]:
    """What the instrument's file holds, as far as a figure reads it; a routed run has parts of routers, too."""
    generator = np.random.default_rng(seed)
    parts = [f"layer {n} {one} {side}" for n in range(_LAYERS) for one in _LINEARS for side in ("A", "B", "router")]
    scopes = [*(("side", one) for one in ("A", "B", "router")), *(("part", one) for one in parts), ("all", "all")]
    return {"names": list(names), "results": [_result(*one, len(names), share, generator) for one in scopes]}


def _result(scope: str, name: str, num_domains: int, share: float, generator: np.random.Generator) -> dict[str, Any]:
    signs = np.where(generator.random((num_domains, num_domains)) < share, -1.0, 1.0)
    np.fill_diagonal(signs, 1.0)
    values = 0.4 * signs
    ends = np.stack([values - 0.1, values + 0.1], -1)
    told = {"ratio_of_means": values.tolist(), "intervals": {"ratio_of_means": ends.tolist()}}
    return {"scope": scope, "name": name, "order": "first order", **told}
