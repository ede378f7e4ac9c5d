"""Lines of results: what is written is read, what is damaged or does not belong is one line of complaint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_moe.errors import UserError
from studies.conflict.cells import Cell, cells_of
from studies.conflict.results import CELLS, append_result, read_asked, read_results
from studies.conflict.run import missing
from studies.conflict.study import SHIPPED, read_study

FACTS = {"samples": {"general": 6}, "steps": 3, "commit": None, "seconds": 1.0}


def cell(number: int = 0) -> Cell:
    return cells_of(read_study(SHIPPED))[number]


def measured(seed: int, base: str = "b") -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    records = [
        {"key": f"k{number}", "domain": "general", "tokens": 3 + number, "nats": float(generator.random())}
        for number in range(5)
    ]
    questions = [
        {"id": f"q{number}", "domain": "general", "image": number // 2, "right": bool(generator.random() < 0.5)}
        for number in range(11)
    ]
    return {"base": base, "parameters": 7, "records": records, "questions": questions}


def test_items_come_back_as_they_were_measured(tmp_path: Path) -> None:
    for number in range(2):
        append_result(tmp_path, cell(number), measured(number), FACTS)
    results = {one.name: one for one in read_results(tmp_path)}
    for number in range(2):
        result, told = results[cell(number).name], measured(number)
        assert result.right_Q.tolist() == [one["right"] for one in told["questions"]]
        np.testing.assert_allclose(result.nats_N, [one["nats"] for one in told["records"]], atol=1e-4)
        assert (result.settings, result.base, result.parameters) == (cell(number).settings, "b", 7)
    asked = read_asked(tmp_path)
    assert asked.tokens_N.tolist() == [3, 4, 5, 6, 7]
    assert asked.images_Q.tolist() == [number // 2 for number in range(11)]


def test_a_line_that_a_kill_cut_short_is_made_again(tmp_path: Path) -> None:
    append_result(tmp_path, cell(0), measured(0), FACTS)
    whole = (tmp_path / CELLS).read_bytes()
    (tmp_path / CELLS).write_bytes(whole + whole[:40])
    assert [one.name for one in read_results(tmp_path)] == [cell(0).name]
    append_result(tmp_path, cell(1), measured(1), FACTS)
    assert len(read_results(tmp_path)) == 2
    assert (tmp_path / CELLS).read_bytes().startswith(whole)


def test_only_missing_cells_are_made(tmp_path: Path) -> None:
    cells = cells_of(read_study(SHIPPED))
    assert missing(cells, read_results(tmp_path), tmp_path) == cells
    append_result(tmp_path, cells[3], measured(0), FACTS)
    assert missing(cells, read_results(tmp_path), tmp_path) == cells[:3] + cells[4:]


def test_cells_of_other_settings_or_another_study_are_refused(tmp_path: Path) -> None:
    cells = cells_of(read_study(SHIPPED))
    append_result(tmp_path, cells[0], measured(0), FACTS)
    results = read_results(tmp_path)
    with pytest.raises(UserError, match="no cell of this study"):
        missing(cells[1:], results, tmp_path)
    with pytest.raises(UserError, match="made with other settings"):
        missing([replace(cells[0], settings="00000000")], results, tmp_path)


def test_bases_and_questions_are_not_mixed(tmp_path: Path) -> None:
    append_result(tmp_path, cell(0), measured(0), FACTS)
    other = measured(1)
    other["questions"][0]["id"] = "another"
    with pytest.raises(UserError, match="asked otherwise"):
        append_result(tmp_path, cell(1), other, FACTS)
    append_result(tmp_path, cell(1), measured(1, base="another"), FACTS)
    with pytest.raises(UserError, match="several kinds of base"):
        read_results(tmp_path)


def test_damage_is_named(tmp_path: Path) -> None:
    append_result(tmp_path, cell(0), measured(0), FACTS)
    (tmp_path / "asked.json").write_text('{"records": [], "questions": []}')
    with pytest.raises(UserError, match="not what the cells were asked"):
        read_results(tmp_path)
    (tmp_path / CELLS).write_text("{}\n")
    with pytest.raises(UserError, match=r"line 1 is damaged \(cell is missing\)"):
        read_results(tmp_path)
