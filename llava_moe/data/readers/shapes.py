"""What shape a raw record has, told by its keys: the format that reads it, or what to say where none does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from llava_moe.data.conversation import BadRecord
from llava_moe.data.readers.image_refs import is_empty
from llava_moe.data.readers.turns import ROLE_KEYS

CONVERSATION_KEYS = ("conversations", "conversatons", "messages", "conversation")
WANTED = (
    "conversations (a list of from and value, or of role and text) or messages (a list of role and content), and image "
    "or images"
)
EXAMPLE = (
    '{"messages": [{"role": "user", "content": "<image>QUESTION"}, {"role": "assistant", "content": "ANSWER"}], '
    '"images": ["FILE"]}'
)
KNOWN_BY_KEYS = ("llava", "records", "messages")
"""The formats that :func:`shape_of` tells."""
_KNOWN = (
    (("image_base64_str",), "M3IT's", "m3it"),
    (("inputs", "outputs"), "M3IT's", "m3it"),
    (("image", "question", "answer"), "PathVQA's", "pathvqa"),
    (("question", "answer"), "a table of questions and answers", "messages"),
    (("instruction", "output"), "Alpaca's", "messages"),
    (("instruction", "response"), "Dolly's", "messages"),
    (("query", "response"), "ms-swift's older ones", "messages"),
    (("query", "responses"), "ms-swift's older ones", "messages"),
    (("prompt", "completion"), "TRL's prompt and completion, which are read as lists of messages", "messages"),
    (("prompt", "response"), "a table of prompts and responses", "messages"),
    (("chosen", "rejected"), "those of a set of preferences", "messages"),
    (("texts", "images"), "the Cauldron's", "messages"),
    (("text",), "plain text", "messages"),
)


def shape_of(record: Any) -> str | None:
    """The format of a record among ``llava``, ``records`` and ``messages``; None where none of them reads it."""
    if not isinstance(record, Mapping):
        return None
    key = next((key for key in CONVERSATION_KEYS if isinstance(record.get(key), list) and record[key]), None)
    if key is None:
        if is_dialog(record.get("prompt")) and is_dialog(record.get("completion")):
            return "messages"
        return "records" if isinstance(record.get("caption"), str) else None
    first = record[key][0]
    if not isinstance(first, Mapping) or not any(first.get(name) is not None for name in ROLE_KEYS):
        return None
    if key in ("messages", "conversation") or first.get("content") is not None:
        return "messages"
    return "llava" if first.get("from") is not None else "records"


def holds_anything(record: Mapping[str, Any]) -> bool:
    """Whether a record has more than an id."""
    return any(not is_empty(value) for key, value in record.items() if key != "id")


def is_dialog(value: Any) -> bool:
    """Whether a value is a list of turns."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def find_turns(record: Mapping[str, Any]) -> Any:
    """What stands under the one key for turns that holds anything.

    Raises:
        BadRecord: ``not_a_conversation``, none does, or two hold different turns.
    """
    there = [key for key in CONVERSATION_KEYS if not is_empty(record.get(key))]
    for other in there[1:]:
        if record[there[0]] != record[other]:
            raise BadRecord("not_a_conversation", f"{there[0]} and {other} hold different turns: which is meant?")
    if there:
        return record[there[0]]
    if any(isinstance(record.get(key), list) for key in CONVERSATION_KEYS):
        return []
    raise BadRecord("not_a_conversation", unknown_shape(record))


def unknown_shape(record: Mapping[str, Any]) -> str:
    """A line on a record that no reader knows: its keys, those wanted, and the nearest format."""
    keys = _keys_of(record)
    found = ", ".join(keys[:12]) + (", ..." if len(keys) > 12 else "") if keys else "none"
    whose, nearest = _nearest(keys)
    return f"its keys are {found}{whose}; wanted are {WANTED}; the nearest format is {nearest}"


def nearest_format(record: Mapping[str, Any]) -> str:
    """The format whose records have the keys of this one; ``messages`` where none has."""
    return _nearest(_keys_of(record))[1]


def _keys_of(record: Mapping[str, Any]) -> list[str]:
    named = (str(key).encode("utf-8", "replace").decode() for key, value in record.items() if value is not None)
    return [" ".join(key.split()) for key in named]


def _nearest(keys: Collection[str]) -> tuple[str, str]:
    return next(
        ((f", as {whose}", name) for wanted, whose, name in _KNOWN if set(wanted) <= set(keys)), ("", "messages")
    )
