"""Which call runs now, in a forward pass and while layers are computed again."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llava_moe.adapters.core.forward_call import ForwardCall
from llava_moe.adapters.core.forward_call_facts import ForwardCallFacts
from llava_moe.adapters.core.forward_call_history import ForwardCallHistory, may_name_a_call

ATTENTION = nn.Identity()


def begun(history: ForwardCallHistory, name: Tensor | None = None, is_training: bool = True) -> ForwardCall:
    call = ForwardCall(
        ForwardCallFacts((1, 1), torch.device("cpu"), is_training=is_training, records_graph=is_training)
    )
    history.begin(call)
    if name is not None:
        history.hear(ATTENTION, {"position_embeddings": (name, name)})
    return call


def in_a_backward_pass(act: Callable[[], Any]) -> Any:
    """What ``act`` returns when it is called within a backward pass."""
    found: list[Any] = []
    x = torch.ones(1, requires_grad=True)
    y = x * 2
    y.register_hook(lambda _: found.append(act()))
    y.backward()
    return found[0]


def test_before_the_first_call_there_is_none() -> None:
    with pytest.raises(ValueError, match="no forward pass has been seen"):
        _ = ForwardCallHistory().call


def test_a_name_leads_back_to_its_call_within_a_backward_pass_alone() -> None:
    history, name, other = ForwardCallHistory(), torch.zeros(1), torch.zeros(1)
    early, late = begun(history, name), begun(history, other)

    def again() -> list[Any]:
        said = [history.call, history.hear(ATTENTION, {"position_embeddings": (name, name)}), history.call]
        return [*said, history.hear(ATTENTION, {"position_embeddings": (name, name)})]

    assert in_a_backward_pass(again) == [late, True, early, False]
    assert history.call is late


def test_names_die_with_their_tensors() -> None:
    history, name = ForwardCallHistory(), torch.zeros(1)
    begun(history, name)
    assert history.num_named == 1
    del name
    assert history.num_named == 0


def test_without_a_name_the_only_call_is_meant_and_with_two_there_is_doubt() -> None:
    history = ForwardCallHistory()
    only = begun(history)

    def guessed() -> ForwardCall:
        history.hear(ATTENTION, {})
        return history.call

    assert in_a_backward_pass(guessed) is only
    begun(history)
    begun(history)
    with pytest.raises(ValueError, match="Identity does not say which of several forward passes"):
        in_a_backward_pass(guessed)
    history = ForwardCallHistory()
    begun(history, is_training=False)
    with pytest.raises(ValueError, match="Identity does not say which"):
        in_a_backward_pass(guessed)


def test_going_back_says_whether_it_is_another_call() -> None:
    history = ForwardCallHistory()
    early, late = begun(history), begun(history)
    assert [history.go_back_to(call) for call in (late, late, early)] == [True, False, True]
    begun(history)
    assert history.go_back_to(early)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_seen_no_call(copied: Any) -> None:
    history, name = ForwardCallHistory(), torch.zeros(1)
    begun(history, name)
    twin = copied(history)
    assert twin.num_named == 0
    with pytest.raises(ValueError, match="no forward pass has been seen"):
        _ = twin.call


class Named(nn.Module):
    def forward(self, x: Tensor, position_embeddings: Any = None) -> Tensor:
        return x


class TakesAny(nn.Module):
    def forward(self, x: Tensor, **rest: Any) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("name", "module", "is_one"),
    [
        ("layers.0.self_attn", Named(), True),
        ("h.3.attn", TakesAny(), True),
        ("layers.0.mlp", nn.Identity(), False),
        ("layers.0.self_attn.q_proj", Named(), False),
        ("layers.0", Named(), False),
        ("norm", Named(), False),
    ],
)
def test_the_attention_of_a_layer_may_name_a_call(name: str, module: nn.Module, is_one: bool) -> None:
    assert may_name_a_call(name, module) is is_one
