"""Which example each token belongs to."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from llava_moe.adapters.core.segments import Segments
from tests.tiny_models import smallest_llama


class Listener(nn.Module):
    def forward(self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, **rest: Any) -> None:
        return None


def heard(*args: Any, **kwargs: Any) -> tuple[list[list[int]], int]:
    listener, segments = Listener(), Segments()
    segments.watch(listener)
    listener(*args, **kwargs)
    segments_BT, count = segments.of_tokens()
    return segments_BT.tolist(), int(count)


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.zeros(rows, length, dtype=torch.long)


def test_positions_that_restart_start_an_example() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 0, 1, 2]])
    assert heard(inputs_embeds=torch.zeros(1, 7, 4), position_ids=positions) == ([[0, 0, 0, 1, 2, 2, 2]], 3)


def test_examples_are_counted_through_the_rows() -> None:
    positions = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3], [0, 0, 1, 2]])
    assert heard(ids(3, 4), position_ids=positions) == ([[0, 0, 1, 1], [2, 2, 2, 2], [3, 4, 4, 4]], 5)


def test_one_row_of_positions_serves_all_rows() -> None:
    assert heard(ids(2, 3), position_ids=torch.tensor([[0, 1, 2]])) == ([[0, 0, 0], [1, 1, 1]], 2)


def test_without_positions_or_mask_a_row_is_an_example() -> None:
    assert heard(input_ids=ids(2, 3)) == ([[0, 0, 0], [1, 1, 1]], 2)


@pytest.mark.parametrize("positions", [None, [[0, 0, 0, 1, 2]], [[1, 1, 0, 1, 2]], [[0, 1, 2, 3, 4]]])
def test_left_padding_belongs_to_no_example(positions: list[list[int]] | None) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    given = None if positions is None else torch.tensor(positions)
    assert heard(ids(1, 5), mask, given) == ([[-1, -1, 0, 0, 0]], 1)


def test_right_padding_and_a_silent_row_belong_to_no_example() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    assert heard(ids(3, 3), attention_mask=mask) == ([[0, 0, -1], [-1, -1, -1], [1, 1, 1]], 2)


def test_decoding_reads_the_end_of_a_longer_mask() -> None:
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    positions = torch.tensor([[2], [3]])
    assert heard(ids(2, 1), attention_mask=mask, position_ids=positions) == ([[0], [1]], 2)


@pytest.mark.parametrize("prepare", [lambda m: m, lambda m: {"full_attention": m}, lambda m: (~m) * -1e9])
def test_padding_is_read_from_the_attentions_own_mask(prepare: Any) -> None:
    is_token_BT = torch.tensor([[False, True, True], [True, True, True]])
    seen = torch.ones(3, 3, dtype=torch.bool).tril() & is_token_BT[:, None, None]
    expected = ([[-1, 0, 0], [1, 1, 1]], 2)
    assert heard(ids(2, 3), attention_mask=prepare(seen)) == expected
    # A static cache has room for more keys.
    assert heard(ids(2, 3), attention_mask=prepare(torch.nn.functional.pad(seen, (0, 4)))) == expected
    assert heard(ids(2, 3), attention_mask=prepare(seen[1:])) == ([[0, 0, 0], [1, 1, 1]], 2)


def test_asking_before_any_forward_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="no forward pass"):
        Segments().of_tokens()


@torch.no_grad()
def test_examples_are_those_that_the_packed_attention_keeps_apart() -> None:
    model, segments = smallest_llama().model, Segments()
    segments.watch(model)
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    tokens = torch.arange(6)[None]
    packed = model(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state[0]
    segments_BT, count = segments.of_tokens()
    for segment in range(int(count)):
        mine = segments_BT[0] == segment
        own = model(input_ids=tokens[:, mine], use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(packed[mine], own, atol=1e-6, rtol=1e-5)


class Around(nn.Module):
    """A model with a head: hands labels on to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Listener()

    def forward(self, labels: Any = None, **inputs: Any) -> None:
        self.inner(**inputs)


