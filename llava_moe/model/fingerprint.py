"""A name for the weights of a base model: the same for every stage and adapter that stands on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

_SAMPLED_VALUES = 4096
PROJECTOR = "multi_modal_projector"


def base_fingerprint(model: nn.Module) -> str:
    """16 hex digits over the tensors of vision tower and language model: their names, shapes and values.

    The projector does not count: a stage trains it or draws it. Values count as rounded to bfloat16, so that a base
    opened in bf16 and in fp32 is one. Of a tensor with more than 4,096 values, as many are read at even distance.

    Args:
        model: a LLaVA model as its base was opened: no adapter on it, no trained weights in it.
    """
    return _fingerprint({name: tensor for name, tensor in model.state_dict().items() if PROJECTOR not in name})


def layers_fingerprint(model: nn.Module) -> str:
    """As :func:`base_fingerprint`, without the tables of tokens, in which the rows of new ones round by precision."""
    left_out = (PROJECTOR, "embed_tokens", "lm_head")
    return _fingerprint({n: t for n, t in model.state_dict().items() if not any(part in n for part in left_out)})


def projector_fingerprint(model: nn.Module) -> str:
    """As :func:`base_fingerprint`, of the projector alone."""
    return _fingerprint({name: tensor for name, tensor in model.state_dict().items() if PROJECTOR in name})


def tower_fingerprint(model: LlavaForConditionalGeneration) -> str:
    """16 hex digits over all that decides what the projector reads of an image: the tower to the last bit.

    Unlike the others it tells a tower in bf16 from one in fp32, and sees every value: one that was trained a little
    is another.
    """
    told = model.config.vision_config.to_dict()  # type: ignore[union-attr]
    facts = (sorted(told.items()), model.config.vision_feature_layer, model.config.vision_feature_select_strategy)
    digest = hashlib.sha256(repr(facts).encode())
    for name, tensor in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
        digest.update(tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() // _SAMPLED_VALUES)
        digest.update(flat[::stride].to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
