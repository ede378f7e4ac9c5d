"""A disk that fails under one rank ends all in one line of one of them; what is saved stands, and the run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.distributed.conftest import free_port, wait_for_steps
from tests.distributed.two_hosts import why_not
from tests.forked_commands import CommandServer, ForkedCommand

pytestmark = [
    *(pytest.mark.distributed, pytest.mark.slow),
    pytest.mark.skipif(why_not() is not None, reason=f"disks are mounted: {why_not()}"),
]
NUM_STEPS = 40
# What this process starts sees a folder by a mount of its own, which can be turned by itself.
OWN_MOUNT = """
import os, subprocess, sys
subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[1]], check=True)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def run_command(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system of its own; all are taken away at the end."""
    mounted: list[Path] = []

    def mount(name: str, *words: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        run_command("mount", *words, str(place))
        mounted.append(place)
        return place

    yield mount
    for place in reversed(mounted):
        run_command("umount", "--lazy", str(place))


@pytest.fixture
def words(words_for_tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    more = [f"train.max_steps={NUM_STEPS}", "train.save_every=4", "train.stall_seconds=60"]
    return ["train", *words_for_tiny, *more, "data.sources.mine.repeats=100"]


def losses(run: Path) -> list[tuple[int, float, str]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["sample_hash"]) for line in lines]


def fill(place: Path, num_left: int = 0) -> None:
    """Take what is free on a disk, on which a run writes meanwhile."""
    with (place / "others").open("wb") as others:
        for _ in range(100):
            free = os.statvfs(place)
            with suppress(OSError):
                os.posix_fallocate(others.fileno(), 0, free.f_bavail * free.f_bsize - num_left)
                return
    raise AssertionError(f"{place} was not filled")


def told_by_one(ranks: Sequence[ForkedCommand]) -> str:
    """The one line of all ranks that have ended since a disk failed."""
    assert [rank.wait(timeout=120) for rank in ranks] == [2] * len(ranks), [rank.output for rank in ranks]
    text = "".join(rank.output for rank in ranks)
    assert "Traceback" not in text, text
    lines = [one for one in text.splitlines() if one.startswith("llava-moe: ")]
    assert len(lines) == 1, lines
    return lines[0]


def goes_on(ranks: Sequence[ForkedCommand], run: Path) -> None:
    assert [rank.wait(timeout=200) for rank in ranks] == [0, 0], [rank.output for rank in ranks]
    assert "resuming at step" in ranks[0].output
    found = losses(run)
    assert [step for step, *_ in found] == [*range(1, NUM_STEPS + 1)]


@pytest.mark.parametrize("parallel", ["ddp", "zero2"])
def test_a_full_disk(
    parallel: str,
    disks: Callable[..., Path],
    words: list[str],
    start_ranks: Callable[..., list[ForkedCommand]],
    tmp_path: Path,
) -> None:
    place = disks("disk", "-t", "tmpfs", "-o", "size=512m", "tmpfs")
    run = place / "run"
    command = [*words, f"parallel={parallel}", f"out={run}"]
    ranks = start_ranks(2, command, tmp_path)
    wait_for_steps(run, 5, lambda: ranks[0].poll() is None)
    fill(place, 1 << 14)
    line = told_by_one(ranks)
    assert "No space left on device" in line and "see to the disk" in line, line
    assert "stands: run the same command again to go on from there" in line, line
    assert not [*run.glob("checkpoints/.step-*")]
    (place / "others").unlink()
    goes_on(start_ranks(2, command, tmp_path), run)


def turns_read_only(place: Path, under: Path) -> None:
    """As the kernel does it when it finds a file system damaged."""
    run_command("mount", "-o", "remount,abort", str(place))


def has_no_blocks(place: Path, under: Path) -> None:
    """The device of the file system can write no more: its image lies on a disk that is full."""
    fill(under)


@pytest.mark.parametrize("fails", [turns_read_only, has_no_blocks])
def test_a_disk_that_fails(
    fails: Callable[[Path, Path], None],
    disks: Callable[..., Path],
    words: list[str],
    start_ranks: Callable[..., list[ForkedCommand]],
    tmp_path: Path,
) -> None:
    under = disks("under", "-t", "tmpfs", "-o", "size=128m", "tmpfs")
    image = under / "image"
    image.touch()
    os.truncate(image, 256 << 20)
    run_command("mkfs.ext4", "-q", str(image))
    place = disks("disk", "-o", "loop", str(image))
    run = place / "run"
    command = [*words, "parallel=ddp", f"out={run}"]
    ranks = start_ranks(2, command, tmp_path)
    wait_for_steps(run, 5, lambda: ranks[0].poll() is None)
    fails(place, under)
    line = told_by_one(ranks)
    # Which of them the kernel says depends on what it tried to write first.
    said = ("Read-only file system", "Input/output error", "No space left on device")
    assert any(one in line for one in said), line
    assert "stands: run the same command again to go on from there" in line, line
    (under / "others").unlink(missing_ok=True)
    run_command("umount", str(place))
    run_command("mount", "-o", "loop", str(image), str(place))
    goes_on(start_ranks(2, command, tmp_path), run)


def test_a_folder_that_another_than_the_first_rank_can_write_in_no_more_costs_nothing(
    rank_servers: tuple[CommandServer, CommandServer], words: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    server = CommandServer(prefix=["unshare", "--mount", sys.executable, "-c", OWN_MOUNT, str(run)])
    command = [*words, "parallel=ddp", f"out={run}"]
    try:
        meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        meeting |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
        assert server.run(["--version"]).poll() == 0
        ranks = [
            one.start(command, tmp_path, os.environ | meeting | {"RANK": rank, "LOCAL_RANK": rank}, joined=True)
            for one, rank in ((rank_servers[0], "0"), (server, "1"))
        ]
        wait_for_steps(run, 5, lambda: ranks[0].poll() is None)
        run_command("nsenter", f"--target={ranks[1].pid}", "--mount", "mount", "-o", "remount,bind,ro", str(run))
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0], [rank.output for rank in ranks]
    finally:
        server.close()
    assert (run / "finished.json").is_file() and not [*run.glob("checkpoints/.step-*")]
