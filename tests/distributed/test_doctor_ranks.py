"""``doctor ranks=true``: real processes compared, and what differs between them is named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from llava_moe.cli import run
from llava_moe.commands import doctor_ranks
from tests.distributed.conftest import start_two
from tests.forked_commands import CommandServer, ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def started(servers: tuple[CommandServer, CommandServer], folders: Sequence[Path]) -> list[ForkedCommand]:
    ranks = start_two(servers, [["doctor", "ranks=true"]] * 2, folders)
    for rank in ranks:
        rank.wait(timeout=120)
    return ranks


def test_processes_that_are_alike_are_told_with_what_they_have(
    rank_servers: tuple[CommandServer, CommandServer], tmp_path: Path
) -> None:
    first, other = started(rank_servers, [tmp_path, tmp_path])
    assert (first.poll(), other.poll()) == (0, 0), first.output + first.errors + other.errors
    lines = first.output.splitlines()
    assert any(
        line.startswith("ok") and f"{os.uname().nodename} " in line and "processes 0-1" in line for line in lines
    )
    assert any("all-reduce" in line and "GB/s (gloo)" in line for line in lines)
    assert any(line.startswith("ok") and "shared folder" in line and str(tmp_path) in line for line in lines)
    assert any("llava_moe's code" in line and "in all 2 processes" in line for line in lines)
    assert not other.output.strip() and not [*tmp_path.iterdir()]


def test_a_folder_that_is_not_shared_is_named(
    rank_servers: tuple[CommandServer, CommandServer], tmp_path: Path
) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    first, other = started(rank_servers, folders)
    assert (first.poll(), other.poll()) == (2, 2), first.output + first.errors
    (line,) = [line for line in first.output.splitlines() if line.startswith("missing")]
    assert "shared folder" in line and str(folders[1]) in line


def test_what_differs_is_told_with_its_process_and_machine() -> None:
    same = {"host": "a", "GPU": "H100, 80 GiB", "torch": "2.9", "llava_moe's code": "abc"}
    told = [same, same, same | {"host": "b", "torch": "2.8"}, same | {"host": "b", "GPU": "A100, 40 GiB"}]
    found = doctor_ranks._differences(told)
    assert ("missing", "torch", "2.9, but 2.8 in process 2 (on b)", "install the same everywhere") in found
    assert ("note", "GPU", "H100, 80 GiB, but A100, 40 GiB in process 3 (on b)", "the slowest decides") in found
    assert ("ok", "llava_moe's code", "abc in all 4 processes", "") in found
    assert [row[:3] for row in doctor_ranks._machines(told)] == [
        ("ok", "a", "processes 0-1; GPU: H100, 80 GiB"),
        ("ok", "b", "processes 2-3; GPU: A100, 40 GiB and H100, 80 GiB"),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ranks=true"], "this is one alone: start it as the training, such as torchrun"),
        (["rank=true"], "doctor takes no rank (did you mean ranks?)"),
        (["ranks=yes"], "ranks=yes: give true or false"),
        (["out=runs"], "add ranks=true"),
    ],
)
def test_one_process_has_nothing_to_compare(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", *words]) == 2
    assert told in capsys.readouterr().err
