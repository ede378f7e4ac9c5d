"""The driver over the real command line: it makes what is missing, goes on where it stopped, and says what failed."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import yaml

from llava_moe.cli import run as llava_moe
from llava_moe.errors import STOPPED, UserError
from studies.conflict import make_cell
from studies.conflict.cells import cells_of
from studies.conflict.make_cell import CellMaker
from studies.conflict.results import CELLS, read_results
from studies.conflict.run import main
from studies.conflict.study import read_study
from tests.forked_commands import CommandServer, ForkedCommand

TINY: dict[str, Any] = {
    "stage1": ["exp=pretrain_llava_558k", "scale=demo", "model=tiny", "train.max_steps=2", "train.global_batch_size=2"],
    "words": ["exp=mix_general_doc_med", "scale=demo", "model=tiny", "train.global_batch_size=1", "train.save_every=2"],
    "both": ["train.num_threads=1", "data.num_workers=0"],
    "domains": {"general": {"general": 6}, "medical": {"medical": 6}},
    "epochs": 1,
    "seeds": [0],
    "baseline": "lora",
    "methods": {"lora": {2: ["adapter=lora", "adapter.r=2", "adapter.lora_alpha=4"]}},
    "measure": {"split": "val", "benchmark": "demo", "limit": 1},
}


def written(folder: Path, **changed: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(TINY | changed))
    return path


class Ended:
    """A command that has come to its end in this process."""

    def __init__(self, status: int) -> None:
        self.status = status

    def wait(self) -> int:
        return self.status


def start_quickly(server: CommandServer, command: list[str], stdout: IO[bytes], **_: Any) -> ForkedCommand | Ended:
    """In the place of ``Popen``: ``llava_moe`` from a process that has loaded torch, another module in this one."""
    module, words = command[2], command[3:]
    if module == "llava_moe":
        return server.start(words, output=stdout.fileno(), joined=True)
    return Ended(importlib.import_module(module).main(words))


@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on_and_ends_with_a_line_a_cell(
    embedded_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_server: CommandServer
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
    places = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    command = [sys.executable, "-m", "studies.conflict.run", str(written(tmp_path)), *places]
    root = Path(__file__).parents[3]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(root)}, cwd=tmp_path)
    log = tmp_path / "work" / "seed0-r2-lora-general" / "log.jsonl"
    while not log.exists() or not log.read_text():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == STOPPED
    assert not (tmp_path / "results" / CELLS).exists()

    # Torch need not be loaded nine times more.
    quick = SimpleNamespace(Popen=partial(start_quickly, command_server), STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(make_cell, "subprocess", quick)
    assert main([str(tmp_path / "study.yaml"), *places, "--at-once", "2"]) == 0
    results = read_results(tmp_path / "results")
    assert [one.name for one in results] == ["seed0-r2-lora-all", "seed0-r2-lora-general", "seed0-r2-lora-medical"]
    assert [one.samples for one in results] == [{"general": 6, "medical": 6}, {"general": 6}, {"medical": 6}]
    assert len({one.base for one in results}) == 1
    before = (tmp_path / "results" / CELLS).read_bytes()
    assert main([str(tmp_path / "study.yaml"), *places]) == 0
    assert (tmp_path / "results" / CELLS).read_bytes() == before


def test_what_a_command_says_reaches_the_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, stage1=["exp=pretrain_llava_559k"])
    words = [str(path), "--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    assert main(words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("conflict: seed0-stage1 ended with status 2: llava-moe: ")
    assert "pretrain_llava_558k" in line


def test_a_cell_that_saw_other_samples_than_planned_is_refused(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    (cell, *_) = cells_of(study)
    run = tmp_path / cell.name
    run.mkdir()
    steps = [{"step": number, "domains": {"general": {"samples": 1}}} for number in range(6)]
    (run / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    maker = CellMaker(study, tmp_path, base=None)
    assert maker.samples_of(cell, run) == ({"general": 6}, 6)
    (run / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps[1:]))
    with pytest.raises(UserError, match="saw general 5 samples, planned were general 6"):
        maker.samples_of(cell, run)


def test_cells_of_another_base_are_refused(
    embedded_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
    study = read_study(written(tmp_path))
    run = tmp_path / "work" / "seed0-stage1"
    assert llava_moe(["train", *TINY["stage1"], *TINY["both"], "seed=0", f"out={run}"]) == 0
    with pytest.raises(UserError, match=r"stands on the base [0-9a-f]{16}, the cells before on another"):
        CellMaker(study, tmp_path / "work", base="another").check_base(run)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"domains": {"general": {"general": 6}}}, "two domains or more, 1 given"),
        ({"domains": {"a b": {"x": 1}, "c": {"y": 1}}}, "becomes part of a folder's name"),
        ({"domains": {"all": {"x": 1}, "c": {"y": 1}}}, "stands for all of them"),
        ({"domains": {"a": {"x": 0}, "c": {"y": 1}}}, "domains.a: give each source its samples"),
        ({"baseline": "dora"}, "dora is none of methods: lora"),
        ({"methods": TINY["methods"] | {"mole": {4: ["adapter=mole"]}}}, "4 is no rank of lora"),
        ({"methods": {"lora": {2: []}}}, "methods.lora.2: give a list of words"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"words": "exp=demo"}, "words is text, not a list"),
        ({"rank": 3}, "unknown key rank"),
    ],
)
def test_a_study_that_makes_no_sense_is_one_line(
    changed: dict[str, Any], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, **changed)
    assert main([str(path), "--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line
    assert str(path) in line
