"""What a user has to fix is told in one line by one of several processes, before and where they meet."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.distributed.conftest import free_port, start_two, wait_for_steps
from tests.forked_commands import CommandServer, ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
Servers = tuple[CommandServer, CommandServer]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def words(tiny_words: list[str], tmp_path: Path) -> list[str]:
    return ["train", *tiny_words, "parallel=ddp", "train.max_steps=1", f"out={tmp_path / 'run'}"]


def told(text: str) -> list[str]:
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("llava-moe: ")]


def ended(ranks: Sequence[ForkedCommand]) -> list[list[str]]:
    """What each rank has told, all of which the user has to see to."""
    assert [rank.wait(timeout=120) for rank in ranks] == [2] * len(ranks), [rank.output + rank.errors for rank in ranks]
    return [told(rank.output + rank.errors) for rank in ranks]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [("train.max_step=3", "max_step"), ("exp=mix_cats", "mix_cats"), ("path=/nowhere/train.json", "/nowhere")],
)
def test_an_error_of_all_is_told_by_the_first(
    wrong: str, expected: str, start_ranks: Callable[..., list[ForkedCommand]], words: list[str]
) -> None:
    kept = [word for word in words if not word.startswith(f"{wrong.partition('=')[0]}=")]
    lines = ended(start_ranks(3, [*kept, wrong]))
    assert [len(one) for one in lines] == [1, 0, 0] and expected in lines[0][0], lines


def test_an_error_of_another_is_told_by_it_and_the_first_says_where_to_look(
    rank_servers: Servers, words: list[str], tmp_path: Path, own_data: Path
) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "train.json").symlink_to(own_data / "train.json")
    kept = [word for word in words if not word.startswith("path=")]
    lines = ended(start_two(rank_servers, [[*kept, "path=train.json"]] * 2, folders))
    assert len(lines[1]) == 1 and "train.json" in lines[1][0], lines
    assert lines[0] == [
        f"llava-moe: process 1 (on {os.uname().nodename}) has ended before all had met: its own output says why"
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("launcher", ["launch.sh", "torchrun"])
def test_a_wrong_word_is_told_once_under_a_launcher(launcher: str, tmp_path: Path) -> None:
    wrong = ["exp=mix_cats"]
    command = {
        "launch.sh": ["bash", str(ROOT / "scripts" / "launch.sh"), *wrong],
        "torchrun": [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"),
            *("-m", "llava_moe", "train", *wrong),
        ],
    }[launcher]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"GPUS": "2", "MASTER_PORT": str(free_port()), "PATH": path, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == (2 if launcher == "launch.sh" else 1)  # torchrun makes 1 of what is not 0
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("llava-moe: ")]
    assert len(lines) == 1 and "mix_cats" in lines[0], run.stdout + run.stderr
    assert time.monotonic() - began < 60


def alone(server: CommandServer, words: Sequence[str], **variables: str) -> ForkedCommand:
    """One rank of two; the other one does not come unless it is started, too."""
    meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    return server.start(list(words), None, os.environ | meeting | variables, joined=True)


def test_who_does_not_come_is_named(rank_servers: Servers, words: list[str]) -> None:
    words = [*words, "parallel.join_seconds=2"]
    ranks = [alone(rank_servers[rank], words, RANK=str(rank), MASTER_PORT=str(free_port())) for rank in (0, 1)]
    (first,), (other,) = ended(ranks)
    assert "process 1 of 2 did not come to 127.0.0.1:" in first and "within 2 s: start all, with the same" in first
    assert f"process 1 (on {os.uname().nodename}) does not reach process 0 at 127.0.0.1:" in other
    assert "(Connection refused): MASTER_ADDR and MASTER_PORT must name" in other


def test_a_port_that_another_program_uses_is_told_at_once(rank_servers: Servers, words: list[str]) -> None:
    """One that takes connections and never answers: torch would wait for it without end."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [*words, "parallel.join_seconds=4"]
        ranks = [alone(rank_servers[rank], words, RANK=str(rank), MASTER_PORT=str(port)) for rank in (0, 1)]
        (first,), (other,) = ended(ranks)
    assert f"port {port} of " in first and "(another program uses it)" in first and "with MASTER_PORT=" in first
    assert (
        f"does not reach process 0 at 127.0.0.1:{port} within 4 s (what answers there is no process of a run)" in other
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MASTER_PORT": ""}, "WORLD_SIZE=2 without MASTER_PORT in the environment"),
        ({"RANK": "2"}, "RANK=2 in the environment is not a number from 0 to 1"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment is no number of processes"),
    ],
)
def test_variables_that_no_launcher_sets_are_told(
    variables: dict[str, str], expected: str, rank_servers: Servers, words: list[str]
) -> None:
    rank = alone(rank_servers[0], words, **{"RANK": "0", "MASTER_PORT": str(free_port()), **variables})
    ((line,),) = ended([rank])
    assert expected in line


def test_processes_that_were_counted_otherwise_are_told(rank_servers: Servers, words: list[str]) -> None:
    port = str(free_port())
    ranks = [
        alone(rank_servers[0], words, RANK="0", MASTER_PORT=port),
        alone(rank_servers[1], words, RANK="1", MASTER_PORT=port, WORLD_SIZE="4"),
    ]
    lines = ended(ranks)
    assert "process 1 (on " in lines[0][0] and "with WORLD_SIZE=4, and process 0 with 2: start all with" in lines[0][0]
    assert len(lines[0]) == 1 and not lines[1]


def test_two_processes_of_one_number_are_told(rank_servers: Servers, words: list[str]) -> None:
    port = str(free_port())
    ranks = [
        alone(rank_servers[number], words, RANK=rank, MASTER_PORT=port, WORLD_SIZE="3")
        for number, rank in enumerate(("0", "1"))
    ]
    time.sleep(0.5)
    ranks.append(alone(rank_servers[0], words, RANK="1", MASTER_PORT=port, WORLD_SIZE="3"))
    lines = [line for one in ended(ranks) for line in one]
    assert sum("two processes say RANK=1 at " in line for line in lines) == 1, lines
    assert [line for line in lines if "two processes" not in line] == [
        f"llava-moe: process 1 (on {os.uname().nodename}) has ended before all had met: its own output says why"
    ]


def test_a_second_run_in_one_folder_is_told_once(
    start_ranks: Callable[..., list[ForkedCommand]], words: list[str], tmp_path: Path
) -> None:
    longer = [*(word for word in words if not word.startswith("train.max_steps=")), "train.max_steps=4000"]
    first = start_ranks(2, [*longer, "data.sources.mine.repeats=100"])
    wait_for_steps(tmp_path / "run", 2, lambda: first[0].poll() is None)
    lines = ended(start_ranks(2, [*longer, "data.sources.mine.repeats=100"]))
    assert [len(one) for one in lines] == [1, 0] and "is in use by process " in lines[0][0], lines
    for rank in first:
        rank.send_signal(signal.SIGTERM)
    assert [rank.wait(timeout=60) for rank in first] == [75, 75]


def test_more_processes_than_samples_of_a_step_train(
    start_ranks: Callable[..., list[ForkedCommand]], words: list[str], tmp_path: Path
) -> None:
    ranks = start_ranks(3, [*words, "train.global_batch_size=2"])
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0, 0], [rank.output for rank in ranks]
