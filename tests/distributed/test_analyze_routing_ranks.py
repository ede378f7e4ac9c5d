"""``analyze routing`` on two processes: the bytes of one, and pieces that one process goes on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llava_moe.cli import run
from tests.commands.routed_runs import words_for, write_domains
from tests.distributed.test_eval_ranks import stir
from tests.forked_commands import ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

StartRanks = Callable[..., list[ForkedCommand]]
ENDINGS = ("json", "csv", "svg", "html")


@pytest.mark.parametrize("adapter", ["llava_mole", "mixlora"])
def test_two_processes_write_the_bytes_of_one(
    adapter: str,
    words_for_tiny: tuple[str, ...],
    start_ranks: StartRanks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    words = words_for(words_for_tiny, write_domains(tmp_path / "own"))
    saving = ["train.save_every=2", "train.keep_last=9", f"adapter={adapter}", "adapter.r=2"]
    assert run(["train", *words, *saving, "out=run"]) == 0
    stir(tmp_path / "run")
    asked = ["analyze", "routing", "run=run", "checkpoints=all", "samples=9", "resamples=100", "num_threads=1"]
    assert run([*asked, "out=one"]) == 0
    both = start_ranks(2, [*asked, "out=two"], tmp_path)
    assert [rank.wait(timeout=540) for rank in both] == [0, 0]
    for ending in ENDINGS:
        one, two = ((tmp_path / name / f"routing.{ending}").read_bytes() for name in ("one", "two"))
        assert one == two, ending
    pieces = sorted((tmp_path / "two" / ".routing").rglob("*.npz"))
    assert len(pieces) == 2 * 18
    for piece in pieces[::3]:
        piece.unlink()
    (tmp_path / "two" / "routing.json").unlink()
    assert run([*asked, "out=two"]) == 0  # what two processes left, one goes on with
    assert (tmp_path / "one" / "routing.json").read_bytes() == (tmp_path / "two" / "routing.json").read_bytes()
