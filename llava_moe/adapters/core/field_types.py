"""Whether settings that were read from a file or a command line have the types that a configuration declares."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from llava_moe.adapters.core.quote_value import quote_value

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}


def first_misfit(kind: type, values: Mapping[str, Any]) -> str | None:
    """The first of ``values`` that is not of its field's type, as ``r=8.5 must be a whole number``.

    Args:
        kind: a dataclass. Fields of types other than numbers, text, flags, null and sequences of them are not judged.
        values: by field name.
    """
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name in hints and not _admits(hints[name], value):
            return f"{name}={quote_value(value)} must be {_describe(hints[name])}"
    return None


def _admits(hint: Any, value: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_admits(argument, value) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in _WORDS:
        return isinstance(value, hint)
    if origin in (Sequence, list, tuple):
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return is_list and all(_admits(arguments[0], item) for item in value)
    return True


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Sequence, list, tuple):
        return f"a list (of {_describe(arguments[0])} each)"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))
