"""Keys of a record that carry media which its format does not read: no image, video or sound is dropped in silence.

A key carries media by its name (``image_path``, ``img``, ``videos``, ``image_2``) where anything but a few numbers
stands under it, and under any name by its content: a path or address with the suffix of an image, video or audio
file, a ``data:`` URI, base64 text or bytes that begin as such a file, or ``{"bytes", "path"}``. Objects and lists are
looked into.

What says of an image that was read where it comes from is no second image: its own file name, an address, and beside
images whose bytes stand in the record, which have no name, a path.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from llava_moe.data.conversation import BadRecord
from llava_moe.data.readers.image_refs import from_base64, image_name, is_empty, names_in, stem_of

_NOUN = (
    r"(?:images?|imgs?|pictures?|pics?|photos?|photographs?|videos?|vids?|audios?|clips?|frames?|screenshots?|wavs?)"
)
_CARRIER = (
    r"(?:s|paths?|files?|filenames?|urls?|uris?|links?|base|b|str|strings?|bytes?|data|lists?|raw|binary|blobs?|arrays?"
    r"|refs?|inputs?)"
)
_NAME = re.compile(rf"(?:{_NOUN}{_CARRIER}*)+")
_CARRIES = re.compile(_CARRIER)
_COUNTS = {"num", "n", "count", "number", "has", "is", "with", "without", "no", "total", "max", "min", "per"}
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_OF_PICTURES = re.compile(r"image|img|pic|photo|screenshot", re.IGNORECASE)
_SUFFIX = re.compile(
    r"\.(?:jpe?g|jfif|png|gif|bmp|tiff?(?:\.\d+)?|webp|heic|heif|avif|svg|dcm|nii(?:\.gz)?|mp4|avi|mov|mkv|webm|m4v|mpe?g|wmv"
    r"|flv|3gp|wav|mp3|flac|ogg|opus|m4a|aac)(?:[?#]\S*)?",
    re.IGNORECASE,
)
_URI = re.compile(r"data:(?:image|video|audio)[/;,]", re.IGNORECASE)
_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"GIF8",
    b"RIFF",
    b"II*\x00",
    b"MM\x00*",
    b"ID3",
    b"OggS",
    b"fLaC",
    b"\x1aE\xdf\xa3",
)
_TEXT = frozenset(
    {
        *("answer", "answers", "caption", "captions", "category", "choices", "chosen", "comment", "dataset"),
        *("datasource", "description", "domain", "explanation", "guid", "hint", "id", "idx", "index", "input"),
        *("inputs", "instruction", "key", "label", "labels", "licence", "license", "model", "note", "notes"),
        *("options", "output", "outputs", "prompt", "prompts", "question", "questions", "rationale", "reasoning"),
        *("rejected", "response", "responses", "solution", "source", "split", "system", "systeminstruction"),
        *("systemmessage", "systemprompt", "task", "taskname", "tasktype", "text", "title", "uid", "uuid"),
    }
)
"""Keys, written without case and signs, whose text is text: it may speak of files."""
_LAST = frozenset(
    {"caption", "captions", "description", "text", "question", "answer", "title", "prompt", "response", "id", "ids"}
)
"""Last words of such keys."""
_MOST_ITEMS = 64
_MOST_NUMBERS = 32
"""A longer list of numbers is pixels or a sound."""
_MOST_DEPTH = 16


def refuse_unread(record: Mapping[str, Any], read: Collection[str], shown: Sequence[Any] = (), place: str = "") -> None:
    """Refuse a record of which a key that is not read carries media.

    Args:
        read: the keys that its format reads, as media or as something else.
        shown: the images that were read of the record, as they stand in it (paths, bytes, ``{"bytes", "path"}``).
        place: where the mapping stands in the record, for the message.

    Raises:
        BadRecord: ``unread_media``, naming the key.
    """
    told: Counter[str] = Counter()
    for key, value, path in _carriers(record, read, place, 0):
        told[key] += 1
        # More items under a key than images that were read: not all of them are those.
        if told[key] > len(shown) or not _tells_of(key, value, shown):
            raise BadRecord(
                "unread_media",
                f"the key {path} holds {_what(value)}, which is not read; images are read from image or images",
            )


def _carriers(
    record: Mapping[str, Any], read: Collection[str], place: str, depth: int
) -> Iterator[tuple[str, Any, str]]:
    """Keys that carry media, their values, and where they stand."""
    for key, value in record.items():
        if key in read or value is None or isinstance(value, bool | int | float):
            continue
        key = str(key)
        path = f"{place}.{key}" if place else key
        if is_media_name(key):
            if _holds(value):
                yield key, value, path
        elif not _is_text(key):
            yield from _inside(key, value, path, depth)


def _is_text(key: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(key)]
    return "".join(words) in _TEXT or (bool(words) and words[-1] in _LAST)


def _inside(key: str, value: Any, path: str, depth: int) -> Iterator[tuple[str, Any, str]]:
    """What carries media by its content, at or below a value."""
    if isinstance(value, str | bytes | bytearray):
        if _is_media(value):
            yield key, value, path
    elif isinstance(value, Mapping):
        content = value.get("bytes")
        if content and isinstance(content, str | bytes | bytearray):
            yield key, value, path
        elif depth < _MOST_DEPTH:
            yield from _carriers(value, (), path, depth + 1)
    elif isinstance(value, Sequence) and depth < _MOST_DEPTH:
        for number, item in enumerate(value[:_MOST_ITEMS]):
            if not isinstance(item, bool | int | float):
                yield from _inside(key, item, f"{path}[{number}]", depth + 1)


def is_media_name(key: str) -> bool:
    """Whether a key's name says that media stands under it: ``image_path``, ``img``, ``videos``, ``target_image_2``."""
    words = [word.lower() for word in _WORDS.findall(key)]
    if _COUNTS.intersection(words):
        return False
    while len(words) > 1 and _CARRIES.fullmatch(words[-1]):
        words.pop()
    return bool(words) and _NAME.fullmatch(words[-1]) is not None


