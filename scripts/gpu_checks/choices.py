"""MixLoRA's choices of one step made again in another: rounding turns near ties around, and gradients with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from llava_moe.adapters.core.router import Routing
from llava_moe.adapters.methods import mixlora_gate
from scripts.gpu_checks.trained import TrainedStage


@contextmanager
def factors_noted() -> Iterator[list[Tensor]]:
    """The factors that gates choose while this is entered, in the order of their choices."""
    noted: list[Tensor] = []
    choose = mixlora_gate.strongest

    def choose_and_note(scores_UE: Tensor, r: int) -> Tensor:
        noted.append(choose(scores_UE, r))
        return noted[-1]

    mixlora_gate.strongest = choose_and_note
    try:
        yield noted
    finally:
        mixlora_gate.strongest = choose


@contextmanager
def factors_given(noted: list[Tensor]) -> Iterator[None]:
    """Gates take these factors, whatever they would choose.

    Raises:
        RuntimeError: they chose more or less often than was noted.
    """
    choose, left = mixlora_gate.strongest, list(noted)

    def take(scores_UE: Tensor, r: int) -> Tensor:
        if not left:
            raise RuntimeError("more choices are made than were noted")
        return left.pop(0)

    mixlora_gate.strongest = take
    try:
        yield
    finally:
        mixlora_gate.strongest = choose
    if left:
        raise RuntimeError(f"{len(left)} noted choices were not made again")


def other_choices(one: TrainedStage, other: TrainedStage) -> float:
    """The share of experts or factors that two stages chose differently in their last forward pass; 0 without any."""
    first, second = (_choices(stage) for stage in (one, other))
    differing = sum(int((first[name] != second[name]).sum()) for name in first)
    return differing / max(1, sum(chosen.numel() for chosen in first.values()))


def _choices(stage: TrainedStage) -> dict[str, Tensor]:
    attached = stage.assembled.attached
    routings = attached.routings() if attached.is_routed else {}
    chosen = {name: one.chosen_BT if isinstance(one, Routing) else one.chosen_SC for name, one in routings.items()}
    return {name: one for name, one in chosen.items() if one is not None}
