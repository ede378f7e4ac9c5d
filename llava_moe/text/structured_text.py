"""Text to values, and nothing else: the one reader of JSON and YAML, for our own files and for other people's.

What comes out is safe to walk, to count and to print: of bounded depth, numbers that a float can hold, every key once,
no half of a surrogate pair, no YAML tag that makes objects, no YAML alias that grows beyond what the file holds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

MOST_DEPTH = 100
"""Brackets inside brackets. Python's own stack ends at some hundreds, wherever a value is walked."""
MOST_DIGITS = 300
"""Of a whole number; longer ones are no float, and Python reads those of thousands in quadratic time."""
MOST_YAML_NODES = 50_000
"""Of one YAML file, aliases written out: what is read for seconds is no configuration."""
_TOO_DEEP = f"nested too deep, more than {MOST_DEPTH} brackets in each other"
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_ORDER = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TEXT, _YAML_INTEGER = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"


class StructuredTextError(ValueError):
    """Text that is not what it should be: its one line says what and where, in the text alone."""


class UnboundedTextError(StructuredTextError):
    """Text that costs far more than its size to read: nested without end, or aliases that multiply."""


def decode(content: bytes) -> str:
    """UTF-8 text, with or without a byte order mark.

    Raises:
        StructuredTextError: naming the byte.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if (name := _BYTE_ORDER.get(content[:2])) is not None:
            raise StructuredTextError(f"it is {name} text, not UTF-8") from error
        line = content.count(b"\n", 0, error.start) + 1
        raise StructuredTextError(f"byte {error.start}, in line {line}, is no UTF-8 text") from error


def parse_json(text: str | bytes, finite: bool = False) -> Any:
    """The one JSON value that a text is.

    Args:
        finite: ``NaN``, the infinities and ``1e999`` come as None; else they are read, since others write them.

    Raises:
        StructuredTextError: no JSON, nested too deep, a number of too many digits, a key twice in one object, or half
            a surrogate pair.
    """
    text = decode(text) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    try:
        value = _FINITE.decode(text) if finite else _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise StructuredTextError(f"line {error.lineno}, character {error.colno}: {error.msg}") from error
    except RecursionError:
        raise UnboundedTextError(_TOO_DEEP) from None
    except _LongNumberError as error:
        raise StructuredTextError(f"{_place_before(text, text.find(error.digits))}: {error}") from None
    # Fewer brackets cannot stand deeper in each other, and most texts have fewer.
    if text.count("[") + text.count("{") > MOST_DEPTH and is_too_deep(value):
        raise UnboundedTextError(_TOO_DEEP)
    # An escape is the only way for half a pair into UTF-8 text.
    if ("\\ud" in text or "\\uD" in text) and (place := half_pair(value)) is not None:
        raise StructuredTextError(f"half a surrogate pair in {place}")
    return value


def parse_yaml(text: str | bytes) -> Any:
    """The one YAML document that a text is, in plain containers.

    Raises:
        StructuredTextError: as :func:`check_yaml`, or a value that is none of its kind.
    """
    text = check_yaml(text)
    try:
        return yaml.load(text, Loader=_YAML_LOADER)
    except yaml.YAMLError as error:
        raise StructuredTextError(_yaml_fault(error)) from error
    except ValueError as error:  # a number of thousands of digits, a thirteenth month
        raise StructuredTextError(" ".join(str(error).split())[:150]) from error


def check_yaml(text: str | bytes) -> str:
    """The text itself, for a library that loads YAML without bounds of its own.

    Raises:
        StructuredTextError: no YAML, several documents, nested too deep, more values than a configuration has, aliases
            that multiply or hold themselves, a key twice in one mapping, or a tag.
    """
    text = decode(text) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    try:
        _refuse_deep_yaml(text)
        root = yaml.compose(text, Loader=_YAML_LOADER)
    except yaml.YAMLError as error:
        raise StructuredTextError(_yaml_fault(error)) from error
    if root is not None:
        _count_nodes(root, {})
    return text


def yaml_comments(text: str) -> dict[str, str]:
    """Dotted key -> what the comment behind it says, of keys that stand on lines of their own; "" where there is none.

    A line that is a comment alone goes on with the comment above it where it begins in the same column. Of mappings in
    a list the keys follow the list's own name.

    Raises:
        StructuredTextError: as :func:`check_yaml`.
    """
    root = yaml.compose(check_yaml(text), Loader=_YAML_LOADER)
    lines = text.splitlines()
    found: dict[str, str] = {}
    waiting = [("", root)]
    while waiting:
        prefix, node = waiting.pop()
        if isinstance(node, yaml.SequenceNode) and not node.flow_style:
            waiting += [(prefix, one) for one in node.value]
        if not isinstance(node, yaml.MappingNode) or node.flow_style:
            continue
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            is_inside = isinstance(value, yaml.CollectionNode) and not value.flow_style
            last = key.end_mark if is_inside else value.end_mark
            found[name] = _comment_behind(lines, last.line, last.column)
            waiting.append((f"{name}.", value))
    return found


def _comment_behind(lines: list[str], number: int, column: int) -> str:
    behind = lines[number][column:] if number < len(lines) else ""
    said = re.match(r"\s*:?\s*#\s?(.*)", behind)
    if said is None:
        return ""
    begin = lines[number].index("#", column)
    words = [said[1]]
    for line in lines[number + 1 :]:
        if line[:begin].strip() or line[begin : begin + 1] != "#":
            break
        words.append(line[begin + 1 :])
    return " ".join(" ".join(words).split())


def half_pair(value: Any) -> str | None:
    """Where half a surrogate pair stands (``conversations[0].value``), in a text or a key; None where none does."""
    waiting = [("the record", value)]
    while waiting:
        place, one = waiting.pop()
        if isinstance(one, str):
            if _SURROGATE.search(one):
                return place
        elif isinstance(one, Mapping):
            below = "" if place == "the record" else f"{place}."
            if any(_SURROGATE.search(key) for key in one):
                return f"a key of {place}"
            waiting += [(f"{below}{key}", part) for key, part in one.items()]
        elif isinstance(one, list):
            waiting += [(f"{place}[{number}]", part) for number, part in enumerate(one)]
    return None


def doubled_key(pairs: list[tuple[str, Any]]) -> str | None:
    """The first key that stands twice in an object; None where each stands once."""
    seen: set[str] = set()
    return next((key for key, _ in pairs if key in seen or seen.add(key)), None)  # type: ignore[func-returns-value]


def is_too_deep(value: Any) -> bool:
    """Whether lists and objects stand in each other more than ``MOST_DEPTH`` deep."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            part
            for one in level
            for part in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
            if isinstance(part, dict | list)
        ]
        if not level:
            return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise StructuredTextError(f"the key {str(doubled_key(pairs))[:80]!r} stands twice in one object")
    return made


