"""Table 2 of Conditional MixLoRA: routings that differ in nothing else, and what an interval says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llava_moe.reproduce.figures import mixlora_table2
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells


@pytest.mark.parametrize("scale", ["demo", "full"])
def test_routings_differ_in_nothing_else(scale: str) -> None:
    setup = setup_of("mixlora", "table2", scale)
    cells = [cell for cell in grid_of(setup).cells if cell.labels["seed"] == 0 and "routing" in cell.labels]
    assert [cell.labels["routing"] for cell in cells] == ["instance", "task", "random", "token"]
    others = {tuple(word for word in cell.words if not word.startswith("adapter.routing=")) for cell in cells}
    assert len(others) == 1 and {cell.start for cell in cells} == {cells[0].start}


@pytest.mark.parametrize(
    ("levels", "verdicts"),
    [
        ({"instance": 0.8, "task": 0.6, "random": 0.3}, ["seen", "seen"]),
        ({"instance": 0.6, "task": 0.8, "random": 0.6}, ["not seen", "undecided"]),
    ],
)
def test_the_instance_is_held_against_the_task_and_against_chance(
    levels: Mapping[str, float], verdicts: list[str], tmp_path: Path
) -> None:
    def skill(labels: Mapping[str, Any], domain: str) -> float:
        return levels.get(labels["routing"], 0.5)

    setup = setup_of("mixlora", "table2")
    results = write_cells(tmp_path / "cells", setup, skill)
    assert [answer.verdict for answer in mixlora_table2.sheet(setup, results).answers] == verdicts
    written = write_page(find("mixlora", "table2"), setup, results, tmp_path, "llava-moe reproduce")
    told = json.loads((tmp_path / "results.json").read_text())
    ours = {one["id"]: one["ours"] for one in told["published"]}
    assert all(ours[name].endswith("% of questions") for name in ("instance", "task", "random", "token"))
    page = written.page.read_text()
    assert "1381.87 (MME)" in page and "by token" in page and "+0.0 %" in page
