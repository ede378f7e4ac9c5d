"""Completion behind Tab: what is offered, and that real shells offer it."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_moe.cli import run
from llava_moe.commands.completion import offers_behind

Refused = Callable[..., str]
MIXTURE = "# Three of mine.\nsources: {a: {path: a.json}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with mixtures of one's own, by path and by name, a run and a file of records."""
    monkeypatch.chdir(tmp_path)
    for place in ("mixture.yaml", "my mix.yaml", "own/data/three.yaml", "own/exp/trial.yaml"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(MIXTURE)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "notes.yaml").write_text("[not, sources]\n")
    (tmp_path / "records.json").write_text("[]")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("llava-moe tra", {"train"}),
        ("llava-moe data p", {"prepare", "preview"}),
        ("llava-moe train data=mix", {"data=mixture.yaml"}),
        ("llava-moe train --config-dir own data=th", {"data=three"}),
        ("llava-moe train --config-dir=own exp=tr", {"exp=trial"}),
        ("llava-moe train --config-dir ow", {"own/"}),
        ("llava-moe train path=rec", {"path=records.json"}),
        ("llava-moe init x.yaml charts=rec", {"charts=records.json"}),
        ("llava-moe train train.dty", {"train.dtype="}),
        ("llava-moe train train.dtype=", {"train.dtype=bf16", "train.dtype=fp32"}),
        ("llava-moe train adapter=mixlora adapter.num_f", {"adapter.num_factors="}),
        ("llava-moe data check aga", {"against=", "against_images="}),
        ("llava-moe compare at_o", {"at_once="}),
        ("llava-moe compare train.dty", {"train.dtype="}),
        ("llava-moe eval run=", {"run=runs/first", "run=own/", "run=runs/"}),
        ("llava-moe ls dat", {"data"}),
        ("llava-moe completion f", {"fish"}),
        ("llava-moe help train.warm", {"train.warmup_ratio"}),
        ("llava-moe help repro", {"reproduce"}),
        ("llava-moe nosuch ", set()),
        ("llava-moe train 'data=my m", {"data=my mix.yaml"}),
    ],
)
def test_what_may_stand_at_the_cursor_is_offered(line: str, offered: set[str], folder: Path) -> None:
    assert set(offers_behind(line)) == offered


def test_no_word_before_the_cursor_is_in_the_way(folder: Path) -> None:
    for word in ("adapter=nosuch", "data=notes.yaml", "--foo", "path='a b.json'", "nosuch=1"):
        assert "train.dtype=" in offers_behind(f"llava-moe train {word} train.dty"), word


def test_only_shells_that_are_known_get_a_script(refused: Refused, capfd: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["powershell"], ["bash", "zsh"]):
        assert "bash, zsh, fish" in refused("completion", *words)
    assert run(["completion", "bash"]) == 0
    assert capfd.readouterr().out.endswith("complete -o default -F _llava_moe llava-moe\n")


class Terminal:
    """A shell in a terminal of its own, to which keys are typed."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, environment)

    def type(self, keys: str, until: str, seconds: float = 60) -> str:
        """What is shown from these keys on, once ``until`` is there; else the test fails."""
        os.write(self.descriptor, keys.encode())
        shown, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.descriptor], [], [], 0.2)[0]:
                shown += os.read(self.descriptor, 4096).decode(errors="replace")
            if re.search(until, shown):
                return shown
        raise AssertionError(f"{until} is not in {shown!r}")

    def close(self) -> None:
        os.write(self.descriptor, b"\x03\x04exit\n")
        os.close(self.descriptor)
        os.waitpid(self.pid, 0)


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(llava-moe completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "source <(llava-moe completion zsh)"),
    "fish": (["fish", "--no-config", "-i"], "llava-moe completion fish | source"),
}


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(shell: str, folder: Path) -> None:
    command, script = SHELLS[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (folder / "bin").mkdir()
    program = folder / "bin" / "llava-moe"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llava_moe "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **{"HOME": str(folder), "TERM": "dumb", "PS1": "> "},
    }
    terminal = Terminal(command, folder, environment)
    try:
        terminal.type(f"{script}; echo rea''dy\n", "ready")
        terminal.type("llava-moe train data=mixt\t", r"data=mixture\.yaml")
    finally:
        terminal.close()
