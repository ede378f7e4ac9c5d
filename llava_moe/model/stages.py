"""Which parts train in a stage, and at what learning rate.

| stage | trains | source |
|---|---|---|
| LLaVA-1.5 pretrain | projector at 1e-3 | haotian-liu/LLaVA scripts/v1_5/pretrain.sh |
| ShareGPT4V pretrain | CLIP layers 12-22, projector, language model at 2e-5 | ShareGPT4V scripts/sharegpt4v |
| LLaVA-1.5 instruct, LoRA | adapter at 2e-4, projector at 2e-5 | scripts/v1_5/finetune_lora.sh |
| LLaVA-1.5 instruct, full | projector and language model at 2e-5 | scripts/v1_5/finetune.sh |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers import LlavaForConditionalGeneration

from llava_moe.errors import UserError
from llava_moe.model.families import Family
from llava_moe.text.did_you_mean import did_you_mean

PARTS = ("adapter", "projector", "language_model", "vision_tower")


@dataclass(frozen=True)
class TrainableParts:
    """Learning rates by part; a part that is not named is frozen.

    Attributes:
        learning_rates: part (``adapter``, ``projector``, ``language_model``, ``vision_tower``) -> rate.
        vision_layers: first and last encoder layer of the vision tower that trains, both included; None: all of the
            tower that the feature layer reads.
    """

    learning_rates: Mapping[str, float]
    vision_layers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.learning_rates) - set(PARTS))
        if unknown:
            hint = did_you_mean(unknown[0], PARTS)
            raise UserError(
                f"stage.learning_rates names unknown part {unknown[0]}{hint}: the parts are {', '.join(PARTS)}"
            )
        if not self.learning_rates:
            raise UserError(
                "stage.learning_rates is empty, so nothing would train: give a part its rate, such as "
                "stage.learning_rates.projector=2e-5"
            )
        if "vision_tower" not in self.learning_rates and self.vision_layers is not None:
            raise UserError(
                f"stage.vision_layers={list(self.vision_layers)}: the vision tower is frozen; give its rate, "
                "stage.learning_rates.vision_tower=2e-5, or leave the layers out"
            )


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate, by their names in the model."""

    part: str
    learning_rate: float
    parameters: Mapping[str, nn.Parameter]

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())


def prepare_stage(
    model: LlavaForConditionalGeneration,
    parts: TrainableParts,
    adapter: Mapping[str, nn.Parameter],
    family: Family,
) -> list[ParameterGroup]:
    """Set ``requires_grad`` on every parameter and return what trains, grouped by part.

    Args:
        adapter: the adapter's parameters by name (empty when there is none).
        family: of the model; it knows its parts.

    Raises:
        UserError: the stage trains an adapter and there is none, or names layers that the tower does not have or
            whose output is not read.
    """
    of_adapter = {id(parameter) for parameter in adapter.values()}
    named = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in of_adapter}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    groups = []
    for part, rate in parts.learning_rates.items():
        is_adapter = part == "adapter"
        chosen = dict(adapter) if is_adapter else family.parameters_of(model, named, part, parts.vision_layers)
        if not chosen:
            raise UserError(f"stage.learning_rates.{part} is set, but the model has no {part}: remove it or add one")
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        groups.append(ParameterGroup(part, rate, chosen))
    return groups
