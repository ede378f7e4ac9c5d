"""Memory that is free on this machine, or in the share of it that a control group allows."""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = {
    Path("/sys/fs/cgroup"): ("memory.max", "memory.current", "inactive_file"),
    Path("/sys/fs/cgroup/memory"): ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Control groups of both versions: files of their limit and their use, and the name of what gives way."""


def free_memory() -> int:
    """Bytes that can be taken without swapping, as the system tells; all memory where it tells nothing."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (told := _numbers(Path("/proc/meminfo")).get("MemAvailable:")) is not None:
        free = told * 1024
    for folder, names in _GROUPS.items():
        most, used = (_number(folder / name) for name in names[:2])
        if most is not None and used is not None:
            # Files that were read count as used, and give way.
            held = used - _numbers(folder / "memory.stat").get(names[2], 0)
            free = min(free, max(0, most - held))
    return free


def _number(path: Path) -> int | None:
    told = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(told) if told.isdecimal() else None


def _numbers(path: Path) -> dict[str, int]:
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    words = [line.split() for line in lines]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}
