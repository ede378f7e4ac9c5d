"""Images as records write them: found under their keys, read into paths and bytes, told apart."""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llava_moe.data.conversation import BadRecord

IMAGE_KEYS = ("image", "images")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
_MOST_DEPTH = 16
MOST_BASE64 = 128 << 20
"""Characters of one encoded image."""


def find_images(record: Mapping[str, Any], keys: Sequence[str] = IMAGE_KEYS) -> Any:
    """What stands under the first of the keys that holds anything; None where none does.

    Union schemas fill what a record lacks with null, an empty list, or an object of nulls.

    Raises:
        BadRecord: ``unread_media``, another of the keys holds other images.
    """
    there = [key for key in keys if not is_empty(record.get(key))]
    for other in there[1:]:
        if not are_same(record[there[0]], record[other]):
            raise BadRecord("unread_media", f"the keys {there[0]} and {other} hold different images: which is meant?")
    # A list of nulls is no list of images, and is refused when it is read.
    return record[there[0]] if there else next((record[key] for key in keys if record.get(key)), None)


def is_empty(value: Any, depth: int = 0) -> bool:
    """Whether nothing stands here: null, "", no bytes, an empty list, an object or a list of these. What is nested
    deeper than any format nests counts as something."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, bytes | bytearray):
        return not value
    if depth >= _MOST_DEPTH:
        return False
    if isinstance(value, Mapping):
        return all(is_empty(item, depth + 1) for item in value.values())
    return isinstance(value, list | tuple) and all(is_empty(item, depth + 1) for item in value)


def _is_hollow(item: Mapping[str, Any]) -> bool:
    """Whether an image is an object of nulls, as Parquet fills in what is not there."""
    return all(part is None or part in ("", b"") for part in item.values())


def items_of(value: Any) -> Sequence[Any]:
    """The items of a list; anything else is one item."""
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray) else [value]


def are_same(value: Any, other: Any) -> bool:
    """Whether two values name the same images in the same order: by path, by content, or one's bytes by their name.

    Raises:
        BadRecord: as :func:`read_images`.
    """
    items, others = items_of(value), items_of(other)
    return len(items) == len(others) and all(_is_same(*pair) for pair in zip(items, others, strict=True))


def _is_same(item: Any, other: Any) -> bool:
    one, two = _read_image(item), _read_image(other)
    if one["bytes"] is not None and two["bytes"] is not None:
        return bool(one["bytes"] == two["bytes"])
    if one["path"] is not None and two["path"] is not None:
        return posixpath.normpath(one["path"]) == posixpath.normpath(two["path"])
    names = image_name(item), image_name(other)
    return None not in names and posixpath.basename(str(names[0])) == posixpath.basename(str(names[1]))


def image_name(item: Any) -> str | None:
    """The path or address of an image as a record writes it, beside bytes too; None where it has none."""
    if isinstance(item, Mapping):
        item = next((item[key] for key in ("path", "url") if not is_empty(item.get(key))), None)
    if not isinstance(item, str) or item.startswith("data:") or from_base64(item) is not None:
        return None
    return item


def stem_of(name: str) -> str:
    """The last part of a path or address without suffix and query."""
    return posixpath.splitext(posixpath.basename(re.split(r"[?#]", name.replace("\\", "/"))[0]))[0]


def names_in(images: Sequence[Any]) -> frozenset[str]:
    """The stems of the names of images."""
    return frozenset(stem_of(name) for image in images if (name := image_name(image)) is not None)


def read_images(value: Any) -> list[dict[str, Any]]:
    """Image references from one or a list of: path, base64 text, data URI, bytes, ``{"bytes", "path"}``."""
    if value is None or value in ("", b"", []) or (isinstance(value, Mapping) and _is_hollow(value)):
        return []
    return [_read_image(item) for item in items_of(value)]


def _read_image(item: Any) -> dict[str, Any]:
    if isinstance(item, Mapping):
        content = item.get("bytes")
        if content is not None and not (content in ("", b"") and item.get("path")):
            return {"path": None, "bytes": _embedded(content)}
        item = next((item[key] for key in ("path", "url") if not is_empty(item.get(key))), None)
    if isinstance(item, bytes | bytearray):
        return {"path": None, "bytes": bytes(item)}
    if not isinstance(item, str) or not item:
        raise BadRecord("not_a_conversation", f"an image is a path, bytes or base64 text, got {_kind_of(item)}")
    encoded = from_base64(item)
    return {"path": None, "bytes": encoded} if encoded is not None else {"path": _path(item), "bytes": None}


def _kind_of(item: Any) -> str:
    """What a value is called in Python, whatever keeps its spelling here."""
    return "float" if isinstance(item, float) else "null" if item is None else type(item).__name__


def _embedded(content: Any) -> bytes:
    """What stands under ``bytes``: bytes as Parquet has them, or in JSON base64 text or a list of numbers."""
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    try:
        encoded = from_base64(content) if isinstance(content, str) else bytes(list(content))
    except (TypeError, ValueError):
        encoded = None
    if encoded is None:
        raise BadRecord("image_unreadable", f"what stands under bytes is no image, but {type(content).__name__}")
    return encoded


def _path(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord("unreadable_text", f"half a surrogate pair in an image's path at {error.start}") from error
    return text


def from_base64(text: str) -> bytes | None:
    """The bytes of base64 text (also URL-safe, wrapped, or as a data URI); None for a path.

    What decides is whether the text decodes to the first bytes of an image file: no path does.
    """
    is_uri = text.startswith("data:")
    if is_uri:
        text = text.partition(",")[2]
    elif len(text) < 64 or not _begins_as_image(text):
        return None
    if len(text) > MOST_BASE64:
        raise BadRecord("image_too_large", f"{len(text):,} characters of base64; at most {MOST_BASE64:,} are read")
    try:
        return _decode("".join(text.split()))
    except (binascii.Error, ValueError) as error:
        if is_uri:
            raise BadRecord("image_unreadable", f"the data URI is no base64 ({error})") from error
        return None


def _begins_as_image(text: str) -> bool:
    try:
        return _decode(text[:16]).startswith(_MAGIC)
    except (binascii.Error, ValueError):
        return False


def _decode(text: str) -> bytes:
    standard = text.translate(str.maketrans("-_", "+/")).rstrip("=")
    return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
