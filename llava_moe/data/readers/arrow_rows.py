"""Rows of Arrow tables as Python values: what has no text of its own gets the one that its type decides.

A float has no spelling in the file: where text is wanted, it is the shortest decimal that reads back as the same value
of the column's own width (``0.1`` for a float32, not 0.10000000149011612). A decimal keeps its places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from llava_moe.data.conversation import BadRecord
from llava_moe.data.readers.json_values import FaultyRecord, SpelledNumber
from llava_moe.errors import UserError

Convert = Callable[[Any], Any]


def refuse_doubled(path: str, schema: pa.Schema) -> None:
    """Refuse a table of which two columns, or two fields of a column, have one name.

    Raises:
        UserError: naming the column.
    """
    names = _doubled([schema.field(number) for number in range(len(schema))])
    if names is not None:
        raise UserError(f"{path}: the column {names!r} stands twice; rename or drop one of them")


def rows_of(batch: pa.RecordBatch) -> Iterator[Any]:
    """The rows in order; one whose text is not UTF-8 comes as a ``FaultyRecord``, the others are read."""
    converts = {field.name: convert for field in batch.schema if (convert := _convert(field.type)) is not None}
    try:
        rows: list[Any] = batch.to_pylist()
    except UnicodeDecodeError:
        rows = [_row(batch.slice(number, 1)) for number in range(len(batch))]
    for row in rows:
        if isinstance(row, dict):
            for name, convert in converts.items():
                row[name] = convert(row[name])
        yield row


def _row(batch: pa.RecordBatch) -> Any:
    row: dict[str, Any] = {}
    faulty: str | None = None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[0].as_py()
        except UnicodeDecodeError:
            faulty = name
    if faulty is None:
        return row
    return FaultyRecord(row, BadRecord("unreadable_text", f"the text in the column {faulty!r} is not UTF-8"))


def _doubled(fields: list[pa.Field]) -> str | None:
    names = [field.name for field in fields]
    if len(set(names)) != len(names):
        return str(next(name for name in names if names.count(name) > 1))
    for field in fields:
        inner = [field.type.field(number) for number in range(field.type.num_fields)]
        if (found := _doubled(inner)) is not None:
            return found
    return None


def _convert(kind: pa.DataType) -> Convert | None:
    """What gives the values of a type their text; None where they have it."""
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        narrow = np.float16 if pa.types.is_float16(kind) else np.float32
        return lambda value: None if value is None else _spelled(float(value), str(narrow(value)))
    if pa.types.is_decimal(kind):
        return lambda value: None if value is None else _spelled(float(value), format(value, "f"))
    if pa.types.is_struct(kind):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        inner = {field.name: convert for field in fields if (convert := _convert(field.type)) is not None}
        return (lambda value: _in_struct(inner, value)) if inner else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        each = _convert(kind.value_type)
        return None if each is None else lambda value: None if value is None else [each(one) for one in value]
    return None


def _spelled(value: float, spelling: str) -> float:
    return SpelledNumber.of(value, spelling) if np.isfinite(value) else value


def _in_struct(converts: dict[str, Convert], value: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else value | {name: convert(value[name]) for name, convert in converts.items()}
