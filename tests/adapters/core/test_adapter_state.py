"""An adapter's tensors by the names of its files, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llava_moe.adapters.core.adapter_parameters import AdapterParameters
from llava_moe.adapters.core.adapter_state import AdapterState
from llava_moe.adapters.core.injector import Injector
from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.errors import UserError
from tests.tiny_models import smallest_llama

SHAPES = {
    **{f"layers.0.mlp.up_proj.experts.{k}.lora_A.weight": (2, 16) for k in range(2)},
    **{f"layers.0.mlp.up_proj.experts.{k}.lora_B.weight": (24, 2) for k in range(2)},
    "layers.0.extra.weight": (1, 1),
}


class Writer:
    """Keeps what it is told to write."""

    method = "written"

    def __init__(self) -> None:
        self.written: dict[str, Tensor] = {}

    def write(self, folder: Path, target_model: TargetModel, tensors: Any) -> None:
        self.written = dict(tensors)


def put_on() -> tuple[AdapterState, Writer, AdapterParameters]:
    target_model, writer = TargetModel.of(smallest_llama()), Writer()
    ranks = {"experts.0": 2, "experts.1": 2}
    linears = {name: WideLinear(base, ranks, 1.0) for name, base in target_model.select(["up_proj"]).items()}
    injection = Injection(linears, modules={"model.layers.0.extra": nn.Linear(1, 1, bias=False)})
    Injector(target_model, injection, Segments(), "lean").put_in()
    parameters = AdapterParameters(target_model, injection)
    return AdapterState(writer, target_model, injection, parameters), writer, parameters  # type: ignore[arg-type]


def test_tensors_are_views_one_pair_for_each_expert() -> None:
    state, _, parameters = put_on()
    tensors = state.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == SHAPES
    tensors["layers.0.mlp.up_proj.experts.1.lora_B.weight"].fill_(7)
    assert parameters.named()["model.layers.0.mlp.up_proj.lora_B"][:, 2:].eq(7).all()


def test_what_is_loaded_is_there_and_what_does_not_fit_is_named() -> None:
    state, _, _ = put_on()
    tensors = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    state.load_state_dict(tensors)
    assert all(torch.equal(state.state_dict()[name], tensor) for name, tensor in tensors.items())
    del tensors["layers.0.extra.weight"]
    for name in ("a", "b", "c", "d"):
        tensors[name] = torch.zeros(1)
    with pytest.raises(UserError, match=r"missing: layers\.0\.extra\.weight; unexpected: a, b, c and 1 more$"):
        state.load_state_dict(tensors)
    state.load_state_dict(tensors, strict=False)
    with pytest.raises(UserError, match=r"wrong shape: layers\.0\.extra\.weight is \(2,\) but must be \(1, 1\)$"):
        state.load_state_dict({"layers.0.extra.weight": torch.zeros(2)}, strict=False)


def test_given_tensors_are_written_in_place_of_the_live(tmp_path: Path) -> None:
    state, writer, _ = put_on()
    state.save(tmp_path / "a" / "b", {"model.layers.0.extra.weight": torch.full((1, 1), 5.0)})
    assert (tmp_path / "a" / "b").is_dir() and writer.written.keys() == SHAPES.keys()
    assert writer.written["layers.0.extra.weight"].item() == 5
    with pytest.raises(ValueError, match="not parameters of this adapter: stranger"):
        state.save(tmp_path, {"stranger": torch.zeros(1)})
