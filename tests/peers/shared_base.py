"""How much of a base's weights several processes of one machine hold each, and how much they share.

    python -m tests.peers.shared_base VISION_TOWER LANGUAGE_MODEL [bf16] [2]

Each process opens the base as training does and reads all of it; then all tell what Linux says of their memory, beyond
what they held before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

from llava_moe.assemble.spec import dtype_of
from llava_moe.model import FromParts, build_base

KINDS = ("Private_Dirty", "Shared_Clean")


def held() -> dict[str, int]:
    """MiB of this process by kind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    told = {line.partition(":")[0]: line.split()[1] for line in lines}
    return {kind: int(told[kind]) >> 10 for kind in KINDS}


def open_and_tell(rank: int, parts: Sequence[str], dtype: str, barrier: Barrier) -> None:
    """Open the base, read it, and print what that took, while the others hold it too."""
    barrier.wait()
    before = held()
    tower, language_model = parts
    base = build_base(FromParts(tower, language_model), dtype_of(dtype))
    size = sum(one.nbytes for one in base.model.parameters()) >> 20
    # One element of each page.
    for one in base.model.parameters():
        one.detach().flatten()[::1024].float().sum()
    barrier.wait()
    now = held()
    private, shared = (now[kind] - before[kind] for kind in KINDS)
    print(f"process {rank}: base of {size} MiB in {dtype}: {private} MiB of its own, {shared} MiB shared", flush=True)
    barrier.wait()


def main(words: Sequence[str]) -> None:
    """Start the processes and wait for them."""
    parts, (dtype, num) = words[:2], [*words[2:], *("bf16", "2")[len(words) - 2 :]]
    context = get_context("spawn")
    barrier = context.Barrier(int(num))
    processes = [context.Process(target=open_and_tell, args=(rank, parts, dtype, barrier)) for rank in range(int(num))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main(sys.argv[1:])
