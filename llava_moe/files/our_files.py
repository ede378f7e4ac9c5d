"""The files that our commands write, read back: what is damaged or of another shape is one line that names the file.

A shape is a type (or several), ``[shape]`` for a list, ``{str: shape}`` for a mapping of any names, or a mapping of
names to shapes, in which a name that ends in ``?`` may be missing and names that do not stand there are free.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from llava_moe.errors import UserError
from llava_moe.files.atomic_write import replace_file
from llava_moe.files.regular_file import read_regular
from llava_moe.text.structured_text import StructuredTextError, decode, parse_json

Shape = Any
NUMBER = (int, float)
MAYBE_NUMBER = (int, float, NoneType)


BEYOND_COUNTING = 2**63
"""No counter of ours, nor of torch's, holds such a number."""


@dataclass(frozen=True)
class DamagedLine:
    """A line that is not what was written: its number from 1, what is wrong with it, and its bytes."""

    number: int
    reason: str
    content: bytes


def read_text(path: Path, remedy: str, whole_lines: bool = False) -> str:
    """A file's text.

    Args:
        remedy: what to do, as a clause.
        whole_lines: leave out a last line without its end, which a kill cut short.

    Raises:
        UserError: it cannot be read, is no regular file or no UTF-8.
    """
    content = _read_bytes(path, remedy)
    try:
        return decode(content[: content.rfind(b"\n") + 1] if whole_lines else content)
    except StructuredTextError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error


def read_object(path: Path, remedy: str, shape: Shape = dict) -> dict[str, Any]:
    """The JSON object that a file holds; raises as :func:`read_text`, and where it is none of the shape."""
    value, text = _parsed(read_text(path, remedy))
    if text is not None:
        raise UserError(f"{path} is damaged ({text}); {remedy}")
    if told := misfit(value, shape if shape is not dict else {}):
        raise UserError(f"{path} has another shape than it was written in ({told[:150]}); {remedy}")
    return dict(value)


def read_objects(path: Path, remedy: str, shape: Shape = dict) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; none where there is no file.

    A last line without its end was cut short by a kill and is left out. Raises as :func:`read_object`, naming the line.
    """
    found, damaged = read_sound_objects(path, remedy, shape)
    if damaged:
        raise UserError(f"{path} line {damaged[0].number} is damaged ({damaged[0].reason}); {remedy}")
    return found


def read_sound_objects(
    path: Path, remedy: str, shape: Shape = dict
) -> tuple[list[dict[str, Any]], tuple[DamagedLine, ...]]:
    """As :func:`read_objects`; lines that are no such objects come beside the others instead of an error."""
    if not path.exists():
        return [], ()
    *lines, _end = _read_bytes(path, remedy).split(b"\n")
    found, damaged = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            value, told = _parsed(line)
            told = told or misfit(value, shape if shape is not dict else {})
            if told is None:
                found.append(value)
            else:
                damaged.append(DamagedLine(number, told[:150], line))
    return found, tuple(damaged)


def set_damaged_aside(path: Path, remedy: str, shape: Shape = dict) -> tuple[DamagedLine, ...]:
    """Move the damaged lines of a file, byte for byte, to :func:`damaged_beside` it; they come back.

    For an account that nothing is computed from: what it lost does not hold up who goes on writing it.

    Raises:
        UserError: the file cannot be read or written.
    """
    _, damaged = read_sound_objects(path, remedy, shape)
    if damaged:
        numbers = {one.number for one in damaged}
        lines = _read_bytes(path, remedy).split(b"\n")
        kept = [line for number, line in enumerate(lines, start=1) if number not in numbers]
        beside = damaged_beside(path)
        try:
            # First there, then away: a kill in between leaves them in both.
            with beside.open("ab") as file:
                file.writelines(one.content + b"\n" for one in damaged)
                file.flush()
                os.fsync(file.fileno())
            replace_file(path, b"\n".join(kept))
        except OSError as error:
            raise UserError(f"cannot write {error.filename or path} ({error.strerror}); {remedy}") from error
    return damaged


def damaged_beside(path: Path) -> Path:
    """Where the damaged lines of a file are kept."""
    return path.with_name(f"{path.name}.damaged")


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
    if isinstance(value, int) and abs(value) >= BEYOND_COUNTING:
        return f"{where} is a number beyond all counting"
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


def _read_bytes(path: Path, remedy: str) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from error


def _parsed(text: str | bytes) -> tuple[Any, str | None]:
    """A value, or what is wrong with the text. What is not finite comes as null, as we write it."""
    try:
        return parse_json(text, finite=True), None
    except StructuredTextError as error:
        return None, str(error)
