"""Which blocks are run as gated MLPs: by what their forward pass does, not by how it is written."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from llava_moe.adapters.core.gated_mlp import forward_gated_mlp, is_gated_mlp
from llava_moe.adapters.core.target_model import TargetModel
from tests.adapters.tiny_decoders import FAMILIES, Family

# Phi-3 reads gate and up with one linear; in the blocks of experts of Qwen2-MoE, the shared one is a gated MLP.
WITHOUT = ("phi3",)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@torch.no_grad()
def test_of_every_family_the_blocks_with_a_gate_and_no_others_are_gated_mlps(family: Family) -> None:
    model = TargetModel.of(family.build()).language_model
    found = {name: block for name, block in model.named_modules() if is_gated_mlp(block)}
    assert list(found) == [name for name, block in model.named_modules() if hasattr(block, "gate_proj")]
    assert bool(found) is (family.name not in WITHOUT)
    for block in found.values():
        x_BTD = torch.randn(2, 3, block.gate_proj.in_features)
        assert torch.equal(forward_gated_mlp(block, x_BTD), block(x_BTD))


class Block(nn.Module):
    """A gated MLP in other words than transformers'; those below differ from it."""

    limit = 1e30

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 2)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.up_proj(x), self.gate_proj(x)
        up *= self.act_fn(gate)
        return self.down_proj(up)


class Clamped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=self.limit)) * self.up_proj(x))


class Cast(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj((self.act_fn(self.gate_proj(x).float()) * self.up_proj(x).float()).to(x.dtype))


class Dropped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)), 0.5, self.training)


class DroppedInTraining(Block):
    """In eval mode, in which from_pretrained leaves a model, it is a plain product."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(F.dropout(h, 0.5) if self.training else h)


class Scaled(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) * 2


class Swapped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


class Squared(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x) * self.up_proj(x))


class Adding(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) + self.up_proj(x))


class Fixed(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Unplugged(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(F.linear(x, self.gate_proj.weight)) * self.up_proj(x))


class Looking(Block):
    def forward(self, x: Tensor) -> Tensor:
        assert x.any()
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class WithTwo(Block):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]  # refused on purpose
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(y))


class Sparse(Block):
    """Its settings say what it computes, as in Gemma 3n."""

    def __init__(self, sparsity: float) -> None:
        super().__init__()
        self.sparsity = sparsity

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        if self.sparsity > 0:
            gate = gate.relu()
        return self.down_proj(self.act_fn(gate) * self.up_proj(x))


OTHERS = (
    Clamped,
    Cast,
    Dropped,
    DroppedInTraining,
    Scaled,
    Swapped,
    Squared,
    Adding,
    Fixed,
    Unplugged,
    Looking,
    WithTwo,
)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_block_that_computes_something_else_is_none(kind: type[Block]) -> None:
    assert not is_gated_mlp(kind().eval()) and not is_gated_mlp(kind().train())


def test_the_words_do_not_matter_and_the_settings_do() -> None:
    assert is_gated_mlp(Block()) and is_gated_mlp(Sparse(0.0)) and not is_gated_mlp(Sparse(0.5))


def test_a_forward_without_source_text_is_judged_too() -> None:
    words = "def forward(self, x): return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"
    made: dict[str, Any] = {}
    exec(words, made)
    assert is_gated_mlp(type("Made", (Block,), {"forward": made["forward"]})())


def test_a_patched_block_and_one_with_more_parts_are_none() -> None:
    patched = Block()
    patched.forward = patched.forward  # type: ignore[method-assign]
    assert not is_gated_mlp(patched)
    more = Block()
    more.norm = nn.Identity()
    assert not is_gated_mlp(more)
    more = Block()
    more.router = nn.Identity()
    assert is_gated_mlp(more)


def test_judging_changes_nothing() -> None:
    block = LlamaMLP(LlamaConfig(hidden_size=4, intermediate_size=6, num_attention_heads=1))
    before, parts, state = copy.deepcopy(block.state_dict()), dict(block.named_modules()), torch.get_rng_state()
    assert is_gated_mlp(block) and dict(block.named_modules()) == parts and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in block.state_dict().items())
