"""LoRAs trained apart, as the experts of one model: where they lie, what they are, and their banks side by side.

Shape suffixes: B rows, T tokens, S examples, D in, O out, K experts of a linear, R bank width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_moe.adapters.core.field_types import first_misfit
from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.core.wide_linear import Gate, WideLinear
from llava_moe.adapters.formats.native_format import CONFIG_FILE, named, read_settings, read_tensors
from llava_moe.adapters.formats.projector import lora_alone
from llava_moe.adapters.methods.lora import low_rank_scale
from llava_moe.adapters.methods.peft_lora import read_lora
from llava_moe.errors import UserError
from llava_moe.files.checkpoint_names import checkpoint_folders
from llava_moe.files.our_files import read_text


@dataclass(frozen=True)
class Expert:
    """What one LoRA is, without its tensors.

    Attributes:
        name: of its tensors, ``<linear>.experts.<name>.lora_A.weight``.
        origin: the folder that it came from; for readers, never opened again.
        r, lora_alpha: as it was trained.
        scale: s of y = W x + s * B A x.
        targets: the linears that it adapts, by their module names without the root.
    """

    name: str
    origin: str
    r: int
    lora_alpha: float
    scale: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))


@dataclass(frozen=True)
class ReadExpert:
    """An expert with its tensors ``<linear>.lora_A.weight`` [r, D] and ``<linear>.lora_B.weight`` [O, r]."""

    expert: Expert
    tensors: Mapping[str, Tensor]


def read_experts(places: Sequence[str], target_model: TargetModel) -> list[ReadExpert]:
    """Read LoRAs from their folders and hold them against the model.

    Args:
        places: PEFT LoRA folders, or folders of runs or checkpoints that hold one.
        target_model: the model that they are to stand on.

    Raises:
        UserError: a folder holds no LoRA, or one of another base, or its tensors are not exactly those it should have.
    """
    folders = [adapter_folder(Path(place)) for place in places]
    return [_read(folder, name, target_model) for folder, name in zip(folders, _names(folders), strict=True)]


def adapter_folder(place: Path) -> Path:
    """The folder with an adapter's two files: the place itself, or in a checkpoint, or a run's newest checkpoint.

    Raises:
        UserError: there is none.
    """
    place = place.expanduser()
    stages = sorted(place.glob("[0-9]*-*"), key=lambda stage: int(re.match(r"\d+", stage.name)[0]))  # type: ignore[index]
    for run in [place, *reversed(stages)]:
        for folder in [run, run / "adapter", *(step / "adapter" for step in _complete_checkpoints(run))]:
            if (folder / CONFIG_FILE).is_file():
                return folder
    what = "does not exist" if not place.exists() else f"holds no adapter: no {CONFIG_FILE}, and no complete checkpoint"
    raise UserError(f"experts: {place} {what}; name the folder of a LoRA run or of a PEFT LoRA")


def _complete_checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, the newest first."""
    checkpoints = run / "checkpoints"
    pointer = checkpoints / "last"
    remedy = "write the name of a checkpoint into it, or delete it"
    named = [checkpoints / read_text(pointer, remedy).strip()] if pointer.is_file() else []
    found = [*named, *reversed(checkpoint_folders(checkpoints))]
    return [step for step in found if (step / "COMPLETE").is_file()]


def _names(folders: Sequence[Path]) -> list[str]:
    names: list[str] = []
    for folder in folders:
        parts = list(folder.absolute().parts)
        while len(parts) > 1 and re.fullmatch(r"adapter|step-\d+|checkpoints", parts[-1]):
            parts.pop()
        # A stage of an experiment, such as 2-instruct, says little without the experiment's name.
        words = parts[-2:] if re.match(r"\d+-", parts[-1]) else parts[-1:]
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(words)).strip("_") or "expert"
        number = 2
        while (unique := name if number == 2 else f"{name}-{number - 1}") in names:
            number += 1
        names.append(unique)
    return names


