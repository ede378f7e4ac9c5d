"""Fig. 5 of LLaVA-MoLE: numbers of experts, at the same rank and of the same size, whatever the answer is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_moe.reproduce.figures import llava_mole_fig5
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import Skill, grid_of, setup_of, write_cells


def test_experts_are_added_at_the_same_rank_and_of_the_same_size() -> None:
    cells = grid_of(setup_of("llava_mole", "fig5")).by_name
    assert len(cells) == 3 * (1 + 2 + 4 + 3)
    many, even = cells["llava_mole-mix-k8-seed1"], cells["llava_mole_even-mix-k8-seed1"]
    assert {"adapter.r=8", "adapter.num_experts=8"} <= set(many.words)
    hard = grid_of(setup_of("llava_mole", "fig5", "full")).by_name["llava_mole_hard-mix-k8-seed0"]
    assert {"adapter.router=hard", "adapter.r=32", "adapter.num_experts=8"} <= set(hard.words)
    assert {"adapter.r=3", "adapter.lora_alpha=6", "adapter.num_experts=8"} <= set(even.words)


@pytest.mark.parametrize("scale", ["demo", "full"])
def test_three_experts_are_the_runs_of_figure_1(scale: str) -> None:
    own, first = (grid_of(setup_of("llava_mole", figure, scale)) for figure in ("fig5", "fig1"))
    shared = set(own.by_name) & set(first.by_name)
    runs = ("lora-general", "lora-mix", "llava_mole-mix", *(["llava_mole_hard-mix"] if scale == "full" else []))
    assert {f"{run}-seed0" for run in runs} <= shared
    assert all(own.settings[name] == first.settings[name] for name in shared)


def rise_and_fall(labels: Mapping[str, Any], domain: str) -> float:
    if labels["model"] == "lora":
        return 0.8 if labels["on"] == "general" else 0.3
    return {"k2": 0.5, "k5": 0.8, "k8": 0.4}.get(labels.get("experts", ""), 0.6)


def upside_down(labels: Mapping[str, Any], domain: str) -> float:
    return 1.1 - rise_and_fall(labels, domain)


@pytest.mark.parametrize(
    ("skill", "verdict"), [(rise_and_fall, "seen"), (lambda *_: 0.5, "undecided"), (upside_down, "not seen")]
)
def test_an_interval_decides_of_each_number(skill: Skill, verdict: str, tmp_path: Path) -> None:
    setup = replace(setup_of("llava_mole", "fig5"), seeds=(0, 1))
    answers = llava_mole_fig5.answers_of(setup, write_cells(tmp_path, setup, skill))
    assert [answer.verdict for answer in answers] == [verdict] * 4
    assert [len(answer.domains) for answer in answers] == [1, 1, 3, 3]


@pytest.mark.parametrize(("scale", "is_hard_there"), [("demo", False), ("full", True)])
def test_the_page_sets_equal_parameters_and_hard_routing_beside(
    scale: str, is_hard_there: bool, tmp_path: Path
) -> None:
    setup = replace(setup_of("llava_mole", "fig5", scale), seeds=(0, 1))
    results = write_cells(tmp_path / "cells", setup, rise_and_fall, num_items=12)
    for name in [name for name in results.cards if "k8" in name]:
        del results.cards[name]
    written = write_page(find("llava_mole", "5"), setup, results, tmp_path, "llava-moe reproduce")
    page = written.page.read_text()
    assert "LLaVA-MoLE, equal parameters, 5 experts" in page
    assert ("LLaVA-MoLE, router=hard, 2 experts" in page) == is_hard_there
    assert ("router=hard, as released, stands beside it in Figs. 1 and 6" in page) != is_hard_there
    assert "no seed has both" in written.sentences[-1]
    ours = {one["id"]: one["ours"] for one in json.loads((tmp_path / "results.json").read_text())["published"]}
    assert ours["few"].endswith("points of accuracy against a LoRA, on general") and ours["decline"] is None


def test_a_page_of_no_run_says_so(tmp_path: Path) -> None:
    setup = replace(setup_of("llava_mole", "fig5"), seeds=(0,))
    results = write_cells(tmp_path / "cells", setup, lambda *_: 0.5)
    results.cards.clear()
    written = write_page(find("llava_mole", "5"), setup, results, tmp_path, "llava-moe reproduce")
    assert "0 of 10 runs are there" in written.page.read_text()
    assert not [*tmp_path.glob("*.svg")]
