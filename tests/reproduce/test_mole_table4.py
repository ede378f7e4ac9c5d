"""Table 4 of MoLE: a LoRA of each domain beside the normalised sum of all, which shares its runs with table 9."""

from __future__ import annotations

import json
from pathlib import Path

from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells


def test_the_loras_are_those_of_table_9() -> None:
    here, there = grid_of(setup_of("mole", "table4")), grid_of(setup_of("mole", "table9"))
    shared = set(here.by_name) & set(there.by_name)
    assert {f"expert-{domain}-seed2" for domain in ("general", "documents", "medical")} <= shared
    assert all(here.settings[name] == there.settings[name] for name in shared)
    assert "method=normalized_linear" in here.by_name["normalized_linear-mix-seed0"].words


def test_each_lora_is_held_against_the_mean_on_its_own_domain(tmp_path: Path) -> None:
    setup = setup_of("mole", "table4")
    merged = {"general": 0.4, "documents": 0.7, "medical": 0.9}
    skill = lambda labels, domain: merged[domain] if labels["model"] == "normalized_linear" else 0.7  # noqa: E731
    results = write_cells(tmp_path / "cells", setup, skill)
    write_page(find("mole", "table4"), setup, results, tmp_path, "llava-moe reproduce")
    told = json.loads((tmp_path / "results.json").read_text())
    assert [answer["verdict"] for answer in told["answers"]] == ["seen", "undecided", "not seen"]
    ours = {one["id"]: one["ours"] for one in told["published"]}
    assert ours["difference"].endswith("on medical: points of accuracy") and ours["alone"].count(" on ") == 3