class _LongNumberError(Exception):
    def __init__(self, digits: str) -> None:
        super().__init__(f"a whole number of {len(digits)} digits")
        self.digits = digits


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _LongNumberError(digits)
    return int(digits)


def _place_before(text: str, position: int) -> str:
    line = "line " + str(text.count("\n", 0, position) + 1)
    key = re.search(r'"([^"\n]{1,80})"\s*:\s*$', text[max(0, position - 200) : position])
    return line if key is None else f"{line}, {key[1]}"


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
_FINITE = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_finite, parse_constant=lambda _: None
)


def _refuse_deep_yaml(text: str) -> None:
    """Before nodes are made of it, which is done by recursion."""
    depth = number = 0
    for event in yaml.parse(text, Loader=_YAML_LOADER):
        number += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        where = f"line {event.start_mark.line + 1}"
        if depth > MOST_DEPTH:
            raise UnboundedTextError(f"{where}: {_TOO_DEEP}")
        if number > MOST_YAML_NODES:
            raise UnboundedTextError(f"{where}: more than {MOST_YAML_NODES} values")
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", _PLAIN_TEXT):
            raise StructuredTextError(f"{where}: the tag {tag[:80]}: values are written without tags here")


def _count_nodes(node: yaml.Node, counted: dict[int, int]) -> int:
    """How many values a node is once its aliases are written out."""
    where = f"line {node.start_mark.line + 1}"
    if id(node) in counted:
        if counted[id(node)] == 0:
            raise UnboundedTextError(f"{where}: an alias holds itself")
        return counted[id(node)]
    counted[id(node)] = 0
    total = 1
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _YAML_INTEGER and len(node.value) > MOST_DIGITS:
            raise StructuredTextError(f"{where}: a whole number of {len(node.value)} digits")
        if _SURROGATE.search(node.value):
            raise StructuredTextError(f"{where}: half a surrogate pair")
    if isinstance(node, yaml.MappingNode):
        _refuse_doubled(node)
        total += sum(_count_nodes(one, counted) for pair in node.value for one in pair)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count_nodes(one, counted) for one in node.value)
    if total > MOST_YAML_NODES:
        raise UnboundedTextError(f"{where}: aliases that make more than {MOST_YAML_NODES} values")
    counted[id(node)] = total
    return total


def _refuse_doubled(mapping: yaml.MappingNode) -> None:
    """Refuse a key that stands twice, naming both places: the second is the one to fix."""
    lines: dict[str, int] = {}
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode):
            line, told = key.start_mark.line + 1, f"{key.tag} {key.value}"
            if told in lines:
                first = f"line {lines[told]}" if lines[told] != line else "the same line"
                raise StructuredTextError(
                    f"line {line}: the key {key.value[:80]!r} stands twice in one mapping, first in {first}"
                )
            lines[told] = line


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    told = " ".join(str(getattr(error, "problem", None) or error).split())[:150]
    return told if mark is None else f"line {mark.line + 1}, character {mark.column + 1}: {told}"
