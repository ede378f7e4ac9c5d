"""Mutations of what JSON and YAML hold: any value by another, at any place of the tree, and text that is no JSON."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

from tests.fuzz.texts import hostile_number, hostile_text

Place = tuple[Any, Any]
"""A container and the key or index in it."""

NUMBERS_IN_WORDS = ("1" * 5_000, "-" + "9" * 400, "1e400", "0x10", "01", "1_000", "+1", ".5", "--1")
YAML_ONLY = (
    *(
        "!!python/object/apply:os.getcwd []",
        "!!binary aGk=",
        "!!set {a}",
        "!!timestamp 2026-02-30",
        "*nowhere",
        "&a [*a]",
    ),
    *("{<<: *nowhere}", "{<<: 1}", "{? [1, 2] : 3}", "{1: 2, 1: 3}", "2026-11-29", "190:20:30", "@", "%", "\t- a"),
)


class Raw:
    """Text that stands in a file as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __deepcopy__(self, _memo: object) -> Raw:
        return self


class Doubled(str):
    """A key that a mapping has a second time."""

    __slots__ = ()


def write(tree: Any) -> str:
    """JSON of a tree, which YAML reads too; ``Raw`` and ``Doubled`` as they are."""
    raws: list[str] = []

    def keep(raw: str) -> str:
        raws.append(raw)
        return f"\u0001{len(raws) - 1}\u0001"

    def settle(value: Any) -> Any:
        if isinstance(value, Raw):
            return keep(value.text)
        if isinstance(value, dict):
            return {keep(json.dumps(str(k))) if isinstance(k, Doubled) else k: settle(v) for k, v in value.items()}
        return [settle(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(settle(tree))
    for number, raw in enumerate(raws):
        text = text.replace(f'"\\u0001{number}\\u0001"', raw)
    return text


def mutate(random: Random, tree: Any, is_yaml: bool = False) -> Any:
    """A copy of the tree with one to three places changed."""
    tree = [copy.deepcopy(tree)]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if places := _places(tree):
            _change(random, *random.choice(places), is_yaml)
    return tree[0] if tree else Raw("")


def hostile_value(random: Random, is_yaml: bool = False) -> Any:
    """A value of any type and size."""
    kind = random.randrange(11 if is_yaml else 10)
    if kind < 2:
        return hostile_number(random)
    if kind < 5:
        return hostile_text(random)
    if kind == 5:
        return random.choice((None, True, False, [], {}, "", [None], [[]], {"": None}))
    if kind == 6:
        return _deep(random)
    if kind == 7:
        return Raw(random.choice((*NUMBERS_IN_WORDS, "NaN", "Infinity", "undefined", "'a'", "", '"\\ud800"', '"\\x"')))
    if kind == 8:
        return [hostile_number(random) for _ in range(random.choice((1, 3, 10_000)))]
    if kind == 9:
        return {hostile_text(random, 200): hostile_text(random, 200) for _ in range(random.choice((1, 3)))}
    return Raw(random.choice(YAML_ONLY))


def _deep(random: Random) -> Raw:
    levels = random.choice((60, 400, 1_100, 20_000, 200_000))
    opening, closing = random.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    return Raw(opening * levels + "1" + closing * levels)


def _places(tree: Any) -> list[Place]:
    found: list[Place] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], dict | list):
                waiting.append(node[key])
    return found


def _change(random: Random, container: Any, key: Any, is_yaml: bool) -> None:
    value = container[key]
    kind = random.randrange(12)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[random.choice((hostile_text(random, 300), str(key) + "s", str(key).upper()))] = container.pop(key)
    elif kind == 2 and isinstance(container, dict):
        container[Doubled(key)] = random.choice((value, hostile_value(random, is_yaml)))
    elif kind == 3 and isinstance(container, list):
        container[:] = container[:key] + [value] * random.choice((2, 3, 1_000)) + container[key + 1 :]
    elif kind == 4 and isinstance(value, int | float) and not isinstance(value, bool):
        container[key] = random.choice((-value, value + 1, value * 1_000_000, str(value), value // 3, [value]))
    elif kind == 5 and isinstance(value, str):
        place = random.randint(0, len(value))
        container[key] = value[:place] + hostile_text(random) + value[place:]
    elif kind == 6:
        container[key] = random.choice(([value], {"a": value}, json.dumps(value, default=str), [value, value]))
    elif kind == 7 and isinstance(container, dict):
        other = random.choice(list(container))
        container[key], container[other] = container[other], container[key]
    elif kind == 8 and isinstance(value, dict):
        value[hostile_text(random, 300)] = hostile_value(random, is_yaml)
    else:
        container[key] = hostile_value(random, is_yaml)
