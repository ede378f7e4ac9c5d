"""What tests of several processes share: one command, started by a launcher or as ranks that are told of each other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from tests.commands.test_train import num_logged
from tests.forked_commands import CommandServer, ForkedCommand

# From a launcher, words, the folder of the run and the folder where it is started.
Launch = Callable[[str, list[str], Path, Path], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def rank_servers() -> Iterator[tuple[CommandServer, CommandServer]]:
    """One for ranks 0, 2, ... and one for the others, which hash and so order sets in another way."""
    # DeepSpeed looks for accelerators while it is loaded unless it is told.
    told = {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"}
    modules = ("deepspeed", "deepspeed.ops", "deepspeed.runtime.zero.muon.original_muon")

    def server_of(seed: str) -> CommandServer:
        return CommandServer(*modules, DEEPSPEED_LOG_LEVEL="error", PYTHONHASHSEED=seed, **told)

    servers = (server_of("1"), server_of("2"))
    # Both load at once, and before a rank is waited for.
    for loading in [server.start(["--version"]) for server in servers]:
        assert loading.wait() == 0
    yield servers
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def start_ranks(rank_servers: tuple[CommandServer, CommandServer]) -> Callable[..., list[ForkedCommand]]:
    """Processes that meet over gloo, told of each other as launchers tell them; they write errors to their output."""

    def start(world: int, words: list[str], folder: Path | None = None) -> list[ForkedCommand]:
        meeting = {
            **{"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
        }
        return [
            rank_servers[rank % 2].start(
                words,
                folder,
                os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                joined=True,
            )
            for rank in range(world)
        ]

    return start


@pytest.fixture(scope="session")
def launch(
    rank_servers: tuple[CommandServer, CommandServer], start_ranks: Callable[..., list[ForkedCommand]]
) -> Launch:
    """Trains: ``one`` process, two forked ``ranks``, or two that ``torchrun`` or ``deepspeed`` starts."""

    def run_to_the_end(launcher: str, words: list[str], folder: Path, cwd: Path) -> None:
        command = ["train", *words, f"out={folder}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        if launcher in ("torchrun", "deepspeed"):
            started = subprocess.run(
                [*launcher_of(launcher), *command],
                cwd=cwd,
                env=environment,
                capture_output=True,
                text=True,
                timeout=420,
            )
            assert started.returncode == 0, started.stdout[-2000:] + started.stderr[-4000:]
            return
        if launcher == "one":
            processes = [rank_servers[0].start(command, cwd, environment, joined=True)]
        else:
            assert launcher == "ranks"
            processes = start_ranks(2, command, cwd)
        statuses = [process.wait(timeout=420) for process in processes]
        assert not any(statuses), [process.output[-4000:] for process in processes]

    return run_to_the_end


def start_two(
    servers: tuple[CommandServer, CommandServer], words: Sequence[Sequence[str]], folders: Sequence[Path]
) -> list[ForkedCommand]:
    """Two ranks that are told of each other, each with words and a folder of its own."""
    meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    return [servers[rank].start(list(words[rank]), folders[rank], os.environ | meeting | own[rank]) for rank in (0, 1)]


def wait_for_steps(run: Path, num_steps: int, is_running: Callable[[], bool]) -> None:
    """Wait until a run has logged so many steps; it must not end before."""
    deadline = time.monotonic() + 200
    while num_logged(run) < num_steps:
        assert time.monotonic() < deadline and is_running()
        time.sleep(0.02)


def launcher_of(name: str) -> list[str]:
    """The words of a launcher of two processes, up to the command."""
    if name == "torchrun":
        port = f"--master-port={free_port()}"
        return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", port, "-m", "llava_moe"]
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank", "--num_gpus=2"),
        *(f"--master_port={free_port()}", "--module", "llava_moe"),
    ]
