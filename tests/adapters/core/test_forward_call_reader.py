"""The facts of a call are read from what the models are called with."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from llava_moe.adapters.core.forward_call_reader import ForwardCallReader, read_padding

IDS = torch.tensor([[1, 9, 9, 2]])


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 2)

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **_: Any) -> None: ...

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_token_id=9, video_token_id=None)

    def forward(self, input_ids: Any = None, labels: Any = None) -> None: ...


def test_a_call_by_position_and_one_by_name_say_the_same() -> None:
    mask = torch.ones(1, 4)
    for args, kwargs in (((IDS, mask), {}), ((), {"input_ids": IDS, "attention_mask": mask})):
        facts, tokens = ForwardCallReader().read(Decoder().eval(), args, kwargs)
        assert tokens is IDS and facts.attention_mask is mask and facts.shape == (1, 4)
        assert not facts.is_training and facts.records_graph and not facts.cache_was_filled and facts.tokens is None


def test_facts_cannot_be_changed() -> None:
    facts, _ = ForwardCallReader().read(Decoder(), (IDS,), {})
    with pytest.raises(FrozenInstanceError):
        facts.shape = (2, 4)  # type: ignore[misc]


def test_a_call_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="neither input_ids nor inputs_embeds"):
        ForwardCallReader().read(Decoder(), (), {})


def test_how_many_examples_a_call_packs_is_taken_from_the_caller_once_where_positions_tell_them_apart() -> None:
    reader = ForwardCallReader()

    def told(positions: torch.Tensor | None) -> int | None:
        reader.mark_prompts(IDS, 2)
        return reader.read(Decoder(), (IDS,), {"position_ids": positions})[0].num_examples

    assert told(torch.tensor([[0, 1, 0, 1]])) == 2
    assert told(None) is None and told(torch.zeros(3, 1, 4)) is None
    assert told(torch.zeros(1, 4)) == 2 and reader.read(Decoder(), (IDS,), {})[0].num_examples is None


@pytest.mark.parametrize("by_name", [True, False])
def test_labels_of_the_model_around_are_those_of_the_next_call_alone(by_name: bool) -> None:
    reader, model = ForwardCallReader(), Around()
    reading, forgetting = reader.watch_around(model)
    labels = torch.tensor([[-100, -100, -100, 2]])
    forgetting.remove()
    model(IDS, labels=labels) if by_name else model(IDS, labels)
    assert reader.read(Decoder(), (IDS,), {})[0].labels is labels
    assert reader.read(Decoder(), (IDS,), {})[0].labels is None
    reading.remove()
    model(IDS, labels)
    assert reader.read(Decoder(), (IDS,), {})[0].labels is None


def test_what_was_heard_around_a_call_is_forgotten_with_its_end() -> None:
    reader, model = ForwardCallReader(), Around()
    reader.watch_around(model)
    model(IDS, labels=torch.tensor([[-100, -100, -100, 2]]))
    assert reader.read(Decoder(), (IDS,), {})[0].labels is None


def test_text_is_told_from_images_by_the_configuration_around() -> None:
    reader, model, decoder = ForwardCallReader(), Around(), Decoder()
    reader.reads_text = True
    reader.watch_around(model)[1].remove()
    model(IDS)
    facts, _ = reader.read(decoder, (), {"inputs_embeds": torch.zeros(1, 4, 2)})
    assert facts.is_text is not None and facts.is_text.tolist() == [[True, False, False, True]]
    assert facts.tokens is not None and facts.tokens.shape == (1, 4, 2) and facts.embed is None
    assert reader.read(decoder, (IDS,), {})[0].embed is decoder.embedding
    model(IDS[:, :3])
    with pytest.raises(ValueError, match=r"input_ids are \(1, 3\), the language model got \(1, 4\)"):
        reader.read(decoder, (IDS,), {})


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_reads_alike_and_has_heard_nothing(copied: Any) -> None:
    reader = ForwardCallReader()
    reader.reads_text = True
    reader.mark_prompts(torch.zeros(1, 9))
    twin = copied(reader)
    assert twin.reads_text and twin.read(Decoder(), (IDS,), {})[0].labels is None


def test_a_mask_of_the_attention_says_nothing_of_padding_once_there_is_a_past() -> None:
    mask = torch.ones(1, 1, 2, 4, dtype=torch.bool)
    assert read_padding(mask, 1, 2, cache_was_filled=True) is None
    assert read_padding(mask[..., :1], 1, 2, cache_was_filled=False) is None
    assert read_padding(mask, 3, 2, cache_was_filled=False).shape == (3, 2)  # type: ignore[union-attr]
    assert read_padding({}, 1, 2, False) is None and read_padding(None, 1, 2, False) is None
    assert read_padding(mask[0], 1, 2, False) is None
