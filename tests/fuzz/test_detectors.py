"""The harness finds what it is there for: each kind of fault, planted, is found, and good manners are not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.campaign import Campaign, Tally, read_tally, write_tally
from tests.fuzz.case import Attempt, CaseName
from tests.fuzz.child import GIBIBYTE, run_attempt
from tests.fuzz.judge import KINDS, judge


def found(run: Callable[[], int], folder: Path, seconds: float = 10.0, may_not_read: tuple[Path, ...] = ()) -> set[str]:
    """The kinds of fault that an attempt shows."""
    (folder / "run").mkdir(exist_ok=True)
    attempt = Attempt(run, "planted", (folder / "run",), may_not_read)
    return {finding.kind for finding in judge(run_attempt(attempt, folder, seconds), sorted(folder.rglob("*.html")))}


def say(text: str, status: int) -> Callable[[], int]:
    return lambda: (sys.stderr.write(text), status)[1]


def doing(act: Callable[[], object]) -> Callable[[], int]:
    return lambda: (act(), 0)[1]


def reading(name: str) -> Callable[[], int]:
    return lambda: len(Path(name).read_text())


def test_good_manners_are_no_fault(tmp_path: Path) -> None:
    def write() -> int:
        Path("run/log.jsonl").write_text("{}")
        Path("run/log.jsonl").rename("run/log.json")
        Path(os.environ["TMPDIR"], "a").touch()
        return 0

    assert found(write, tmp_path) == set()
    assert found(say("llava-moe: train.json, line 3: no JSON; fix it\n", 2), tmp_path) == set()


def test_a_planted_traceback_is_found(tmp_path: Path) -> None:
    def fail() -> int:
        raise RecursionError("planted")

    assert found(fail, tmp_path) == {"traceback"}
    assert found(say("Traceback (most recent call last)\n", 0), tmp_path) == {"traceback"}
    assert found(lambda: 1, tmp_path) == {"traceback"}


def test_a_planted_crash_is_found(tmp_path: Path) -> None:
    assert found(os.abort, tmp_path) == {"crash"}


def test_a_planted_hang_is_found_and_killed_with_what_it_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    assert found(lambda: len((tmp_path / "pipe").read_bytes()), tmp_path, seconds=0.5) == {"hang"}
    assert time.monotonic() - began < 5


def test_planted_greed_is_found(tmp_path: Path) -> None:
    def take() -> int:
        piece = bytearray(int(2.2 * GIBIBYTE))
        return len(piece) - len(piece)

    # A busy machine takes its time to give so much.
    assert found(take, tmp_path, seconds=60) == {"memory"}
    # More than the machine has: it fails at once, and is found all the same.
    assert found(lambda: len(bytearray(400 * GIBIBYTE)), tmp_path) == {"memory"}


def test_a_planted_write_outside_is_found_and_kept_from_happening(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    acts: list[Callable[[], object]] = [
        lambda: Path("elsewhere").write_text("x"),
        lambda: Path("run/../elsewhere").mkdir(),
        lambda: Path("kept").unlink(),
        lambda: Path("kept").rename("run/kept"),
        lambda: os.symlink("run", "elsewhere"),
        lambda: os.truncate("kept", 0),
    ]
    for act in acts:
        assert found(doing(act), tmp_path) == {"outside write"}
    assert (tmp_path / "kept").read_text() == "kept" and not (tmp_path / "elsewhere").exists()


def test_a_planted_read_of_what_nobody_gave_is_found_through_a_link_too(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    (tmp_path / "link").symlink_to("secret")
    for name in ("secret", "link", "./run/../secret"):
        assert found(reading(name), tmp_path, may_not_read=(secret,)) == {"outside read"}


def test_a_planted_program_and_a_planted_connection_are_found(tmp_path: Path) -> None:
    import socket

    assert found(lambda: subprocess.call(["true"]), tmp_path) == {"program"}
    assert found(lambda: os.system("true"), tmp_path) == {"program"}
    assert found(doing(lambda: socket.create_connection(("127.0.0.1", 9))), tmp_path) == {"socket"}


def test_planted_escapes_and_planted_words_are_found(tmp_path: Path) -> None:
    assert found(say("llava-moe: no file \x1b[2J\n", 2), tmp_path) == {"escape"}
    assert found(say("llava-moe: a \u202e b\n", 2), tmp_path) == {"escape"}
    assert found(say("llava-moe: one\nllava-moe: two\n", 2), tmp_path) == {"wordy"}
    assert found(say("something is wrong\n", 2), tmp_path) == {"wordy"}


@pytest.mark.parametrize("text", ['<svg onload="fuzzmark()">', "<script>fuzzmark()</script>", "<p fuzzmark() >"])
def test_a_planted_breakout_of_a_page_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "page.html").write_text(f"<html>&lt;p onload=fuzzmark()&gt;{text}</html>")
    assert found(lambda: 0, tmp_path) == {"page"}
    (tmp_path / "page.html").write_text("<html>&lt;p onload=fuzzmark()&gt;<p title='onload=fuzzmark()'></html>")
    assert found(lambda: 0, tmp_path) == set()


class Planted:
    """A family whose every third case fails."""

    name = "planted"

    def prepare(self, folder: Path) -> None:
        (folder / "good").write_text("good")

    def draw(self, random: Random, folder: Path) -> Attempt:
        folder.mkdir()
        (folder / "input").write_text(str(random.random()))
        os.mkfifo(folder / "pipe")
        return Attempt(lambda: int(float(Path("input").read_text()) < 1 / 3), "read the input")


def test_a_case_is_drawn_again_by_its_name_and_its_input_is_kept(tmp_path: Path) -> None:
    campaign = Campaign(Planted(), 7, tmp_path / "planted")
    told: list[int] = []
    tally = campaign.run(0.0, lambda tally: told.append(tally.num_cases))
    assert told == [1] and tally.num_cases == 1
    for number in range(1, 12):
        campaign.run_case(number, tally)
    assert tally.num_cases == 12 and 0 < len(tally.findings) < 12
    finding = tally.findings[0]
    drawn = Path(finding.kept, "input").read_text()
    assert finding.kind == "traceback" and float(drawn) < 1 / 3
    again = Tally("planted", 7)
    campaign.run_case(CaseName.parse(finding.case).number, again)
    assert [one.case for one in again.findings] == [finding.case]
    assert Path(again.findings[0].kept, "input").read_text() == drawn
    write_tally(tally, tmp_path / "out")
    assert read_tally(tmp_path / "out" / "planted.json") == tally
    assert all(kind in (tmp_path / "out" / "table.txt").read_text() for kind in KINDS)
    assert f"FUZZ_CASE={finding.case}" in (tmp_path / "out" / "table.txt").read_text()
