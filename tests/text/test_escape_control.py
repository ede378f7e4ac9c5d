"""What comes from data, files and words is shown on a terminal and never obeyed by it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Group
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import llava_moe
from llava_moe.cli import run
from llava_moe.terminal.console import VisibleConsole, visible_text
from llava_moe.terminal.fitted_bar import FittedBar, passing
from llava_moe.terminal.stream import VisibleStream
from llava_moe.text.escape_control import visible

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


HOSTILE_MARKUP = ("[bold]x[/]", "[/]", "[link=file:///etc/passwd]x[/link]", "a[", ":smile:", "[red", "\\[bold]")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_markup_means_nothing_wherever_it_stands(is_terminal: bool) -> None:
    for text in HOSTILE_MARKUP:
        table = Table(text, title=text)
        table.add_row(text)
        for renderable in (text, table, Group(text, text)):
            assert text in drawn(renderable, is_terminal)
        file = io.StringIO()
        console = VisibleConsole(file=file, force_terminal=is_terminal, width=200, color_system=None)
        with console.status(text):
            pass
        with passing(FittedBar(text, 1), console):
            pass
        assert file.getvalue().count(text) >= (2 if is_terminal else 0)


def test_what_rich_would_drop_unseen_is_written_out() -> None:
    text = "a\rb\x07c\x08d\x0be\x0cf"
    shown = "a\\x0db\\x07c\\x08d\\x0be\\x0cf"
    table = Table(text)
    table.add_row(visible_text(text))
    for renderable in (text, visible_text(text), table):
        assert shown in drawn(renderable, False) and "\x07" not in drawn(renderable, True)


def test_no_module_shows_text_by_way_of_richs_own_classes() -> None:
    strays = []
    for path in Path(llava_moe.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(
            r"rich\.markup|rich\.progress\b|from_markup|markup=True|(?<!\w)(?:Console|Panel|Status)\(", text
        )
        strays += [f"{path.name}: {one}" for one in found if path.name != "visible_console.py"]
    assert not strays


def through(texts: Sequence[str]) -> str:
    file = io.StringIO()
    VisibleStream(file).writelines([*texts])
    return file.getvalue()


@given(st.text())
def test_nothing_that_a_terminal_obeys_passes_standard_error(text: str) -> None:
    assert through([f"x{text}x"]) == f"x{visible(text, keep=chr(10) + chr(9))}x"


def test_a_librarys_progress_bar_moves_on_standard_error() -> None:
    bar = ["\r 10%|#   | a\x1b[31mb", "\x1b[A", "\r" + " " * 9 + "\r", "\n"]
    assert through(bar) == "\r 10%|#   | a\\x1b[31mb" + "\x1b[A" + "\r" + " " * 9 + "\r" + "\n"


def test_a_console_writes_its_colors_behind_the_visible_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", VisibleStream(file))
    console = VisibleConsole(stderr=True, force_terminal=True, color_system="standard")
    # A bar puts rich's own stream in the place of standard error, and takes it back.
    with passing(FittedBar("a\x1b[2Jb", 1), console):
        console.print("red", style="red")
        sys.stderr.write("c\x1b[2Jd\n")
    assert "\x1b[31mred" in file.getvalue() and "a\\x1b[2Jb" in file.getvalue() and "\x1b[2J" not in file.getvalue()
    assert "c" in file.getvalue() and isinstance(sys.stderr, VisibleStream) and not sys.stderr.isatty()


def test_a_warning_and_a_failing_thread_of_a_process_are_made_visible(tmp_path: Path) -> None:
    script = (
        "import sys, threading, warnings, logging; from llava_moe import cli\n"
        "def fail(): raise ValueError('thread' + chr(27) + '[2J')\n"
        "def run(words):\n"
        "    warnings.warn('warning' + chr(27) + '[2J'); logging.error('log' + chr(27) + '[2J')\n"
        "    thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "    raise RuntimeError('end' + chr(27) + '[2J')\n"
        "cli.run = run; cli.main([])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr
    assert "\x1b" not in told
    assert all(f"{what}\\x1b[2J" in told for what in ("warning", "log", "thread", "end"))


def printed(words: Sequence[str], is_terminal: bool) -> str:
    command = [sys.executable, "-m", "llava_moe", *words]
    if not is_terminal:
        return subprocess.run(command, capture_output=True, text=True).stdout
    ours, theirs = os.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL):
        os.close(theirs)
        told = b""
        # The terminal's other end is an error once nobody holds it.
        with suppress(OSError):
            while piece := os.read(ours, 1 << 16):
                told += piece
    os.close(ours)
    return told.decode().replace("\r\n", "\n")


def test_a_configuration_is_visible_on_a_terminal_and_whole_in_a_file() -> None:
    words = ["train", "--cfg", "job", "data=mine", "path=a\u202eb"]
    assert "path: a\\u202eb" in printed(words, is_terminal=True)
    assert "path: a\u202eb" in printed(words, is_terminal=False)


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
