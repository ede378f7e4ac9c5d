"""Ranks leave one another before their interpreter ends, whatever gloo's threads still hold at that moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.conftest import free_port

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NUM_PAIRS = 4
# The main thread keeps the interpreter to itself from the first collective on: gloo's threads wait for it before they
# let go of tensors. A rank that ends while one still waits may abort with status -6, as its interpreter is gone.
RANKS = """
import os, sys, weakref
import deepspeed, torch
from llava_moe.runs.processes import training_together
from llava_moe.errors import UserError
from llava_moe.run_config import ParallelConfig

how, first_port, num_pairs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
parallel = ParallelConfig()

def rank_of(rank, port):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    held = []
    try:
        with training_together(parallel) as processes:
            sys.setswitchinterval(100)
            for _ in range(10):
                for group in (None, processes.group):
                    value = torch.ones(300)
                    held.append(weakref.ref(value))
                    torch.distributed.all_reduce(value, group=group)
                    del value, group
            if how == "error":
                raise UserError("what both ranks are told")
    except UserError:
        return 2
    finally:
        if any(value() is not None for value in held):
            print("still held", flush=True)
    return 0

statuses = []
for pair in range(num_pairs):
    ranks = []
    for rank in range(2):
        ranks.append(os.fork())
        if not ranks[-1]:
            sys.exit(rank_of(rank, first_port + pair))
    statuses += [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
print("statuses", *statuses)
"""


@pytest.mark.parametrize(("how", "status"), [("end", 0), ("error", 2)])
def test_when_a_rank_ends_no_thread_holds_what_it_exchanged(how: str, status: int) -> None:
    words = [sys.executable, "-c", RANKS, how, str(free_port()), str(NUM_PAIRS)]
    told = os.environ | {"DS_ACCELERATOR": "cpu", "DEEPSPEED_LOG_LEVEL": "error", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, env=told, capture_output=True, text=True, timeout=240)
    assert "still held" not in ended.stdout
    assert f"statuses{f' {status}' * 2 * NUM_PAIRS}\n" in ended.stdout, ended.stdout + ended.stderr[-3000:]


ENDING = """
import os, sys
import torch
from llava_moe.cli import end_rank

statuses = []
for pair in range(int(sys.argv[1])):
    ranks = []
    for rank in range(2):
        ranks.append(os.fork())
        if not ranks[-1]:
            meeting = f"file://{sys.argv[2]}/{pair}"
            torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
            group = torch.distributed.new_group(backend="gloo")
            sys.setswitchinterval(100)
            for _ in range(5):
                value = torch.randn(300)
                torch.distributed.all_reduce(value, group=group)
                del value
            print("said", flush=False)
            end_rank(3)
    statuses += [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
print("statuses", *statuses)
"""


def test_a_rank_ends_with_its_own_status_whatever_threads_still_hold(tmp_path: Path) -> None:
    """With ``sys.exit`` in the place of ``end_rank`` about one rank in four ends with -6."""
    words = [sys.executable, "-c", ENDING, "8", str(tmp_path)]
    ended = subprocess.run(
        words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert f"statuses{' 3' * 16}\n" in ended.stdout, ended.stdout + ended.stderr[-3000:]
    assert ended.stdout.count("said") == 16
