"""What experts in PEFT folders tell of the base that they were trained on, and the refusal of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava_moe.adapters.formats.native_format import read_settings
from llava_moe.adapters.formats.projector import read_projector
from llava_moe.adapters.methods.mole_experts import adapter_folder
from llava_moe.assemble import Assembled, refuse_strange_base
from llava_moe.compose.base_parts import run_of
from llava_moe.errors import UserError
from llava_moe.files.regular_file import check_regular
from llava_moe.model.adapter_record import refuse_other_adapter
from llava_moe.model.families.protocol import Family
from llava_moe.model.families.published_name import published_name


@dataclass(frozen=True)
class ExpertBase:
    """What one PEFT folder tells of its base.

    Attributes:
        expert: the folder as the user named it.
        projector: the projector that it carries, by names in the model.
        files: where each tensor of the base beside it is, by published name.
    """

    expert: str
    projector: Mapping[str, Tensor]
    files: Mapping[str, Path]

    def tensor(self, name: str, family: Family) -> Tensor | None:
        """The tensor of this name in the model, or ``None`` where the folder tells nothing of it.

        Raises:
            UserError: there is a base beside it that lacks the tensor, or whose file cannot be read.
        """
        if name in self.projector:
            return self.projector[name]
        if not self.files:
            return None
        published = published_name(name, family)
        key = next((key for key in (published, published.replace(".vision_model.", ".")) if key in self.files), None)
        if key is None:
            raise UserError(f"experts: the base beside {self.expert} has no {published}: it is another model's")
        with _opened(self.files[key]) as file:
            tensor: Tensor = file.get_tensor(key)
        return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): export again, or copy it again") from error


def _names_in(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def refuse_other_bases(experts: Sequence[object], assembled: Assembled) -> tuple[str, ...]:
    """Refuse experts that were trained on another base than the one that was opened.

    Returns:
        Lines to tell of those whose base cannot be told.

    Raises:
        UserError: naming the first of them.
    """
    notes: list[str] = []
    for expert in experts:
        if isinstance(expert, str) and (run := run_of(expert)) is not None:
            notes += refuse_strange_base(run, assembled.weights, is_start=True)
        elif isinstance(expert, str):
            ground = expert_base_of(expert)
            has_own_base = ground is not None and bool(ground.files)
            note = refuse_other_adapter(adapter_folder(Path(expert)), assembled.weights, has_own_base=has_own_base)
            notes += [note] if note else []
    return tuple(notes)


def expert_base_of(expert: str) -> ExpertBase | None:
    """What a PEFT folder tells of its base, or ``None`` where it tells nothing."""
    folder = adapter_folder(Path(expert))
    named = read_settings(folder).get("base_model_name_or_path")
    beside = folder / named if isinstance(named, str) and named and not Path(named).is_absolute() else None
    files: dict[str, Path] = {}
    for path in sorted(beside.glob("*.safetensors")) if beside is not None and beside.is_dir() else ():
        files |= dict.fromkeys(_names_in(path), path)
    projector = read_projector(folder)
    return ExpertBase(expert, projector, files) if projector or files else None
