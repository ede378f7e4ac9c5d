"""Tokens by router, kind and expert, of routers set by hand and of each method."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_moe.adapters import Attached, LlavaMole, Lora, MixLora, Mole, attach
from llava_moe.adapters.core.router import ExampleRouting, Routing
from llava_moe.analyze.atlas.counts import (
    KINDS,
    RecordRouting,
    Router,
    changed_parts,
    count_record,
    decides_by_record,
    kinds_of,
    num_experts_of,
)
from tests.analyze.atlas.hand_made import GAIN, routed_by_hand
from tests.tiny_models import IMAGE_TOKEN, tiny_llava

IDS = [1, *[IMAGE_TOKEN] * 4, 10, 11, 20, 5, 12, 13, 21]
LABELS = [-100] * 9 + [12, 13, 21]


def routed(attached: Attached) -> RecordRouting:
    torch.manual_seed(0)
    ids_BT, labels_BT = torch.tensor([IDS]), torch.tensor([LABELS])
    attached.mark_prompts(labels_BT)
    with torch.no_grad():
        attached.model(input_ids=ids_BT, pixel_values=torch.rand(1, 3, 16, 16), use_cache=False)
    return count_record(attached.routings(), kinds_of(np.array(IDS), np.array(LABELS), IMAGE_TOKEN))


def shaken(attached: Attached, seed: int = 0, spread: float = 0.5) -> Attached:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in attached.trainable_parameters().values():
            parameter.add_(spread * torch.randn_like(parameter))
    return attached


def test_kinds_are_image_prompt_and_answer() -> None:
    kinds_T = kinds_of(np.array(IDS), np.array(LABELS), IMAGE_TOKEN)
    assert [KINDS[kind] for kind in kinds_T] == ["prompt", *["image"] * 4, *["prompt"] * 4, *["answer"] * 3]


@pytest.mark.parametrize(
    ("name", "layer", "part"),
    [
        ("language_model.layers.12.mlp", 12, "mlp"),
        ("layers.0.self_attn.q_proj.A", 0, "self_attn.q_proj.A"),
        ("language_model.layers.3.self_attn.expert_gate", 3, "self_attn"),
        ("language_model.layers.3.expert_gate", 3, "block"),
        ("h.7.mlp", 7, "mlp"),
        ("expert_gate", -1, "model"),
    ],
)
def test_a_router_is_named_by_its_layer_and_part(name: str, layer: int, part: str) -> None:
    assert Router.of(name) == Router(name, layer, part)


def test_routers_set_by_hand_show_as_they_were_set() -> None:
    attached = routed_by_hand([[0, 1, 2, 2], [1, 1, 1, 1]], num_experts=3)
    found = routed(attached)
    image, prompt, answer = found.served_UGK[0]
    assert image.tolist() == [4, 0, 0]  # the first axis
    assert prompt.tolist() == [0, 2, 3]  # 10, 11; 20, and the two words of no group
    assert answer.tolist() == [0, 2, 1]  # 12, 13; 21
    assert found.served_UGK[1].tolist() == [[0, 4, 0], [0, 5, 0], [0, 3, 0]]
    # RMS-normed, a unit vector of 32 entries is sqrt(32) long: z = GAIN sqrt(32) for one expert and 0 for two.
    odds = math.exp(-GAIN * math.sqrt(32))
    probs = [1 / (1 + 2 * odds), odds / (1 + 2 * odds), odds / (1 + 2 * odds)]
    doubt = -sum(p * math.log2(p) for p in probs)
    assert found.doubt_UG[0].tolist() == pytest.approx([4 * doubt, 5 * doubt, 3 * doubt], rel=1e-3)


def test_tokens_that_change_their_expert_are_counted_by_kind() -> None:
    before = routed(routed_by_hand([[0, 1, 2, 2], [1, 1, 1, 1]], num_experts=3))
    after = routed(routed_by_hand([[0, 2, 2, 2], [0, 1, 1, 1]], num_experts=3))
    assert changed_parts(before, after).tolist() == [[0, 2, 2], [4, 0, 0]]
    assert not changed_parts(before, before).any()


def test_mixlora_counts_each_record_once_and_its_factors_in_equal_parts() -> None:
    attached = shaken(attach(tiny_llava(), MixLora(num_factors=6, r=2)))
    found = routed(attached)
    routings = attached.routings()
    assert decides_by_record(routings) and found.served_UGK.shape == (len(routings), 1, 6)
    for row, routing in enumerate(routings.values()):
        assert isinstance(routing, ExampleRouting) and routing.chosen_SC is not None
        expected = [0.5 if k in routing.chosen_SC[0].tolist() else 0.0 for k in range(6)]
        assert found.served_UGK[row, 0].tolist() == expected
        doubt = -sum(p * math.log2(p) for p in routing.probs_SK[0].tolist() if p)
        assert found.doubt_UG[row, 0] == pytest.approx(doubt, rel=1e-5)


def test_mixlora_that_routes_tokens_is_counted_by_kind() -> None:
    attached = shaken(attach(tiny_llava(), MixLora(num_factors=6, r=2, routing="token")))
    found = routed(attached)
    assert not decides_by_record(attached.routings()) and found.served_UGK.shape[1:] == (3, 6)
    assert np.allclose(found.served_UGK.sum(-1), [4, 5, 3])
    name, routing = next(iter(attached.routings().items()))
    assert isinstance(routing, ExampleRouting) and routing.chosen_SC is not None
    served_K = np.zeros(6)
    for token in range(1, 5):
        served_K[routing.chosen_SC[token].numpy()] += 0.5
    assert found.served_UGK[0, 0].tolist() == served_K.tolist(), name
    other = routed(shaken(attached, 1))
    assert 0 < changed_parts(found, other).sum() <= 12 * len(found.served_UGK)


@pytest.mark.parametrize("granularity", ["matrix", "layer", "block", "network"])
def test_mole_counts_the_weights_of_its_gates(granularity: str, tmp_path: Path) -> None:
    folders = []
    for number in range(2):
        lora = shaken(attach(tiny_llava(), Lora(r=2)), number, 0.2)
        lora.save(tmp_path / f"{number}")
        folders.append(str(tmp_path / f"{number}"))
    attached = shaken(attach(tiny_llava(), Mole(experts=folders, granularity=granularity)))
    found = routed(attached)
    routings = attached.routings()
    assert found.served_UGK.shape == (len(routings), 1, 2)
    for row, routing in enumerate(routings.values()):
        assert isinstance(routing, ExampleRouting)
        assert found.served_UGK[row, 0].tolist() == pytest.approx(routing.probs_SK[0].tolist())
    layers = {Router.of(name).layer for name in routings}
    assert layers == ({-1} if granularity == "network" else {0, 1})
    after = routed(shaken(attached, 3))
    assert changed_parts(found, after)[:, 0] == pytest.approx(
        np.abs(found.served_UGK - after.served_UGK).sum((1, 2)) / 2, abs=1e-6
    )


def test_counts_do_not_depend_on_what_else_stands_in_the_row() -> None:
    """A record alone, and the same at the end of a packed row: each token is routed alike."""
    attached = shaken(attach(tiny_llava(), LlavaMole(num_experts=4, r=2)))
    alone = routed(attached)
    ids_BT = torch.tensor([[1, 30, 31, *IDS]])
    positions_BT = torch.tensor([[0, 1, 2, *range(len(IDS))]])
    torch.manual_seed(0)
    with torch.no_grad():
        attached.model(
            input_ids=ids_BT, position_ids=positions_BT, pixel_values=torch.rand(1, 3, 16, 16), use_cache=False
        )
    for row, routing in enumerate(attached.routings().values()):
        assert isinstance(routing, Routing) and alone.chosen_UT is not None
        assert routing.chosen_BT[0, 3:].tolist() == alone.chosen_UT[row].tolist()


def test_layers_with_unlike_numbers_of_experts_stand_beside_each_other() -> None:
    attached = shaken(attach(tiny_llava(), LlavaMole(num_experts=[2, 5], r=2)))
    found = routed(attached)
    assert num_experts_of(attached.routings()).tolist() == [2, 5]
    assert found.served_UGK.shape == (2, 3, 5) and not found.served_UGK[0, :, 2:].any()
    assert found.served_UGK.sum(-1).tolist() == [[4, 5, 3]] * 2


def test_what_cannot_be_compared_is_refused() -> None:
    by_token = routed(attach(tiny_llava(), LlavaMole(num_experts=4, r=2)))
    by_record = routed(attach(tiny_llava(), MixLora(num_factors=4, r=2)))
    with pytest.raises(ValueError, match="two methods"):
        changed_parts(by_token, by_record)
    routing = Routing(torch.full((1, 3, 2), 0.5), torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="mlp routed 3 tokens, the record has 2"):
        count_record({"layers.0.mlp": routing}, np.array([0, 1], dtype=np.int8))
