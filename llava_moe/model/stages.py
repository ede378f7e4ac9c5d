"""Which parts train in a stage, and at what learning rate.

| stage | trains | source |
|---|---|---|
| LLaVA-1.5 pretrain | projector at 1e-3 | haotian-liu/LLaVA scripts/v1_5/pretrain.sh |
| ShareGPT4V pretrain | CLIP layers 12-22, projector, language model at 2e-5 | ShareGPT4V scripts/sharegpt4v |
| LLaVA-1.5 instruct, LoRA | adapter at 2e-4, projector at 2e-5 | scripts/v1_5/finetune_lora.sh |
| LLaVA-1.5 instruct, full | projector and language model at 2e-5 | scripts/v1_5/finetune.sh |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn
from transformers import LlavaForConditionalGeneration

from llava_moe.errors import UserError
from llava_moe.model.build import vision_config
from llava_moe.model.kinds import feature_layers

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
            near = get_close_matches(unknown[0], PARTS, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
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
    model: LlavaForConditionalGeneration, parts: TrainableParts, adapter: Mapping[str, nn.Parameter]
) -> list[ParameterGroup]:
    """Set ``requires_grad`` on every parameter and return what trains, grouped by part.

    Args:
        adapter: the adapter's parameters by name (empty when there is none).

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
        chosen = dict(adapter) if part == "adapter" else _of_part(model, named, part, parts.vision_layers)
        if not chosen:
            raise UserError(f"stage.learning_rates.{part} is set, but the model has no {part}: remove it or add one")
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        groups.append(ParameterGroup(part, rate, chosen))
    return groups


def _of_part(
    model: LlavaForConditionalGeneration,
    named: Mapping[str, nn.Parameter],
    part: str,
    vision_layers: tuple[int, int] | None,
) -> dict[str, nn.Parameter]:
    if part == "projector":
        return {name: p for name, p in named.items() if "multi_modal_projector" in name}
    if part == "language_model":
        return {name: p for name, p in named.items() if "language_model" in name or name.startswith("lm_head")}
    # Hidden state 0 is what goes into layer 0, and the last one what comes out of the last layer.
    num_states = vision_config(model).num_hidden_layers + 1
    last_read = max(layer % num_states for layer in feature_layers(model.config)) - 1
    layer_of = re.compile(r"vision_tower\..*encoder\.layers\.(\d+)\.")
    if vision_layers is None:
        tower = {name: p for name, p in named.items() if "vision_tower" in name and _is_before_layers(name)}
        first, last = 0, last_read
    else:
        tower = {}
        first, last = vision_layers
    if not 0 <= first <= last <= last_read:
        raise UserError(
            f"stage.vision_layers={[first, last]}: the tower's layers that are read are 0 to {last_read} "
            f"(the feature layer is {model.config.vision_feature_layer})"
        )
    return tower | {
        name: p for name, p in named.items() if (found := layer_of.search(name)) and first <= int(found[1]) <= last
    }


def _is_before_layers(name: str) -> bool:
    """Whether a parameter of the tower stands before its layers; what stands behind them is not read."""
    # CLIP spells its norm so.
    return ".embeddings." in name or "pre_layrnorm" in name
