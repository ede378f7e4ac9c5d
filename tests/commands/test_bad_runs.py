"""Runs that cannot be gone on from: of another shape, no run at all, damaged, or with other data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llava_moe.cli import run
from tests.tiny_models import write_parts

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def finished_run(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to start from, to damage (a copy of) and to score."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert run(["train", *words_for_tiny, f"out={folder / 'run'}", "train.save_every=4"]) == 0
    return folder / "run"


def last_of(folder: Path) -> Path:
    return folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("adapter.r=8", "its adapter is another than the one asked for (adapter.r 32 there, 8 asked)"),
        ("adapter=lora", "LlavaMole there, Lora asked"),
        ("adapter=none", "has an adapter and adapter=none"),
        ("model.architecture.text.hidden_size=32", "was trained on another base (weights"),
    ],
)
def test_starting_from_a_run_of_another_shape_is_refused(
    word: str, told: str, finished_run: Path, refused: Refused, tiny_words: list[str]
) -> None:
    line = refused("train", *tiny_words, f"init_from={finished_run}", word)
    assert told in line and str(finished_run) in line


@pytest.mark.parametrize("key", ["run", "init_from"])
def test_a_folder_that_is_no_run_is_refused(
    key: str, finished_run: Path, refused: Refused, tiny_words: list[str], tmp_path: Path
) -> None:
    command = ["eval"] if key == "run" else ["train", *tiny_words]
    assert "/nowhere does not exist" in refused(*command, f"{key}=/nowhere")
    for folder in (tmp_path, finished_run / "config.yaml"):
        assert f"{folder} holds no complete checkpoint" in refused(*command, f"{key}={folder}")
    # A folder of runs is not a run: which one would be taken is anybody's guess.
    assert f"such as {finished_run}" in refused(*command, f"{key}={finished_run.parent}")
    assert f"{key}=" in refused(*command, f"{key}=")
    assert not list(tmp_path.glob("**/eval"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "eval needs one model"),
        (["limit=-1"], "limit=-1: give"),
        (["batch_size=0"], "batch_size=0: give"),
        (["num_threads=0"], "num_threads=0: give"),
        (["benchmarks=demo"], "benchmarks=demo: give a list"),
        (["benchmarks=[nope]", "model.path=x"], "nope does not exist"),
        (["limitt=3"], "unknown key limitt (did you mean limit?)"),
        (["model.path=/nowhere"], "/nowhere cannot be loaded: no such folder"),
    ],
)
def test_eval_refuses_what_it_cannot_do(words: list[str], told: str, refused: Refused, tiny_words: list[str]) -> None:
    assert told in refused("eval", *words)


@pytest.mark.parametrize("name", ["engine/optimizer.safetensors", "state.json", "engine/random-rank0.safetensors"])
def test_a_damaged_checkpoint_is_named_with_the_one_to_go_on_from(
    name: str, finished_run: Path, refused: Refused, tiny_words: list[str], tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "finished.json").unlink()
    damaged = last_of(folder)
    (damaged / name).write_bytes((damaged / name).read_bytes()[:20])
    words = ["train", *tiny_words, f"out={folder}", "train.save_every=4"]
    line = refused(*words)
    assert str(damaged) in line and "delete it to go on from step-000004" in line
    shutil.rmtree(damaged)
    assert run(words) == 0
    assert last_of(folder) == damaged and (damaged / "COMPLETE").exists()


@pytest.mark.parametrize("name", ["projector.safetensors", "adapter/adapter_model.safetensors", "../../config.yaml"])
def test_a_damaged_file_of_a_run_is_named_when_it_is_read(
    name: str, finished_run: Path, refused: Refused, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (last_of(folder) / name).write_bytes(b"a: [")
    line = refused("eval", f"run={folder}")
    assert Path(name).name in line and "damaged" in line


def test_data_that_changed_under_a_run_is_refused(
    finished_run: Path, refused: Refused, tiny_words: list[str], own_data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "finished.json").unlink()
    environment = json.loads((folder / "environment.json").read_text())
    environment["data"]["mine"] = "0123456789abcdef01234567"
    (folder / "environment.json").write_text(json.dumps(environment))
    line = refused("train", *tiny_words, f"out={folder}", "train.save_every=4")
    changed = f"{own_data / 'train.json'} (or data.quarantine's list) has changed since the run in {folder} began"
    assert changed in line


@pytest.mark.parametrize("taken", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_refused(
    taken: str, refused: Refused, tiny_words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "choose another with out=" in refused("train", *tiny_words, f"out={tmp_path / taken}")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_run_on_another_base_than_it_was_trained_on_is_refused(
    finished_run: Path, refused: Refused, tiny_words: list[str], tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    # A folder of the same name that holds other weights is no other to whoever reads the configuration.
    config["model"]["architecture"]["seed"] = 99
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for words in (["eval"], ["chat", "prompt=a"], ["export", "to=hf", "static=uniform", "out=hf"]):
        line = refused(*words, f"run={folder}")
        assert "holds other weights than those it was trained on" in line and str(folder) in line


def test_a_start_of_the_same_name_in_the_current_folder_is_no_other_runs_start(
    refused: Refused, tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*tiny_words, "train.max_steps=1"]
    assert run(["train", *words, "adapter=none", "out=A/stage1"]) == 0
    assert run(["train", *words, "adapter=none", "out=B/A/stage1", "seed=5"]) == 0
    start = ["init_from=A/stage1", "adapter=lora", "stage.learning_rates={adapter: 1e-3}"]
    assert run(["train", *words, *start, "out=A/frozen"]) == 0
    prompt = ["chat", "prompt=a", "max_new_tokens=1"]
    assert run([*prompt, "run=A/frozen"]) == 0
    monkeypatch.chdir(tmp_path / "B")
    assert "was started from another projector than A/stage1" in refused(*prompt, "run=../A/frozen")
    monkeypatch.chdir(tmp_path / "A")
    assert run([*prompt, "run=frozen"]) == 0


def test_a_base_of_parts_is_the_same_in_every_precision(
    tiny_words: list[str], tokenizer_folder: Path, tmp_path: Path
) -> None:
    tower, language_model = write_parts(tmp_path, tokenizer_folder)
    words = [word for word in tiny_words if not word.startswith("model")]
    words += [f"model.architecture.vision_tower={tower}", f"model.architecture.language_model={language_model}"]
    words += ["model=vicuna_7b_clip336", "train.max_steps=1"]
    assert run(["train", *words, "adapter=lora", "train.dtype=bf16", "out=first"]) == 0
    frozen = [
        "adapter=lora",
        "init_from=first",
        "stage.learning_rates={adapter: 1e-3}",
        "train.dtype=bf16",
        "out=second",
    ]
    assert run(["train", *words, *frozen]) == 0
    for name in ("first", "second"):
        for dtype in ("fp32", "bf16", "fp16"):
            assert run(["chat", f"run={name}", f"dtype={dtype}", "prompt=a", "max_new_tokens=1"]) == 0
    assert run(["export", "run=second", "to=hf", "out=hf", "dtype=fp32"]) == 0
    assert run(["compose", "experts=[second,second]", "method=linear", *words, "out=merged"]) == 0
