"""``llava-moe doctor ranks=true``: the processes of a launcher compared before a training is trusted to them."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from llava_moe.commands.doctor import Finding, show
from llava_moe.errors import ReportedByRankZeroError, UserError
from llava_moe.run_config import ParallelConfig
from llava_moe.runs.environment import installed
from llava_moe.runs.processes import Processes, join_processes, lost_ranks_told
from llava_moe.runs.same_everywhere import code_hash, refuse_unshared
from llava_moe.terminal.console import VisibleConsole

MIB, GIB = 1 << 20, 1 << 30
NUM_BYTES_SENT = 64 * MIB
MOST_SECONDS_APART = 2.0
"""Clocks that differ by more put lines of two machines in a wrong order."""
PACKAGES = ("torch", "transformers", "deepspeed", "datasets")
Facts = Mapping[str, Any]


def examine_ranks(folder: Path) -> int:
    """Print what the processes have and where they differ, in the first of them; 2 where a training would fail.

    Args:
        folder: one that all of them are to see.

    Raises:
        UserError: there is one process alone.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        raise UserError(
            "doctor ranks=true compares the processes of a launcher, and this is one alone: start it as the training, "
            "such as torchrun --nproc-per-node=2 -m llava_moe doctor ranks=true"
        )
    processes = join_processes(ParallelConfig(engine="ddp"))
    with lost_ranks_told():
        told = processes.ranks.gather(_facts())
        findings = [*_machines(told), *_differences(told), _clocks(processes), _folder(folder, processes)]
        findings.append(_bandwidth(processes))
        processes.wait()
    if processes.rank == 0:
        console = VisibleConsole()
        for finding in findings:
            show(finding, console)
    processes.leave()
    return 2 if any(level == "missing" for level, *_ in findings) else 0


def _facts() -> Facts:
    gpu = "none"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    return {
        "host": socket.gethostname(),
        "GPU": gpu,
        "Python": platform.python_version(),
        **{name: str(installed(name) or "not installed") for name in PACKAGES},
        "CUDA": str(torch.version.cuda or "none"),
        "llava_moe's code": code_hash(),
    }


def _machines(told: Sequence[Facts]) -> list[Finding]:
    hosts: dict[str, list[int]] = {}
    for rank, facts in enumerate(told):
        hosts.setdefault(facts["host"], []).append(rank)
    found: list[Finding] = []
    for host, ranks in hosts.items():
        gpus = sorted({told[rank]["GPU"] for rank in ranks})
        found.append(("ok", host, f"processes {_listed(ranks)}; GPU: {' and '.join(gpus)}", ""))
    return found


def _differences(told: Sequence[Facts]) -> list[Finding]:
    """A line for each thing that is not the same everywhere: what most have, and who has another."""
    found: list[Finding] = []
    for key in told[0]:
        values = [facts[key] for facts in told]
        usual = max(dict.fromkeys(values), key=values.count)
        others = [rank for rank, value in enumerate(values) if value != usual]
        if key == "host" or not others:
            if key not in ("host", "GPU"):
                found.append(("ok", key, f"{usual} in all {len(told)} processes", ""))
            continue
        rank = others[0]
        what = f"{usual}, but {values[rank]} in process {_listed(others)} (on {told[rank]['host']})"
        level, remedy = ("note", "the slowest decides") if key == "GPU" else ("missing", "install the same everywhere")
        found.append((level, key, what, remedy))
    return found


def _clocks(processes: Processes) -> Finding:
    processes.wait()
    clocks = processes.ranks.gather(time.time())
    apart = max(clocks) - min(clocks)
    if apart <= MOST_SECONDS_APART:
        return ("ok", "clocks", f"within {apart:.1f} s", "")
    late = max(range(len(clocks)), key=lambda rank: abs(clocks[rank] - clocks[0]))
    return ("note", "clocks", f"process {late} is {clocks[late] - clocks[0]:+.1f} s off process 0", "set them by NTP")


def _folder(folder: Path, processes: Processes) -> Finding:
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    problem = processes.ranks.gather(_problem_of(lambda: refuse_unshared(place, processes.ranks)))[0]
    if problem:
        return ("missing", "shared folder", problem, "give a folder that all machines share, with out=FOLDER")
    free = shutil.disk_usage(place).free / GIB
    return ("ok", "shared folder", f"{place} is seen by all; {free:.1f} GiB free", "")


def _problem_of(do: Callable[[], None]) -> str | None:
    try:
        do()
    except UserError as error:
        return str(error).partition("; ")[0]
    except ReportedByRankZeroError:
        return "told by process 0"
    return None


def _bandwidth(processes: Processes) -> Finding:
    """An all-reduce of 64 MiB, the fastest of three; (2 (n - 1) / n) of the bytes pass each process."""
    values, seconds = torch.ones(NUM_BYTES_SENT // 4, device=processes.device), []
    for _ in range(4):
        began = time.perf_counter()
        dist.all_reduce(values)
        # The sum is there when a number of it is: devices are asked without waiting.
        first = float(values[0])
        seconds.append(time.perf_counter() - began)
        values.fill_(1.0)
    moved = NUM_BYTES_SENT * 2 * (processes.world - 1) / processes.world
    best = min(seconds[1:])
    what = f"{NUM_BYTES_SENT // MIB} MiB in {1000 * best:.0f} ms, {moved / best / 1e9:.2f} GB/s ({dist.get_backend()})"
    if first != processes.world:
        return ("missing", "all-reduce", f"{what}; the sum is {first:g} and not {processes.world}", "do not train here")
    return ("ok", "all-reduce", what, "")


def _listed(ranks: Sequence[int]) -> str:
    """Numbers as a person lists them: 0-3, 8."""
    parts: list[list[int]] = []
    for rank in ranks:
        if parts and parts[-1][-1] == rank - 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
