"""What the projector reads of an image, taken from the tower once; and a model that is given it in the place of pixels.

Shape letters: I images, T vectors of an image, W their width, H height.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llava_moe.errors import UserError


def refuse_changing_tower(model: LlavaForConditionalGeneration) -> None:
    """Refuse a tower that does not say the same of an image at every step.

    Raises:
        UserError: some of it trains, or it drops numbers at random.
    """
    tower: nn.Module = model.model.vision_tower
    if any(parameter.requires_grad for parameter in tower.parameters()):
        raise UserError(
            "model.cache_features: the vision tower trains, so the features of an image change with every step: take "
            "model.cache_features=off, or freeze the tower"
        )
    config: Any = model.config.vision_config
    rates = {name: rate for name, rate in config.to_dict().items() if "dropout" in name and rate}
    if rates:
        name, rate = next(iter(rates.items()))
        raise UserError(
            f"model.cache_features: the vision tower drops numbers at random ({name}={rate} of its config.json), so "
            "the features of an image differ from step to step: take model.cache_features=off"
        )


@torch.no_grad()
def features_of(model: LlavaForConditionalGeneration, pixels_3HW: torch.Tensor) -> torch.Tensor:
    """What the projector reads of one image: ``[T, W]`` in the model's dtype, on its device.

    It is caught at the projector's door, so that the layer, the class token and their order are the model's own.

    Args:
        pixels_3HW: normalised, in the model's dtype.
    """
    caught: list[torch.Tensor] = []
    projector: nn.Module = model.model.multi_modal_projector
    hook = projector.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        model.model.get_image_features(pixel_values=pixels_3HW[None], return_dict=True)
    finally:
        hook.remove()
    return caught[0][0]


def num_dropped_in_front(model: LlavaForConditionalGeneration) -> int:
    """Vectors in front of an image's features, in the same tensor, that the projector does not read.

    Several feature layers are joined into a tensor of its own, in which nothing stands in front.
    """
    is_one = not isinstance(model.config.vision_feature_layer, list | tuple)
    return int(is_one and model.config.vision_feature_select_strategy == "default")


def accept_features(model: LlavaForConditionalGeneration) -> None:
    """Let ``pixel_values`` also be features ``[I, T, W]``: they go to the projector, past the tower.

    It is done inside the model's own forward, where engines that spread weights over devices expect the projector.
    """
    inner = model.model
    from_pixels = inner.get_image_features

    def get_image_features(pixel_values: torch.Tensor, **others: Any) -> Any:
        if pixel_values.ndim != 3:
            return from_pixels(pixel_values=pixel_values, **others)
        return BaseModelOutputWithPooling(pooler_output=list(inner.multi_modal_projector(pixel_values)))  # type: ignore[arg-type]

    inner.get_image_features = get_image_features
