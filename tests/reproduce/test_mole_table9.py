"""Table 9 of MoLE: gates of four granularities over the same LoRAs, which stand on one projector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.adapters.methods.mole_units import GRANULARITIES
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells


@pytest.mark.parametrize("scale", ["demo", "full"])
def test_all_granularities_compose_the_same_loras_of_one_projector(scale: str) -> None:
    setup = setup_of("mole", "table9", scale)
    cells = grid_of(setup).by_name
    gates = [cells[f"mole-mix-{name}-seed0"] for name in GRANULARITIES]
    experts = ("expert-general-seed0", "expert-documents-seed0", "expert-medical-seed0")
    assert {cell.experts for cell in gates} == {experts}
    assert all(cells[name].words[-1] == "stage.learning_rates.projector=null" for name in experts)
    assert [cell.words[-2] for cell in gates] == [f"granularity={name}" for name in GRANULARITIES]
    assert ("data.sources.medical.cap=1200" in gates[0].words) == (scale == "demo")


def test_the_page_says_which_gates_do_better_and_what_they_weigh(tmp_path: Path) -> None:
    setup = setup_of("mole", "table9")
    levels = {"matrix": 0.4, "layer": 0.6, "block": 0.8, "network": 0.6}
    results = write_cells(tmp_path / "cells", setup, lambda labels, _: levels.get(labels.get("granularity", ""), 0.5))
    written = write_page(find("mole", "table9"), setup, results, tmp_path, "llava-moe reproduce")
    told = json.loads((tmp_path / "results.json").read_text())
    assert [answer["verdict"] for answer in told["answers"]] == ["seen", "seen", "seen", "undecided"]
    assert "block do better than one for the network" in written.sentences[1]
    assert all(one["ours"].endswith("the mean over domains") for one in told["published"])
    assert "which are frozen, beside its gates" in written.page.read_text()
