"""Two machines that share a folder and a link: what befalls either is told, and the run goes on exactly."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.distributed.conftest import wait_for_steps
from tests.distributed.two_hosts import TwoHosts, two_hosts, why_not
from tests.forked_commands import CommandServer, ForkedCommand

pytestmark = [
    *(pytest.mark.distributed, pytest.mark.slow),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
STALL_SECONDS = 4
NUM_STEPS = 30


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    yield from two_hosts(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def servers(hosts: TwoHosts) -> Iterator[list[CommandServer]]:
    """One on each machine."""
    found = [CommandServer(prefix=hosts.prefix(number)) for number in (0, 1)]
    for server in found:
        server.start(["--version"])
    for server in found:
        assert server.run(["--version"]).poll() == 0
    yield found
    for server in found:
        server.close()


@pytest.fixture
def words(words_for_tiny: tuple[str, ...], hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(hosts.folder / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    more = [f"train.max_steps={NUM_STEPS}", "train.save_every=3", f"train.stall_seconds={STALL_SECONDS}"]
    return [
        "train",
        *words_for_tiny,
        *more,
        "data.sources.mine.repeats=100",
        "parallel=ddp",
        "parallel.join_seconds=20",
    ]


def start(
    hosts: TwoHosts, servers: Sequence[CommandServer], words: Sequence[str], **variables: str
) -> list[ForkedCommand]:
    """A rank on each machine, told of the other by plain variables."""
    meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_PORT": "29519"}
    meeting |= {"MASTER_ADDR": hosts.address(0)} | variables
    return [
        server.start([*words], hosts.folder, os.environ | meeting | {"RANK": str(rank)}, joined=True)
        for rank, server in enumerate(servers)
    ]


def lines_of(rank: ForkedCommand) -> list[str]:
    assert "Traceback" not in rank.output, rank.output
    return [line for line in rank.output.splitlines() if line.startswith("llava-moe: ")]


def losses(run: Path) -> list[tuple[int, float, str]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["sample_hash"]) for line in lines]


def ends(ranks: Sequence[ForkedCommand], statuses: Sequence[int]) -> None:
    assert [rank.wait(timeout=120) for rank in ranks] == [*statuses], [rank.output for rank in ranks]


@pytest.fixture(scope="module")
def unbroken() -> dict[str, Path]:
    """Where :func:`never_stopped` keeps its run."""
    return {}


def never_stopped(hosts: TwoHosts, servers: list[CommandServer], words: list[str], made: dict[str, Path]) -> Path:
    """A run that nothing has befallen, trained once."""
    if "run" not in made:
        made["run"] = hosts.folder / "unbroken"
        ends(start(hosts, servers, [*words, f"out={made['run']}"]), [0, 0])
    return made["run"]


def befalls(what: str, hosts: TwoHosts, ranks: Sequence[ForkedCommand]) -> None:
    if what == "link":
        hosts.set_link("down")
        return
    victim = ranks[0 if what == "first host" else 1]
    os.kill(victim.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("what", "told_by", "statuses", "expected"),
    [
        ("other host", 0, (2, -9), "another process of this run is gone or does not answer: its own output says why"),
        ("first host", 1, (-9, 2), "another process of this run is gone or does not answer: its own output says why"),
        ("link", 0, (1, 1), "process 1 (pid {pid} on {host}) gives no sign of life for "),
    ],
)
def test_what_befalls_a_machine_is_told_by_the_other_and_the_run_goes_on_exactly(
    what: str,
    told_by: int,
    statuses: tuple[int, int],
    expected: str,
    hosts: TwoHosts,
    servers: list[CommandServer],
    words: list[str],
    unbroken: dict[str, Path],
) -> None:
    expected_losses = losses(never_stopped(hosts, servers, words, unbroken))
    run = hosts.folder / what.replace(" ", "-")
    ranks = start(hosts, servers, [*words, f"out={run}"])
    wait_for_steps(run, 5, lambda: ranks[0].poll() is None)
    befalls(what, hosts, ranks)
    began = time.monotonic()
    try:
        ranks[told_by].wait(timeout=120)
        seconds = time.monotonic() - began
        ends(ranks, statuses)
    finally:
        hosts.set_link("up")
    (line,) = lines_of(ranks[told_by])
    assert expected.format(pid=ranks[1].pid, host=hosts.names[1]) in line, line
    assert "stands: run the same command again to go on from there" in line
    assert seconds < 12 * STALL_SECONDS
    again = start(hosts, servers, [*words, f"out={run}"])
    ends(again, [0, 0])
    assert "resuming at step" in again[0].output
    assert losses(run) == expected_losses and len(expected_losses) == NUM_STEPS


def test_a_link_that_is_cut_before_step_1_is_told(
    hosts: TwoHosts, servers: list[CommandServer], words: list[str]
) -> None:
    run = hosts.folder / "early"
    ranks = start(hosts, servers, [*words, f"out={run}"])
    deadline = time.monotonic() + 60
    while not (run / ".lock").exists():
        assert time.monotonic() < deadline and ranks[0].poll() is None
        time.sleep(0.01)
    try:
        hosts.set_link("down")
        ends(ranks, [1, 1])
    finally:
        hosts.set_link("up")
    (line,) = lines_of(ranks[0])
    assert f"process 1 (pid {ranks[1].pid} on {hosts.names[1]}) gives no sign of life for " in line
    assert "the same command begins again" in line and not (run / "log.jsonl").exists(), line


def test_an_address_that_leads_nowhere_is_named_by_each_machine(
    hosts: TwoHosts, servers: list[CommandServer], words: list[str]
) -> None:
    ranks = start(hosts, servers, [*words, "parallel.join_seconds=4"], MASTER_ADDR="10.213.77.9")
    ends(ranks, [2, 2])
    (first,), (other,) = lines_of(ranks[0]), lines_of(ranks[1])
    assert f"which is no address of this machine ({hosts.names[0]})" in first and "did not come to 10.213.77.9" in first
    assert f"process 1 (on {hosts.names[1]}) does not reach process 0 at 10.213.77.9:29519 within 4 s (" in other


def test_a_folder_that_the_machines_do_not_share_is_told_before_step_1(
    hosts: TwoHosts, servers: list[CommandServer], words: list[str]
) -> None:
    ranks = start(hosts, servers, [*words, f"out={hosts.unshared / 'run'}"])
    ends(ranks, [2, 2])
    (line,) = lines_of(ranks[0])
    assert not lines_of(ranks[1])
    assert f"is not one folder for all processes: {hosts.names[1]} (" in line
    assert not [*hosts.folder.rglob("unshared/run/**/step-*"), *hosts.folder.rglob("own-*/run/**/step-*")]
