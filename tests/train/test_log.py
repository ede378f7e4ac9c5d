"""A line of ``log.jsonl``: its numbers by domain and by layer, and a file that a kill or a full disk has hurt."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_moe.errors import UserError
from llava_moe.train.log import JsonLines, StepRecord, loss_by_domain, sample_hash, scalars_of
from llava_moe.train.loss import StepSums
from llava_moe.train.state import RunState
from tests.tiny_training import DOMAINS


def sums() -> StepSums:
    """Two examples of general, one of documents that teaches nothing, none of medical."""
    return StepSums(
        loss_D=torch.tensor([6.0, 0.0, 0.0], dtype=torch.float64),
        supervised_D=torch.tensor([8.0, 0.0, 0.0], dtype=torch.float64),
        samples_D=torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64),
        # Balance loss, examples, tokens, tokens of null segments, rows.
        scalars=torch.tensor([1.5, 3.0, 40.0, 9.0, 2.0], dtype=torch.float64),
    )


def build(**changed: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "state": RunState(step=7, epoch=1),
        "keys": ("a", "b", "c"),
        "sums": sums(),
        "objective": 0.8,
        "grad_norm": 2.5,
        "learning_rate": 1e-3,
        "seconds": 4.0,
        "padding_share": 0.2,
        "domains": DOMAINS,
        "expert_tokens": None,
        "expert_entropy": None,
        "layer_names": (),
        "num_experts": (),
    }
    return StepRecord.build(**given | changed).fields


def record(step: int, **more: Any) -> StepRecord:
    return StepRecord({"step": step, "loss": 0.5, **more})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_means_over_tokens_and_examples_and_speeds_over_seconds() -> None:
    line = build()
    assert line.pop("peak_memory_bytes") > 1 << 20
    assert line == {
        "step": 7,
        "epoch": 1,
        "loss": 6.0 / 8.0,
        "load_balance_loss": 0.5,
        "objective": 0.8,
        "learning_rate": 1e-3,
        "grad_norm": 2.5,
        "seconds": 4.0,
        "samples": 3,
        "tokens": 40,
        "supervised_tokens": 8,
        "padding_share": 0.2,
        "tokens_per_second": 10.0,
        "supervised_tokens_per_second": 2.0,
        "sample_hash": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",  # SHA-256 of abc
        "rows": 2,
        "domains": {
            "general": {"loss": 0.75, "supervised_tokens": 8, "samples": 2},
            "documents": {"loss": 0.0, "supervised_tokens": 0, "samples": 1},
        },
    }


def test_the_hash_of_a_step_changes_with_the_order_of_its_samples() -> None:
    assert sample_hash(("a", "b")) != sample_hash(("b", "a"))


def test_a_domain_without_samples_is_in_no_ledger() -> None:
    assert list(loss_by_domain(sums(), DOMAINS)) == ["general", "documents"]


def test_experts_have_shares_of_each_layers_own_width_and_entropy_a_token() -> None:
    tokens_LDK = torch.tensor([[[1.0, 1.0, 6.0], [0, 0, 0], [0, 2, 1]], [[4, 4, 0], [0, 0, 0], [3, 0, 0]]])
    entropy_LD = torch.tensor([[4.0, 0.0, 1.0], [8.0, 0.0, 0.0]])
    experts = build(
        expert_tokens=tokens_LDK, expert_entropy=entropy_LD, layer_names=("low", "high"), num_experts=(3, 2)
    )["experts"]
    assert experts == {
        "low": {
            "general": {"share": [0.125, 0.125, 0.75], "entropy": 0.5},
            "medical": {"share": [0.0, 0.666667, 0.333333], "entropy": 0.333333},
        },
        "high": {
            "general": {"share": [0.5, 0.5], "entropy": 1.0},
            "medical": {"share": [1.0, 0.0], "entropy": 0.0},
        },
    }


def test_curves_get_every_number_and_no_text() -> None:
    flat = scalars_of(StepRecord(build()))
    assert flat["loss"] == 0.75 and flat["domains/general/supervised_tokens"] == 8.0
    assert "sample_hash" not in flat and all(isinstance(value, float) for value in flat.values())


def test_lines_are_appended_with_their_stage_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = JsonLines(path, "pretrain", 0)
    log.write(record(1))
    log.write(record(2, grad_norm=math.nan, domains={"general": {"loss": math.inf}}, shares=[1.0, -math.inf]))
    log.close()
    first, second = lines_of(path)
    assert first == {"stage": "pretrain", "step": 1, "loss": 0.5}
    assert second["grad_norm"] is None and second["domains"] == {"general": {"loss": None}}
    assert second["shares"] == [1.0, None] and second["loss"] == 0.5


def test_a_resumed_log_drops_what_a_killed_run_wrote_beyond_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": 9}}\n' for step in range(1, 6)) + '{"step": 6, "lo')
    log = JsonLines(path, "pretrain", 3)
    log.write(record(4))
    log.close()
    assert [(line["step"], line["loss"]) for line in lines_of(path)] == [(1, 9), (2, 9), (3, 9), (4, 0.5)]
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("damage", ['{"step": "two"}', '{"step": 2', "[]", "{}"])
def test_a_damaged_line_is_told_in_one_line_with_file_and_number_and_nothing_is_lost(
    damage: str, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    text = f'{{"step": 1}}\n{damage}\n{{"step": 3}}\n'
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        JsonLines(path, "pretrain", 3)
    (told,) = str(refused.value).splitlines()
    assert told.startswith(f"{path} line 2 is damaged (") and "put it back" in told
    assert path.read_text() == text


class FullDisk:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, room: int) -> None:
        self.room, self.taken = room, b""

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = data[: self.room]
        self.taken, self.room = self.taken + part, self.room - len(part)
        return len(part)

    def close(self) -> None:
        raise OSError(errno.EIO, "Input/output error")


def test_a_full_disk_is_told_and_what_it_did_not_take_is_written_once_when_it_does(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl", "pretrain", 0)
    log.file.close()
    disk = FullDisk(room=10)
    log.file = disk  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"cannot write .*log.jsonl \(No space left on device\)"):
        log.write(record(1))
    with pytest.raises(UserError):
        log.catch_up()
    assert len(disk.taken) == 10
    disk.room = 10_000
    log.catch_up()
    log.write(record(2))
    assert [json.loads(line)["step"] for line in disk.taken.splitlines()] == [1, 2]


def test_closing_tries_what_is_owed_once_more_and_raises_nothing(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl", "pretrain", 0)
    log.file.close()
    for room, taken in ((0, b""), (10_000, b'{"stage": "pretrain", "step": 1, "loss": 0.5}\n')):
        disk = FullDisk(0)
        log.file = disk  # type: ignore[assignment]
        log._owed = b""
        with pytest.raises(UserError):
            log.write(record(1))
        disk.room = room
        log.close()
        assert disk.taken == taken
