"""Whatever a record is, every format makes a row of it or says what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.shapes import holds_anything, shape_of, unknown_shape
from llava_moe.data.readers.store import SCHEMA

KEYS = st.sampled_from(
    [
        *("id", "image", "images", "conversations", "messages", "system", "prompt", "completion", "caption", "split"),
        *("role", "content", "from", "value", "text", "type", "image_url", "url", "path", "bytes", "weight", "loss"),
        *("a\nb", "image\n2", "\ud800", "\x1b[31m"),
        *("instruction", "inputs", "outputs", "meta", "image_base64_str", "question", "answer", "video", "tools", "x"),
    ]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.floats(allow_nan=False),
    st.sampled_from(
        ["", " ", "user", "assistant", "system", "tool", "<image>", "a.png", "data:image/png;base64,%%", "image"]
    ),
    st.text(max_size=5),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(record=st.one_of(st.dictionaries(KEYS, VALUES, max_size=5), VALUES))
def test_no_record_breaks_a_reader(record: Any) -> None:
    for reader in FORMATS.values():
        row = row_of(reader, record, 7)
        pa.RecordBatch.from_pylist([row], schema=SCHEMA)
        assert row.keys() == set(SCHEMA.names)
        assert (row["fault"] is None) == (row["detail"] is None)
        assert row["detail"] is None or "\n" not in row["detail"]
    if isinstance(record, dict):
        shape = shape_of(record)
        assert shape is None or shape in FORMATS
        assert isinstance(holds_anything(record), bool) and unknown_shape(record)


@pytest.mark.parametrize(
    "key", ["image", "images", "conversations", "messages", "system", "video", "x", "tools", "meta"]
)
@pytest.mark.parametrize("kind", ["[", '{"a":'])
def test_what_is_nested_deep_breaks_no_reader(key: str, kind: str) -> None:
    deep = json.loads(kind * 400 + "1" + {"[": "]", '{"a":': "}"}[kind] * 400)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for record in ({key: deep}, {"messages": turns, key: deep}, {"messages": [{"role": deep, "content": deep}]}):
        for reader in FORMATS.values():
            row_of(reader, record, 0)
        assert shape_of(record) in (None, *FORMATS) and unknown_shape(record)
