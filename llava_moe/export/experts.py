"""One expert of a mixture as the plain LoRA that it is: its tensors, and the PEFT settings that carry its ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.formats.peft_format import write_peft_folder
from llava_moe.export.constant_gates import banks, scale_in_gate, spans, wide_linears


@dataclass(frozen=True)
class Part:
    """A LoRA on one linear: A [r, D], B [O, r] and s."""

    lora_A: Tensor
    lora_B: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """r."""
        return int(self.lora_A.shape[0])

    @property
    def lora_alpha(self) -> float:
        """The numerator with which PEFT's alpha / r is s."""
        return round(self.scale * self.rank, 9)


def expert_parts(model: nn.Module, expert: str | None) -> dict[str, Part]:
    """The LoRA of every linear when one expert serves all tokens, by module name.

    A linear without experts gives its one LoRA; a bank that does not have the expert gives nothing.
    """
    parts, chosen_from = {}, banks(model) if expert else {}
    for name, wide in wide_linears(model).items():
        lora_A, lora_B, scale = wide.lora_A.detach(), wide.lora_B.detach(), wide.scale
        if name in chosen_from:
            if expert is None or expert not in wide.ranks:
                continue
            scale *= scale_in_gate(wide, expert)
            writes, reads = spans(wide.ranks), spans(wide.read_ranks)
            lora_A = lora_A[reads.get(expert) or next(iter(reads.values()))]
            lora_B = lora_B[:, writes[expert]]
        parts[name] = Part(lora_A.cpu().clone(), lora_B.cpu().clone(), scale)
    return parts


def write_expert(
    folder: Path, bare: nn.Module, parts: Mapping[str, Part], settings: Mapping[str, Any], saved: Mapping[str, Tensor]
) -> None:
    """Write a PEFT folder for parts of any ranks and scales.

    Args:
        folder: made when it is not there.
        bare: the model without its adapter.
        settings: further settings of PEFT's, such as the name of the base.
        saved: tensors of modules that are saved whole, by their names in ``bare``.
    """
    target_model = TargetModel.of(bare)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, part in parts.items():
        tensors[f"{target_model.short(name)}.lora_A.weight"] = part.lora_A
        tensors[f"{target_model.short(name)}.lora_B.weight"] = part.lora_B
    write_peft_folder(folder, target_model, peft_settings(target_model, parts) | dict(settings), tensors, saved)


def peft_settings(target_model: TargetModel, parts: Mapping[str, Part]) -> dict[str, Any]:
    """PEFT's settings: the commonest rank and alpha, and patterns for the linears that have others."""
    rank = Counter(part.rank for part in parts.values()).most_common(1)[0][0]
    alpha = Counter(part.lora_alpha for part in parts.values()).most_common(1)[0][0]
    leaves = sorted({name.rpartition(".")[2] for name in parts})
    return {
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "target_modules": target_model.peft_targets(leaves, parts),
        "use_rslora": False,
        "rank_pattern": {name: part.rank for name, part in parts.items() if part.rank != rank},
        "alpha_pattern": {name: part.lora_alpha for name, part in parts.items() if part.lora_alpha != alpha},
    }
