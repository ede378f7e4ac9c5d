"""Table 6 of MoLE: two and three LoRAs by every method, asked about the domains that both have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llava_moe.errors import UserError
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells


def test_gates_of_two_loras_learn_on_their_domains_and_those_of_all_are_table_9s() -> None:
    here, there = grid_of(setup_of("mole", "table6")), grid_of(setup_of("mole", "table9"))
    two = here.by_name["mole-general_documents-matrix-seed0"]
    assert two.experts == ("expert-general-seed0", "expert-documents-seed0")
    assert "domains=[general,documents]" in two.words and not any("medical" in word for word in two.words)
    assert here.settings["mole-mix-matrix-seed0"] == there.settings["mole-mix-matrix-seed0"]
    merge = setup_of("mole", "table4")
    name = "normalized_linear-mix-seed1"
    assert here.settings[name] == grid_of(merge).settings[name]


def test_the_page_asks_all_about_the_domains_that_all_have(tmp_path: Path) -> None:
    setup = setup_of("mole", "table6")
    levels = {"mole": 0.7, "linear": 0.7, "normalized_linear": 0.3}
    results = write_cells(tmp_path / "cells", setup, lambda labels, _: levels.get(labels["model"], 0.5))
    write_page(find("mole", "table6"), setup, results, tmp_path, "llava-moe reproduce")
    told = json.loads((tmp_path / "results.json").read_text())
    assert [answer["verdict"] for answer in told["answers"]] == ["seen", "undecided"] * 2
    assert {tuple(answer["domains"]) for answer in told["answers"]} == {("general", "documents")}
    ours = {one["id"]: one["ours"] for one in told["published"]}
    assert " of 2, " in ours["mole"] and ours["lorahub"] is None


def test_more_loras_than_domains_are_refused() -> None:
    setup = setup_of("mole", "table6")
    with pytest.raises(UserError, match=r"demo\.axes\.numbers must be of 2 to 3 LoRAs"):
        grid_of(replace(setup, axes={**setup.axes, "numbers": [2, 4]}))
