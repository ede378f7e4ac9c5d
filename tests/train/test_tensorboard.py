"""``log.tensorboard``: the curves that TensorBoard reads, and a writer that fails while training goes on."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from llava_moe.train import tensorboard
from llava_moe.train.log import StepRecord
from llava_moe.train.tensorboard import TensorBoard

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter


def record(step: int, loss: float = 1.0) -> StepRecord:
    return StepRecord({"step": step, "loss": loss, "domains": {"general": {"loss": 2.0, "samples": 3}}})


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard itself shows of a curve."""
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return [(point.step, point.value) for point in reader.Scalars(name)]


def test_tensorboard_reads_every_number_and_nothing_that_a_killed_run_wrote_beyond_its_checkpoint(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    killed = TensorBoard(tmp_path, 0, told.append)
    for step in range(1, 6):
        killed.write(record(step, loss=7.0))
    killed.close()
    resumed = TensorBoard(tmp_path, 3, told.append)
    for step in range(4, 7):
        resumed.write(record(step, loss=5.0))
    resumed.write_scores(6, {"held_out_loss": 0.5})
    resumed.close()
    assert curve(tmp_path, "loss") == [(1, 7.0), (2, 7.0), (3, 7.0), (4, 5.0), (5, 5.0), (6, 5.0)]
    assert curve(tmp_path, "domains/general/samples")[-1] == (6, 3.0)
    assert curve(tmp_path, "validation/held_out_loss") == [(6, 0.5)]
    assert not told


def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_no_point_behind(tmp_path: Path) -> None:
    for num_steps, loss in ((5, 7.0), (3, 5.0)):
        curves = TensorBoard(tmp_path, 0, pytest.fail)
        curves.write_scores(0, {"held_out_loss": loss})
        for step in range(1, num_steps + 1):
            curves.write(record(step, loss))
        curves.close()
    assert curve(tmp_path, "loss") == [(1, 5.0), (2, 5.0), (3, 5.0)]
    assert curve(tmp_path, "validation/held_out_loss") == [(0, 5.0)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_a_full_disk_is_told_once_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    curves = TensorBoard(tmp_path, 0, told.append)

    def full(self: RecordWriter, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    monkeypatch.setattr(tensorboard, "PATIENCE_SECONDS", 5.0)
    # More than the writer's queue holds, which nobody empties once its thread has ended.
    for step in range(1, 100):
        curves.write(record(step))
        if curves.calls._sent:
            curves.calls._sent[-1].exception(timeout=30)
    curves.close()
    (line,) = told
    assert line.startswith("tensorboard stopped (OSError [Errno 28] No space left on device): its curves end here")
    assert "training goes on" in line


def test_a_disk_that_does_not_answer_keeps_no_step_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    curves = TensorBoard(tmp_path, 0, told.append)
    answer = threading.Event()
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda *_: answer.wait())
    monkeypatch.setattr(tensorboard, "PATIENCE_SECONDS", 0.2)
    for step in range(1, 10):
        curves.write(record(step))
    curves.close()
    answer.set()
    (line,) = told
    assert line.startswith("tensorboard: its last curves were not written (TimeoutError no answer in 0.2 s)")


def test_a_folder_that_cannot_be_made_leaves_training_alone(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file in its place")
    told: list[str] = []
    curves = TensorBoard(tmp_path / "tensorboard", 0, told.append)
    curves.write(record(1))
    curves.close()
    (line,) = told
    assert line.startswith("tensorboard does not begin (") and "log.jsonl has every number" in line


def test_a_folder_that_does_not_answer_keeps_no_training_from_its_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(SummaryWriter, "__init__", lambda *_, **__: answer.wait() and None)
    monkeypatch.setattr(tensorboard, "PATIENCE_SECONDS", 0.2)
    told: list[str] = []
    curves = TensorBoard(tmp_path, 0, told.append)
    curves.write(record(1))
    curves.close()
    answer.set()
    (line,) = told
    assert line.startswith("tensorboard does not begin (TimeoutError no answer in 0.2 s)")
