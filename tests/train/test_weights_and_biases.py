"""``log.wandb``: what it comes to on a machine, and a wandb that fails while training goes on."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llava_moe.errors import UserError
from llava_moe.train import weights_and_biases
from llava_moe.train.log import StepRecord
from llava_moe.train.weights_and_biases import WeightsAndBiases, settle_mode
from tests.forked_commands import CommandServer

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without a key, and nothing of wandb's in the environment."""
    for name in [name for name in os.environ if name.startswith(("WANDB", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")


def record(step: int) -> StepRecord:
    return StepRecord({"step": step, "loss": 1.0, "domains": {}})


def test_off_and_offline_ask_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_and_biases, "_trouble_online", lambda: pytest.fail("asked"))
    assert settle_mode(False) == settle_mode("off") == ("off", None)
    assert settle_mode("offline") == ("offline", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    mode, told = settle_mode("auto")
    assert mode == "offline" and told is not None and "WANDB_MODE=offline" in told


def test_a_wandb_that_is_too_old_or_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "login", lambda key=None: True)
    with pytest.raises(UserError, match="too old: pip install --upgrade wandb"):
        settle_mode("online")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for asked in ("online", "offline", "auto"):
        with pytest.raises(UserError, match=rf"log.wandb={asked} needs wandb: pip install 'llava-moe\[train\]'"):
            settle_mode(asked)
    assert settle_mode("off") == ("off", None)


def test_without_a_key_online_is_refused_before_anything_is_built(
    tiny_words: list[str], tmp_path: Path, command_server: CommandServer
) -> None:
    refused = command_server.run(["train", *tiny_words, f"out={tmp_path / 'run'}", "log.wandb=online"])
    lines = refused.errors.splitlines()
    assert refused.poll() == 2 and len(lines) == 1, refused.errors
    assert [line.partition(":")[0] for line in refused.output.splitlines()] == ["llava-moe train"]
    for word in ("no key", "wandb login", "WANDB_API_KEY", "log.wandb=offline"):
        assert word in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_key_that_no_server_takes_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # A closed port stands for a network that is not there; a short key is refused without one.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for key, told in {"abc": "40+ char", "0" * 40: "127.0.0.1:9"}.items():
        monkeypatch.setenv("WANDB_API_KEY", key)
        with pytest.raises(UserError) as refused:
            settle_mode("online")
        assert told in str(refused.value) and "wandb login" in str(refused.value) and key not in str(refused.value)
        mode, line = settle_mode("auto")
        assert mode == "offline" and line is not None and told in line
        wandb.teardown()


def test_auto_goes_on_offline_and_a_resumed_run_keeps_its_id(
    tiny_words: list[str], tmp_path: Path, command_server: CommandServer
) -> None:
    run = tmp_path / "run"
    words = ["train", *tiny_words, f"out={run}", "log.wandb=auto", "train.max_steps=2", "train.save_every=1"]
    first = command_server.run(words)
    assert first.poll() == 0, first.errors
    told = [line for line in first.output.splitlines() if "log.wandb=auto:" in line]
    assert len(told) == 1 and "no key" in told[0] and "offline" in told[0]
    assert "wandb:" not in first.errors
    name = (run / "wandb" / "run_id").read_text()
    (run / "finished.json").unlink()
    again = command_server.run(words)
    assert again.poll() == 0 and "resuming at step 2" in again.output
    assert (run / "wandb" / "run_id").read_text() == name
    assert len([*(run / "wandb").glob(f"offline-run-*-{name}")]) in (1, 2)  # one where both began in the same second


def core_of_wandb() -> int:
    """The process that wandb started beside this one."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = (entry / "stat").read_text() if (entry / "stat").exists() else ""
            if f" {os.getpid()} " in stat and b"wandb-core" in (entry / "cmdline").read_bytes():
                return int(entry.name)
    raise AssertionError("wandb runs no process")


def test_a_wandb_that_dies_is_told_once_and_training_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    curves = WeightsAndBiases(tmp_path, "run", "offline", "project", told.append)
    curves.write(record(1))
    os.kill(core_of_wandb(), signal.SIGKILL)
    for step in range(2, 200):
        curves.write(record(step))
        if curves.calls._sent:
            curves.calls._sent[-1].exception(timeout=30)
    curves.write_scores(200, {"held_out_loss": 1.0})
    curves.close()
    assert len(told) == 2 and "offline-run" in told[0]
    assert "wandb stopped" in told[1] and "training goes on" in told[1]
    assert capfd.readouterr() == ("", "")


def test_a_wandb_that_cannot_begin_leaves_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(mode: str, **_: object) -> None:
        raise wandb.errors.CommError(f"no {mode}")

    monkeypatch.setattr(wandb, "init", begin)
    told: list[str] = []
    curves = WeightsAndBiases(tmp_path, "run", "online", "project", told.append)
    curves.write(record(1))
    curves.close()
    assert [line.partition(" (")[0] for line in told[:2]] == [
        "wandb: online does not begin",
        "wandb: offline does not begin",
    ]
    assert told[2:] == ["wandb: no curves there; log.jsonl has every number"]


def test_what_was_not_uploaded_in_time_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        dir, url = str(tmp_path / "wandb" / "run-1" / "files"), "https://there"

        def log(self, numbers: dict[str, float], step: int) -> None: ...

        def finish(self) -> None:
            raise TimeoutError("Timed out finishing run.")

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    told: list[str] = []
    curves = WeightsAndBiases(tmp_path, "run", "online", "project", told.append)
    curves.write(record(1))
    curves.close()
    assert told[0].strip() == "wandb: https://there"
    assert told[1].endswith(f"later: wandb sync {tmp_path / 'wandb' / 'run-1'}")


NEVER_ANSWERS = """
import sys, threading
from pathlib import Path
import wandb
from llava_moe.train import weights_and_biases
from llava_moe.train.log import StepRecord

class Run:
    dir, url = sys.argv[1], "https://there"
    def log(self, numbers, step): threading.Event().wait()
    def finish(self): pass

wandb.init = lambda **_: Run()
weights_and_biases.FINISH_SECONDS = -9.5
curves = weights_and_biases.WeightsAndBiases(Path(sys.argv[1]), "run", "online", "project", print)
curves.write(StepRecord({"step": 1, "loss": 1.0, "domains": {}}))
curves.close()
print("closed", flush=True)
"""


def test_a_wandb_that_never_answers_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NEVER_ANSWERS, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert "not everything was uploaded" in ended.stdout and ended.stdout.endswith("closed\n")
