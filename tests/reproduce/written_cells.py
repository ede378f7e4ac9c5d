"""Cells of a figure as if they had been made, with measures that a test says: for what is drawn and told of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llava_moe.grid.card import Card, write_card
from llava_moe.grid.cell import Grid
from llava_moe.grid.results import Results
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.index import module_of
from llava_moe.reproduce.setup import Setup, read_setup

Skill = Callable[[Mapping[str, Any], str], float]
"""The share of a domain's questions that a cell of these labels answers."""


def grid_of(setup: Setup) -> Grid:
    build = Build(setup)
    module_of(setup.paper, setup.figure).cells(build)
    return build.grid()


def write_cells(folder: Path, setup: Setup, skill: Skill, num_items: int = 40) -> Results:
    """Write every cell of a figure into a folder."""
    grid = grid_of(setup)
    for cell in grid.cells:
        run = folder / cell.name
        run.mkdir(parents=True)
        (run / "finished.json").write_text("{}")
        making = cell.making(folder)
        settings = grid.settings[cell.name]
        card = Card(cell.name, settings, cell.reads, making, cell.measured, True, 60.0, 1000, "abc", "base", {}, 1200)
        write_card(folder, card)
        if not cell.measured:
            continue
        generator = np.random.default_rng(cell.labels["seed"])
        records, questions = [], []
        for domain in setup.domains:
            level = skill(cell.labels, domain)
            for number in range(num_items):
                nats = 8 * (2 - level) + float(generator.normal(0, 0.2))
                records.append({"key": f"{domain}{number}", "domain": domain, "tokens": 4, "nats": round(nats, 4)})
                right = float(number / num_items + float(generator.normal(0, 0.02)) < level)
                questions.append({"id": f"{domain}{number}", "domain": domain, "image": number, "score": right})
        curve = {domain: [[50 * n, round(3 * 0.8**n, 3)] for n in range(1, 9)] for domain in setup.domains}
        size = 2_000_000 if "mole" in cell.labels["model"] and "small" not in cell.labels["model"] else 1_000_000
        told = {"parameters": size, "flops_per_token": 2.5e7, "records": records, "questions": questions}
        (run / "measured.json").write_text(json.dumps(told | {"curve": curve}))
    return Results(grid, folder)


def setup_of(paper: str, figure: str, scale: str = "demo") -> Setup:
    return read_setup(paper, figure, scale)
