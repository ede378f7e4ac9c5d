"""The real command in a pseudo-terminal: bars at any width, and Ctrl-C once and twice."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.commands.test_train import num_logged
from tests.forked_commands import CommandServer
from tests.terminal_screen import Terminal

# A title, a bar, the step and the time left; and below them the losses.
BAR = re.compile(r"mix_gen\S*( [╸━╺]+)? (\d+)/4000 (\d+:\d\d, )?left [\d:-]+")
STATUS = re.compile(r"  (loss \d|stopping)")


@pytest.fixture
def long_words(tiny_words: list[str], tmp_path: Path) -> list[str]:
    """Words of a run that somebody will stop, with domains of long names."""
    name = "a_domain_whose_name_is_as_long_as_fifty_characters"
    words = [*tiny_words, "train.max_steps=4000", f"out={tmp_path / 'run'}", "train.save_every=0"]
    return ["train", *words, f"data.sources.mine.domain={name}"]


def assert_one_bar(terminal: Terminal) -> None:
    lines = terminal.screen.text()
    bars = [number for number, line in enumerate(lines) if BAR.search(line)]
    assert len(bars) == 1, "\n".join(lines)
    assert STATUS.match(lines[bars[0] + 1]), "\n".join(lines)
    assert max(map(len, lines[bars[0] : bars[0] + 2])) < terminal.screen.columns
    assert not any(STATUS.match(line) for number, line in enumerate(lines) if number != bars[0] + 1), "\n".join(lines)


def test_bar_step_and_time_left_stay_at_every_width_and_ctrl_c_saves(long_words: list[str], tmp_path: Path) -> None:
    terminal = Terminal(long_words, 80, tmp_path)
    terminal.wait_for(lambda: num_logged(tmp_path / "run") > 2)
    for columns in (80, 60, 40, 120, 80):
        terminal.resize(columns)
        terminal.read(1.0)
        assert_one_bar(terminal)
    terminal.press_ctrl_c()
    assert terminal.wait() == 130
    saved = (tmp_path / "run" / "checkpoints" / "last").read_text().strip()
    assert int(saved.removeprefix("step-")) == num_logged(tmp_path / "run")
    shown = "".join(terminal.screen.text())
    # A blank where a line is folded is not seen on the screen.
    assert f"{saved}standsrunthesamecommandagain" in shown.replace(" ", "").replace(":", "")
    assert shown.count("/4000") == 1, "\n".join(terminal.screen.text())
    last = terminal.raw.rpartition("to go on from there: llava-moe train ")[2]
    assert last.startswith("exp=") and "\x1b" not in last, "nothing is drawn behind the last line"
    assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h"), "the cursor is shown again"


def test_ctrl_c_twice_leaves_at_once_and_tells_of_no_checkpoint(long_words: list[str], tmp_path: Path) -> None:
    slow = ["data.sources.mine.repeats=100", "train.global_batch_size=4000"]
    terminal = Terminal([*long_words, *slow], 80, tmp_path)
    terminal.wait_for(lambda: any("0/4000" in line for line in terminal.screen.text()))
    terminal.read(0.5)
    terminal.press_ctrl_c()
    terminal.wait_for(lambda: any("Ctrl-C again leaves at once" in line for line in terminal.screen.text()), 10)
    terminal.press_ctrl_c()
    pressed = time.monotonic()
    assert terminal.wait(20) == 130
    assert time.monotonic() - pressed < 3
    shown = "".join(terminal.screen.text())
    assert "left at once; there is no checkpoint yet" in shown and "go on" not in shown
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h"), "the cursor is shown again"


def test_a_log_file_gets_whole_lines_and_no_control_codes(
    tiny_words: list[str], tmp_path: Path, command_server: CommandServer
) -> None:
    ended = command_server.run(["train", *tiny_words, "data.held_out=0.3", "eval.every=3", f"out={tmp_path / 'run'}"])
    assert ended.wait() == 0, ended.errors
    before, _, _ = ended.output.partition("done in")
    lines = before.splitlines()
    assert all(line.strip() for line in lines), before
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]|━", ended.output + ended.errors)
    assert len(lines) == len(set(lines)), before
