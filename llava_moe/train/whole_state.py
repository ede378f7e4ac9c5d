"""Masters and optimizer state by name, undivided: whatever engine wrote them, any number of processes reads them.

``optimizer.safetensors`` holds ``master/<name>`` and, for each key of AdamW's state, ``<key>/<name>``. What is larger
than one file may be goes on in ``optimizer-00002.safetensors`` and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from llava_moe.files.regular_file import check_regular

MASTER = "master"
NUM_BYTES_OF_A_FILE = 4 << 30
"""Then the next one begins: no more than that, or one parameter, waits in memory to be written."""


def file_of_state(folder: Path, number: int) -> Path:
    """The file of a number, from 1 on."""
    return folder / ("optimizer.safetensors" if number == 1 else f"optimizer-{number:05d}.safetensors")


class WholeStateWriter:
    """Writes tensors as they come, file by file."""

    def __init__(self, folder: Path, num_bytes_of_a_file: int = NUM_BYTES_OF_A_FILE) -> None:
        self._folder, self._most = folder, num_bytes_of_a_file
        self._waiting: dict[str, torch.Tensor] = {}
        self._num_files = 0

    def add(self, name: str, state: Mapping[str, torch.Tensor]) -> None:
        """Write the tensors of one parameter: its master, and what the optimizer keeps of it."""
        size = sum(tensor.nbytes for tensor in state.values())
        if self._waiting and sum(tensor.nbytes for tensor in self._waiting.values()) + size > self._most:
            self._write()
        for kind, tensor in state.items():
            self._waiting[f"{kind}/{name}"] = tensor.detach().to("cpu").contiguous()

    def close(self) -> None:
        """Write what waits."""
        if self._waiting or not self._num_files:
            self._write()

    def _write(self) -> None:
        self._num_files += 1
        save_file(self._waiting, file_of_state(self._folder, self._num_files))
        self._waiting = {}


def write_states(folder: Path, states: Iterable[tuple[str, Mapping[str, torch.Tensor]]]) -> None:
    """Write what an engine's ``states`` gives, one parameter after the other."""
    writer = WholeStateWriter(folder)
    for name, state in states:
        writer.add(name, state)
    writer.close()


class WholeStateReader:
    """Reads tensors as they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Open the files.

        Raises:
            OSError: the first of them is not there, or one is no regular file.
            ValueError: there are DeepSpeed's own files in their place.
            SafetensorError: one is damaged.
        """
        if not file_of_state(folder, 1).exists() and (own := sorted(folder.glob("zero*"))):
            num_processes = len([*folder.glob("random-rank*.safetensors")])
            raise ValueError(
                f"an earlier version wrote DeepSpeed's own files there: go on once with parallel={own[0].name} and "
                f"{num_processes} processes, which writes what all others read"
            )
        check_regular(file_of_state(folder, 1))
        # A file stays open: its list of tensors is read once.
        self._opened: dict[str, Any] = {}
        number = 1
        while (path := file_of_state(folder, number)).exists():
            check_regular(path)
            opened = safe_open(path, framework="pt")
            self._opened |= dict.fromkeys(opened.keys(), opened)
            number += 1
        self._kinds = {kind for one in self._opened if (kind := one.partition("/")[0]) != MASTER}

    def check(self, shapes: Mapping[str, torch.Size]) -> None:
        """Refuse what does not hold each parameter's master whole, with all of its optimizer's state or none.

        Raises:
            ValueError: naming the first such tensor.
        """
        for name, shape in shapes.items():
            found = {kind for kind in self._kinds if f"{kind}/{name}" in self._opened}
            if f"{MASTER}/{name}" not in self._opened or found not in (set(), self._kinds):
                raise ValueError(f"no state for {name}")
            for kind, tensor in self.read(name).items():
                if tensor.shape != (shape if kind != "step" else torch.Size()) or not bool(tensor.isfinite().all()):
                    raise ValueError(f"{kind} of {name} is damaged: of another shape, or not finite")

    def read(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one parameter by kind, on the CPU: ``master``, ``exp_avg``, ``exp_avg_sq``, ``step``.

        A parameter that never had a gradient has its master alone.
        """
        found = {kind: f"{kind}/{name}" for kind in (MASTER, *sorted(self._kinds))}
        return {kind: self._opened[one].get_tensor(one) for kind, one in found.items() if one in self._opened}
