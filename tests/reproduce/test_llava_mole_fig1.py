"""Fig. 1 of LLaVA-MoLE: its cells, and a page that says what an interval decides, whatever the answer is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from llava_moe.reproduce.figures import llava_mole_fig1
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import Skill, grid_of, setup_of, write_cells


def test_the_mix_has_the_very_samples_that_each_domain_alone_has() -> None:
    setup = setup_of("llava_mole", "fig1")
    cells = grid_of(setup).by_name
    assert len(cells) == 3 * (1 + 1 + 3 + 4)
    alone, mix, hard = (cells[f"{name}-seed1"] for name in ("lora-medical", "lora-mix", "llava_mole_hard-mix"))
    assert {alone.start, mix.start, hard.start} == {"stage1-seed1"}
    assert "data.sources.medical.cap=1200" in alone.words and "data.sources.general.cap=1200" not in alone.words
    assert {f"data.sources.{domain}.cap=1200" for domain in setup.domains} <= set(mix.words)
    assert "domains=[medical]" in alone.words and "domains=[general,documents,medical]" in hard.words
    assert "adapter.router=hard" in hard.words and "adapter.router=hard" not in mix.words


CONFLICT = {"lora general": 0.8, "lora mix": 0.5, "llava_mole mix": 0.75}
NONE = {"lora general": 0.5, "lora mix": 0.5, "llava_mole mix": 0.5}
REVERSE = {"lora general": 0.5, "lora mix": 0.8, "llava_mole mix": 0.5}


def skill_of(skills: Mapping[str, float]) -> Skill:
    return lambda labels, domain: skills.get(f"{labels['model']} {labels['on']}", 0.4) if domain == "general" else 0.5


@pytest.mark.parametrize(
    ("skills", "verdict"), [(CONFLICT, "seen"), (NONE, "undecided"), (REVERSE, "not seen")], ids=str
)
def test_an_interval_decides_whether_the_effect_is_seen(
    skills: Mapping[str, float], verdict: str, tmp_path: Path
) -> None:
    setup = replace(setup_of("llava_mole", "fig1"), samples={"general": {}, "medical": {}})
    setup = replace(setup, axes={**setup.axes, "base": None})
    answers = llava_mole_fig1.sheet(setup, write_cells(tmp_path, setup, skill_of(skills))).answers
    assert [answer.verdict for answer in answers] == [verdict] * 2
    assert all(answer.sentence.lower().startswith(f"{verdict} at this scale: ") for answer in answers)


def test_the_page_sets_the_paper_beside_our_runs_and_is_the_same_twice(tmp_path: Path) -> None:
    setup = setup_of("llava_mole", "fig1")
    results = write_cells(tmp_path / "cells", setup, skill_of(CONFLICT), num_items=12)
    command = "llava-moe reproduce paper=llava_mole figure=1"
    written = write_page(find("llava_mole", "1"), setup, results, tmp_path, command)
    page = written.page.read_text()
    assert all(sentence in page for sentence in written.sentences)
    assert "306.3 (Tiny LVLM-eHub overall, of at most 500)" in page and "not available to us" in page
    assert "+100.0 %" in page, "LLaVA-MoLE of the same rank has more parameters"
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["command"] == command and told["cells"]["lora-mix-seed0"]["steps"] == 1200
    assert {path.name for path in tmp_path.glob("*.svg")} == {"bars.svg", "curves.svg"}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    write_page(find("llava_mole", "1"), setup, results, tmp_path, command)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_page_of_no_run_says_so(tmp_path: Path) -> None:
    setup = setup_of("llava_mole", "fig1")
    results = write_cells(tmp_path / "cells", setup, lambda *_: 0.5)
    results.cards.clear()
    written = write_page(find("llava_mole", "1"), setup, results, tmp_path, "llava-moe reproduce")
    assert "0 of 27 runs are there" in written.page.read_text()
    assert written.sentences[0].startswith("Undecided at this scale") and "no seed has both" in written.sentences[0]