def watched() -> tuple[Around, Segments]:
    model, segments = Around(), Segments()
    segments.watch(model.inner, model)
    return model.train(), segments


PACKED = {
    "inputs_embeds": torch.arange(9.0).view(1, 9, 1).expand(1, 9, 2),
    "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]]),
}
LABELS = torch.tensor([[-100, -100, 5, -100, 7, 6, 7, -100, -100]])


def test_a_prompt_is_what_comes_before_the_first_supervised_token() -> None:
    model, segments = watched()
    model(labels=LABELS, **PACKED)
    assert segments.is_prompt().int().tolist() == [[1, 1, 0, 0, 0, 0, 0, 1, 1]]
    pooled = segments.pool(PACKED["inputs_embeds"])
    assert pooled.tolist() == [[0.5, 0.5], [0.0, 0.0], [7.5, 7.5]]  # an example without a prompt pools to nothing
    assert segments.spread(pooled)[0, :, 0].tolist() == [0.5] * 4 + [0.0] * 3 + [7.5] * 2


def test_labels_can_be_said_beside_the_call_and_hold_for_one_call() -> None:
    model, segments = watched()
    segments.mark_prompts(LABELS)
    model(**PACKED)
    assert segments.is_prompt().int().tolist() == [[1, 1, 0, 0, 0, 0, 0, 1, 1]]
    model(**PACKED)
    with pytest.warns(UserWarning, match="without labels"):
        assert segments.is_prompt().all()
    model.eval()(**PACKED)
    assert segments.is_prompt().all()


def test_labels_of_another_shape_are_refused() -> None:
    model, _ = watched()
    with pytest.raises(ValueError, match=r"labels are \(1, 3\).*\(1, 9\)"):
        model(labels=LABELS[:, :3], **PACKED)


def test_padding_is_no_part_of_a_prompt() -> None:
    model, segments = watched()
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    labels = torch.tensor([[-100, -100, -100, 3, 4], [-100, -100, -100, -100, 4]])
    x = torch.arange(10.0).view(2, 5, 1)
    model(inputs_embeds=x, attention_mask=mask, labels=labels)
    assert segments.pool(x).tolist() == [[2.0], [6.5]]


def test_pooling_has_the_gradient_of_a_mean_and_sums_in_fp32() -> None:
    model, segments = watched()
    model(labels=LABELS, **PACKED)
    x = torch.zeros(1, 9, 2, dtype=torch.bfloat16, requires_grad=True)
    pooled = segments.pool(x)
    assert pooled.dtype == torch.float32
    pooled.sum().backward()
    assert x.grad is not None and x.grad[0, :, 0].tolist() == [0.5, 0.5, 0, 0, 0, 0, 0, 0.5, 0.5]


def test_a_mean_is_shared_by_its_readers_and_handed_to_each_once() -> None:
    model, segments = watched()
    model(labels=LABELS, **PACKED)
    x = torch.ones(1, 9, 2, requires_grad=True)
    first = segments.pool(x, "q")
    assert segments.pool(x, "k") is first
    first.sum().backward()
    again = segments.pool(x, "q")
    assert again is not first and segments.pool(x.clone(), "k") is not again
    again.sum().backward()  # the graph of the first is gone


class Cache:
    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


def test_a_filled_cache_goes_on_with_a_conversation_and_an_empty_one_begins_it() -> None:
    model, segments = watched()
    model.eval()(inputs_embeds=torch.zeros(2, 4, 3), past_key_values=Cache(0))
    assert not segments.is_decoding
    model(inputs_embeds=torch.zeros(2, 1, 3), past_key_values=Cache(4))
    assert segments.is_decoding


