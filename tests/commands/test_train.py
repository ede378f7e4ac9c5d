"""``llava-moe train`` on a tiny model and real images, through the real command line."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from llava_moe.cli import run
from tests.forked_commands import CommandServer


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_every_file_of_the_interface(tiny_words: list[str], tmp_path: Path) -> None:
    assert run(["train", *tiny_words, f"out={tmp_path / 'run'}"]) == 0
    folder = tmp_path / "run"
    for name in ("config.yaml", "environment.json", "log.jsonl", "checkpoints/last", "report.html"):
        assert (folder / name).exists(), name
    checkpoint = folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()
    for name in ("COMPLETE", "state.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
        assert (checkpoint / name).exists(), name
    assert (checkpoint / "projector.safetensors").exists()
    records = records_of(folder)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    wanted = {
        *("stage", "step", "epoch", "loss", "load_balance_loss", "objective", "learning_rate", "grad_norm", "seconds"),
        *("samples", "tokens", "supervised_tokens", "padding_share", "tokens_per_second", "peak_memory_bytes"),
        *("supervised_tokens_per_second", "sample_hash", "domains", "experts"),
    }
    assert wanted <= set(records[0])
    assert records[0]["samples"] == 8


def losses_of(folder: Path) -> list[tuple[int, str, float, float]]:
    return [(r["step"], r["sample_hash"], r["loss"], r["grad_norm"]) for r in records_of(folder)]


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    checkpoint = folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()
    tensors: dict[str, Any] = {}
    for path in sorted(checkpoint.glob("**/*.safetensors")):
        if "random" not in path.name:
            tensors |= {f"{path.relative_to(checkpoint)}:{name}": value for name, value in load_file(path).items()}
    return tensors


def assert_same_run(left: Path, right: Path) -> None:
    assert losses_of(left) == losses_of(right)
    first, second = tensors_of(left), tensors_of(right)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.equal(second[name]), name


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tiny_words: list[str], tmp_path: Path) -> None:
    for name, seed, num_steps in (("a", 0, 6), ("b", 0, 6), ("c", 1, 1)):
        words = [*tiny_words, f"train.max_steps={num_steps}", f"seed={seed}"]
        assert run(["train", *words, f"out={tmp_path / name}"]) == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert losses_of(tmp_path / "a")[0][1] != losses_of(tmp_path / "c")[0][1]


@pytest.mark.slow
def test_a_run_killed_at_any_step_and_started_again_equals_one_never_stopped(
    tiny_words: list[str], tmp_path: Path, command_server: CommandServer
) -> None:
    words = [*tiny_words, "train.max_steps=24", "train.save_every=4", "data.num_workers=1"]
    assert run(["train", *words, f"out={tmp_path / 'unbroken'}"]) == 0
    broken = tmp_path / "broken"
    generator = random.Random(7)
    targets = sorted(generator.sample(range(5, 22), 3))
    for target in targets:
        process = command_server.start(["train", *words, f"out={broken}"])
        deadline = time.monotonic() + 120
        while num_logged(broken) < target:
            assert process.poll() is None, process.errors
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (broken / "finished.json").exists()
    assert run(["train", *words, f"out={broken}"]) == 0
    assert_same_run(tmp_path / "unbroken", broken)


@pytest.mark.slow
def test_neither_training_nor_evaluation_prints_a_librarys_warning(tiny_words: list[str], tmp_path: Path) -> None:
    words = [*tiny_words, "train.max_steps=2", "train.activation_checkpointing=true", "adapter=mixlora"]
    commands = (["train", *words, f"out={tmp_path / 'run'}"], ["eval", f"run={tmp_path / 'run'}", "limit=1"])
    both = f"from llava_moe.cli import run\nfor words in {commands!r}: assert run(words) == 0"
    told = subprocess.run([sys.executable, "-c", both], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "report.html" in told.stdout and "scores and answers" in told.stdout
    lines = [line for line in (told.stdout + told.stderr).splitlines() if "warning" in line.lower()]
    lines += [line for line in (told.stdout + told.stderr).splitlines() if "deprecated" in line]
    assert not lines


def num_logged(folder: Path) -> int:
    path = folder / "log.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def test_sigterm_saves_and_exits_with_75(tiny_words: list[str], tmp_path: Path, command_server: CommandServer) -> None:
    words = [*tiny_words, "train.max_steps=4000", f"out={tmp_path / 'run'}"]
    process = command_server.start(["train", *words])
    deadline = time.monotonic() + 120
    while num_logged(tmp_path / "run") < 3:
        assert process.poll() is None, process.errors
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75, process.errors
    saved = (tmp_path / "run" / "checkpoints" / "last").read_text().strip()
    assert int(saved.removeprefix("step-")) == num_logged(tmp_path / "run")


def test_a_finished_run_prints_and_trains_nothing(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", *tiny_words, f"out={tmp_path / 'run'}"]
    assert run(words) == 0
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert run(words) == 0
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before
    assert "nothing was trained" in capsys.readouterr().out


def test_another_configuration_in_the_same_folder_is_refused_with_the_differing_keys(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"out={tmp_path / 'run'}"
    assert run(["train", *tiny_words, folder]) == 0
    assert run(["train", *tiny_words, folder, "seed=5", "data.num_workers=1"]) == 2
    message = capsys.readouterr().err
    assert "seed (0 there, 5 asked)" in message
    assert "num_workers (" not in message


def test_a_nan_loss_stops_the_run_names_the_samples_and_keeps_the_checkpoint(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny_words, f"out={tmp_path / 'run'}", "stage.demo.learning_rates.adapter=1e18", "train.max_steps=30"]
    assert run(["train", *words, "train.save_every=1", "train.gradient_clipping=0.0"]) == 2
    message = capsys.readouterr().err
    assert "NaN or infinite" in message
    assert "mine/r" in message
    assert (tmp_path / "run" / "checkpoints" / "last").exists()


def test_a_run_in_use_is_refused(tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib\nfrom llava_moe.train.folder import FolderLock\n"
            "with FolderLock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
            str(tmp_path / "run"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert run(["train", *tiny_words, f"out={tmp_path / 'run'}"]) == 2
    assert f"is in use by process {holder.pid}" in capsys.readouterr().err
    holder.communicate()


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_other_adapters_train_by_one_word(adapter: str, tiny_words: list[str], tmp_path: Path) -> None:
    assert run(["train", *tiny_words, f"out={tmp_path / 'run'}", f"adapter={adapter}"]) == 0
    records = records_of(tmp_path / "run")
    assert records[-1]["loss"] < records[0]["loss"]
    assert "experts" not in records[0]


def test_mixlora_trains_by_one_word_and_answers(tiny_words: list[str], tmp_path: Path) -> None:
    from llava_moe import load_run

    words = [*tiny_words, f"out={tmp_path / 'run'}", "adapter=mixlora", "adapter.lora_dropout=0.0"]
    assert run(["train", *words]) == 0
    records = records_of(tmp_path / "run")
    assert records[-1]["loss"] < records[0]["loss"]
    for layer in records[0]["experts"].values():
        for shares in layer.values():
            assert len(shares["share"]) == 16 and sum(shares["share"]) == pytest.approx(1, abs=1e-5)
            # Some of 16 factors serve; with 4 for each linear's choice none serves more than a quarter of the time.
            assert 0 < max(shares["share"]) <= 0.25
    tensors = tensors_of(tmp_path / "run")
    start = "adapter/adapter_model.safetensors:language_model.layers.0.mlp.up_proj"
    assert {"gate.ifs_A", "gate.cfs", "factors.15.lora_B.weight"} <= {
        name.removeprefix(f"{start}.") for name in tensors if name.startswith(start)
    }
    model, processor = load_run(tmp_path / "run")
    text = "USER: <image>\nWhat colour is the square? ASSISTANT:"
    inputs = processor(images=Image.new("RGB", (60, 40), (220, 30, 30)), text=text, return_tensors="pt")
    tokens = cast(Any, model).generate(**inputs, max_new_tokens=3, do_sample=False)
    assert tokens.shape[1] > inputs["input_ids"].shape[1]


def test_load_run_gives_back_the_trained_model(tiny_words: list[str], tmp_path: Path) -> None:
    import torch

    from llava_moe import load_run
    from llava_moe.assemble import restore
    from llava_moe.data.images.transform import ImageTransform

    assert run(["train", *tiny_words, f"out={tmp_path / 'run'}"]) == 0
    model, processor = load_run(tmp_path / "run")
    again, _ = load_run(tmp_path / "run")
    picture = Image.new("RGB", (60, 40), (220, 30, 30))
    text = "USER: <image>\nWhat colour is the square? ASSISTANT:"
    inputs = processor(images=picture, text=text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        assert logits.isfinite().all()
        assert logits.equal(again(**inputs).logits)
    encoder = restore(tmp_path / "run").encoder
    assert isinstance(encoder.transform, ImageTransform)
    pixels = encoder.transform.normalize(torch.from_numpy(encoder.transform(picture))[None])
    assert (inputs["pixel_values"] - pixels).abs().max() < 1e-6  # a picture that is not square is padded as in training
    tokens = cast(Any, model).generate(**inputs, max_new_tokens=3, do_sample=False)
    assert tokens.shape[1] > inputs["input_ids"].shape[1]
