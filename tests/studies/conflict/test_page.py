"""The page opens with what the numbers say, whether that is a conflict, its opposite, or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from studies.conflict.cells import Cell, cells_of
from studies.conflict.contrasts import find_contrasts
from studies.conflict.findings import sentences
from studies.conflict.page import main, write_page
from studies.conflict.results import append_result, read_asked, read_results
from studies.conflict.study import SHIPPED, Study, read_study

FACTS = {"samples": {}, "steps": 3, "commit": None, "seconds": 1.0}
NOISE = 0.02
Harm = Callable[[Cell, str], float]


@pytest.fixture
def study() -> Study:
    return replace(read_study(SHIPPED), seeds=(0, 1, 2))


def simulate(study: Study, folder: Path, harm: Harm, num_cells: int | None = None) -> None:
    """Cells whose loss on a domain is 0.5 nats a token plus ``harm``, and their accuracy 0.8 less ten times that."""
    for cell in cells_of(study)[:num_cells]:
        items = np.random.default_rng(0)
        seed = np.random.default_rng([5, cell.seed, cell.rank, len(cell.trained_on)])
        records, questions = [], []
        for domain in study.domains:
            for number in range(60):
                tokens = int(items.integers(5, 30))
                loss = 0.5 + items.normal(0, 0.1) + seed.normal(0, NOISE) + harm(cell, domain)
                records.append({"key": f"{domain}{number}", "domain": domain, "tokens": tokens, "nats": loss * tokens})
                hard = items.random() + seed.normal(0, NOISE)
                right = bool(hard > 0.2 + 10 * harm(cell, domain))
                questions.append({"id": f"{domain}{number}", "domain": domain, "image": number // 2, "right": right})
        size = 100 * cell.rank + len(cell.method)
        append_result(
            folder, cell, {"base": "b" * 16, "parameters": size, "records": records, "questions": questions}, FACTS
        )


def is_mixed(cell: Cell) -> bool:
    return len(cell.trained_on) > 1


def opening(study: Study, folder: Path) -> list[str]:
    return sentences(find_contrasts(read_results(folder), read_asked(folder), study.baseline))


def test_a_planted_conflict_is_told_with_its_size_and_stands(study: Study, tmp_path: Path) -> None:
    simulate(study, tmp_path, lambda cell, _: 0.03 if is_mixed(cell) and cell.method == "lora" else 0.0)
    conflict, mole, mixlora = opening(study, tmp_path)
    assert conflict.startswith("Domains conflict: LoRA trained on all of them does worse")
    found = re.search(r"held-out loss \+(0\.\d+) \(\+(0\.\d+) to \+(0\.\d+)\) nats a token and", conflict)
    assert found is not None
    value, low, high = map(float, found.groups())
    assert low < 0.03 < high
    assert value == pytest.approx(0.03, abs=0.005)
    # Three of those that stand are named; what cures it is told as better.
    assert "Of its 18 single intervals" in conflict
    assert "loss of general at rank 2" in conflict
    assert conflict.endswith("more.")
    assert mole.startswith("LLaVA-MoLE does better than LoRA of equal size")
    assert mixlora.startswith("Conditional MixLoRA does better than LoRA of equal size")


def test_nothing_is_told_as_nothing(study: Study, tmp_path: Path) -> None:
    simulate(study, tmp_path, lambda *_: 0.0)
    conflict, mole, mixlora = opening(study, tmp_path)
    assert conflict.startswith("No conflict was seen: ")
    assert "0 stand after Holm" in conflict
    assert all("cannot be told apart" in one for one in (mole, mixlora))


def test_help_is_told_as_help(study: Study, tmp_path: Path) -> None:
    simulate(study, tmp_path, lambda cell, _: -0.02 if is_mixed(cell) else 0.0)
    assert opening(study, tmp_path)[0].startswith("No conflict: LoRA trained on all domains does better")


def test_a_conflict_of_one_domain_is_seen_in_that_domain_alone(study: Study, tmp_path: Path) -> None:
    simulate(study, tmp_path, lambda cell, domain: 0.04 if is_mixed(cell) and domain == "medical" else 0.0)
    found = find_contrasts(read_results(tmp_path), read_asked(tmp_path), "lora")
    stand = {(row.domain, row.rank) for row in found.single if row.measure == "loss" and row.stands}
    assert stand == {("medical", rank) for rank in (2, 8, 32)}


def test_a_mean_does_not_hide_a_domain_that_pays_for_another(study: Study, tmp_path: Path) -> None:
    harm = {"medical": 0.015, "general": -0.04, "documents": 0.0}
    simulate(study, tmp_path, lambda cell, domain: harm[domain] if is_mixed(cell) else 0.0)
    told = opening(study, tmp_path)[0]
    assert told.startswith("Domains conflict in part: LoRA of all domains does worse on medical than LoRA of it alone")


def test_the_page_holds_every_row_and_is_the_same_each_time(study: Study, tmp_path: Path) -> None:
    simulate(study, tmp_path, lambda cell, _: 0.03 if is_mixed(cell) else 0.0)
    path, told = write_page(study, tmp_path)
    page = path.read_text()
    body = page[page.index("<main>") :]
    # What was found stands first.
    assert body.index(told[0].split(":")[0]) < body.index("<figure>")
    assert body.count("<figure>") == 3
    # Domains x ranks and one row of means, for each question; MixLoRA has two ranks.
    assert len(re.findall(r'<tr><td class="label">(general|documents|medical)</td>', body)) == 9 + 9 + 6
    assert body.count('<tr class="all">') == 3
    assert "48 single intervals" in body
    assert "All 51 cells." in body
    assert "205" not in re.findall(r"<td>(\d+)</td>", body)
    assert "Conditional MixLoRA" in body
    assert "<script" not in page
    drawn = {file.name for file in tmp_path.glob("*.svg")}
    assert drawn == {"lora-alone.svg", "llava_mole-mix.svg", "mixlora-mix.svg"}
    assert ElementTree.parse(tmp_path / "lora-alone.svg").getroot().tag.endswith("svg")
    write_page(study, tmp_path)
    assert path.read_text() == page


def test_a_part_of_the_cells_says_that_it_is_a_part(study: Study, tmp_path: Path) -> None:
    simulate(study, tmp_path, lambda *_: 0.0, num_cells=1)
    path, told = write_page(study, tmp_path)
    assert told == ["Nothing can be said yet: no question has two seeds of its cells."]
    assert "1 of 51 cells are there" in path.read_text()


def test_no_cell_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path)]) == 2
    assert (
        capfd.readouterr().err == f"conflict: no cell is in {tmp_path} yet: run python -m studies.conflict.run first\n"
    )
