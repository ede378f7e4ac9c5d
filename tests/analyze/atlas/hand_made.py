"""A LLaVA whose routers are set by hand, so that what the atlas must show is known.

Attention and MLPs add nothing, so the residual stream is the embedding: a place of an image lies along the first axis,
words 10 to 19 along the second, words 20 to 29 along the third, all others along the fourth.
"""

from __future__ import annotations

import torch
from transformers import LlavaForConditionalGeneration

from llava_moe.adapters import Attached, LlavaMole, attach
from tests.tiny_models import tiny_llava

GAIN = 0.25


def transparent_llava() -> LlavaForConditionalGeneration:
    """The model before an adapter is on it."""
    model = tiny_llava()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "linear_2.weight")) and "vision" not in name:
                parameter.zero_()
            if name.endswith("multi_modal_projector.linear_2.bias"):
                parameter.zero_()[0] = 1.0
            if name.endswith("embed_tokens.weight"):
                parameter.zero_()
                parameter[:, 3] = 1.0
                for axis, words in ((1, slice(10, 20)), (2, slice(20, 30))):
                    parameter[words, 3], parameter[words, axis] = 0.0, 1.0
    return model


def routed_by_hand(expert_of_axis: list[list[int]], num_experts: int) -> Attached:
    """LLaVA-MoLE on it; ``expert_of_axis[layer][axis]`` is the expert that must serve what lies along an axis."""
    attached = attach(transparent_llava(), LlavaMole(num_experts=num_experts, r=2))
    routers = [module for name, module in attached.model.named_modules() if name.endswith("mlp.router")]
    with torch.no_grad():
        for router, experts in zip(routers, expert_of_axis, strict=True):
            router.weight.zero_()
            router.bias.zero_()
            for axis, expert in enumerate(experts):
                router.weight[expert, axis] = GAIN
    return attached
