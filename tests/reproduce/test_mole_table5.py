"""Table 5 of MoLE: slices of one LoRA, and the best of each domain chosen by other items than those that judge it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_moe.reproduce.figures import mole_table5
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells


@pytest.mark.parametrize(("scale", "num_layers"), [("demo", 6), ("full", 32)])
def test_slices_are_one_lora_cut_where_the_next_begins(scale: str, num_layers: int) -> None:
    setup = setup_of("mole", "table5", scale)
    slices = setup.axes["slices"].values()
    assert [layer for told in slices for layer in told["layers"]] == [*range(num_layers)]
    cells = [cell for cell in grid_of(setup).cells if cell.command == "compose"]
    assert len(cells) == len(slices) * len(setup.seeds)
    assert all(cell.experts == (f"lora-mix-seed{cell.labels['seed']}",) for cell in cells)
    assert "layers=[0,1" in " ".join(cells[0].words) and "method=linear" in cells[0].words


def test_the_lora_is_that_of_llava_moles_figure_1() -> None:
    here, there = grid_of(setup_of("mole", "table5")), grid_of(setup_of("llava_mole", "fig1"))
    assert here.settings["lora-mix-seed1"] == there.settings["lora-mix-seed1"]


def skill(labels: Mapping[str, Any], domain: str) -> float:
    if "slice" not in labels:
        return 0.6
    return {"third1": 0.8, "third3": 0.3}.get(labels["slice"], 0.5) if domain == "general" else 0.5


def test_a_slice_that_beats_the_whole_is_seen_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    setup = setup_of("mole", "table5")
    results = write_cells(tmp_path / "cells", setup, skill)
    write_page(find("mole", "table5"), setup, results, tmp_path, "llava-moe reproduce")
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["facts"]["best slice by held-out loss"]["general"] == "third1"
    verdicts = [answer["verdict"] for answer in told["answers"]]
    assert verdicts[:2] == ["seen", "seen"] and verdicts[2::2] == ["not seen"] * 2
    ours = {one["id"]: one["ours"] for one in told["published"]}
    assert ours["best"].count(" on ") == 3 and ours["slice 3"] is None, "a third is no fifth"


def test_without_held_out_records_every_slice_is_asked_for(tmp_path: Path) -> None:
    setup = replace(setup_of("mole", "table5"), seeds=(0,))
    results = write_cells(tmp_path, setup, skill)
    for name in list(results.cards):
        path = tmp_path / name / "measured.json"
        if path.is_file():
            path.write_text(json.dumps(json.loads(path.read_text()) | {"records": []}))
    assert len(mole_table5.sheet(setup, results).answers) == 9
    full = replace(setup_of("mole", "table5", "full"), seeds=(0,))
    fifths = mole_table5.sheet(full, write_cells(tmp_path / "full", full, lambda *_: 0.5)).ours
    assert set(fifths) == {one.id for one in full.published}
    results.cards.clear()
    assert {answer.verdict for answer in mole_table5.sheet(setup, results).answers} == {"undecided"}
