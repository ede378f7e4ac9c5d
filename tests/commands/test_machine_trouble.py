"""Full disks, missing memory, signals: told in one line, with what was saved still there."""

from __future__ import annotations

import errno
import json
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from llava_moe.cli import run
from llava_moe.data.quarantine import Quarantine
from llava_moe.data.readers import store
from llava_moe.runs import stage
from llava_moe.train import checkpoint_writer
from llava_moe.train.checkpoint import Snapshot, write_checkpoint
from llava_moe.train.engine import LocalEngine
from llava_moe.train.log import JsonLines
from llava_moe.train.whole_state import WholeStateWriter

Refused = Callable[..., str]


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def last_of(folder: Path) -> Path:
    return folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond this: what a full disk is to the one who writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("num_bytes", [2_000, 300_000])
def test_a_disk_that_fills_while_saving_leaves_the_checkpoint_before_and_the_run_goes_on(
    num_bytes: int, tiny_words: list[str], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No file may grow in all of the process: the log must not be written meanwhile.
    words = ["train", *tiny_words, "train.async_save=false", f"out={tmp_path / 'run'}", "train.save_every=2"]
    words += ["train.keep_last=1"]
    saved: list[dict[str, bytes]] = []

    def write_until_full(folder: Path, snapshot: Snapshot, *rest: Any) -> Path:
        if snapshot.position.step < 4:
            return write_checkpoint(folder, snapshot, *rest)
        saved.append(contents(folder / "checkpoints"))
        with largest_file(num_bytes):
            return write_checkpoint(folder, snapshot, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer, "write_checkpoint", write_until_full)
        line = refused(*words)
    assert "the disk is full" in line and "step-000004" in line and "step-000002 stands" in line
    assert contents(tmp_path / "run" / "checkpoints") == saved[0]
    assert run(words) == 0
    assert [step["step"] for step in logged(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5632 vs 5524"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    ],
)
def test_a_full_disk_is_known_in_every_writers_words(
    error: Exception, tiny_words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(WholeStateWriter, "add", fail)
    line = refused("train", *tiny_words, "train.max_steps=1")
    assert "the disk is full" in line and "there is no checkpoint yet" in line


@pytest.mark.parametrize(
    ("owner", "name"), [(JsonLines, "write"), (Quarantine, "add"), (stage, "claim_configuration"), (store, "keep")]
)
def test_a_full_disk_is_told_whichever_file_meets_it_first(
    owner: object, name: str, tiny_words: list[str], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = getattr(owner, name)

    def write_when_full(*arguments: Any) -> Any:
        with largest_file(100):
            return write(*arguments)

    good = {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]}
    (tmp_path / "train.json").write_text(json.dumps([{"id": "bad"}, *[good] * 20]))
    words = ["train", *tiny_words, f"path={tmp_path / 'train.json'}", f"out={tmp_path / 'run'}", "train.max_steps=2"]
    words += ["data.max_bad_share=0.9", "images=null"]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, write_when_full)
        assert re.search("is full|File too large", refused(*words))
    assert run(words) == 0
    assert [step["step"] for step in logged(tmp_path / "run")] == [1, 2]


def test_a_row_that_does_not_fit_is_named_with_the_setting_to_lower_and_lowering_it_goes_on(
    tiny_words: list[str], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LlavaForConditionalGeneration.forward

    def forward_small(self: LlavaForConditionalGeneration, **inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > 200:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(self, **inputs)

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", forward_small)
    words = ["train", *tiny_words, f"out={tmp_path / 'run'}", "train.max_length=100", "train.save_every=1"]
    line = refused(*words, "train.tokens_per_micro_batch=256")
    assert re.search(r"out of memory on a row of 2\d\d tokens and \d+ images", line)
    assert "lower train.tokens_per_micro_batch" in line
    assert run([*words, "train.tokens_per_micro_batch=180"]) == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory while"),
        (MemoryError(), "out of memory while"),
    ],
)
def test_memory_that_runs_out_elsewhere_is_told_too(
    error: Exception, told: str, tiny_words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(LocalEngine, "step", fail)
    assert told in refused("train", *tiny_words)


def test_a_fault_of_ours_shows_its_traceback_and_ends_with_1(
    tiny_words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("our fault")

    monkeypatch.setattr(LocalEngine, "step", fail)
    assert run(["train", *tiny_words]) == 1
    errors = capfd.readouterr().err
    assert "Traceback" in errors and "ZeroDivisionError: our fault" in errors


@pytest.mark.parametrize(
    ("world", "told"),
    [("2", "parallel=single with 2 processes: choose parallel=ddp"), ("two", "WORLD_SIZE=two")],
)
def test_several_processes_with_the_engine_of_one_are_refused(
    world: str, told: str, tiny_words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("RANK", "0")
    assert told in refused("train", *tiny_words, "parallel=single")
    assert not Path("runs").exists()


@pytest.mark.parametrize("key", ["log.tensorboard=true", "log.wandb=offline"])
def test_a_logger_that_is_not_installed_is_told_with_its_remedy(
    key: str, tiny_words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("wandb", "torch.utils.tensorboard", "tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'llava-moe[train]'" in refused("train", *tiny_words, key)


def test_a_disk_that_holds_no_checkpoint_is_told_before_the_first_step(
    tiny_words: list[str], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    words = ["train", *tiny_words, f"out={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
        assert "has 0.00 GB free, and a checkpoint of what trains takes more than" in refused(*words)
    assert not (tmp_path / "run" / "log.jsonl").exists()
    assert run([*words, "train.max_steps=1"]) == 0