def _holds(value: Any, depth: int = 0) -> bool:
    """Whether anything but emptiness and a few numbers, such as a size or times, stands at or below a value."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, bytes | bytearray):
        return bool(value)
    if depth >= _MOST_DEPTH:
        return True
    if isinstance(value, Mapping):
        # {"array", "sampling_rate"} is a sound, however short.
        return not is_empty(value.get("array")) or any(_holds(item, depth + 1) for item in value.values())
    if not isinstance(value, Sequence):
        return False
    return len(value) > _MOST_NUMBERS or any(_holds(item, depth + 1) for item in value[:_MOST_ITEMS])


def _is_media(value: str | bytes | bytearray) -> bool:
    if isinstance(value, bytes | bytearray):
        return bytes(value[:4]).startswith(_MAGIC) or bytes(value[4:8]) == b"ftyp"
    if _URI.match(value):
        return True
    if len(value) <= 1024:
        ends = posixpath.splitext(value.strip())[1] != "" and "\n" not in value.strip()
        if ends and any(found.end() == len(value.strip()) for found in _SUFFIX.finditer(value.strip())):
            words = value.split()
            # A sentence may end in a file's name.
            return len(words) <= 3 or "/" in words[0]
    return len(value) >= 64 and from_base64(value) is not None


def _tells_of(key: str, value: Any, shown: Sequence[Any]) -> bool:
    """Whether what stands under a key only says where the images come from that were read."""
    texts = value if isinstance(value, list | tuple) else [value]
    if len(texts) > len(shown):
        return False
    names = names_in(shown)
    has_nameless = any(image_name(image) is None for image in shown) and not re.search(r"\d", key)
    for text in texts:
        name = image_name(text)
        if name is None or not _may_be_picture(key, name):
            return False
        is_address = "://" in name and not name.startswith("file:")
        if not (stem_of(name) in names or is_address or has_nameless):
            return False
    return True


def _may_be_picture(key: str, name: str) -> bool:
    """Whether a path or address may be an image's: neither its suffix nor its key says video or sound."""
    suffix = posixpath.splitext(re.split(r"[?#]", name)[0])[1].lower()
    is_other = suffix in (
        ".mp4",
        ".avi",
        ".mov",
        ".mkv",
        ".webm",
        ".m4v",
        ".wmv",
        ".flv",
        ".wav",
        ".mp3",
        ".flac",
        ".ogg",
    )
    return not is_other and (not is_media_name(key) or _OF_PICTURES.search(key) is not None)


def _what(value: Any) -> str:
    if isinstance(value, str) and len(value) <= 80:
        return repr(value)
    kind = {"str": "text", "bytes": "bytes", "list": "a list", "dict": "an object"}
    return kind.get(type(value).__name__, type(value).__name__)
