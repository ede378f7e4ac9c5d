"""Bad input through the real command line: one clear line, the right exit status, and nothing lost."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from transformers import LlavaForConditionalGeneration

from llava_moe.assemble import recipe_of
from llava_moe.cli import config_folder, quote, run
from llava_moe.commands import stage, stage_run
from llava_moe.commands.compose_config import as_yaml, resolved
from llava_moe.commands.settings import mixture_of, settle
from llava_moe.data import encode
from llava_moe.data.quarantine import Quarantine
from llava_moe.data.readers import store
from llava_moe.errors import UserError
from llava_moe.train.engine import LocalEngine
from llava_moe.train.log import JsonLines
from llava_moe.train.state import RunState


class Refusal:
    """Runs a command that the user must mend, and returns its one line."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, *words: str, status: int = 2) -> str:
        self.capfd.readouterr()
        assert run([*words]) == status
        errors = self.capfd.readouterr().err
        assert errors.startswith("llava-moe: ") and errors.count("\n") == 1, errors
        return errors


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(capfd)


# Commands and keys


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("evaluate", "eval"), ("docter", "doctor")])
def test_an_unknown_command_is_answered_with_the_nearest(typed: str, meant: str, refused: Refusal) -> None:
    assert f"{typed} is not a command (did you mean {meant}?)" in refused(typed)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train.max_step=3", "train.max_steps"),
        ("+train.max_step=3", "train.max_steps"),
        ("++train.max_step=3", "train.max_steps"),
        ("seeed=3", "seed"),
        ("+seeed=3", "seed"),
        ("adapter.num_expert=3", "adapter.num_experts"),
        ("+stage.learning_rate=1", "stage.learning_rates"),
        ("+data.max_bad=0.5", "data.max_bad_share"),
        ("data.sources.mine.repeat=2", "repeats"),
        ("+data.sources.mine.repeat=2", "repeats"),
        ("parallel.stages=2", "parallel.stage"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(
    typed: str, meant: str, refused: Refusal, tiny_words: list[str]
) -> None:
    line = refused("train", *tiny_words, typed)
    key = typed.lstrip("+").partition("=")[0]
    assert f"unknown key {key} (did you mean {meant}?)" in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["adapter=llava_mol"], "adapter=llava_mol does not exist (did you mean llava_mole?): llava-moe ls adapter"),
        (["exp=mix_medd"], "exp=mix_medd does not exist (did you mean mix_med?)"),
        (["adaptor=lora"], "unknown key adaptor (did you mean adapter?)"),
        (["~train.max_steps"], "train.max_steps is not set"),
        (["~adapter"], "adapter is not set"),
        (["data=own"], "data=own does not exist"),
        (["train=3"], "train=3: it holds settings, such as train.global_batch_size"),
        (["train.max_steps"], "cannot read train.max_steps"),
        (["train.betas=[1,"], "cannot read train.betas=[1,"),
        (["seed=${nowhere}"], "Interpolation key 'nowhere' not found in seed"),
        (["stages=[{name: a}]"], "stages"),
        (["--foo"], "unrecognized arguments: --foo"),
        (["--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["--config-dir", "/nowhere"], "'/nowhere' not found"),
        (["--cfg", "job", "-m"], "Only one of"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused_before_anything_is_written(
    words: list[str], told: str, refused: Refusal, tiny_words: list[str]
) -> None:
    assert told in refused("train", *tiny_words, *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train:\n  max_step: 3\n", "did you mean train.max_steps?"),
        ("data:\n  max_bad: 3\n", "data.max_bad (did you mean data.max_bad_share?)"),
        ("adapter:\n  num_expert: 3\n", "did you mean num_experts?"),
        ("stage:\n  text_kind: 3\n", "stage.text_kind"),
        ("sead: 3\n", "sead (did you mean seed?)"),
        ("defaults:\n  - override /adapter: lorra\n", "adapter=lorra does not exist (did you mean lora?)"),
        ("train: [1\n", "not valid YAML"),
        (None, "exp=own does not exist"),
    ],
)
def test_a_mistake_in_ones_own_experiment_file_is_told_like_one_on_the_command_line(
    text: str | None, told: str, refused: Refusal, tiny_words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own" / "exp").mkdir(parents=True)
    if text is not None:
        (tmp_path / "own" / "exp" / "own.yaml").write_text("# @package _global_\n" + text)
    assert told in refused("train", *tiny_words, "exp=own", "--config-dir", str(tmp_path / "own"), "seed=1")


def test_an_experiment_file_that_does_not_say_where_it_belongs_is_refused(
    refused: Refusal, tiny_words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own" / "exp").mkdir(parents=True)
    (tmp_path / "own" / "exp" / "own.yaml").write_text("train:\n  max_steps: 3\n")
    line = refused("train", *tiny_words, "--config-dir", str(tmp_path / "own"), "exp=own")
    assert "# @package _global_" in line


def test_ones_own_data_file_that_lacks_a_key_is_told_which(
    refused: Refusal, tiny_words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "own.yaml").write_text("sources:\n  a: {domain: d, path: x.json}\n")
    words = [word for word in tiny_words if not word.startswith("data.")]
    line = refused("train", *words, "--config-dir", str(tmp_path / "own"), "data=own")
    assert "data.max_bad_share is not set" in line and "0.01" in line


# Values

VALUES = [
    *("seed=-1", "seed=abc", "seed=1.5", "out=", "init_from=", "path=", "domains=general", "stages=3", "model.path="),
    *("train.global_batch_size=0", "train.global_batch_size=abc", "train.global_batch_size=1.5"),
    *("train.max_steps=-1", "train.max_steps=0", "train.max_steps=abc", "train.max_steps=true"),
    *("train.epochs=-1", "train.epochs=1.5", "train.save_every=-1", "train.keep_last=0", "train.num_threads=0"),
    *("train.max_length=0", "train.tokens_per_micro_batch=-5", "train.warmup_ratio=2", "train.dtype=fp8"),
    *("train.gradient_clipping=-1", "train.betas=[0.9]", "train.betas=[0.9,1.5]", "train.epsilon=abc"),
    *("train.over_length=chop", "train.activation_checkpointing=maybe", "train.max_nonfinite_steps=-1"),
    *("log.every=0", "log.wandb=offlin", "log.tensorboard=maybe", "eval.benchmarks=demo", "eval.limit=-1"),
    *("data.num_workers=-1", "data.max_bad_share=5", "data.max_bad_share=abc", "data.temperature=0"),
    *("data.epoch_samples=0", "data.weights=abc", "data.sources=null", "data.sources.mine.cap=0"),
    *("data.sources.mine.repeats=abc", "stage.learning_rates={adapter: -1}", "stage.learning_rates={adapter: a}"),
    *("stage.vision_layers=[1]", "parallel.engine=foo", "adapter.r=0", "adapter.router=foo", "adapter.num_experts=0"),
]


@pytest.fixture(scope="module")
def composed(tokenizer_folder: Path) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        words = ["exp=mix_general", "scale=demo", "model=tiny", "data=mine", "path=train.json"]
        return compose("train", [*words, f"model.architecture.tokenizer={tokenizer_folder}"])


@pytest.mark.parametrize("word", VALUES)
def test_a_value_out_of_bounds_is_named_with_what_it_may_be(word: str, composed: DictConfig) -> None:
    key, _, value = word.partition("=")
    config = composed.copy()
    OmegaConf.update(config, key, yaml.safe_load(value) if value else value, force_add=True)
    with pytest.raises(UserError) as caught:
        plain = settle(resolved(config))
        mixture_of(plain)
        recipe_of(plain)
    line = str(caught.value)
    assert key in line and "\n" not in line
    assert re.search("give|choose|must be", line), line


@pytest.mark.parametrize(
    "word", ["train.global_batch_size=0", "train.max_steps=-1", "train.max_length=300", "adapter.r=0", "log.every=0"]
)
def test_a_silly_number_is_refused_before_anything_is_written(
    word: str, refused: Refusal, tiny_words: list[str]
) -> None:
    assert word.partition("=")[0] in refused("train", *tiny_words, word)
    assert not Path("runs").exists()


def test_a_mistyped_benchmark_is_told_before_training_and_not_after(refused: Refusal, tiny_words: list[str]) -> None:
    assert "nope does not exist" in refused("train", *tiny_words, "eval.benchmarks=[nope]")
    assert not Path("runs").exists()


# Records and images

GOOD_JPEG = io.BytesIO()
Image.effect_noise((60, 40), 80).convert("RGB").save(GOOD_JPEG, "JPEG")
RED = [{"from": "gpt", "value": "red"}]


def record(name: str, image: str | None = None, question: str | None = None, turns: list | None = None) -> dict:
    asked = ("<image>\nWhat colour is it?" if image else "What colour is it?") if question is None else question
    return {
        "id": name,
        **({"image": image} if image else {}),
        "conversations": [{"from": "human", "value": asked}, *RED] if turns is None else turns,
    }


def write_odd_images(folder: Path) -> None:
    """Images that people have: some open although they look wrong, the others do not."""
    picture = Image.open(GOOD_JPEG)
    (folder / "plain.jpg").write_bytes(GOOD_JPEG.getvalue())
    picture.save(folder / "a gif.gif")
    (folder / "a gif.gif").rename(folder / "gif.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 20).save(folder / "sixteen_bits.png")
    (folder / "truncated.jpg").write_bytes(GOOD_JPEG.getvalue()[:-200])
    (folder / "text.jpg").write_text("no image at all")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.jpg").mkdir()
    Image.new("RGB", (50_000, 2)).save(folder / "wide.png")


OPENS = ("plain.jpg", "gif.jpg", "cmyk.jpg", "sixteen_bits.png")
FAILS = {
    "truncated.jpg": "image_unreadable",
    "text.jpg": "image_unreadable",
    "empty.jpg": "image_unreadable",
    "wide.png": "image_too_large",
    "missing.jpg": "image_missing",
    "folder.jpg": "image_unreadable",
    "nul\0.jpg": "image_missing",
    "long" * 100 + ".jpg": "image_missing",
}
UNUSABLE = {
    "two_for_one": ("image_count", record("two_for_one", "plain.jpg", "<image><image> What?")),
    "one_for_none": ("image_count", record("one_for_none", None, "<image> What?")),
    "none_for_one": ("image_count", record("none_for_one", "plain.jpg", "What?")),
    "blank_answer": (
        "empty_answer",
        record("blank_answer", turns=[*record("")["conversations"][:1], RED[0] | {"value": " "}]),
    ),
    "two_answers": ("role_order", record("two_answers", turns=[*record("")["conversations"], *RED])),
    "no_answer": ("role_order", record("no_answer", turns=record("")["conversations"][:1])),
    "a_system": (
        "role_order",
        record("a_system", turns=[{"from": "system", "value": "x"}, *record("")["conversations"]]),
    ),
    "no_turns": ("no_turns", record("no_turns", turns=RED)),
    "no_list": ("not_a_conversation", {"id": "no_list"}),
    "too_long": ("too_long", record("too_long", question="What colour " * 200)),
}


@pytest.fixture
def odd_words(tiny_words: list[str], tmp_path: Path) -> list[str]:
    """Words that train for one epoch on 60 records, some of them bad in each way that there is."""
    folder = tmp_path / "odd"
    folder.mkdir()
    write_odd_images(folder)
    images = [record(name, name) for name in (*OPENS, *FAILS)]
    good = [record(f"good{number}") for number in range(60 - len(images) - len(UNUSABLE))]
    (folder / "train.json").write_text(json.dumps([*good, *images, *(content for _, content in UNUSABLE.values())]))
    num_steps = -(-(60 - len(UNUSABLE)) // 8)
    return [*tiny_words, f"path={folder / 'train.json'}", f"images={folder}", f"train.max_steps={num_steps}"]


def quarantined(folder: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_bad_records_are_left_out_with_their_reasons_and_odd_images_train(odd_words: list[str], tmp_path: Path) -> None:
    assert run(["train", *odd_words, "data.max_bad_share=0.5", f"out={tmp_path / 'run'}"]) == 0
    entries = quarantined(tmp_path / "run")
    reasons = {name: entry["reason"] for name, entry in entries.items()}
    assert reasons == {name: reason for name, (reason, _) in UNUSABLE.items()} | FAILS
    written = [content.get("id") for content in json.loads((tmp_path / "odd" / "train.json").read_text())]
    for name, entry in entries.items():
        assert (entry["source"], entry["domain"], written[entry["index"]]) == ("mine", "mine", name)
        assert entry["detail"] and "\n" not in entry["detail"]
    assert sum(step["samples"] for step in logged(tmp_path / "run")) == 60 - len(reasons)


def test_too_many_bad_records_stop_the_run_and_both_remedies_work(
    odd_words: list[str], refused: Refusal, tmp_path: Path
) -> None:
    words = ["train", *odd_words, f"out={tmp_path / 'run'}", "train.max_steps=1"]
    line = refused(*words)
    assert "data source 'mine': 9 of 60 records are bad (image_count 3, role_order 3" in line
    assert "data.max_bad_share=0.01" in line and str(tmp_path / "run" / "quarantine.jsonl") in line
    assert len(quarantined(tmp_path / "run")) == len(UNUSABLE)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run([*words, "data.max_bad_share=0.5"]) == 0
    (tmp_path / "odd" / "train.json").write_text(json.dumps([record(f"good{number}") for number in range(60)]))
    assert run([*words[:-2], f"out={tmp_path / 'mended'}", words[-1]]) == 0
    assert not (tmp_path / "mended" / "quarantine.jsonl").exists()


def test_bad_images_stop_a_run_on_its_way_and_it_goes_on_when_they_are_mended(
    tiny_words: list[str], refused: Refusal, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(GOOD_JPEG.getvalue()[: -200 if number % 4 == 0 else None])
    (folder / "train.json").write_text(json.dumps([record(f"r{number}", f"{number}.jpg") for number in range(40)]))
    words = ["train", *tiny_words, f"path={folder / 'train.json'}", f"images={folder}", f"out={tmp_path / 'run'}"]
    words += ["data.max_bad_share=0.1", "train.save_every=1"]
    line = refused(*words)
    assert "5 of 40 records are bad (image_unreadable 5)" in line
    saved = (tmp_path / "run" / "checkpoints" / "last").read_text()
    assert "image_unreadable" in refused(*words)
    assert (tmp_path / "run" / "checkpoints" / "last").read_text() == saved
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(GOOD_JPEG.getvalue())
    assert run(words) == 0
    assert [step["step"] for step in logged(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def truncated(file: Path) -> None:
    text = json.dumps([record(f"good{number}") for number in range(40)])
    file.write_text(text[: len(text) // 2])


def without_comma(file: Path) -> None:
    file.write_text("".join(json.dumps(record(f"good{number}")) + "\n" for number in range(40)).replace('5", ', '5" '))


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("nowhere.json", None, "no file"),
        ("cut.json", truncated, r"line 1: the file ends inside a record \(.*\), character \d{4}; it was cut short"),
        ("broken.jsonl", without_comma, r"line 6: not valid JSON \(Expecting ',' delimiter\), character 16; mend"),
        ("list.json", lambda file: file.write_text("[]"), "holds no records"),
        ("latin.json", lambda file: file.write_bytes(b'[{"id": "\xe9"}]'), "not UTF-8 text"),
        ("table.csv", lambda file: file.write_text("id,answer\n1,red\n"), "line 1: not valid JSON"),
        ("deep.json", lambda file: file.write_text("[" * 100_000), "brackets too deep"),
        ("rows.parquet", lambda file: file.write_bytes(b"PAR1 and no more"), "not a readable Parquet file"),
        ("folder", lambda file: file.mkdir(), "no .parquet, .json or .jsonl file in"),
        ("one.json", lambda file: file.write_text(json.dumps({"data": []})), "none of 1 records is usable"),
    ],
)
def test_a_data_file_that_cannot_be_read_is_named_with_the_place(
    name: str,
    write: Callable[[Path], object] | None,
    told: str,
    refused: Refusal,
    tiny_words: list[str],
    tmp_path: Path,
) -> None:
    if write is not None:
        write(tmp_path / name)
    line = refused("train", *tiny_words, f"path={tmp_path / name}")
    assert str(tmp_path / name) in line or "data source 'mine'" in line
    assert re.search(told, line), line


def test_ones_own_file_is_never_passed_over_for_other_data(
    refused: Refusal, tiny_words: list[str], own_data: Path
) -> None:
    words = [word for word in tiny_words if not word.startswith(("images=", "data"))]
    line = refused("train", *words)
    assert f"path={own_data / 'train.json'} is not read by the data that was chosen: add data=mine" in line


def test_a_missing_image_folder_is_told_before_training(refused: Refusal, tiny_words: list[str]) -> None:
    assert "check images=/nowhere" in refused("train", *tiny_words, "images=/nowhere")


# Runs that others began


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
        ("adapter.r=8", "its adapter is another than the one asked for (r 32 there, 8 asked)"),
        ("adapter=lora", "LlavaMole there, Lora asked"),
        ("adapter=none", "has an adapter and adapter=none"),
        ("model.architecture.text.hidden_size=32", "projector.safetensors: tensor"),
    ],
)
def test_starting_from_a_run_of_another_shape_is_refused(
    word: str, told: str, finished_run: Path, refused: Refusal, tiny_words: list[str]
) -> None:
    line = refused("train", *tiny_words, f"init_from={finished_run}", word)
    assert told in line and str(finished_run) in line


@pytest.mark.parametrize("key", ["run", "init_from"])
def test_a_folder_that_is_no_run_is_refused(
    key: str, finished_run: Path, refused: Refusal, tiny_words: list[str], tmp_path: Path
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
def test_eval_refuses_what_it_cannot_do(words: list[str], told: str, refused: Refusal, tiny_words: list[str]) -> None:
    assert told in refused("eval", *words)


@pytest.mark.parametrize("name", ["engine/optimizer.safetensors", "state.json", "engine/random-rank0.safetensors"])
def test_a_damaged_checkpoint_is_named_with_the_one_to_go_on_from(
    name: str, finished_run: Path, refused: Refusal, tiny_words: list[str], tmp_path: Path
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
    name: str, finished_run: Path, refused: Refusal, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (last_of(folder) / name).write_bytes(b"a: [")
    line = refused("eval", f"run={folder}")
    assert Path(name).name in line and "damaged" in line


def test_data_that_changed_under_a_run_is_refused(
    finished_run: Path, refused: Refusal, tiny_words: list[str], own_data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "finished.json").unlink()
    environment = json.loads((folder / "environment.json").read_text())
    environment["data"]["mine"] = "0123456789abcdef"
    (folder / "environment.json").write_text(json.dumps(environment))
    line = refused("train", *tiny_words, f"out={folder}", "train.save_every=4")
    assert f"{own_data / 'train.json'} has changed since the run in {folder} began" in line


@pytest.mark.parametrize("taken", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_refused(
    taken: str, refused: Refusal, tiny_words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "choose another with out=" in refused("train", *tiny_words, f"out={tmp_path / taken}")
    assert (tmp_path / "file").read_text() == "not a folder"


# Disks, memory, signals


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
    num_bytes: int, tiny_words: list[str], refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", *tiny_words, f"out={tmp_path / 'run'}", "train.save_every=2", "train.keep_last=1"]
    save = stage_run.save_checkpoint
    saved: list[dict[str, bytes]] = []

    def save_until_full(folder: Path, engine: object, state: RunState, *rest: object) -> Path:
        if state.step < 4:
            return save(folder, engine, state, *rest)
        saved.append(contents(folder / "checkpoints"))
        with largest_file(num_bytes):
            return save(folder, engine, state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(stage_run, "save_checkpoint", save_until_full)
        line = refused(*words)
    assert "the disk is full" in line and "step-000004" in line and "checkpoint step-000002 is untouched" in line
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
    error: Exception, tiny_words: list[str], refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(LocalEngine, "save", fail)
    line = refused("train", *tiny_words, "train.max_steps=1")
    assert "the disk is full" in line and "there is no earlier checkpoint" in line


@pytest.mark.parametrize(
    ("owner", "name"), [(JsonLines, "write"), (Quarantine, "add"), (stage, "claim_configuration"), (store, "keep")]
)
def test_a_full_disk_is_told_whichever_file_meets_it_first(
    owner: object, name: str, odd_words: list[str], refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = getattr(owner, name)

    def write_when_full(*arguments: Any) -> Any:
        with largest_file(100):
            return write(*arguments)

    words = ["train", *odd_words, "data.max_bad_share=0.9", f"out={tmp_path / 'run'}", "train.max_steps=2"]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, write_when_full)
        assert re.search("is full|File too large", refused(*words))
    assert run(words) == 0
    assert [step["step"] for step in logged(tmp_path / "run")] == [1, 2]


def test_a_row_that_does_not_fit_is_named_with_the_setting_to_lower_and_lowering_it_goes_on(
    tiny_words: list[str], refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    error: Exception, told: str, tiny_words: list[str], refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(LocalEngine, "step", fail)
    assert told in refused("train", *tiny_words)


def test_a_data_worker_that_is_killed_is_told_with_the_setting_to_lower(
    tiny_words: list[str], refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(encode, "open_image", killed)
    line = refused("train", *tiny_words, "data.num_workers=1")
    assert "a data worker died" in line and "lower data.num_workers" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_the_first_step_stops_with_75_and_the_run_can_begin_again(
    number: signal.Signals, tiny_words: list[str], refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", *tiny_words, f"out={tmp_path / 'run'}", "train.max_steps=1"]
    build = stage.new_model

    def build_when_asked_to_stop(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return build(*arguments)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "new_model", build_when_asked_to_stop)
        line = refused(*words, status=75)
    assert number.name in line and "run the same command again to go on" in line
    assert signal.getsignal(number) == before
    assert run(words) == 0


def test_an_interrupt_ends_with_130_and_keeps_the_last_checkpoint(
    tiny_words: list[str], refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", *tiny_words, f"out={tmp_path / 'run'}", "train.save_every=1", "train.max_steps=3"]
    step = LocalEngine.step

    def interrupted_step(self: LocalEngine, rates: object) -> float:
        if (tmp_path / "run" / "checkpoints" / "last").exists():
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, rates)

    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "step", interrupted_step)
        assert "run the same command again" in refused(*words, status=130)
    assert last_of(tmp_path / "run").name == "step-000001"
    assert run(words) == 0


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
    [("2", "parallel=single with 2 processes: choose parallel=zero2"), ("two", "WORLD_SIZE=two")],
)
def test_several_processes_with_the_engine_of_one_are_refused(
    world: str, told: str, tiny_words: list[str], refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("RANK", "0")
    assert told in refused("train", *tiny_words, "parallel=single")
    assert not Path("runs").exists()


@pytest.mark.parametrize("key", ["log.tensorboard=true", "log.wandb=offline"])
def test_a_logger_that_is_not_installed_is_told_with_its_remedy(
    key: str, tiny_words: list[str], refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("wandb", "torch.utils.tensorboard", "tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'llava-moe[train]'" in refused("train", *tiny_words, key)


# Free text

ODD_NAME = """it's "a" test, b=c ${d} \\${e} [x] {y} (z) #1 ü—字 \\"""
TEXTS = st.text(
    st.one_of(st.sampled_from("'\"\\${},= :a[]()\n\t#"), st.characters(exclude_categories=["Cs"])), min_size=1
)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
@example(ODD_NAME)
@example("'quoted'")
@example("a\x85b")
@example("\\${x}")
def test_any_text_comes_through_quoting_interpolation_and_the_written_configuration(text: str) -> None:
    value = OverridesParser.create().parse_override(f"path={quote(text)}").value()
    config = OmegaConf.create({"path": value, "data": {"path": "${path}"}})
    plain = OmegaConf.to_container(config, resolve=True)
    assert plain == {"path": text, "data": {"path": text}}
    assert yaml.safe_load(as_yaml(plain)) == plain


def test_odd_characters_in_every_path_train_resume_and_start_another_run(
    tiny_words: list[str], own_data: Path, tmp_path: Path, refused: Refusal
) -> None:
    odd = tmp_path / ODD_NAME
    shutil.copytree(own_data, odd)
    words = ["train", *tiny_words, f"path={odd / 'train.json'}", f"images={odd}", "train.max_steps=1"]
    assert run([*words, f"out={odd / 'run'}"]) == 0
    config = yaml.safe_load((odd / "run" / "config.yaml").read_text())
    assert config["data"]["sources"]["mine"]["path"] == str(odd / "train.json")
    assert run([*words, f"out={odd / 'run'}"]) == 0
    assert run([*words, f"out={odd / 'second'}", f"init_from={odd / 'run'}"]) == 0
    for command in (["eval"], ["train", *tiny_words]):
        key = "run" if command == ["eval"] else "init_from"
        assert f"{odd / 'nowhere'} does not exist" in refused(*command, f"{key}={odd / 'nowhere'}")


def test_several_runs_of_one_command_take_odd_characters_too(
    tiny_words: list[str], own_data: Path, tmp_path: Path
) -> None:
    odd = tmp_path / ODD_NAME
    shutil.copytree(own_data, odd)
    words = ["train", *tiny_words, f"path={odd / 'train.json'}", f"images={odd}", "train.max_steps=1", "-m", "seed=0,1"]
    assert run(words) == 0
    assert len(list(Path("runs").glob("mix_general-*/finished.json"))) == 2


@pytest.fixture
def two_stages(tmp_path: Path) -> list[str]:
    """Words for an experiment of one's own with two stages."""
    (tmp_path / "own" / "exp").mkdir(parents=True)
    stages = [{"name": name, "overrides": ["exp=mix_general", "scale=demo"], "ignores": []} for name in ("1-a", "2-b")]
    (tmp_path / "own" / "exp" / "two.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"stages": stages}))
    return ["exp=two", "--config-dir", str(tmp_path / "own")]


def test_odd_characters_reach_every_stage_of_an_experiment(
    tiny_words: list[str], two_stages: list[str], own_data: Path, tmp_path: Path
) -> None:
    odd = tmp_path / ODD_NAME
    shutil.copytree(own_data, odd)
    words = ["train", *tiny_words, *two_stages, f"path={odd / 'train.json'}", f"images={odd}", "train.max_steps=1"]
    assert run([*words, f"out={odd / 'run'}"]) == 0
    for name in ("1-a", "2-b"):
        assert (odd / "run" / name / "finished.json").is_file()
        config = yaml.safe_load((odd / "run" / name / "config.yaml").read_text())
        assert config["data"]["sources"]["mine"]["path"] == str(odd / "train.json")
    assert config["init_from"] == str(odd / "run" / "1-a")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "first"}, "the name 'first' must be a number, a dash and a word"),
        ({"overrides": ["adapter=lorra"]}, "adapter=lorra does not exist (did you mean lora?)"),
        ({"overrides": ["train.max_step=3"]}, "unknown key train.max_step (did you mean train.max_steps?)"),
        ({"overrides": "exp=mix_doc"}, "must have a name and the lists overrides and ignores"),
        ({"overrides": ["exp=demo"]}, "is itself an experiment of several stages"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused(
    change: dict, told: str, tiny_words: list[str], two_stages: list[str], refused: Refusal, tmp_path: Path
) -> None:
    file = tmp_path / "own" / "exp" / "two.yaml"
    stages = yaml.safe_load(file.read_text())["stages"]
    stages[1] |= change
    file.write_text("# @package _global_\n" + yaml.safe_dump({"stages": stages}))
    assert told in refused("train", *tiny_words, *two_stages)
    assert not Path("runs").exists()


def test_a_name_that_is_not_unicode_is_refused(refused: Refusal, tiny_words: list[str]) -> None:
    assert "is not UTF-8 text" in refused("train", *tiny_words, "path=train\udcff.json")


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_process_of_its_own_says_one_line_and_ends_with_2(
    command: str, tiny_words: list[str], tmp_path: Path
) -> None:
    truncated(tmp_path / "cut.json")
    words = [*tiny_words, f"path={tmp_path / 'cut.json'}"] if command == "train" else [f"run={tmp_path / 'cut.json'}"]
    done = subprocess.run([sys.executable, "-m", "llava_moe", command, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("llava-moe: ") and done.stderr.count("\n") == 1 and "cut.json" in done.stderr
