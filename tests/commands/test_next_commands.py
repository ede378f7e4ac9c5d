"""The commands that are printed to be typed next: each is typed as it stands, in a shell, and runs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

import pytest
import yaml

from llava_moe.commands.reporting import next_commands
from llava_moe.config.as_typed import as_typed, listed, words_of_job
from llava_moe.config.hydra_words import prepare_override
from llava_moe.text.shell_words import named, shell
from tests.conftest import Trained
from tests.forked_commands import CommandServer, ForkedCommand

# What names of folders hold in the wild, each meaning something to a shell, to Hydra or to a terminal.
NAMES = (
    *("plain", "with blank", "it's", 'say "so"', "$HOME", "`ls`", "a=b", "a,b", "[a]", "{a}", "a;b", "#a", "~a", "-a"),
    *("ünï", "null", "true", "1e5", "a\\", "a\\'b", "${a}", "a\nb", "a\x1bb", "\u202ea", "!x", "*", "a|b", "(a)", "%a"),
)


class Printed(Protocol):
    def __call__(self, line: str, *more: str) -> ForkedCommand: ...


def words_in_shell(line: str, folder: Path) -> list[str]:
    """The words that a command gets where a shell is given the line."""
    program = folder / "bin" / "llava-moe"
    if not program.is_file():
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
        program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    told = subprocess.run(["bash", "-c", line], capture_output=True, check=True, env={**os.environ, "PATH": path})
    return told.stdout.decode().split("\0")[:-1]


@pytest.fixture
def as_printed(command_server: CommandServer, tmp_path_factory: pytest.TempPathFactory) -> Printed:
    """Runs a printed line, which must end well."""
    folder = tmp_path_factory.mktemp("shell")

    def run(line: str, *more: str) -> ForkedCommand:
        words = words_in_shell(line, folder)
        if words[0] == "chat" and not any(word.startswith(("prompt=", "image=")) for word in [*words, *more]):
            more = (*more, "prompt=Who is there?")  # a person would talk
        command = command_server.run([*words, *more])
        assert command.poll() == 0, (line, command.errors)
        return command

    return run


def next_lines(output: str) -> list[str]:
    """The commands below the last ``Next:``."""
    return [line.strip() for line in output.rpartition("Next:\n")[2].splitlines() if line.startswith("  ")]


def test_every_name_of_a_folder_comes_back_from_a_shell_as_it_is(tmp_path: Path) -> None:
    line = "llava-moe " + shell(*NAMES)
    assert words_in_shell(line, tmp_path) == list(NAMES)
    line = "llava-moe " + " ".join(named("run", name) for name in NAMES)
    assert words_in_shell(line, tmp_path) == [f"run={'./null' if name == 'null' else name}" for name in NAMES]
    assert line.isprintable()


def test_every_list_of_folders_comes_back_from_the_command_line_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    word = listed("runs", [f"runs/{name}" for name in NAMES] + list(NAMES))
    [parsed] = OverridesParser.create().parse_overrides([prepare_override(word)])
    value = [str(one) for one in parsed.value()]  # type: ignore[union-attr]
    # OmegaConf takes the backslash from what it would interpolate.
    there = [one.replace("\\${", "${") for one in value]
    assert there == [f"runs/{name}" for name in NAMES] + ["./null" if name == "null" else name for name in NAMES]


def test_words_given_to_hydra_are_turned_back_into_what_was_typed() -> None:
    for name in NAMES:
        for key in ("path", "benchmark_paths.chartqa", "model.path", "data.root"):
            word = f"{key}={name}"
            if name != "null":
                assert as_typed(prepare_override(word)) == word


def test_a_job_of_a_sweep_keeps_where_its_configurations_are() -> None:
    words = ["-m", "--config-dir", "my exps", "adapter=lora,none", "--cfg", "job", "-cp=there", "exp=x"]
    assert words_of_job(words, ["adapter=lora", "exp=x"]) == [
        *("--config-dir", "my exps", "-cp=there", "adapter=lora", "exp=x")
    ]


def test_own_data_is_sent_to_itself_and_every_line_runs(
    tiny_words: list[str], own_data: Path, tmp_path: Path, command_server: CommandServer, as_printed: Printed
) -> None:
    home = tmp_path / "my 'own' $HOME, [1]=ü"
    shutil.copytree(own_data, home)
    configs = tmp_path / "my exps" / "exp"
    configs.mkdir(parents=True)
    (configs / "short.yaml").write_text("# @package _global_\ntrain:\n  epsilon: 1.0e-7\n")
    given = {"path": str(home / "train.json"), "images": str(home), "exp": "short", "train.max_steps": "2"}
    words = [word for word in tiny_words if word.partition("=")[0] not in given]
    words += ["--config-dir", "my exps", *(f"{key}={value}" for key, value in given.items())]
    trained = command_server.run(["train", *words, f"out={tmp_path / 'a run'}"])
    assert trained.poll() == 0, trained.errors
    lines = next_lines(trained.output)
    assert not [line for line in lines if line.startswith("llava-moe eval")]
    kinds = [" ".join(shlex.split(line, comments=True)[1:3]) for line in lines]
    assert kinds == [
        f"chat run={tmp_path / 'a run'}",
        "data preview",
        "train --config-dir",
        "ls benchmark",
        "compare adapter=[lora,llava_mole]",
    ]
    assert "image=" in lines[0] and "data.held_out" in lines[2]
    for line in lines[:-1]:
        as_printed(line)
    # Its trainings are those of tests/commands/test_compare.py.
    assert len(as_printed(lines[-1], "commands=true").output.splitlines()) == 2
    assert len(list((tmp_path / "runs").iterdir())) == 1  # the one with a share held out
    html = (tmp_path / "a run" / "report.html").read_text()
    assert html.count("<pre>llava-moe") == len(lines)


def test_a_demo_on_own_data_is_not_asked_the_demos_questions_unless_it_is_told_to(
    tiny_words: list[str], tmp_path: Path, command_server: CommandServer
) -> None:
    words = [word for word in tiny_words if word.partition("=")[0] not in ("exp", "scale", "train.max_steps")]
    words += ["train.max_steps=1", "out=run"]
    trained = command_server.run(["train", *words])
    assert trained.poll() == 0, trained.errors
    assert "the demo's questions are not asked" in trained.output and "another picture" not in trained.output
    assert not [line for line in next_lines(trained.output) if line.startswith("llava-moe eval")]
    asked = command_server.run(["train", *words, "eval.benchmarks=[demo]", "eval.limit=1"])
    assert asked.poll() == 0 and "another picture" in asked.output and "are not asked" not in asked.output


def test_a_sweep_ends_with_what_scores_and_compares_its_runs(
    tiny_words: list[str], tmp_path: Path, command_server: CommandServer, as_printed: Printed
) -> None:
    own = ("data", "path", "images", "train.max_steps")
    words = [word for word in tiny_words if word.partition("=")[0] not in own]
    sweep = ["train", "-m", *words, "train.max_steps=1", "adapter=lora,none"]
    trained = command_server.run(sweep)
    assert trained.poll() == 0, trained.errors
    assert trained.output.count("Next:") == 1
    lines = next_lines(trained.output)
    assert [line.partition("=")[0] for line in lines] == ["llava-moe eval run"] * 2 + ["llava-moe eval 'runs"]
    for line in lines[:-1]:
        # The demo's own number of questions takes minutes.
        scored = as_printed(line, "limit=1")
    again = next_lines(scored.output)
    assert "limit=0" in again[0] and "blind=true" in again[1] and again[2].startswith("llava-moe chat")
    for line in again[1:]:
        as_printed(line)
    compared = as_printed(lines[-1])
    for line in next_lines(compared.output):
        assert "limit=1" in line or "leaks=true" in line
        as_printed(line)


def test_a_sweep_on_own_data_is_compared_by_what_was_kept_apart(
    tiny_words: list[str], command_server: CommandServer, as_printed: Printed
) -> None:
    words = [word for word in tiny_words if not word.startswith("train.max_steps")]
    trained = command_server.run(["train", "-m", *words, "train.max_steps=1", "adapter=lora,none"])
    assert trained.poll() == 0, trained.errors
    lines = next_lines(trained.output)
    assert [line.split()[1] for line in lines] == ["chat", "chat", "train", "ls"]
    table = trained.output.rpartition("what it is")[2].partition("Next:")[0]
    for told, chat in zip(("adapter=lora", "adapter=none"), lines, strict=False):
        assert told in table and chat.endswith(f"# {told}")
    apart = as_printed(lines[2])
    assert "held-out loss" in apart.output.rpartition("what it is")[2]
    assert [line.split()[1] for line in next_lines(apart.output)] == ["chat", "chat", "ls"]


def test_a_stage_one_is_followed_by_a_stage_two_that_starts_from_it(
    tiny_words: list[str], own_data: Path, command_server: CommandServer, as_printed: Printed
) -> None:
    words = [word for word in tiny_words if word.partition("=")[0] not in ("exp", "data", "path", "images")]
    first = command_server.run(["train", "exp=pretrain_llava_558k", *words, "train.max_steps=1", "out=stage one"])
    assert first.poll() == 0, first.errors
    chat, second = next_lines(first.output)
    as_printed(chat, f"image={own_data / '0.png'}")
    typed = shlex.split(second, comments=True)
    assert "init_from=stage one" in typed and "exp=mix_general_doc_med" in typed and "model=tiny" in typed
    assert not [word for word in typed if word.startswith(("train.max_steps", "out="))]
    as_printed(second, "train.max_steps=1", "adapter=lora", "out=stage two")
    third = command_server.run(
        ["train", "exp=mix_doc", *words, "adapter=lora", "init_from=stage two", "train.max_steps=1", "out=stage three"]
    )
    assert third.poll() == 0, third.errors
    # LLaVA-MoLE cannot start from LoRA: it starts where that started.
    [compared] = [line for line in next_lines(third.output) if "to compare" in line]
    assert "init_from=stage one" in shlex.split(compared, comments=True)
    as_printed(compared, "train.max_steps=1")


def test_a_frozen_projector_of_a_start_that_no_other_adapter_takes_has_no_story_to_compare(
    trained: Trained, tmp_path: Path
) -> None:
    first, then = tmp_path / "first", tmp_path / "then"
    for folder in (first, then):
        shutil.copytree(trained("lora"), folder)
    words = ["exp=mix_doc", "adapter=lora", f"init_from={first}"]

    def compared(*parts: str) -> list[str]:
        config = yaml.safe_load((first / "config.yaml").read_text()) | {"init_from": str(first)}
        config["stage"]["learning_rates"] = dict.fromkeys(parts, 1e-3)
        (then / "config.yaml").write_text(yaml.safe_dump(config))
        return [line for line in next_commands(then, False, words) if "to compare" in line]

    assert compared("adapter") == []
    [line] = compared("adapter", "projector")
    assert "init_from" not in line and "adapter=llava_mole" in line
