"""The command line answers at once, lists what there is, and runs several settings in one go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from llava_moe.cli import run
from llava_moe.commands.table import COMMANDS, DATA_COMMANDS
from llava_moe.config.config_folder import config_folder
from tests.forked_commands import CommandServer


def test_help_answers_in_under_half_a_second() -> None:
    fastest = 9.0
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "llava_moe", "--help"], check=True, stdout=subprocess.DEVNULL)
        fastest = min(fastest, time.perf_counter() - started)
    assert fastest < 0.5


HELPS = [
    [],
    ["--help"],
    *[[name, "--help"] for name in COMMANDS],
    *[["data", name, "--help"] for name in DATA_COMMANDS],
]


@pytest.mark.parametrize("words", HELPS)
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    assert "llava-moe" in capsys.readouterr().out


def test_data_needs_a_second_word_that_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data"]) == 2
    assert "data needs a second word: one of prepare, check, stats, preview" in capsys.readouterr().err
    assert run(["data", "stat"]) == 2
    assert "data stat is not a command (did you mean stats?)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["exp", "model", "data", "adapter", "benchmark", "run"])
def test_ls_lists_names_with_a_line_each(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    assert run(["ls", kind]) == 0
    out = capsys.readouterr().out
    assert {"exp": "mix_general_doc_med", "model": "vicuna_7b_clip336", "data": "general_doc_med"}.get(kind, "") in out
    assert {"adapter": "llava_mole", "benchmark": "demo"}.get(kind, "") in out
    assert all(len(line.split()) > 3 for line in out.splitlines()[1:])


def test_doctor_names_what_is_there_and_each_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "attention", "disk for runs", "demo images", "demo base model"):
        assert word in out


def test_cfg_prints_the_configuration_and_trains_nothing(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *tiny_words, f"out={tmp_path / 'run'}", "--cfg", "job"]) == 0
    assert "global_batch_size: 8" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_multirun_trains_each_setting_in_a_folder_of_its_own(tiny_words: list[str], tmp_path: Path) -> None:
    words = [word for word in tiny_words if not word.startswith("train.max_steps")]
    assert run(["train", "-m", *words, "train.max_steps=2", "adapter=lora,none"]) == 0
    configs = sorted((tmp_path / "runs").glob("*/config.yaml"))
    assert len(configs) == 2
    assert {"Lora" in path.read_text() for path in configs} == {True, False}


def test_a_sweep_leaves_nothing_beside_runs_in_the_folder_where_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["reproduce", "-m", "paper=llava_mole", "figure=1,3", "commands=true", "seeds=[0]"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    files = [yaml.safe_load(path.read_text()) for path in config_folder().glob("*.yaml")]
    folders = [file["hydra"]["sweep"]["dir"] for file in files if "hydra" in file]
    assert {*folders} == {"runs/.sweep"} and len(folders) > 10


def test_a_users_own_experiment_folder_is_found(tiny_words: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine" / "exp").mkdir(parents=True)
    (tmp_path / "mine" / "exp" / "short.yaml").write_text("# @package _global_\ntrain:\n  epsilon: 1.0e-7\n")
    words = [word for word in tiny_words if not word.startswith("exp=")]
    command = ["train", "--config-dir", str(tmp_path / "mine"), "+exp=short", *words, f"out={tmp_path / 'run'}"]
    assert run([*command, "train.max_steps=1"]) == 0
    assert "epsilon: 1.0e-07" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.slow
def test_curves_go_to_tensorboard_and_offline_wandb_when_asked(
    tiny_words: list[str], tmp_path: Path, command_server: CommandServer
) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    words = [*tiny_words, f"out={tmp_path / 'run'}", "log.tensorboard=true", "log.wandb=offline", "train.max_steps=2"]
    finished = command_server.run(["train", *words])
    assert finished.poll() == 0, finished.errors
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_the_log_counts_every_sample_and_supervised_token_of_its_domain(tiny_words: list[str], tmp_path: Path) -> None:
    assert run(["train", *tiny_words, f"out={tmp_path / 'run'}", "train.max_steps=12"]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for record in records:
        ledger = record["domains"]["mine"]
        assert (ledger["samples"], ledger["supervised_tokens"]) == (record["samples"], record["supervised_tokens"])
        assert ledger["loss"] == pytest.approx(record["loss"])
        for layer in record["experts"].values():
            assert sum(layer["mine"]["share"]) == pytest.approx(1.0, abs=1e-5)
    # 48 records in steps of 8: every epoch sees each record once, in another order.
    epochs = {epoch: [r for r in records if r["epoch"] == epoch] for epoch in (0, 1)}
    assert [len(steps) for steps in epochs.values()] == [6, 6]
    assert sum(r["tokens"] for r in epochs[0]) == sum(r["tokens"] for r in epochs[1])
    assert not {r["sample_hash"] for r in epochs[0]} & {r["sample_hash"] for r in epochs[1]}
