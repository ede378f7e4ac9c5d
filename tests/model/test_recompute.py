"""Activation checkpointing computes again what a gradient needs, and nothing below the first parameter that trains."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from llava_moe.adapters import Lora, NoAdapter, attach
from llava_moe.model import TrainableParts, prepare_stage, recompute_activations
from llava_moe.model.families.llava import LLAVA
from tests.tiny_models import IMAGE_TOKEN, tiny_llava

IDS = torch.tensor([[1, *[IMAGE_TOKEN] * 4, 7, 8, 9, 5]])
PIXELS = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))


class Training:
    """A backward pass of a tiny LLaVA: how often each layer ran, which of them had a graph, and the gradients."""

    def __init__(self, parts: TrainableParts, adapter: Any, is_recomputed: bool) -> None:
        model: Any = tiny_llava().train()
        attached = attach(model, adapter)
        trainable = attached.trainable_parameters() if "adapter" in parts.learning_rates else {}
        prepare_stage(model, parts, trainable, LLAVA)
        with torch.no_grad():
            torch.manual_seed(1)
            for parameter in trainable.values():
                parameter.normal_(std=0.3)
        if is_recomputed:
            recompute_activations(model)
        self.runs: Counter[str] = Counter()
        self.has_graph: dict[str, bool] = {}
        towers = [(f"tower.{at}", layer) for at, layer in enumerate(model.model.vision_tower.encoder.layers)]
        for name, layer in [*towers, *((f"decoder.{at}", x) for at, x in enumerate(model.model.language_model.layers))]:
            self._watch(name, layer)
        model(input_ids=IDS, pixel_values=PIXELS, use_cache=False).logits.square().mean().backward()
        self.gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    def _watch(self, name: str, layer: Any) -> None:
        # A layer that is computed again runs its parts, not its own hooks, and stops where nothing more is needed.
        layer.self_attn.register_forward_pre_hook(lambda *_: self.runs.update([name]))
        layer.register_forward_hook(lambda *given: self.has_graph.update({name: _first(given[-1]).requires_grad}))


def _first(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


UPPER_LAYER = Lora(r=2, target_modules=r"model\.language_model\.layers\.1\..*(q|up)_proj")
ALL_LAYERS = Lora(r=2)
CASES: dict[str, tuple[TrainableParts, Any, dict[str, int]]] = {
    "the projector trains": (
        TrainableParts({"projector": 1e-3}),
        NoAdapter(),
        {"tower.0": 1, "decoder.0": 2, "decoder.1": 2},
    ),
    "an adapter trains on all layers": (
        TrainableParts({"adapter": 1e-3}),
        ALL_LAYERS,
        {"tower.0": 1, "decoder.0": 2, "decoder.1": 2},
    ),
    "an adapter trains on the upper layer": (
        TrainableParts({"adapter": 1e-3}),
        UPPER_LAYER,
        {"tower.0": 1, "decoder.0": 1, "decoder.1": 2},
    ),
    "the tower trains": (
        TrainableParts({"vision_tower": 1e-3, "language_model": 1e-3}),
        NoAdapter(),
        {"tower.0": 2, "decoder.0": 2, "decoder.1": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_computed_again_where_a_gradient_reaches_it_and_only_there(case: str) -> None:
    parts, adapter, runs = CASES[case]
    plain, recomputed = Training(parts, adapter, False), Training(parts, adapter, True)
    # The tower's last layer is behind the feature layer: nothing reads it.
    assert {name: recomputed.runs[name] for name in runs} == runs and recomputed.runs["tower.1"] == 1
    assert set(plain.runs.values()) == {1}
    assert recomputed.has_graph == plain.has_graph
    assert {name for name in runs if recomputed.has_graph[name]} == {name for name, times in runs.items() if times > 1}
    assert plain.gradients.keys() == recomputed.gradients.keys() and plain.gradients
    for name, gradient in plain.gradients.items():
        assert gradient.equal(recomputed.gradients[name]), name
