"""A base model's fingerprint follows its weights, and neither its projector nor its precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from llava_moe.model import FromShape, build_base
from llava_moe.model.fingerprint import base_fingerprint
from tests.model.tiny_checkpoints import TEXT, VISION


def test_another_base_of_the_same_shape_has_another_fingerprint(tokenizer_folder: Path) -> None:
    shape = FromShape(vision=VISION, text=TEXT, tokenizer=str(tokenizer_folder))
    model = build_base(shape, torch.float32).model
    named = base_fingerprint(model)
    assert base_fingerprint(build_base(shape, torch.bfloat16, seed=7).model) == named
    assert base_fingerprint(build_base(replace(shape, seed=1), torch.float32).model) != named
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight.add_(1)
    assert base_fingerprint(model) == named
    for part in (model.model.vision_tower, model.model.language_model, model.lm_head):
        parameter = [one for one in part.parameters() if one.ndim > 1][-1]
        with torch.no_grad():
            parameter[0, 0] += 1
        assert base_fingerprint(model) != named
        with torch.no_grad():
            parameter[0, 0] -= 1
