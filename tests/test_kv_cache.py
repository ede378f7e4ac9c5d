"""A cache is found under either name, and a version with a third one is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llava_moe.adapters.core.segments import Segments
from llava_moe.kv_cache import CACHE_NAMES, cache_name, cached_length, returned_cache


class Cache:
    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


class Decoder(nn.Module):
    """Takes anything by keyword, and a cache by position behind three others."""

    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, cache: Any = None, **_: Any
    ) -> None: ...


class Renamed(nn.Module):
    def forward(self, input_ids: Any, key_value_store: Any = None, use_cache: bool = True) -> None: ...


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_filled_cache_under_either_name_goes_on_with_a_conversation(name: str) -> None:
    model, segments = Decoder().eval(), Segments()
    segments.watch(model)
    ids = torch.ones(1, 3, dtype=torch.int64)
    model(input_ids=ids, **{name: Cache(0)})
    assert not segments.is_decoding
    model(input_ids=ids[:, :1], **{name: Cache(3)})
    assert segments.is_decoding


def test_a_cache_given_by_position_goes_on_with_a_conversation() -> None:
    model, segments = Decoder().eval(), Segments()
    segments.watch(model)
    model(torch.ones(1, 1, dtype=torch.int64), None, None, Cache(3))
    assert segments.is_decoding


def test_a_cache_that_does_not_say_its_length_is_refused() -> None:
    with pytest.raises(ValueError, match="past_key_values is a tuple, which does not say how many tokens it holds"):
        cached_length({"past_key_values": ((torch.ones(1),),)})
    assert cached_length({}) == cached_length({"cache": None, "past_key_values": None}) == 0


def test_a_version_that_names_the_cache_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match="by none of the names cache, past_key_values"):
        Segments().watch(Renamed())
    with pytest.raises(ValueError, match="llava-moe doctor"):
        cache_name(Renamed.forward)
    assert returned_cache(object()) is None
