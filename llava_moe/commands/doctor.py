"""``llava-moe doctor``: what this machine has and lacks for training, each with its remedy."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from llava_moe.config.config_folder import config_folder
from llava_moe.config.settings import embedded_images
from llava_moe.embedded_base import PART_FILES, checked_version
from llava_moe.errors import UserError
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.environment import installed
from llava_moe.terminal.console import VisibleConsole

Finding = tuple[str, str, str, str]
GIB = 1 << 30
SIGNS = {"ok": "green", "note": "yellow", "missing": "red"}
BROKEN = "reinstall it: pip install --force-reinstall {}"


def examine() -> int:
    """Print the findings as they are made; 2 when something that every run needs is missing."""
    console, levels = VisibleConsole(), set()
    # What needs torch loaded comes last.
    for findings in (_packages, _disk, _embedded, _torchvision, _devices):
        for finding in findings():
            show(finding, console)
            levels.add(finding[0])
    return 2 if "missing" in levels else 0


def show(finding: Finding, console: Console) -> None:
    """One line, or two where the remedy does not fit; paths and commands are never folded, for they are copied."""
    level, what, found, remedy = finding
    line = Text.assemble((f"{level:<9}", SIGNS[level]), f"{what:<17}", found)
    if remedy:
        fits = line.cell_len + 2 + cell_len(remedy) <= console.width
        line.append(("  " if fits else "\n         ") + remedy)
    console.print(line, soft_wrap=True, highlight=False)


def _packages() -> list[Finding]:
    found: list[Finding] = [("ok", "Python", sys.version.split()[0], "")]
    ranges = tested_ranges()
    found += [_version(name, ranges) for name in ("torch", "transformers", "datasets")]
    optional = {
        "deepspeed": "parallel=zero0 to zero3 need it (parallel=ddp does not): pip install 'llava-moe[train]'",
        "flash-attn": "faster attention on NVIDIA GPUs: pip install flash-attn --no-build-isolation",
        "tensorboard": "log.tensorboard=true needs it: pip install 'llava-moe[train]'",
        "wandb": "log.wandb=auto|offline|online needs it: pip install 'llava-moe[train]'",
        "peft": "only to load our LoRA folders outside this package: pip install peft",
    }
    for name, remedy in optional.items():
        found.append(_version(name, ranges) if installed(name) else ("note", name, "not installed", remedy))
    told = {what for _, what, _, _ in found}
    others = (_version(name, ranges) for name in sorted(ranges) if name not in told and installed(name))
    return found + [finding for finding in others if finding[0] != "ok"]


def tested_ranges() -> dict[str, SpecifierSet]:
    """The range of versions that the suite passed with, by package: the bounds of our own metadata."""
    requirements = [Requirement(line) for line in importlib.metadata.requires("llava-moe") or ()]
    return {one.name: one.specifier for one in requirements if one.specifier}


def _version(name: str, ranges: Mapping[str, SpecifierSet]) -> Finding:
    version, tested = installed(name), ranges.get(name)
    if version is None:
        return ("missing", name, "not installed", f"pip install '{name}{tested or ''}'")
    if tested is None or tested.contains(version, prereleases=True):
        return ("ok", name, version, "")
    return ("note", name, f"{version}, not tested", f"tested is {tested}: pip install '{name}{tested}'")


def _torchvision() -> list[Finding]:
    """Loads torch, which may be broken."""
    if installed("torch") is None:
        return []  # told with the packages
    try:
        import torch
    except (ImportError, OSError) as error:
        return [("missing", "torch", f"cannot be loaded ({str(error).splitlines()[0]})", BROKEN.format("torch"))]
    version = installed("torchvision")
    if version is None or torch.cuda.is_available():
        return []
    return [("note", "torchvision", version, "beside CPU torch it breaks transformers: pip uninstall torchvision")]


def _devices() -> list[Finding]:
    try:
        import torch

        from llava_moe.model.attention import choose_attention
    except (ImportError, OSError):
        return []  # told before
    if not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        choice = choose_attention("auto", torch.device("cpu"), torch.float32)
        return [
            ("note", "GPU", "none: CPU with " + f"{cores} cores", "the demo runs here; 7B needs 40 GB of GPU memory"),
            ("ok", "attention", f"{choice.name} ({choice.reason})", ""),
        ]
    found: list[Finding] = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        level = "ok" if properties.total_memory >= 38 * GIB else "note"
        remedy = "" if level == "ok" else "7B in bf16 needs 14 GB for weights alone: parallel=zero3 or zero3_offload"
        found.append((level, f"GPU {number}", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB", remedy))
    choice = choose_attention("auto", torch.device("cuda"), torch.bfloat16)
    found.append(("ok", "attention", f"{choice.name} ({choice.reason})", ""))
    return found


def _disk() -> list[Finding]:
    found: list[Finding] = []
    for what, folder in (("disk for runs", Path.cwd()), ("disk for cache", cache_folder())):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(existing, os.W_OK):
            remedy = (
                "choose a folder with out=" if what.endswith("runs") else "set LLAVA_MOE_CACHE to a folder of yours"
            )
            found.append(("missing", what, f"{existing} cannot be written", remedy))
            continue
        free = shutil.disk_usage(existing).free
        level = "ok" if free > 2 * GIB else "note"
        found.append(
            (level, what, f"{free / GIB:.1f} GiB free in {folder}", "" if level == "ok" else "free some space")
        )
    return found


def _embedded() -> list[Finding]:
    found: list[Finding] = []
    parts = {
        "configuration": config_folder() / "train.yaml",
        "demo images": embedded_images() / "general.parquet",
    }
    for what, path in parts.items():
        there = path.is_file()
        found.append(
            ("ok", what, str(path.parent), "") if there else ("missing", what, f"no {path}", "reinstall llava-moe")
        )
    return [*found, _embedded_base()]


def _embedded_base() -> Finding:
    """Its version, after each of its files was read."""
    try:
        return ("ok", "demo base model", str(checked_version(PART_FILES)), "")
    except UserError as error:
        return ("missing", "demo base model", str(error), "")