def test_without_cache_an_input_that_begins_with_the_whole_prompt_goes_on_with_it() -> None:
    model, segments = watched()
    model.eval()
    prompt, other = torch.randn(2, 4, 3), torch.randn(2, 4, 3)

    def goes_on(x: torch.Tensor, **inputs: Any) -> bool:
        model(inputs_embeds=x, **inputs)
        was = segments.is_decoding
        segments.pool(x)
        return was

    longer = torch.cat([prompt, torch.randn(2, 1, 3)], 1)
    longest = torch.cat([longer, torch.randn(2, 3, 3)], 1)
    assert [goes_on(x) for x in (prompt, longer, longest, prompt, prompt)] == [False, True, True, False, False]
    assert not goes_on(other) and not goes_on(longer)
    assert not goes_on(longest, labels=torch.full((2, 8), -100))  # labels say the prompt again
    model.train()
    assert not goes_on(prompt) and not goes_on(longer)


def test_a_conversation_can_be_ended_by_word() -> None:
    model, segments = watched()
    x = torch.randn(1, 6, 3)
    decided = []
    for inputs in (x[:, :4], x[:, :5], x):
        model.eval()(inputs_embeds=inputs)
        segments.pool(inputs)
        decided.append(segments.is_decoding)
        if inputs.shape[1] == 5:
            segments.forget_conversation()
    assert decided == [False, True, False]


def test_text_positions_lead_the_multimodal_ones() -> None:
    axes = torch.zeros(3, 1, 5, dtype=torch.long)
    text = torch.tensor([[[0, 1, 2, 0, 1]]])
    x = torch.zeros(1, 5, 4)
    assert heard(inputs_embeds=x, position_ids=axes) == ([[0] * 5], 1)
    assert heard(inputs_embeds=x, position_ids=torch.cat([text, axes])) == ([[0, 0, 0, 1, 1]], 2)


def test_labels_of_a_call_that_failed_are_forgotten() -> None:
    model, segments = watched()

    def fail(*_: Any) -> None:
        raise RuntimeError("before the language model")

    handle = model.inner.register_forward_pre_hook(fail, prepend=True)
    with pytest.raises(RuntimeError):
        model(labels=LABELS, **PACKED)
    handle.remove()
    model.eval()(**PACKED)
    assert segments.is_prompt().all()


def test_silent_tokens_within_a_row_do_not_end_an_example() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]])
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    expected = [[0, 0, 0, -1, -1, 0, 0, 0], [1] * 8]
    assert heard(ids(2, 8), attention_mask=mask, position_ids=positions) == (expected, 2)


def test_a_packed_row_that_begins_with_the_last_prompt_is_no_conversation() -> None:
    model, segments = watched()
    model.eval()
    x = torch.randn(1, 9, 3)
    for inputs in ({"inputs_embeds": x[:, :4]}, {"inputs_embeds": x, "position_ids": PACKED["position_ids"]}):
        model(**inputs)
        segments.pool(inputs["inputs_embeds"])
    assert not segments.is_decoding and segments.num_segments == 3


def test_a_part_of_the_model_alone_is_not_pooled_by_the_last_call() -> None:
    model, segments = watched()
    model.eval()(inputs_embeds=torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="call the whole model"):
        segments.pool(torch.zeros(1, 5, 3))


def test_no_mean_is_shared_between_calls_nor_with_one_that_is_computed_again() -> None:
    model, segments = watched()
    x = PACKED["inputs_embeds"]
    model(labels=LABELS, **PACKED)
    early, first = segments.call, segments.pool(x, "q")
    model(labels=LABELS, **PACKED)
    second = segments.pool(x, "k")
    assert second is not first
    segments.go_back_to(early)
    assert segments.pool(x, "v") is not second


def test_a_copy_reads_by_its_own_hooks_and_has_seen_nothing() -> None:
    model, segments = watched()
    segments.reads_text = True
    model(labels=LABELS, **PACKED)
    twin, copied = copy.deepcopy((model, segments))
    assert copied.reads_text
    with pytest.raises(ValueError, match="no forward pass"):
        copied.of_tokens()
    inner: Any = twin.inner
    inner.get_input_embeddings = lambda: None
    twin(inputs_embeds=torch.zeros(1, 4, 2))
    assert copied.num_segments == 1 and segments.num_segments == 3
