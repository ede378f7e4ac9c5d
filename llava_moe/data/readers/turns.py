"""Turns as the formats of today write them: roles, texts, content lists, system texts, marks of what is supervised.

A turn is an object with a role under ``role`` or ``from`` and what was said under ``content``, ``value`` or ``text``:
text with ``<image>`` where an image stands, or a list of parts (OpenAI's ``{"type": "text", "text"}``,
``{"type": "image_url", "image_url": {"url"}}``, ``input_text``, ``input_image``; Hugging Face's ``{"type": "image"}``,
with the image in it or in the record's list; Anthropic's ``source``). Keys that hold null are as good as missing:
Parquet gives every turn and part the keys of all others. Images that open a list stand a line each, others where they
are; texts that follow each other are lines.

``loss``, ``train`` and ``weight`` (0, 1, true, false) on an answer say whether it is supervised. On other turns
they may say that it is not, which is so; that it is supervised is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_moe.data.conversation import ASSISTANT, IMAGE_PLACEHOLDER, SYSTEM, USER, BadRecord
from llava_moe.data.readers.image_refs import are_same, is_empty, read_images
from llava_moe.data.readers.media_keys import is_media_name, refuse_unread
from llava_moe.data.readers.row import optional_text

ROLE_KEYS = ("role", "from")
TEXT_KEYS = ("content", "value", "text")
FLAG_KEYS = ("loss", "train", "weight", "loss_scale", "is_supervised")
SYSTEM_KEYS = ("system", "system_prompt", "system_message", "system_instruction")
_CALLS = ("tool_calls", "function_call", "tool_call_id")
_BARE = frozenset((role_key, text_key) for role_key in ROLE_KEYS for text_key in TEXT_KEYS)
_READ = frozenset((*ROLE_KEYS, *TEXT_KEYS, *FLAG_KEYS, *_CALLS, "name"))
_ROLES = (
    dict.fromkeys(("user", "human", "prompter", "usr"), USER)
    | dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "bing", "bard", "gpt4"), ASSISTANT)
    | dict.fromkeys(("system", "developer"), SYSTEM)
)
_TOOLS = frozenset(
    {
        *("tool", "tools", "tool_call", "tool_calls", "tool_response", "tool_result", "observation", "ipython"),
        *("function", "functions", "function_call", "function_response"),
    }
)
_TEXT_PARTS = (None, "text", "input_text", "output_text")
_IMAGE_PARTS = (None, "image", "image_url", "input_image")
_TOOL_PARTS = ("tool_use", "tool_result", "function", "tool_call", "function_call")
_OBJECTS = ("<bbox>", "<ref-object>")
"""Marks of ms-swift's that the record's ``objects`` are written into."""
_REFS = ("image", "image_url", "url", "path", "source", "base64", "data", "bytes")


@dataclass(frozen=True)
class Spoken:
    """What was said in a record.

    Attributes:
        turns: each ``{"role", "text"}``, with ``"is_supervised": False`` where an answer is not supervised.
        images: in the order of their placeholders.
        system: the system text; None where there is none.
    """

    turns: list[dict[str, Any]]
    images: list[dict[str, Any]]
    system: str | None


def read_spoken(record: Mapping[str, Any], messages: Any, images: Any, opens: bool) -> Spoken:
    """Turns, images and system text of a record.

    Args:
        messages: its list of turns.
        images: what stands under its keys for images: placeholders without an image of their own take these in order.
        opens: where the record has images and no placeholder stands anywhere, they open the first user turn.

    Raises:
        BadRecord: ``not_a_conversation``, ``unread_media``, ``tool_call``, ``system_text``, ``loss_flag``, and as
            ``read_images``.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise BadRecord("not_a_conversation", "the conversation is no list of turns")
    _refuse_calls(record, ("tools", "functions"), "the record")
    turns: list[dict[str, Any]] = []
    places: list[Any] = []
    for number, message in enumerate(messages):
        turn, shown = _turn(message, number)
        turns.append(turn)
        places += shown
    if not is_empty(record.get("objects")) and any(mark in turn["text"] for turn in turns for mark in _OBJECTS):
        raise BadRecord("not_a_conversation", f"objects are to fill {' and '.join(_OBJECTS)}, which is not supported")
    system = _system(record, turns)
    return Spoken(turns, _in_order(places, images, turns, opens), system)


