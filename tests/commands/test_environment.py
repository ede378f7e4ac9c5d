"""``environment.json`` names the base alone, and the command as it was typed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llava_moe.cli import main, run
from llava_moe.compose.static_merge import METHODS


def environment_of(folder: Path | str) -> dict[str, Any]:
    return json.loads((Path(folder) / "environment.json").read_text())


def test_a_base_has_one_fingerprint_in_every_stage_adapter_and_precision(tiny_words: list[str]) -> None:
    words = [*tiny_words, "train.max_steps=2"]
    stages = {
        "captions": ["stage=pretrain", "adapter=none", "data.max_bad_share=1"],
        "lora": ["adapter=lora", "init_from=captions"],
        "other": ["adapter=lora", "init_from=captions", "train.dtype=bf16", "adapter.r=4"],
        "whole": ["adapter=none"],
        "after": ["adapter=llava_mole", "init_from=whole", "seed=3"],
        "another base": ["adapter=lora", "model.architecture.text.num_hidden_layers=1"],
    }
    for name, more in stages.items():
        assert run(["train", *words, *more, f"out={name}"]) == 0
    composed = ["compose", "experts=[lora,lora]", f"method={METHODS[0]}", *words, "out=merged"]
    assert run(composed) == 0
    named = {name: environment_of(name)["base_model"] for name in (*stages, "merged")}
    strange = named.pop("another base")
    assert len(set(named.values())) == 1 and strange not in named.values(), named


def test_the_command_is_what_was_typed_quoted_for_a_shell(
    tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["+adapter=lora", "train.max_steps=1", 'out=it\'s a "run"', "stage.learning_rates={adapter: 1e-3}"]
    typed = ["train", *tiny_words, *more]
    # As python -m and the launchers start it.
    monkeypatch.setattr(sys, "argv", ["/somewhere/llava_moe/__main__.py", *typed])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    command = environment_of('it\'s a "run"')["command"]
    assert shlex.split(command) == ["llava-moe", *typed]
    assert command == shlex.join(["llava-moe", *typed])
    assert sys.argv[0] == "/somewhere/llava_moe/__main__.py"


def test_each_run_of_several_and_each_stage_says_the_one_command(tiny_words: list[str], two_stages: list[str]) -> None:
    typed = ["train", *two_stages, *tiny_words[2:], "adapter=lora", "train.max_steps=1", "-m", "seed=1,2"]
    assert run(typed) == 0
    found = [json.loads(path.read_text())["command"] for path in Path("runs").glob("**/environment.json")]
    assert len(found) == 4 and set(found) == {shlex.join(["llava-moe", *typed])}


def test_a_launcher_does_not_show_in_the_command(tiny_words: list[str]) -> None:
    typed = ["train", *tiny_words, "adapter=lora", "train.max_steps=1", "parallel=single", "out=a run"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "-m", "llava_moe"]
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    finished = subprocess.run([*launcher, *typed], capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert environment_of("a run")["command"] == shlex.join(["llava-moe", *typed])
