"""Table 7 of MoLE: gates with and without the balance loss, and how much of the weight one LoRA takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.errors import UserError
from llava_moe.reproduce.figures import mole_table7
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.written_cells import grid_of, setup_of, write_cells


def test_its_gates_are_those_of_table_9_but_for_what_it_varies() -> None:
    here, there = grid_of(setup_of("mole", "table7")), grid_of(setup_of("mole", "table9"))
    assert here.settings["mole-mix-matrix-seed0"] == there.settings["mole-mix-matrix-seed0"]
    mole, off = here.by_name["mole-mix-matrix-seed0"], here.by_name["mole-mix-balance_off-seed0"]
    assert [word for word in off.words if word not in mole.words] == ["balance_coef=0"]
    assert ("analyze", "routing", "split=val", "num_threads=1") in off.measured
    full = grid_of(setup_of("mole", "table7", "full")).by_name["mole-mix-balance_off-seed0"]
    assert not any("routing" in words for words in full.measured), "nothing is held out at full size"


def test_the_page_says_what_the_balance_loss_does_and_who_takes_the_weight(tmp_path: Path) -> None:
    setup = setup_of("mole", "table7")
    levels = {"balance_off": 0.4, "temperature2": 0.6, "temperature4": 0.9, "temperature8": 0.4}
    skill = lambda labels, _: 0.2 if "linear" in labels["model"] else levels.get(labels.get("gates", ""), 0.6)  # noqa: E731
    results = write_cells(tmp_path / "cells", setup, skill)
    routers = [{"mean_share": [0.8, 0.1, 0.1]}, {"mean_share": [0.6, 0.4, 0.0]}]
    place = tmp_path / "cells" / "mole-mix-balance_off-seed1" / "analyze"
    place.mkdir()
    (place / "routing.json").write_text(json.dumps({"checkpoints": [{"kinds": {"record": {"routers": routers}}}]}))
    write_page(find("mole", "table7"), setup, results, tmp_path, "llava-moe reproduce")
    told = json.loads((tmp_path / "results.json").read_text())
    assert [answer["verdict"] for answer in told["answers"]] == ["seen", "seen", "undecided", "not seen", "seen"]
    assert told["facts"]["largest weight"] == {"balance_off": 0.7}
    ours = {one["id"]: one["ours"] for one in told["published"]}
    assert ours["largest balance_off"] == "70.0 % of the weight"
    (place / "routing.json").write_text("{}")
    with pytest.raises(UserError, match=r"routing\.json has another shape"):
        mole_table7.sheet(setup, results)
