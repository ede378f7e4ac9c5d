"""Fig. 4 of Conditional MixLoRA: sizes cross in one, and each pair differs by the condition alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llava_moe.reproduce.figures import mixlora_fig4
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells

SIZES = ["e16r2", "e16r4", "e16r8", "e8r4", "e32r4"]


@pytest.mark.parametrize("scale", ["demo", "full"])
def test_each_size_is_trained_with_and_without_the_condition(scale: str) -> None:
    cells = [cell for cell in grid_of(setup_of("mixlora", "fig4", scale)).cells if cell.labels.get("size")]
    first = [cell for cell in cells if cell.labels["seed"] == cells[0].labels["seed"]]
    assert [cell.labels["size"] for cell in first[::2]] == SIZES
    for with_condition, without in zip(first[::2], first[1::2], strict=True):
        differing = set(with_condition.words) ^ set(without.words)
        assert differing == {"adapter.conditional=true", "adapter.conditional=false"}
        assert (with_condition.labels["choice"], without.labels["choice"]) == ("cfs", "ifs")


@pytest.mark.parametrize(
    ("ifs", "levels", "verdicts"),
    [
        (0.3, {"e16r2": 0.5, "e16r4": 0.7, "e16r8": 0.7, "e8r4": 0.5, "e32r4": 0.8}, ["seen", "seen", "seen"]),
        (
            0.8,
            {"e16r2": 0.6, "e16r4": 0.6, "e16r8": 0.6, "e8r4": 0.7, "e32r4": 0.5},
            ["not seen", "undecided", "not seen"],
        ),
    ],
)
def test_condition_chosen_factors_and_factors_are_judged(
    ifs: float, levels: Mapping[str, float], verdicts: list[str], tmp_path: Path
) -> None:
    def skill(labels: Mapping[str, Any], domain: str) -> float:
        return ifs if labels.get("choice") == "ifs" else levels.get(labels.get("size", ""), 0.5)

    setup = setup_of("mixlora", "fig4")
    results = write_cells(tmp_path / "cells", setup, skill)
    sheet = mixlora_fig4.sheet(setup, results)
    assert [answer.verdict for answer in sheet.answers] == verdicts
    assert [picture.name for picture in sheet.pictures] == ["chosen", "factors"]
    written = write_page(find("mixlora", "fig4"), setup, results, tmp_path, "llava-moe reproduce")
    told = {one["id"]: one["ours"] for one in json.loads((tmp_path / "results.json").read_text())["published"]}
    assert all(told[name].endswith("% of questions") for name in SIZES)
    assert told["condition"].endswith("points of accuracy")
    page = written.page.read_text()
    assert "1443.82 (MME, of at most 2,000)" in page and "4 of 16 factors" in page
