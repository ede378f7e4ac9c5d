"""What a checkpoint's files hold is judged before it is read into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llava_moe.assemble import load_base_parts, new_model
from llava_moe.errors import UserError
from tests.assemble.conftest import model_spec

CPU = torch.device("cpu")


def test_parts_that_are_not_finite_are_named_before_they_answer(architectures: dict[str, Any], tmp_path: Path) -> None:
    model = new_model(model_spec(architectures["shape"]), CPU).model
    name, weight = next((n, p) for n, p in model.named_parameters() if "multi_modal_projector" in n)
    path = tmp_path / "projector.safetensors"
    save_file({name: torch.zeros_like(weight)}, path)
    load_base_parts(model, tmp_path)
    for value in (float("nan"), float("inf")):
        save_file({name: torch.full_like(weight, value)}, path)
        with pytest.raises(UserError, match=r"projector\.safetensors: .* holds NaN or infinite weights"):
            load_base_parts(model, tmp_path)
