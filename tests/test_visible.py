"""What comes from data, files and words is shown on a terminal and never obeyed by it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from llava_moe.cli import run
from llava_moe.visible import visible
from llava_moe.visible_console import VisibleConsole

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = visible(text)
    assert not any(ord(one) < 32 or 127 <= ord(one) < 160 or one in "\u202e\u2028" for one in shown)
    assert visible(shown) == shown
    shown.encode()


def drawn(renderable: object, is_terminal: bool) -> str:
    file = io.StringIO()
    VisibleConsole(file=file, force_terminal=is_terminal, width=200, color_system=None).print(renderable)
    return file.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_console_writes_out_what_stands_in_text_tables_and_panels(is_terminal: bool) -> None:
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    for renderable in (EVIL, Text(EVIL), table, Panel(EVIL, title=EVIL)):
        shown = drawn(renderable, is_terminal)
        assert "\\x1b]0;owned" in shown and "\\x9b31m\\u202eevil" in shown
        assert "\x1b" not in shown and "\x9b" not in shown and "\u202e" not in shown


def test_a_consoles_own_codes_stay() -> None:
    file = io.StringIO()
    console = VisibleConsole(file=file, force_terminal=True, color_system="standard")
    console.print(Text("red", style="red"))
    with Progress(console=console) as bar:
        bar.add_task(EVIL, total=1)
    assert "\x1b[31mred" in file.getvalue() and "\x1b]0;" not in file.getvalue()


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert run(words) == 2
    line = capsys.readouterr().err
    assert line.startswith("llava-moe: ") and line.count("\n") == 1 and "\x1b" not in line
    return line


@pytest.mark.parametrize(
    "words",
    [
        [f"tr{EVIL}n"],
        ["train", f"adapter={EVIL}"],
        ["train", f"{EVIL}=1"],
        ["train", "data=mine", f"path={EVIL}.json"],
        ["eval", f"run={EVIL}"],
        ["chat", f"run={EVIL}"],
        ["export", f"run={EVIL}", "to=hf", "out=x"],
        ["doctor", EVIL],
        ["ls", EVIL],
        ["train", f"--{EVIL}"],
    ],
)
def test_words_are_shown_escaped(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "\\x1b" in refused(capsys, words)


def test_files_and_their_content_are_shown_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    turns = [{"from": EVIL, "value": EVIL}, {"from": "gpt", "value": "so"}]
    (tmp_path / "a.json").write_text(json.dumps([{"id": EVIL, "image": f"{EVIL}.png", "conversations": turns}] * 3))
    (tmp_path / "runs" / f"x{EVIL}").mkdir(parents=True)
    (tmp_path / "runs" / f"x{EVIL}" / "config.yaml").write_text("{}")
    run(["data", "check", "data=mine", "path=a.json", "model=tiny"])
    run(["ls", "run"])
    told = capsys.readouterr()
    assert "\\x1b" in told.out
    for one in ("\x1b]0;", "\x1b[2J", "\x9b", "\u202e"):
        assert one not in told.out + told.err
