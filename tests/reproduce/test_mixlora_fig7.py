"""Fig. 7 of Conditional MixLoRA: cells below 0 in a LoRA and in MixLoRA, counted, compared over seeds, and drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llava_moe.reproduce.figures import mixlora_fig7
from llava_moe.reproduce.index import find
from llava_moe.reproduce.interference import compare_shares, moments, read_matrices
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells
from tests.reproduce.written_interference import facts, write_matrices

LORA, MIXLORA = "lora_r16_kept", "mixlora_e16_r4_kept"


def test_each_run_keeps_an_early_checkpoint_and_is_looked_at_twice() -> None:
    cells = grid_of(setup_of("mixlora", "fig7")).by_name
    for name in (f"{LORA}-mix-seed0", f"{MIXLORA}-mix-seed0"):
        assert {"train.save_every=60", "train.keep_last=20"} <= set(cells[name].words)
        words = ("analyze", "interference", "by=domain", "samples=64", "exact=[]", "num_threads=1")
        assert cells[name].measured[-2:] == ((*words, "checkpoint=60"), words)


def test_a_training_that_is_cut_short_is_looked_at_halfway() -> None:
    setup = setup_of("mixlora", "fig7")
    short = replace(setup, both=(*setup.both, "train.max_steps=3"))
    assert [[one.step for one in moments(each)] for each in (setup, short)] == [[60, None], [1, None]]


def test_cells_are_pairs_of_different_domains_on_a_or_b_of_a_linear(tmp_path: Path) -> None:
    told = facts(("one", "two"), 0.0, 0)
    part = next(one for one in told["results"] if one["name"] == "layer 2 up_proj B")
    part["ratio_of_means"] = [[1.0, -0.4], [None, 1.0]]
    part["intervals"]["ratio_of_means"] = [[[0.9, 1.1], [-0.5, -0.3]], [[None, None], [0.9, 1.1]]]
    (tmp_path / "one.json").write_text(json.dumps(told | {"step": 3}))
    found = read_matrices(tmp_path / "one.json")
    assert found.share("negative") == found.share("surely negative") == 1 / 35, "18 parts, less the one of no value"
    assert found.share("negative", "B", 2) == 1 / 5 and found.share("negative", "A", 2) == 0
    assert found.share_positive() == 34 / 35 and found.share_known() == 35 / 36
    nothing = replace(found, ratios_PDD=np.full_like(found.ratios_PDD, np.nan))
    assert compare_shares({0: nothing}, {0: found}, "negative") is None


FEWER = {LORA: 0.5, MIXLORA: 0.1}
MORE = {LORA: 0.1, MIXLORA: 0.5}
SAME = {LORA: 0.3, MIXLORA: 0.3}


@pytest.mark.parametrize(
    ("early", "end", "verdicts"),
    [(FEWER, SAME, ["seen", "undecided"]), (MORE, FEWER, ["not seen", "seen"])],
    ids=["fewer early", "more early"],
)
def test_an_interval_over_seeds_decides_at_each_moment(
    early: Mapping[str, float], end: Mapping[str, float], verdicts: list[str], tmp_path: Path
) -> None:
    setup = setup_of("mixlora", "fig7")
    results = write_cells(tmp_path, setup, lambda *_: 0.5, num_items=3)
    write_matrices(tmp_path, setup, results, lambda labels, at: (early if at.step else end)[labels["model"]])
    answers = mixlora_fig7.answers_of(setup, results)
    assert [answer.verdict for answer in answers] == verdicts
    assert "at step 60, MixLoRA E=16 r=4 has fewer cells below 0 than LoRA r=16; cells below 0" in answers[0].sentence
    assert answers[0].parameters == 0.0, "sizes stand beside the difference; those of written cells are equal"


def test_the_page_draws_both_and_one_without_runs_is_written_too(tmp_path: Path) -> None:
    setup = setup_of("mixlora", "fig7")
    results = write_cells(tmp_path / "cells", setup, lambda *_: 0.5, num_items=3)
    write_matrices(tmp_path / "cells", setup, results, lambda labels, _: FEWER[labels["model"]])
    written = write_page(find("mixlora", "7"), setup, results, tmp_path, "llava-moe reproduce")
    page = written.page.read_text()
    assert all(sentence in page for sentence in written.sentences)
    names = {"shares_0.svg", "shares_1.svg", "matrices_0.svg", "matrices_1.svg", "curves.svg"}
    assert {path.name for path in tmp_path.glob("*.svg")} == names
    told = json.loads((tmp_path / "results.json").read_text())
    shares = told["facts"]["MixLoRA E=16 r=4, step 60"]["2"]
    assert shares["known"] == 1 and shares["negative"] + shares["positive"] == pytest.approx(1)
    assert told["published"][0]["ours"].startswith("LoRA r=16, step 60: ")
    results.cards.clear()
    del results.cells
    written = write_page(find("mixlora", "7"), setup, results, tmp_path, "llava-moe reproduce")
    assert all("no seed has both" in sentence for sentence in written.sentences)
