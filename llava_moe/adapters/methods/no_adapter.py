"""No adapter: the marker with which a run says that the base model itself trains (or nothing but the projector)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.formats.native_format import write_folder


@dataclass(frozen=True)
class NoAdapter:
    """Attaching it leaves the model untouched; the handle has no parameters, no routing and a balance loss of 0."""

    method: ClassVar[str] = "none"
    decides_per_example: ClassVar[bool] = False

    def build(self, target_model: TargetModel, segments: Segments) -> Injection:
        """Nothing."""
        return Injection()

    def write(self, folder: Path, target_model: TargetModel, tensors: Mapping[str, Tensor]) -> None:
        """Write a folder that :func:`~llava_moe.adapters.load_adapter` reads back as no adapter."""
        write_folder(folder, target_model, self.method, asdict(self), tensors)
