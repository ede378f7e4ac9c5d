"""``llava-moe reproduce`` over the real command line: a small grid, its page, its second start, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_moe.cli import run
from llava_moe.commands import grid_runs, plan_grid
from llava_moe.commands.plan_grid import CellPlan
from llava_moe.commands.table import COMMANDS
from llava_moe.grid.cell import Cell
from llava_moe.grid.runner import Runner
from llava_moe.reproduce import setup as figure_setup
from tests.commands.started_cells import Starting
from tests.forked_commands import CommandServer

Refused = Callable[..., str]
FIGURE = ("paper=llava_mole", "figure=1")
TINY = "more=model=tiny train.max_steps=2 model.cache_features=off"


@pytest.fixture
def started(command_server: CommandServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starting]:
    """The commands that cells start, on few records and questions of the demo."""
    scales = yaml.safe_load(figure_setup.SCALES.read_text())
    scales["demo"]["samples"] = {domain: {domain: 6} for domain in scales["demo"]["samples"]}
    scales["demo"]["eval"] = ["benchmarks=[demo]", "limit=1", "num_threads=1"]
    (tmp_path / "scales.yaml").write_text(yaml.safe_dump(scales, sort_keys=False))
    start = Starting(command_server)
    monkeypatch.setattr(figure_setup, "SCALES", tmp_path / "scales.yaml")
    monkeypatch.setattr(grid_runs, "Runner", partial(Runner, start=start))
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield start


@pytest.mark.slow
def test_a_grid_is_made_measured_and_drawn_and_the_same_command_twice_leaves_the_same_bytes(
    started: Starting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", *FIGURE, "seeds=[0]", "only=lora-general-seed0", TINY]
    assert run(words) == 0
    made = ["train lora-general-seed0", "eval lora-general-seed0", "measure_items lora-general-seed0"]
    assert started.commands == ["train stage1-seed0", *made]
    told = capsys.readouterr().out
    folder = tmp_path / "runs/reproduce/llava_mole-fig1-demo"
    assert "2 runs in runs/reproduce/llava_mole-fig1-demo/cells, 0 of them there" in told
    assert "Undecided at this scale: a LoRA of the mix does worse on general" in told
    assert "page: runs/reproduce/llava_mole-fig1-demo/index.html" in told
    page = (folder / "index.html").read_text()
    assert "2 of 9 runs are there" in page and "only=" not in page

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    started.commands.clear()
    assert run(words) == 0
    assert not started.commands
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_that_fails_is_told_and_the_end_is_status_1(
    started: Starting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", *FIGURE, "seeds=[0]", "only=lora-mix-seed0", "more=model=tinny", "out=here"]
    assert run(words) == 1
    told = capsys.readouterr().out
    assert "stage1-seed0 failed (status 2): model=tinny does not exist (did you mean tiny?)" in told
    assert "(here/cells/stage1-seed0.log has the whole)" in told
    assert "lora-mix-seed0 was not run: it needs stage1-seed0" in told
    assert (tmp_path / "here" / "index.html").exists()


def test_alone_it_lists_every_figure_and_why_some_are_not_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce"]) == 0
    told = capsys.readouterr().out
    assert "llava_mole" in told and "table=10" in told and "figure=1 " in told and "no:" in told
    assert told.splitlines()[-1].strip() == "llava-moe reproduce paper=llava_mole figure=1"


def test_each_run_has_a_command_of_its_own_for_a_batch_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", *FIGURE, "scale=full", "commands=true", "out=a folder"]) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    told = "llava-moe reproduce paper=llava_mole figure=1 scale=full 'out=a folder' only="
    assert first == f"{told}stage1-seed0"
    assert second == f"{told}stage1-2-seed0   # after stage1-seed0"
    assert third.endswith("   # after stage1-2-seed0")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("paper=llava_mole",), "reproduce needs figure=: add figure=1"),
        (("paper=llava_mole", "figure=7"), "figure=7"),
        ((*FIGURE, "table=2"), "figure=1 and table=2: give one of them"),
        (("table=2",), "reproduce needs paper="),
        (("paper=mole", "table=1"), "table=1: composing LoRAs of image generators is not drawn (images are generated"),
        (("paper=mixlora", "tabel=2"), "unknown key tabel (did you mean table?)"),
        ((*FIGURE, "scale=ful"), "scale=ful: give demo or full"),
        ((*FIGURE, "seeds=[0,0]"), "a seed is there twice"),
        ((*FIGURE, "only=lora-genral-seed0"), "(did you mean lora-general-seed0?)"),
        ((*FIGURE, "at_once=0"), "at_once=0"),
        ((*FIGURE, "more=a 'b"), "No closing quotation"),
        ((*FIGURE, "at_onse=2"), "unknown key at_onse (did you mean at_once?)"),
    ],
)
def test_what_cannot_be_followed_is_one_line(
    words: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["reproduce", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not [*tmp_path.iterdir()]


def test_a_table_is_asked_for_by_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for word in ("table=2", "figure=table2"):
        assert run(["reproduce", "paper=mixlora", word, "commands=true"]) == 0
        told.append(capsys.readouterr().out)
    assert told[0].startswith("llava-moe reproduce paper=mixlora table=2 only=stage1-seed0\n")
    assert told[0].replace("table=2", "figure=table2") == told[1]


def test_its_help_names_the_plan_of_the_whole_grid() -> None:
    assert "llava-moe plan paper=llava_mole figure=1 scale=full" in COMMANDS["reproduce"].usage


def test_each_job_of_a_sweep_prints_its_own_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """As Hydra's launchers send them."""
    assert run(["reproduce", "paper=llava_mole", "figure=1,3", "seeds=[0]", "commands=true", "scale=full", "-m"]) == 0
    told = capsys.readouterr().out
    assert "llava-moe reproduce paper=llava_mole figure=3 'seeds=[0]' scale=full only=lora-mix-seed0" in told
    assert "figure=1,3" not in told


def test_the_plan_of_a_grid_sums_its_trainings_and_traces_those_of_several_seeds_once(
    started: Starting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", *FIGURE, "only=stage1-seed0", "device=a100-80", "out=one"]) == 0
    (real,) = json.loads((tmp_path / "one" / "plan.json").read_text())["cells"].values()
    assert real["num_steps"] > 0 and real["device_hours"] > 0 and real["num_bytes"] > 0 and real["fits"]
    assert "1 trainings: " in capsys.readouterr().out

    traced: list[str] = []

    def plan_cell(cell: Cell, *_: Any) -> CellPlan:
        traced.append(cell.name)
        return CellPlan(**real | {"device_hours": 2.0, "num_bytes": 1 << 30, "notes": ()})

    monkeypatch.setattr(plan_grid, "_plan_cell", plan_cell)
    assert run(["plan", "paper=mixlora", "table=2", "seeds=[0]", "device=a100-80"]) == 0
    assert "llava-moe reproduce paper=mixlora table=2 'seeds=[0]'" in capsys.readouterr().out
    traced.clear()
    assert run(["plan", *FIGURE, "seeds=[0,1]", "device=a100-80"]) == 0
    told = capsys.readouterr().out
    assert len(traced) == 9 and all(name.endswith("seed0") for name in traced)
    assert "18 trainings: 36.0 device-hours, 18.0 GiB of disk" in told
    assert "llava-moe reproduce paper=llava_mole figure=1 'seeds=[0,1]'" in told
    assert not started.commands
