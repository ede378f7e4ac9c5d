"""Plain LoRA (arXiv 2106.09685): M(x) = I. Its folder is a PEFT folder as it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.sizes_asked import refuse_oversized
from llava_moe.adapters.core.target_model import ALL_LINEARS, TargetModel
from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.adapters.formats.peft_format import write_peft_folder
from llava_moe.errors import UserError

# Beyond it the scale leaves what half precision can hold, and every answer is NaN.
MOST_ALPHA = 1_000_000


@dataclass(frozen=True)
class Lora:
    """y = W x + s * B A x with s = lora_alpha / r, or lora_alpha / sqrt(r) with ``use_rslora`` (arXiv 2312.03732).

    Attributes:
        r: rank.
        lora_alpha: the scale's numerator.
        lora_dropout: probability of zeroing an element of A's input in training.
        target_modules: linears of the language model, as PEFT takes them: names, ends of names, or one regular
            expression for the full name.
        use_rslora: see above.

    Raises:
        UserError: a value is out of range.
    """

    method: ClassVar[str] = "lora"
    decides_per_example: ClassVar[bool] = False

    r: int = 32
    lora_alpha: float = 64
    lora_dropout: float = 0.0
    target_modules: str | Sequence[str] = ALL_LINEARS
    use_rslora: bool = False

    def __post_init__(self) -> None:
        check_low_rank(self.r, self.lora_alpha, self.lora_dropout)
        object.__setattr__(self, "target_modules", frozen_targets(self.target_modules))

    def build(self, target_model: TargetModel, segments: Segments) -> Injection:
        """A bank of one unnamed expert on every target."""
        scale = low_rank_scale(self.r, self.lora_alpha, self.use_rslora)
        chosen = target_model.select(self.target_modules)
        refuse_oversized(chosen, {"r": self.r}, self.r)
        return Injection(
            {name: WideLinear(base, {"": self.r}, scale, dropout=self.lora_dropout) for name, base in chosen.items()}
        )

    def write(self, folder: Path, target_model: TargetModel, tensors: Mapping[str, Tensor]) -> None:
        """Write a PEFT folder: ``adapter_config.json`` and ``adapter_model.safetensors``."""
        settings = {
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": target_model.peft_targets(self.target_modules, target_model.select(self.target_modules)),
            "use_rslora": self.use_rslora,
        }
        write_peft_folder(folder, target_model, settings, tensors)


def low_rank_scale(r: int, lora_alpha: float, use_rslora: bool) -> float:
    """s of y = W x + s * B A x."""
    return lora_alpha / (math.sqrt(r) if use_rslora else r)


def frozen_targets(target_modules: str | Sequence[str]) -> str | tuple[str, ...]:
    """Targets in a form that cannot change and compares by value."""
    return target_modules if isinstance(target_modules, str) else tuple(target_modules)


def check_low_rank(r: int, lora_alpha: float, lora_dropout: float) -> None:
    """Refuse what no low-rank adapter can be built from."""
    if r < 1:
        raise UserError(f"r={r} must be at least 1")
    if not 0 < lora_alpha <= MOST_ALPHA:
        raise UserError(f"lora_alpha={quote_value(lora_alpha)} must be above 0 and at most {MOST_ALPHA}")
    if not 0 <= lora_dropout < 1:
        raise UserError(f"lora_dropout={lora_dropout} must be at least 0 and below 1")
