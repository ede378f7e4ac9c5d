"""Fig. 3 of LLaVA-MoLE: mixtures by their domains and times, and what each costs the general domain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells


def test_a_mixture_takes_its_domains_and_doubles_what_it_says() -> None:
    cells = grid_of(setup_of("llava_mole", "fig3")).by_name
    assert len(cells) == 3 * (1 + 3 + 4 * 2)
    double, pair = cells["lora-double_documents-seed0"], cells["llava_mole-general_medical-seed0"]
    assert "domain_scale={documents: 2}" in double.words
    assert "domains=[general,medical]" in pair.words and not any("domain_scale" in word for word in pair.words)


@pytest.mark.parametrize(("scale", "hard"), [("demo", set()), ("full", {"llava_mole_hard-mix-seed0"})])
def test_it_shares_the_runs_of_figure_1_that_are_the_same(scale: str, hard: set[str]) -> None:
    grids = [grid_of(setup_of("llava_mole", figure, scale)) for figure in ("fig1", "fig3")]
    shared = set(grids[0].by_name) & set(grids[1].by_name)
    assert {"lora-general-seed0", "lora-mix-seed0", "llava_mole-mix-seed0", *hard} <= shared
    assert all(grids[0].settings[name] == grids[1].settings[name] for name in shared)


def test_the_page_tells_what_each_mixture_costs(tmp_path: Path) -> None:
    def skill(labels: Mapping[str, Any], domain: str) -> float:
        if domain != "general" or labels["on"] == "general" or labels["model"] != "lora":
            return 0.8
        return 0.3 if labels["on"] == "double_documents" else 0.5

    setup = setup_of("llava_mole", "fig3")
    results = write_cells(tmp_path / "cells", setup, skill)
    written = write_page(find("llava_mole", "3"), setup, results, tmp_path, "llava-moe reproduce")
    told = json.loads((tmp_path / "results.json").read_text())
    assert [answer["verdict"] for answer in told["answers"]] == ["seen"] * 8
    ours = {one["id"]: one["ours"] for one in told["published"]}
    assert ours["range"].endswith("points of accuracy over 4 mixtures") and ours["rest"] is None
    assert len(written.sentences) == 8
    assert len([*tmp_path.glob("bars_*.svg")]) == 4
