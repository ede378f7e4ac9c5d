"""JSON lists and JSON Lines, one record at a time: a file of a gigabyte never stands in memory whole."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from llava_moe.data.readers.json_values import FaultyRecord, JsonDecoder
from llava_moe.errors import UserError

_CHUNK = 1 << 20
MOST_CHARACTERS = 256 << 20
"""Of one record: photographs as base64 are a hundredth of it."""
_BLANKS = re.compile(r"\s*")


def read_json_stream(name: str, file: BinaryIO) -> Iterator[Any]:
    """Yield the values of a JSON list, or of JSON Lines (any values one behind the other).

    A value with a key twice in one object, or with half a surrogate pair, comes as a ``FaultyRecord``.

    Args:
        name: what the file is called in messages.

    Raises:
        UserError: the file is unreadable, not UTF-8, empty, or not valid JSON; the line says where.
    """
    try:
        with io.TextIOWrapper(file, encoding="utf-8-sig") as text:
            yield from _Window(name, text).values()
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text ({error.reason}); convert the file to UTF-8") from error
    except OSError as error:
        if error.errno is None:  # not the disk's word, but a decompressor's
            raise
        raise UserError(f"{name}: cannot be read ({error.strerror or error}); check the data source's path") from error


class _Window:
    """The stretch of the file that is being read: text before ``at`` is done with."""

    def __init__(self, path: str, file: TextIO) -> None:
        self.path = path
        self.file = file
        self.text = ""
        self.at = 0
        self.lines_dropped = 0
        self.columns_dropped = 0
        self.decoder = JsonDecoder()

    def values(self) -> Iterator[Any]:
        first = self.peek()
        if first == "":
            raise UserError(f"{self.path}: holds no records; check the data source's path")
        if first == "[":
            yield from self.list_values()
            return
        while self.peek() != "":
            yield self.value()

    def list_values(self) -> Iterator[Any]:
        self.at += 1
        if self.peek() == "]":
            return
        while True:
            yield self.value()
            following = self.peek()
            self.at += 1
            if following == "]":
                break
            if following != ",":
                raise self.fault("Expecting ',' or ']' behind a record", self.at - 1, ended=following == "")
        if self.peek() != "":
            raise self.fault("Extra data behind the list", self.at)

    def peek(self) -> str:
        """The next character that is not blank, or "" at the end of the file."""
        while True:
            blank = _BLANKS.match(self.text, self.at)
            assert blank is not None
            self.at = blank.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self.decoder.value(self.text, self.at)
            except RecursionError as error:
                raise self.fault("brackets too deep", self.at) from error
            except json.JSONDecodeError as error:
                # A value cut by the window's end fails at that end, or as a string that never closes.
                is_open = error.msg.startswith("Unterminated string")
                if not is_open and error.pos < len(self.text) - 12:
                    raise self.fault(error.msg, error.pos) from error
                offset = error.pos - self.at
                if not self.more():
                    is_cut = is_open or not self.text[self.at + offset :].strip()
                    raise self.fault(error.msg, self.at + offset, ended=is_cut) from error
            else:
                fault = self.decoder.fault(value, self.text, self.at, end)
                self.at = end
                return value if fault is None else FaultyRecord(value, fault)

    def more(self) -> bool:
        """Read on and let go of what is done with. The longer a record, the more is read at once."""
        last_break = self.text.rfind("\n", 0, self.at)
        self.lines_dropped += self.text.count("\n", 0, self.at)
        self.columns_dropped = self.at - last_break - 1 + (self.columns_dropped if last_break < 0 else 0)
        rest = self.text[self.at :]
        if len(rest) > MOST_CHARACTERS:
            raise self.fault(f"a record of more than {MOST_CHARACTERS:,} characters", self.at)
        new = self.file.read(max(_CHUNK, len(rest)))
        self.text, self.at = rest + new, 0
        return bool(new)

    def fault(self, message: str, position: int, ended: bool = False) -> UserError:
        last_break = self.text.rfind("\n", 0, position)
        line = 1 + self.lines_dropped + self.text.count("\n", 0, position)
        column = position - last_break + (self.columns_dropped if last_break < 0 else 0)
        where = f"{self.path}, line {line}"
        what = f"({message.removesuffix(' starting at')}), character {column}"
        if ended:
            return UserError(f"{where}: the file ends inside a record {what}; it was cut short, fetch it again")
        return UserError(f"{where}: not valid JSON {what}; fix or remove that record")