def _read(folder: Path, name: str, target_model: TargetModel) -> ReadExpert:
    settings = read_settings(folder)
    if "peft_type" not in settings:
        raise UserError(f"experts: {folder} is an adapter of method {quote_value(settings.get('method'))}, not a LoRA")
    settings, tensors = lora_alone(settings, read_tensors(folder))
    with named(folder):
        lora, tensors = read_lora(folder, settings, tensors, target_model)
        chosen = target_model.select(lora.target_modules)
    shapes = {
        f"{target_model.short(linear)}.lora_A.weight": (lora.r, base.in_features) for linear, base in chosen.items()
    }
    shapes |= {
        f"{target_model.short(linear)}.lora_B.weight": (base.out_features, lora.r) for linear, base in chosen.items()
    }
    wrong = sorted(shapes.keys() ^ tensors.keys())
    wrong += [key for key, shape in shapes.items() if key in tensors and tuple(tensors[key].shape) != shape]
    if wrong:
        what = "missing, unexpected or of another shape than its settings say"
        raise UserError(f"{folder}: {len(wrong)} tensors, such as {wrong[0]}, are {what}")
    scale = low_rank_scale(lora.r, lora.lora_alpha, lora.use_rslora)
    targets = tuple(target_model.short(linear) for linear in chosen)
    return ReadExpert(Expert(name, str(folder), lora.r, lora.lora_alpha, scale, targets), tensors)


class ExpertBank(WideLinear):
    """LoRAs of one linear side by side, frozen: y = W x + sum_i g_i * s_i * B_i A_i x, with g the gate's.

    Where all s_i are one, it is the bank's scale; otherwise the bank's scale is 1 and each s_i rides in the weight g_i.
    With a single expert there is no gate and it is that LoRA to the last bit.

    Args:
        experts: those that adapt this linear.
        all_experts: all experts on the model, in their order.
    """

    gate: Gate | None

    def __init__(self, base: nn.Linear, experts: Sequence[Expert], all_experts: Sequence[Expert]) -> None:
        scales = {expert.scale for expert in experts}
        ranks = {f"experts.{expert.name}": expert.r for expert in experts}
        super().__init__(base, ranks, scales.pop() if len(scales) == 1 else 1.0)
        self.experts, self.all_experts = tuple(experts), tuple(all_experts)
        self.kept: frozenset[str] | None = None
        self.lora_A.requires_grad_(False)
        self.lora_B.requires_grad_(False)

    def has(self, expert: str) -> bool:
        """Whether the expert of that name adapts this linear."""
        return f"experts.{expert}" in self.ranks

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy experts' tensors, named as :meth:`split` names them, into the bank."""
        lora_A_RD, lora_B_OR = self.join(tensors)
        with torch.no_grad():
            self.lora_A.copy_(lora_A_RD)
            self.lora_B.copy_(lora_B_OR)

    def deltas(self, z_SR: Tensor) -> Tensor:
        """What each expert alone would add, s_i B_i z_i end to end: [S, K * O] in the dtype of ``z_SR``."""
        sizes, scales = list(self.ranks.values()), {expert.scale for expert in self.experts}
        if len(set(sizes)) == len(scales) == 1:
            z_KSr = z_SR.unflatten(-1, (len(sizes), -1)).transpose(0, 1)
            b_KrO = self.lora_B.to(z_SR.dtype).unflatten(-1, (len(sizes), -1)).permute(1, 2, 0)
            return (z_KSr @ b_KrO).transpose(0, 1).flatten(1) * scales.pop()
        pairs = zip(self.experts, z_SR.split(sizes, 1), self.lora_B.to(z_SR.dtype).split(sizes, 1), strict=True)
        return torch.cat([expert.scale * F.linear(z_Sr, b_Or) for expert, z_Sr, b_Or in pairs], -1)

    def forward(self, x_BTD: Tensor, is_judged: bool = False) -> Tensor:
        """y [..., O]; where ``is_judged``, :meth:`deltas` of an input [S, D] instead.

        A gate outside asks here: the bank's parameters are whole only while the bank runs (ZeRO-3).
        """
        if not is_judged:
            is_silent = self.gate is None and self.kept is not None and self.experts[0].name not in self.kept
            return self.base(x_BTD) if is_silent else super().forward(x_BTD)
        with torch.autocast(x_BTD.device.type, enabled=False):
            return self.deltas(F.linear(x_BTD, self.lora_A.to(x_BTD.dtype)))


def as_expert(entry: Any) -> str | Expert:
    """An entry of ``experts``: a folder, or what an adapter's file says of an expert whose tensors lie beside it.

    Raises:
        UserError: it is neither.
    """
    if isinstance(entry, Expert):
        return entry
    if isinstance(entry, str | Path) and str(entry):
        return str(entry)
    if isinstance(entry, Mapping) and entry.keys() == Expert.__dataclass_fields__.keys():
        if misfit := first_misfit(Expert, entry):
            raise UserError(f"experts: {misfit}; write the adapter again")
        return Expert(**entry)
    raise UserError(f"experts holds {quote_value(entry)}: name folders of LoRAs, such as experts=[runs/a,runs/b]")