def _turn(message: Any, number: int) -> tuple[dict[str, Any], list[Any]]:
    """A turn, and for each of its placeholders its image, None where it has none of its own."""
    if type(message) is dict and tuple(message) in _BARE:
        # Nearly every turn: a known role and a text, and nothing else to look at.
        said_by, said = message.values()
        if isinstance(said, str) and said.isascii() and isinstance(said_by, str) and said_by in _ROLES:
            return {"role": _ROLES[said_by], "text": said}, [None] * said.count(IMAGE_PLACEHOLDER)
    if not isinstance(message, Mapping):
        raise BadRecord("not_a_conversation", f"turn {number} is {type(message).__name__}, not an object")
    role = _role(_one_of(message, ROLE_KEYS, number), number)
    _refuse_calls(message, _CALLS, f"turn {number}")
    refuse_unread(message, _READ, place=f"turns[{number}]")
    content = _one_of(message, TEXT_KEYS, number)
    turn: dict[str, Any] = {"role": role}
    if isinstance(content, list | tuple):
        turn["text"], shown = _parts(content, number)
    else:
        turn["text"] = text = optional_text(content, f"turns[{number}]") or ""
        shown = [None] * text.count(IMAGE_PLACEHOLDER)
    if not _is_supervised(message, role, number):
        turn["is_supervised"] = False
    return turn, shown


def _one_of(message: Mapping[str, Any], keys: Sequence[str], number: int) -> Any:
    """What stands under the one of the keys that holds anything."""
    there = [key for key in keys if message.get(key) is not None]
    for other in there[1:]:
        if message[other] != message[there[0]]:
            raise BadRecord(
                "not_a_conversation", f"turn {number} says one thing under {there[0]}, another under {other}"
            )
    if not there:
        found = ", ".join(str(key) for key in message)
        what = "is null" if any(key in message for key in keys) else "is missing"
        raise BadRecord("not_a_conversation", f"turn {number}: {' or '.join(keys)} {what}; its keys are {found}")
    return message[there[0]]


def _role(value: Any, number: int) -> str:
    role = optional_text(value, f"the role of turns[{number}]") or ""
    name = role.strip().lower()
    if name in _TOOLS:
        raise BadRecord("tool_call", f"turn {number} has the role {role!r}; tools are not supported")
    return _ROLES.get(name, role)


