"""LoRAs merged into one without training, by PEFT's ``add_weighted_adapter``. The only file here that uses PEFT."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava_moe.adapters import Lora, load_adapter
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.formats.peft_format import write_peft_folder
from llava_moe.adapters.formats.peft_library import import_peft
from llava_moe.adapters.methods.mole_experts import ReadExpert, read_experts
from llava_moe.errors import UserError

METHODS = ("linear", "normalized_linear", "svd", "ties", "dare_ties")
# What PEFT calls them. TIES and DARE speak of weights, so they are applied to the deltas B A, not to A and B apart.
COMBINATIONS = {
    "linear": "cat",
    "normalized_linear": "cat",
    "svd": "svd",
    "ties": "ties_svd",
    "dare_ties": "dare_ties_svd",
}
MERGED = "merged"


@dataclass(frozen=True)
class StaticMerge:
    """A merge: W + sum_i w_i * s_i * B_i A_i, or what its method makes of the terms of that sum.

    - ``linear``: the sum itself (MoLE, arXiv 2404.13628, eq. 1, with w_i = 1; PEFT's ``cat``, which is exact for any
      ranks; its rank is the sum of theirs).
    - ``normalized_linear``: with the w_i divided by their sum (eq. 2; 1/N by default).
    - ``svd``: the sum, by its largest singular values.
    - ``ties``: each term cut to its largest values, signs elected, what agrees added (arXiv 2306.01708); then SVD.
    - ``dare_ties``: each term's values dropped at random and rescaled, then as TIES (arXiv 2311.03099).

    Attributes:
        method: one of these.
        weights: w_i; ``None`` is 1 each.
        density: share of values that TIES and DARE keep.
        rank: of what an SVD leaves; ``None``: the largest of the experts'.
        seed: of what DARE drops.
        layers: decoder layers in which the merge is active; elsewhere the base is as it was (MoLE, table 5). ``None``:
            wherever the experts are.

    Raises:
        UserError: a value is out of range.
    """

    method: str
    weights: tuple[float, ...] | None = None
    density: float = 0.5
    rank: int | None = None
    seed: int = 0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method={self.method} must be mole or one of {', '.join(METHODS)}")
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
            if not all(map(math.isfinite, self.weights)):
                raise UserError(f"weights={list(self.weights)} must be finite numbers")
        if not 0 < self.density <= 1:
            raise UserError(f"density={self.density} must be above 0 and at most 1")
        if self.rank is not None and (type(self.rank) is not int or self.rank < 1):
            raise UserError(f"rank={self.rank} must be a whole number of at least 1")
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
            if not self.layers:
                raise UserError("layers=[] leaves nothing of the merge: name decoder layers, such as layers=[0,1]")

    def active(self, read: Sequence[ReadExpert], target_model: TargetModel) -> list[ReadExpert]:
        """The experts with what they have in ``layers``.

        Raises:
            UserError: the model has no such layer, or an expert adapts none of them.
        """
        if self.layers is None:
            return list(read)
        if strange := [layer for layer in self.layers if not 0 <= layer < target_model.num_layers]:
            raise UserError(
                f"layers={list(self.layers)}: the model has layers 0 to {target_model.num_layers - 1}, no {strange[0]}"
            )
        found = []
        for one in read:
            targets = tuple(target for target in one.expert.targets if target_model.layer_of(target) in self.layers)
            if not targets:
                raise UserError(f"layers={list(self.layers)}: {one.expert.origin} adapts none of them")
            tensors = {
                name: tensor for name, tensor in one.tensors.items() if target_model.layer_of(name) in self.layers
            }
            found.append(ReadExpert(replace(one.expert, targets=targets), tensors))
        return found

    def rank_for(self, read: Sequence[ReadExpert], target_model: TargetModel) -> int | None:
        """What an SVD leaves of each delta: ``rank``, or the largest of the experts' that can be; ``None`` without one.

        Raises:
            UserError: ``rank`` is above the smaller side of a linear, which has no more singular values.
        """
        if COMBINATIONS[self.method] == "cat":
            return None
        sides = {
            target: min(target_model.linears[f"{target_model.root}{target}"].weight.shape)
            for one in read
            for target in one.expert.targets
        }
        narrowest = min(sides, key=lambda target: sides[target])
        if self.rank is not None and self.rank > sides[narrowest]:
            raise UserError(
                f"rank={self.rank}: {narrowest} has {sides[narrowest]} singular values, so {sides[narrowest]} is the "
                f"largest rank that method={self.method} can leave: give rank=1 to rank={sides[narrowest]}"
            )
        return self.rank or min(max(one.expert.r for one in read), sides[narrowest])

    def weights_of(self, num_experts: int) -> list[float]:
        """w_i for each expert.

        Raises:
            UserError: there are not as many, or their sum is 0 where they are divided by it.
        """
        weights = list(self.weights or [1.0] * num_experts)
        if len(weights) != num_experts:
            raise UserError(f"weights={weights} must be {num_experts} numbers, one for each expert")
        if self.method != "normalized_linear":
            return weights
        total = sum(weights)
        if not total:
            raise UserError(f"weights={weights} sum to 0, and method=normalized_linear divides by their sum")
        return [weight / total for weight in weights]


def merge(model: nn.Module, experts: Sequence[str], how: StaticMerge, out: Path) -> Lora:
    """Merge LoRAs into one and write it as a PEFT folder.

    Args:
        model: the bare model that they were trained on; it is as it was afterwards.
        experts: folders, as :class:`~llava_moe.adapters.Mole` takes them.
        out: made when it is not there.

    Returns:
        The settings of the merged LoRA.

    Raises:
        UserError: PEFT is missing, an expert does not fit the model or has nothing in the merge's layers, or the merge
            changes nothing.
    """
    peft, target_model = import_peft("merging without training is PEFT's work"), TargetModel.of(model)
    read = how.active(read_experts(experts, target_model), target_model)
    weights, rank = how.weights_of(len(read)), how.rank_for(read, target_model)
    with tempfile.TemporaryDirectory() as place, torch.random.fork_rng(devices=[]):
        folders = [_write_plainly(one, target_model, Path(place) / one.expert.name) for one in read]
        attached = load_adapter(
            model, _merge_by_peft(peft, model, folders, weights, replace(how, rank=rank), Path(place))
        )
    try:
        if not _changes_anything(attached.state_dict()):
            raise UserError(
                f"method={how.method} weights={weights}: the merged LoRA changes nothing (every B A is zero): give "
                "other weights, or experts that were trained"
            )
        attached.save(out)
    finally:
        attached.detach()
    assert isinstance(attached.config, Lora)
    return attached.config


def _merge_by_peft(
    peft: Any, model: nn.Module, folders: Sequence[Path], weights: Sequence[float], how: StaticMerge, place: Path
) -> Path:
    """Let PEFT merge plain folders; return the folder that it wrote. The model is bare again afterwards."""
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    names = [folder.name for folder in folders]
    wrapped = peft.PeftModel.from_pretrained(model, str(folders[0]), adapter_name=names[0])
    try:
        for folder in folders[1:]:
            wrapped.load_adapter(str(folder), adapter_name=folder.name)
        torch.manual_seed(how.seed)
        wrapped.add_weighted_adapter(
            names,
            list(weights),
            MERGED,
            combination_type=COMBINATIONS[how.method],
            density=how.density,
            svd_rank=how.rank,
            svd_full_matrices=False,
        )
        wrapped.save_pretrained(place, selected_adapters=[MERGED])
    finally:
        wrapped.unload()
        for parameter, was_trained in trained.items():
            parameter.requires_grad_(was_trained)
    return place / MERGED


def _write_plainly(one: ReadExpert, target_model: TargetModel, folder: Path) -> Path:
    """An expert as PEFT merges it without surprises: the result takes the first one's settings, its rslora too."""
    expert = one.expert
    folder.mkdir()
    settings = {
        "r": expert.r,
        "lora_alpha": expert.scale * expert.r,
        "lora_dropout": 0.0,
        "target_modules": [f"{target_model.root}{target}" for target in expert.targets],
        "use_rslora": False,
    }
    write_peft_folder(folder, target_model, settings, one.tensors)
    return folder


def _changes_anything(tensors: dict[str, torch.Tensor]) -> bool:
    for name, a_rD in tensors.items():
        if name.endswith("lora_A.weight"):
            b_Or = tensors[name.replace("lora_A", "lora_B")]
            # |B A|^2 = trace(B^T B A A^T): no [O, D] product.
            square = ((b_Or.double().T @ b_Or.double()) * (a_rD.double() @ a_rD.double().T)).sum()
            if float(square) > 0:
                return True
    return False
