"""Adapters that cannot be gone on from, and adapter settings that make no sense, through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_moe.cli import run

Refused = Callable[..., str]

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def trained(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, to damage a copy of."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert run(["train", *words_for_tiny, f"out={folder / 'run'}", "train.max_steps=1"]) == 0
    return folder / "run"


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """The adapter's folder in a copy of the run, ``tmp_path / "run"``."""
    shutil.copytree(trained, tmp_path / "run")
    (folder,) = (tmp_path / "run" / "checkpoints").glob("step-*/adapter")
    return folder


def edit_settings(folder: Path, **settings: Any) -> None:
    written = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(written | settings))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Apart from the file: what is read is mapped, and is written over here."""
    return {name: tensor.clone() for name, tensor in load_file(folder / TENSORS).items()}


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor], str], Any]) -> None:
    tensors = tensors_of(folder)
    edit(tensors, sorted(tensors)[0])
    save_file(tensors, folder / TENSORS)


def give_another_base(folder: Path) -> None:
    base = json.loads((folder / CONFIG).read_text())["base"]
    edit_settings(folder, base=base | {"hidden_size": 4096, "num_hidden_layers": 32, "name": "vicuna"})


def pickle_it(folder: Path) -> None:
    torch.save(tensors_of(folder), folder / TENSORS)


def keep_a_pickle_only(folder: Path) -> None:
    torch.save(tensors_of(folder), folder / "adapter_model.bin")
    (folder / TENSORS).unlink()


@pytest.mark.parametrize("command", ["eval", "train", "chat", "export"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (give_another_base, "an adapter of another base: it was trained on vicuna (llava with llama, hidden size 4096"),
        (lambda f: edit_settings(f, format_version=2), "format_version 2; this program reads 1"),
        (lambda f: edit_settings(f, target_modules=["c_attn"]), "match no linear layer of LlamaModel"),
        (lambda f: edit_settings(f, target_modules=r".*(q|up)_proj"), "layers outside the language model"),
        (lambda f: edit_tensors(f, lambda t, name: t.pop(name)), "missing: language_model.layers.0."),
        (lambda f: edit_tensors(f, lambda t, name: t.update(more=torch.zeros(1))), "unexpected: more"),
        (lambda f: edit_tensors(f, lambda t, name: t.update({name: t[name][:1]})), "wrong shape: language_model."),
        (lambda f: edit_tensors(f, lambda t, name: t[name].fill_(torch.nan)), "holds NaN or infinite weights"),
        (pickle_it, "is a pickle under another name"),
        (keep_a_pickle_only, "other formats, such as .bin, are not read"),
        (lambda f: (f / CONFIG).unlink(), "is not an adapter folder"),
        (lambda f: (f / CONFIG).write_text("[" * 100_000 + "]" * 100_000), "nested too deep"),
        (lambda f: edit_settings(f, r=2_000_000), "r is 2000000, the tensors beside it have at most"),
        (lambda f: edit_settings(f, lora_alpha=float("nan")), "lora_alpha=nan must be a number"),
        (lambda f: edit_settings(f, target_modules=r"(?:.|.|.)*[A-Z]"), "takes too long to match"),
        (shutil.rmtree, "adapter"),
    ],
)
def test_a_damaged_or_foreign_adapter_is_told_by_each_command_that_reads_it(
    command: str, damage: Callable[[Path], Any], told: str, adapter: Path, refused: Refused, tiny_words: list[str]
) -> None:
    damage(adapter)
    owner = adapter.parents[2]
    words = {
        "eval": [f"run={owner}"],
        "train": [*tiny_words, f"init_from={owner}", f"out={owner.parent / 'new'}"],
        "chat": [f"run={owner}", "prompt=What?"],
        "export": [f"run={owner}", "to=peft", f"out={owner.parent / 'new'}"],
    }
    line = refused(command, *words[command])
    assert told in line and str(adapter) in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["adapter.target_modules=[c_attn]"], "['c_attn'] match no linear layer of LlamaModel"),
        (["adapter.target_modules=[fc1]", "adapter=lora"], "fc1 is outside the language model"),
        (["adapter.target_modules=[]", "adapter=lora"], "match no linear layer"),
        (["adapter.target_modules='.*(q|up)_proj'"], "layers outside the language model"),
        (["adapter.target_modules='q_proj['", "adapter=lora"], "is no regular expression"),
        (["adapter.num_experts=1", "adapter.load_balance_coef=0.1"], "nothing to balance"),
        (["adapter.num_experts=0"], "num_experts"),
        (["adapter.r=0"], "adapter.r=0: give a whole number of at least 1"),
        (["adapter.r=two"], "adapter.r=two: give a whole number"),
        (["adapter.r=8.5"], "adapter.r=8.5: give a whole number"),
        (
            ["adapter.num_experts=true"],
            "adapter.num_experts=true: give a whole number of at least 1 and at most 4294967295, or a list",
        ),
        (["adapter.lora_alpha=inf"], "adapter.lora_alpha=inf: give a number above 0"),
        (["adapter.use_rslora=2"], "adapter.use_rslora=2: give true or false"),
        (["adapter.target_modules=3"], "adapter.target_modules=3: give text, such as a path or a name, or a list"),
        (["adapter.load_balance_coef=x"], "adapter.load_balance_coef=x: give a number of at least 0, or null"),
        (["adapter.router=soft"], "soft"),
    ],
)
def test_an_adapter_that_makes_no_sense_is_refused_before_the_data_is_read(
    words: list[str], told: str, refused: Refused, tiny_words: list[str], tmp_path: Path
) -> None:
    assert told in refused("train", *tiny_words, *words, f"out={tmp_path / 'run'}")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_rank_above_the_hidden_size_trains(tiny_words: list[str], tmp_path: Path) -> None:
    words = ["adapter=lora", "adapter.r=100", "train.max_steps=1", f"out={tmp_path / 'run'}"]
    assert run(["train", *tiny_words, *words]) == 0
