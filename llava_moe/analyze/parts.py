"""The parts of an adapter's parameters: by decoder layer, by linear, and by side (A, B, router)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.assemble import Assembled
from llava_moe.errors import UserError

Scope = Literal["all", "side", "linear", "layer", "module", "part"]
SCOPES: tuple[Scope, ...] = ("all", "side", "linear", "layer", "module", "part")


@dataclass(frozen=True)
class Part:
    """The smallest part that is told apart: one side of one linear of one decoder layer.

    Attributes:
        layer: number of the decoder layer; None for what stands in none (the projector).
        linear: ``q_proj``; ``router`` for a router of a whole block, ``projector``.
        side: ``A`` and ``B`` of a LoRA; ``router`` for what decides or weighs; ``projector``.
    """

    layer: int | None
    linear: str
    side: str

    def member_of(self, scope: Scope) -> str:
        """The name of the group of parts that this one belongs to."""
        layer = "outside" if self.layer is None else f"layer {self.layer}"
        names = {"all": "all", "side": self.side, "linear": self.linear, "layer": layer}
        names |= {"module": f"{layer} {self.linear}", "part": f"{layer} {self.linear} {self.side}"}
        return names[scope]


_PROJECTOR = Part(None, "projector", "projector")


@dataclass(frozen=True)
class Parameters:
    """The parameters whose gradients are compared, in the model's order, each with its part."""

    names: tuple[str, ...]
    tensors: tuple[nn.Parameter, ...]
    parts: tuple[Part, ...]

    @property
    def num_values(self) -> int:
        """How many numbers they are."""
        return sum(tensor.numel() for tensor in self.tensors)

    def distinct_parts(self) -> tuple[Part, ...]:
        """Each part once, in the model's order."""
        return tuple(dict.fromkeys(self.parts))


def chosen_parameters(assembled: Assembled, with_projector: bool) -> Parameters:
    """The adapter's parameters that train, and the projector's where asked; nothing else gets a gradient afterwards.

    Raises:
        UserError: the adapter has none that train.
    """
    own, is_projectors = assembled.attached.trainable_parameters(), assembled.base.family.parts.is_projectors
    named = {
        name: tensor
        for name, tensor in assembled.model.named_parameters()
        if name in own or (with_projector and is_projectors(name))
    }
    if not named:
        raise UserError(f"the adapter ({assembled.attached.config.method}) has no parameters that train")
    for tensor in assembled.model.parameters():
        tensor.requires_grad_(False)
    for tensor in named.values():
        tensor.requires_grad_(True)
    linears = [name for name, module in assembled.model.named_modules() if isinstance(module, WideLinear)]
    parts = tuple(_PROJECTOR if is_projectors(name) else _part_of(name, linears) for name in named)
    return Parameters(tuple(named), tuple(named.values()), parts)


def _part_of(name: str, linears: Iterable[str]) -> Part:
    owner = next((linear for linear in linears if name.startswith(f"{linear}.")), None)
    layer = TargetModel.layer_of(name)
    if owner is None:
        # A router that a block shares among its linears, or a gate: named by where it stands.
        return Part(layer, "router", "router")
    side = {"lora_A": "A", "lora_B": "B"}.get(name.removeprefix(f"{owner}."), "router")
    return Part(layer, owner.rpartition(".")[2], side)


def members(parts: Sequence[Part], scope: Scope) -> dict[str, list[int]]:
    """Group name -> places in ``parts``, groups in the order in which they first occur."""
    found: dict[str, list[int]] = {}
    for place, part in enumerate(parts):
        found.setdefault(part.member_of(scope), []).append(place)
    return found
