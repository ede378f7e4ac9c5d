"""What an adapter's folder says of its base: damaged, of another version, or of no embedded base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llava_moe.embedded_base import read_version
from llava_moe.errors import UserError
from llava_moe.model import FromParts
from llava_moe.model.adapter_record import ADAPTER_RECORD, record_of_adapter, refuse_other_adapter
from llava_moe.model.recorded_weights import BaseWeights

SHIPPED = read_version()
ARCHITECTURE = FromParts("embedded:vision_tower", "embedded:language_model")
OURS = BaseWeights(ARCHITECTURE, torch.float32, "ab", "cd", ("language_model", "tokenizer"), SHIPPED)


def other(*parts: str) -> BaseWeights:
    """Another version, of which these parts are others."""
    changed = {part: "0" * 64 for part in parts}
    return replace(
        OURS, embedded=replace(SHIPPED, version=99, fingerprint="f" * 64, parts={**SHIPPED.parts, **changed})
    )


@pytest.mark.parametrize("content", ["", "[]", "\x00", '{"embedded_base": {"version": "1"}}', '{"embedded_base": []}'])
def test_a_damaged_record_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / ADAPTER_RECORD).write_text(content)
    with pytest.raises(UserError, match="put it back, or delete it to go without") as caught:
        refuse_other_adapter(tmp_path, OURS)
    assert "\n" not in str(caught.value)


def test_parts_that_are_not_used_may_be_others(tmp_path: Path) -> None:
    record_of_adapter(tmp_path, OURS)
    assert refuse_other_adapter(tmp_path, OURS) is None
    tiny = replace(OURS, parts=("tokenizer",))
    assert refuse_other_adapter(tmp_path, replace(other("language_model"), parts=tiny.parts)) is None
    with pytest.raises(UserError, match=r"and this llava-moe has embedded base 99"):
        refuse_other_adapter(tmp_path, other("language_model"))


def test_of_a_base_that_lies_beside_it_the_tokenizer_counts_alone(tmp_path: Path) -> None:
    assert refuse_other_adapter(tmp_path, OURS, has_own_base=True) is None
    record_of_adapter(tmp_path, OURS)
    assert refuse_other_adapter(tmp_path, other("language_model"), has_own_base=True) is None
    with pytest.raises(UserError, match=r"embedded base 99"):
        refuse_other_adapter(tmp_path, other("tokenizer"), has_own_base=True)


def test_bases_that_are_not_embedded_are_held_against_nothing(tmp_path: Path) -> None:
    hub = replace(OURS, parts=(), embedded=None)
    assert refuse_other_adapter(tmp_path, hub) is None
    record_of_adapter(tmp_path, hub)
    assert "embedded_base" not in json.loads((tmp_path / ADAPTER_RECORD).read_text())
    assert refuse_other_adapter(tmp_path, hub) is None
