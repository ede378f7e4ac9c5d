"""The run folders of an earlier version (tests/fixtures/old_runs), and what is held against them.

``python -m tests.old_runs RESUMED EXPORTED`` writes ``expected.json`` of what the version at hand makes of them.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

OLD_RUNS = Path(__file__).parent / "fixtures" / "old_runs"
NUM_STEPS = 8
LAST = f"step-{NUM_STEPS:06}"
RESUMED_FILES = ("adapter/adapter_model.safetensors", "projector.safetensors")
SINCE_CHANGED = ("train.betas=[0.9,0.999]",)
NUMPY_TYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}


@dataclass(frozen=True)
class Stored:
    """A tensor as its file holds it."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    @property
    def digest(self) -> str:
        """The same for equal type, shape and bytes alone."""
        return hashlib.sha256(repr((self.dtype, self.shape)).encode() + self.content).hexdigest()[:24]

    @property
    def values(self) -> np.ndarray:
        return np.frombuffer(self.content, NUMPY_TYPES[self.dtype]).reshape(self.shape)


def stored_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, read without the library: eight bytes of length, a JSON header, the bytes."""
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, told in header.items():
        begin, end = told["data_offsets"]
        found[name] = Stored(told["dtype"], tuple(told["shape"]), content[start + begin : start + end])
    return found


def digests(path: Path) -> dict[str, str]:
    """A file's tensors by name, each as what only equal ones share."""
    return {name: tensor.digest for name, tensor in sorted(stored_tensors(path).items())}


def sketches(path: Path) -> dict[str, list[float]]:
    """A file's tensors by name, each as its norm and its product with a wave: near for near tensors, far for others."""
    found = {}
    for name, tensor in sorted(stored_tensors(path).items()):
        values = tensor.values.astype(np.float64).ravel()
        found[name] = [float(np.linalg.norm(values)), float(values @ np.cos(np.arange(values.size)))]
    return found


def first_draws() -> str:
    """What a tiny model's weights are drawn like on this processor: torch draws others without AVX2."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return hashlib.sha256(torch.empty(64, 64).normal_().numpy().tobytes()).hexdigest()[:24]


def copied(name: str, folder: Path) -> Path:
    """A copy of an old folder that may be written into."""
    return Path(shutil.copytree(OLD_RUNS / name, folder / name))


def command_of(run: Path) -> list[str]:
    """The words with which an old run was started, for ``llava_moe.cli.run``, and what ``scale=demo`` meant then."""
    return [*shlex.split(json.loads((run / "environment.json").read_text())["command"])[1:], *SINCE_CHANGED]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected() -> dict[str, Any]:
    """What the version that wrote the old folders made of them."""
    return dict(json.loads((OLD_RUNS / "expected.json").read_text()))


def made_of(resumed: Path, exported: Path) -> dict[str, Any]:
    """What the version at hand made of the stopped run, gone on with, and of the finished one, exported."""
    return {
        "first_draws": first_draws(),
        "steps": [
            {key: line[key] for key in ("step", "loss", "sample_hash")} for line in lines_of(resumed / "log.jsonl")
        ],
        "resumed": {name: sketches(resumed / "checkpoints" / LAST / name) for name in RESUMED_FILES},
        "resumed_sha256": {
            name: hashlib.sha256((resumed / "checkpoints" / LAST / name).read_bytes()).hexdigest()
            for name in RESUMED_FILES
        },
        "exported": {
            str(path.relative_to(exported)): digests(path) for path in sorted(exported.rglob("*.safetensors"))
        },
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(made_of(*map(Path, sys.argv[1:])), indent=1) + "\n")
