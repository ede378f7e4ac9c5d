"""Fig. 4 of LLaVA-MoLE: ranks by two domains, and what the largest hides, whatever the answer is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_moe.reproduce.figures import llava_mole_fig4
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells


def test_each_rank_is_trained_alone_and_mixed_with_twice_the_rank_as_alpha() -> None:
    cells = grid_of(setup_of("llava_mole", "fig4")).by_name
    assert len(cells) == 3 * (1 + 3 * (1 + 3))
    mole, wide = cells["llava_mole-general_documents-r2-seed1"], cells["lora_wide-general_documents-r32-seed1"]
    assert {"adapter.r=2", "adapter.lora_alpha=4", "adapter.num_experts=3"} <= set(mole.words)
    assert {"adapter.r=71", "adapter.lora_alpha=142", "domains=[general,documents]"} <= set(wide.words)
    assert "domains=[general]" in cells["lora-general-r32-seed0"].words


def test_hard_routing_stands_beside_at_full_size() -> None:
    hard = grid_of(setup_of("llava_mole", "fig4", "full")).by_name["llava_mole_hard-general_documents-r64-seed0"]
    assert {"adapter.router=hard", "adapter.r=64", "adapter.lora_alpha=128", "adapter.num_experts=3"} <= set(hard.words)


@pytest.mark.parametrize(
    ("scale", "models"),
    [("demo", ("lora", "llava_mole")), ("full", ("lora", "llava_mole", "llava_mole_hard"))],
)
def test_the_shared_rank_has_the_runs_of_figures_1_and_3(scale: str, models: tuple[str, ...]) -> None:
    own, first, third = (grid_of(setup_of("llava_mole", figure, scale)) for figure in ("fig4", "fig1", "fig3"))
    assert {"stage1-seed0", "lora-general-seed0"} <= set(own.by_name) & set(first.by_name)
    assert {f"{model}-general_documents-seed0" for model in models} <= set(own.by_name) & set(third.by_name)
    for other in (first, third):
        shared = set(own.by_name) & set(other.by_name)
        assert all(own.settings[name] == other.settings[name] for name in shared)


def hidden_by_rank(labels: Mapping[str, Any], domain: str) -> float:
    """A LoRA of the mix loses on general, less the higher its rank; LLaVA-MoLE gains on documents."""
    if "mole" in labels["model"]:
        return 0.8
    if domain != "general":
        return 0.5
    mixed = {"r2": 0.3, "r32": 0.8}.get(labels.get("rank", ""), 0.5)
    return 0.8 if labels["on"] == "general" else mixed


def reversed_by_rank(labels: Mapping[str, Any], domain: str) -> float:
    return 1.1 - hidden_by_rank(labels, domain)


@pytest.mark.parametrize(
    ("skill", "verdict"),
    [(hidden_by_rank, "seen"), (lambda *_: 0.5, "undecided"), (reversed_by_rank, "not seen")],
)
def test_an_interval_decides_of_each_rank(skill: Any, verdict: str, tmp_path: Path) -> None:
    setup = replace(setup_of("llava_mole", "fig4"), seeds=(0, 1))
    answers = llava_mole_fig4.answers_of(setup, write_cells(tmp_path, setup, skill))
    assert [answer.verdict for answer in answers] == [verdict] * 6
    assert "mixing takes less from general at rank 32 than at rank 2" in answers[4].sentence


def test_what_a_rank_hides_is_a_difference_of_differences(tmp_path: Path) -> None:
    setup = replace(setup_of("llava_mole", "fig4"), seeds=(0, 1))
    hidden = llava_mole_fig4.answers_of(setup, write_cells(tmp_path, setup, hidden_by_rank))[4].compared
    assert hidden is not None and hidden.effect is not None
    assert hidden.before == pytest.approx(-0.5, abs=0.03) and hidden.after == pytest.approx(0.0, abs=0.03)
    assert hidden.effect.value == pytest.approx(hidden.after - hidden.before)


def test_the_page_at_full_size_holds_hard_routing_against_both(tmp_path: Path) -> None:
    setup = replace(setup_of("llava_mole", "fig4", "full"), seeds=(0, 1))
    results = write_cells(tmp_path / "cells", setup, hidden_by_rank, num_items=12)
    page = write_page(find("llava_mole", "4"), setup, results, tmp_path, "llava-moe reproduce").page.read_text()
    assert "LLaVA-MoLE, router=hard, rank 64" in page and "stands beside it in Figs. 1 and 6" not in page


def test_the_page_draws_ranks_and_parameters_with_the_runs_that_are_there(tmp_path: Path) -> None:
    setup = replace(setup_of("llava_mole", "fig4"), seeds=(0, 1))
    results = write_cells(tmp_path / "cells", setup, hidden_by_rank, num_items=12)
    for name in [name for name in results.cards if "r32" in name]:
        del results.cards[name]
    written = write_page(find("llava_mole", "4"), setup, results, tmp_path, "llava-moe reproduce")
    drawings = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert drawings.keys() == {"ranks.svg", "parameters.svg", "curves.svg"}
    assert ">1,000,000<" in drawings["parameters.svg"]
    assert not [name for name, drawing in drawings.items() if "$" in drawing]
    page = written.page.read_text()
    assert "LoRA of LLaVA-MoLE&#39;s size, rank 18" in page and "no seed has both" in written.sentences[-1]
    ours = {one["id"]: one["ours"] for one in json.loads((tmp_path / "results.json").read_text())["published"]}
    assert ours["conflict"].startswith("rank 2: \N{MINUS SIGN}") and ours["hidden"] is None


def test_a_page_of_no_run_says_so(tmp_path: Path) -> None:
    setup = setup_of("llava_mole", "fig4")
    results = write_cells(tmp_path / "cells", setup, lambda *_: 0.5)
    results.cards.clear()
    written = write_page(find("llava_mole", "4"), setup, results, tmp_path, "llava-moe reproduce")
    assert "0 of 39 runs are there" in written.page.read_text()
    assert not [*tmp_path.glob("*.svg")]