def _refuse_calls(holder: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        value = holder.get(key)
        if value is not None and not is_empty(value) and value != "[]":
            raise BadRecord("tool_call", f"{where} holds {key}; tools are not supported")


def _is_supervised(message: Mapping[str, Any], role: str, number: int) -> bool:
    told: dict[str, bool] = {}
    for key in FLAG_KEYS:
        value = message.get(key)
        if value is None:
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise BadRecord("loss_flag", f"turn {number} has {key} {str(value)[:40]!r}; it is 0, 1, true or false")
        told[key] = bool(value)
    if len(set(told.values())) > 1:
        raise BadRecord("loss_flag", f"turn {number} is to be trained on and not to be: {', '.join(told)}")
    if role == ASSISTANT:
        return all(told.values())
    if any(told.values()):
        raise BadRecord(
            "loss_flag", f"turn {number} is by {role} and has {next(iter(told))} 1; answers alone are supervised"
        )
    return True


def _parts(content: Sequence[Any], number: int) -> tuple[str, list[Any]]:
    """The text of a content list, ``<image>`` where images stand, and each placeholder's image."""
    text, shown, opens, is_text = "", list[Any](), True, False
    for part in content:
        kind, value = _part(part, number)
        if kind == "image":
            text, shown, is_text = f"{text}{IMAGE_PLACEHOLDER}" + "\n" * opens, [*shown, value], False
            continue
        said = optional_text(value, f"turns[{number}]") or ""
        shown += [None] * said.count(IMAGE_PLACEHOLDER)
        text, opens, is_text = (f"{text}\n{said}" if is_text else text + said), False, True
    return text, shown


def _part(part: Any, number: int) -> tuple[str, Any]:
    if not isinstance(part, Mapping):
        raise BadRecord("not_a_conversation", f"turn {number} has a part that is {type(part).__name__}, not an object")
    kind = part.get("type")
    if not isinstance(kind, str | None):
        raise BadRecord("not_a_conversation", f"turn {number} has a part whose type is no text")
    refs = [key for key in _REFS if not is_empty(part.get(key))]
    if kind in _TEXT_PARTS and part.get("text") is not None:
        refuse_unread(part, ("type", "text"), place=f"turns[{number}].content")
        return "text", part["text"]
    if kind in _IMAGE_PARTS and (kind is not None or refs):
        refuse_unread(part, ("type", *_REFS), place=f"turns[{number}].content")
        if any(not are_same(_ref(part[refs[0]]), _ref(part[key])) for key in refs[1:]):
            raise BadRecord("unread_media", f"turn {number}: {' and '.join(refs)} of a part hold different images")
        return "image", _ref(part[refs[0]]) if refs else None
    if kind in _TOOL_PARTS:
        raise BadRecord("tool_call", f"turn {number} has a part of the type {kind!r}; tools are not supported")
    if kind is None or kind in _TEXT_PARTS:
        refuse_unread(part, ("type",), place=f"turns[{number}]")
        raise BadRecord("not_a_conversation", f"turn {number} has a part without text or image")
    is_media = is_media_name(kind) or any(word in kind for word in ("audio", "video", "image", "file", "document"))
    reason = "unread_media" if is_media else "not_a_conversation"
    raise BadRecord(reason, f"turn {number} has a part of the type {kind!r}; text, image and image_url are read")


def _ref(value: Any) -> Any:
    """An image of a part as :func:`read_images` takes it: ``{"url"}`` and Anthropic's ``source`` opened."""
    if isinstance(value, Mapping) and value.get("type") == "base64" and isinstance(value.get("data"), str):
        return f"data:{value.get('media_type') or 'image'};base64,{value['data']}"
    return value


def _system(record: Mapping[str, Any], turns: list[dict[str, Any]]) -> str | None:
    """The system text of a record; a first turn that holds one is taken off the turns."""
    there = [key for key in SYSTEM_KEYS if not is_empty(record.get(key))]
    texts = {key: optional_text(record[key], key) or "" for key in there}
    if turns and turns[0]["role"] == SYSTEM:
        text = turns.pop(0)["text"]
        texts |= {"the first turn": text} if text.strip() else {}
    if len(set(texts.values())) > 1:
        raise BadRecord("system_text", f"the record has different system texts: {' and '.join(texts)}")
    system = next(iter(texts.values()), None)
    if system is not None and IMAGE_PLACEHOLDER in system:
        raise BadRecord("image_count", f"{IMAGE_PLACEHOLDER} stands in the system text")
    return system


def _in_order(places: list[Any], images: Any, turns: list[dict[str, Any]], opens: bool) -> list[dict[str, Any]]:
    """The images of a record in the order of their placeholders; what no placeholder takes comes last."""
    own = [place for place in places if place is not None]
    waiting = read_images(images)
    if own and waiting and len(own) == len(places) and are_same(own, images):
        waiting = []  # the parts' own images once more
    if opens and waiting and not places:
        first = next((turn for turn in turns if turn["role"] == USER), None)
        if first is not None:
            first["text"] = f"{IMAGE_PLACEHOLDER}\n" * len(waiting) + first["text"]
    ordered: list[dict[str, Any]] = []
    for place in places:
        if place is not None:
            ordered += read_images([place])
        elif waiting:
            ordered.append(waiting.pop(0))
    return ordered + waiting
