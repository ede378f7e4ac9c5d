"""What a run was made with: versions, commit, machine, command line, fingerprints."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_moe import __version__
from llava_moe.config.as_typed import typed_command

if TYPE_CHECKING:
    # doctor asks for versions before torch is loaded.
    from llava_moe.assemble import Assembled
    from llava_moe.data.mixture import Mixture

PACKAGES = (
    "torch",
    "transformers",
    "safetensors",
    "datasets",
    "tokenizers",
    "deepspeed",
    "flash-attn",
    "peft",
    "pillow",
)


def describe_environment(data: Mapping[str, str], assembled: Assembled) -> dict[str, Any]:
    """The content of ``environment.json``.

    Args:
        data: the fingerprint of each source.
        assembled: the model, whose base (without projector, adapter and what was trained) and start are told.
    """
    import torch

    return {
        "llava_moe": __version__,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed(name)) is not None},
        "commit": commit(),
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "num_cpus": os.cpu_count(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "threads": torch.get_num_threads(),
        },
        "command": typed_command(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "data": dict(data),
        **assembled.weights.record(),
        **({"start": dict(assembled.start)} if assembled.start else {}),
    }


def installed(package: str) -> str | None:
    """Version of a package, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Commit of the checkout that the package runs from, with ``+`` if it has changes; None when installed."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() or None


def fingerprint_files(mixture: Mixture) -> dict[str, str]:
    """Source -> fingerprint of its file."""
    return {source.name: fingerprint_file(Path(source.path).expanduser()) for source in mixture.sources}


def fingerprint_file(path: Path) -> str:
    """Size and hash of the head and tail of a data file: quick on files of many gigabytes."""
    if not path.is_file():
        return "folder" if path.is_dir() else "missing"
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read())
    return digest.hexdigest()[:16]
