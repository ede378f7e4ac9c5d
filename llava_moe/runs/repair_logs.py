"""The accounts of a run that goes on: damaged lines are moved out of the way, and told.

Where a run stands is in its checkpoint. The log tells how it came there, and one bad byte in it holds nobody up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llava_moe.data.quarantine import ENTRY
from llava_moe.files.our_files import DamagedLine, damaged_beside, set_damaged_aside
from llava_moe.train.stage_log import ACCOUNTS

SHAPES = {**ACCOUNTS, "quarantine.jsonl": ENTRY}
LOST = {
    "log.jsonl": "their steps are missing from its report",
    "validation.jsonl": "their measures no longer count for the best checkpoint",
    "quarantine.jsonl": "what is still bad is found again",
}


def set_accounts_right(folder: Path, console: Console) -> None:
    """Keep the damaged lines of a run's accounts beside them, and say which: the run goes on from its checkpoint.

    Raises:
        UserError: an account cannot be read at all, or not written.
    """
    for name, shape in SHAPES.items():
        path = folder / name
        damaged = set_damaged_aside(path, "put it back, or choose another folder with out=", shape)
        if damaged:
            console.print(f"  {_told(path, damaged)}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def _told(path: Path, damaged: Sequence[DamagedLine]) -> str:
    numbers = ", ".join(str(one.number) for one in damaged[:5]) + (", …" if len(damaged) > 5 else "")
    lines = f"line {numbers} is" if len(damaged) == 1 else f"{len(damaged):,} lines ({numbers}) are"
    return (
        f"{path}: {lines} damaged ({damaged[0].reason}): kept in {damaged_beside(path).name}; {LOST[path.name]}, and "
        "the run goes on"
    )
