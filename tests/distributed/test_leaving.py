"""Ranks leave one another before their interpreter ends, whatever gloo's threads still hold at that moment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.distributed.conftest import free_port

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NUM_PAIRS = 4
# The main thread keeps the interpreter to itself from the first collective on: gloo's threads wait for it before they
# let go of tensors. A rank that ends while one still waits may abort with status -6, as its interpreter is gone.
RANKS = """
import os, sys, weakref
import deepspeed, torch
from llava_moe.commands.processes import training_together
from llava_moe.errors import UserError

how, first_port, num_pairs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
parallel = {"engine": "auto", "stage": 2, "offload_optimizer": False, "offload_parameters": False, "extra": {}}

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
                    del value
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
