"""The files that our commands write, read back: what is damaged or of another shape is one line that names the file.

A shape is a type (or several), ``[shape]`` for a list, ``{str: shape}`` for a mapping of any names, or a mapping of
names to shapes, in which a name that ends in ``?`` may be missing and names that do not stand there are free.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import NoneType
from typing import Any

from llava_moe.errors import UserError

Shape = Any
NUMBER = (int, float)
MAYBE_NUMBER = (int, float, NoneType)


def read_text(path: Path, remedy: str, whole_lines: bool = False) -> str:
    """A file's text.

    Args:
        remedy: what to do, as a clause.
        whole_lines: leave out a last line without its end, which a kill cut short.

    Raises:
        UserError: it cannot be read or is no UTF-8.
    """
    try:
        content = path.read_bytes()
        return (content[: content.rfind(b"\n") + 1] if whole_lines else content).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged (byte {error.start} is no UTF-8 text); {remedy}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from error


def read_object(path: Path, remedy: str, shape: Shape = dict) -> dict[str, Any]:
    """The JSON object that a file holds; raises as :func:`read_text`, and where it is none of the shape."""
    value = _parsed(read_text(path, remedy), str(path), remedy)
    _expect(value, shape if shape is not dict else {}, str(path), remedy)
    return dict(value)


def read_objects(path: Path, remedy: str, shape: Shape = dict) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; none where there is no file.

    A last line without its end was cut short by a kill and is left out. Raises as :func:`read_object`, naming the line.
    """
    if not path.exists():
        return []
    *lines, _end = read_text(path, remedy, whole_lines=True).split("\n")
    found = []
    for number, line in enumerate(lines, start=1):
        if line:
            value = _parsed(line, f"{path} has a line that is not JSON: line {number}", remedy)
            _expect(value, shape if shape is not dict else {}, f"{path} line {number}", remedy)
            found.append(value)
    return found


def misfit(value: Any, shape: Shape, place: str = "") -> str | None:
    """What of a value is not of a shape (``domains.general.loss is text``); None where all is."""
    where = place or "it"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is {_kind(value)}, not a list"
        return next((told for n, one in enumerate(value) if (told := misfit(one, shape[0], f"{place}[{n}]"))), None)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is {_kind(value)}, not an object"
        return _misfit_in(value, shape, f"{place}." if place else "")
    kinds = shape if isinstance(shape, tuple) else (shape,)
    is_flag = isinstance(value, bool) and bool not in kinds
    if is_flag or not isinstance(value, kinds):
        return f"{where} is {_kind(value)}, not {' or '.join(_NAMES.get(kind, kind.__name__) for kind in kinds)}"
    return None


_NAMES: dict[type, str] = {
    **{str: "text", int: "a whole number", float: "a number", bool: "true or false"},
    **{NoneType: "null", dict: "an object", list: "a list"},
}


def _misfit_in(value: dict[str, Any], shape: dict[Any, Shape], before: str) -> str | None:
    if str in shape:
        return next((told for name, one in value.items() if (told := misfit(one, shape[str], f"{before}{name}"))), None)
    for key, wanted in shape.items():
        name = key.removesuffix("?")
        if name in value:
            if told := misfit(value[name], wanted, f"{before}{name}"):
                return told
        elif not key.endswith("?"):
            return f"{before}{name} is missing"
    return None


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _parsed(text: str, where: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged ({' '.join(str(error).split())[:100]}); {remedy}") from error


def _expect(value: Any, shape: Shape, where: str, remedy: str) -> None:
    if told := misfit(value, shape):
        raise UserError(f"{where} has another shape than it was written in ({told[:150]}); {remedy}")
