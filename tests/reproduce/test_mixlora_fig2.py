"""Fig. 2 of Conditional MixLoRA: a LoRA's cells below 0 by layer, beside what chance has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.reproduce.figures import mixlora_fig2
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells
from tests.reproduce.written_interference import write_matrices


def test_a_lora_of_rank_4_is_looked_at_early_and_at_its_end() -> None:
    cells = grid_of(setup_of("mixlora", "fig2")).by_name
    assert len(cells) == 3 * 2
    one = cells["lora_r4_kept-mix-seed2"]
    assert {"adapter.r=4", "train.save_every=60"} <= set(one.words)
    assert ["checkpoint=60" in words for words in one.measured[-2:]] == [True, False]


@pytest.mark.parametrize(("share", "verdict"), [(0.4, "seen"), (0.0, "not seen")])
def test_more_cells_surely_below_0_than_chance_is_interference(share: float, verdict: str, tmp_path: Path) -> None:
    setup = setup_of("mixlora", "fig2")
    results = write_cells(tmp_path, setup, lambda *_: 0.5, num_items=3)
    write_matrices(tmp_path, setup, results, lambda *_: share)
    answers = mixlora_fig2.answers_of(setup, results)
    assert [answer.verdict for answer in answers] == [verdict] * 2
    assert "surely below 0 than the 2.5 % of chance" in answers[0].sentence


def test_the_page_draws_layers_at_both_moments(tmp_path: Path) -> None:
    setup = setup_of("mixlora", "fig2")
    results = write_cells(tmp_path / "cells", setup, lambda *_: 0.5, num_items=3)
    write_matrices(tmp_path / "cells", setup, results, lambda _, moment: 0.4 if moment.step else 0.1)
    written = write_page(find("mixlora", "2"), setup, results, tmp_path, "llava-moe reproduce")
    assert all(sentence in written.page.read_text() for sentence in written.sentences)
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        *("shares.svg", "layers_0.svg", "layers_1.svg", "curves.svg"),
    }
    told = json.loads((tmp_path / "results.json").read_text())
    assert set(told["facts"]["the end"]["0"]["negative_by_layer"]["A"]) == {"0", "1", "2"}
