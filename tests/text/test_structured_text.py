"""Text becomes values in bounded time and of bounded depth; what is wrong is one line with its place."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from llava_moe.text.structured_text import (
    MOST_DEPTH,
    MOST_YAML_NODES,
    StructuredTextError,
    UnboundedTextError,
    check_yaml,
    parse_json,
    parse_yaml,
)

LETTERS = "abcdefghij"
BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in itertools.pairwise(LETTERS)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 10)}]}}\n" for old, new in itertools.pairwise(LETTERS)
)


def told_of(parse: Callable[[Any], Any], text: str | bytes) -> str:
    """The line with which a text is refused, within a second."""
    begin = time.process_time()
    with pytest.raises(StructuredTextError) as info:
        parse(text)
    assert time.process_time() - begin < 1
    line = str(info.value)
    assert "\n" not in line and len(line) < 300
    return line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 200_000, "nested too deep"),
        ("[" * 101 + "]" * 101, "nested too deep"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "line 1, a: a whole number of 5000 digits"),
        ('{"a": ' + "9" * 301 + "}", "a whole number of 301 digits"),
        ('{"b": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
        ('{"a": ["\\ud800"]}', "half a surrogate pair in a[0]"),
        ('{"\\uD800": 1}', "half a surrogate pair in a key"),
        (b'{"a":\n"\xff"}', "byte 7, in line 2, is no UTF-8 text"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ('{"a": 1,\n "b": }', "line 2, character 7: Expecting value"),
        ("", "line 1, character 1"),
        ("1 2", "Extra data"),
    ],
)
def test_json_that_is_none_or_never_ends_is_named_with_its_place(text: str | bytes, told: str) -> None:
    assert told in told_of(parse_json, text)


def test_json_is_read_as_it_is_written() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == parse_json('\ufeff{"a": 1}') == {"a": 1}
    deepest = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert str(parse_json(deepest)) == deepest
    assert parse_json("9" * 300) == int("9" * 300)
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"
    assert parse_json("[NaN, 1e999]")[1] == float("inf")
    assert parse_json("[NaN, 1e999, -Infinity, 1e3]", finite=True) == [None, None, None, 1000.0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, f"aliases that make more than {MOST_YAML_NODES} values"),
        (MERGES, f"aliases that make more than {MOST_YAML_NODES} values"),
        ("a: &a [*a]", "an alias holds itself"),
        ("[" * 200_000, "nested too deep"),
        ("- " * 5000 + "x", "nested too deep"),
        ("\n".join(f"k{number}: 1" for number in range(MOST_YAML_NODES)), f"more than {MOST_YAML_NODES} values"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice in one mapping, first in line 1"),
        ("b: {a: 1, a: 2}", "line 1: the key 'a' stands twice in one mapping, first in the same line"),
        ("a: !!python/object/apply:os.system [id]", "line 1: the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a:\n  b: !include x", "line 2: the tag !include"),
        ('a: !!int ""', "the tag"),
        ("a: 1\nb: " + "9" * 5000, "line 2: a whole number of 5000 digits"),
        ("a:\n\t- b", "line 2, character 1"),
        ("a: 1\n---\nb: 2", "line 2, character 1: but found another document"),
        ("a: \x00", "control characters are not allowed"),
        ("? [a]\n: b", "unhashable key"),
        ("a: *b", "undefined alias"),
        ("a: b: c", "line 1, character 5"),
        (b"a: \xff", "byte 3, in line 1, is no UTF-8 text"),
        ("a: 2001-99-99", "month"),
    ],
)
def test_yaml_that_is_none_or_makes_more_than_it_holds_is_named_with_its_place(text: str | bytes, told: str) -> None:
    assert told in told_of(parse_yaml, text)


def test_yaml_is_read_as_it_is_written() -> None:
    text = "a: &a [1, 2.5, null, true]\nb: *a\nc: !!str 5\nd: 'x: y'\n"
    assert parse_yaml(text) == {"a": [1, 2.5, None, True], "b": [1, 2.5, None, True], "c": "5", "d": "x: y"}
    assert check_yaml(text.encode()) == text
    assert parse_yaml("") is None


def test_what_costs_more_than_its_size_is_a_kind_of_its_own() -> None:
    for parse, text in ((parse_json, "[" * 1000), (check_yaml, "[" * 1000), (check_yaml, BOMB), (check_yaml, MERGES)):
        with pytest.raises(UnboundedTextError):
            parse(text)
