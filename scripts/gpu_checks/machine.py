"""Which machine, versions and commit a figure is of."""

from __future__ import annotations

import datetime
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers

REPOSITORY = Path(__file__).resolve().parents[2]


def commit_here() -> str | None:
    """The commit of this checkout, with ``-changed`` behind it where files differ; None outside of one."""
    head = _said("git", "rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("-changed" if _said("git", "status", "--porcelain", "--untracked-files=no") else "")


def describe(device: torch.device, commit: str) -> dict[str, Any]:
    """Device, driver, versions, commit and date.

    Raises:
        RuntimeError: torch sees no such CUDA device.
    """
    properties = torch.cuda.get_device_properties(device)
    driver = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "device": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": "unknown: no nvidia-smi" if driver is None else driver.splitlines()[0],
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _said(*command: str) -> str | None:
    """What a program printed; None where it is not there or failed."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
