"""Images that stand in records as bytes."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from llava_moe.data.conversation import BadRecord
from llava_moe.data.readers.image_refs import read_images
from tests.data.readers.raw import encoded


@pytest.mark.parametrize("write", [bytes, bytearray, list, lambda content: base64.b64encode(content).decode()])
def test_an_image_under_bytes_is_read_as_parquet_and_json_write_it(write: Any) -> None:
    assert read_images({"bytes": write(encoded(1)), "path": "a.jpg"}) == [{"path": None, "bytes": encoded(1)}]


@pytest.mark.parametrize("content", ["a.jpg", 3, {"a": 1}, [300], [None], True, "x" * 100])
def test_anything_else_under_bytes_is_told(content: object) -> None:
    with pytest.raises(BadRecord, match="image_unreadable"):
        read_images({"bytes": content})
