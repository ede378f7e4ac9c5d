"""The one validator: keys that are not there, keys that are missing, values that may not be.

Each is refused before anything is built, read or written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from llava_moe.config.as_word import as_word
from llava_moe.config.key_limits import TARGETS
from llava_moe.config.known_keys import PATTERNS, read_shipped
from llava_moe.config.limits import ByName, Limit, OrNull
from llava_moe.config.nearest_key import suggest
from llava_moe.errors import UserError

# Groups whose files write into the whole configuration and leave no key of their own name.
GLOBAL_GROUPS = ("exp", "scale")
Kind = TypeVar("Kind")


def refuse_unknown(config: Mapping[str, Any], name: str) -> None:
    """Refuse keys that the primary configuration ``name`` does not have, and keys that are gone.

    Raises:
        UserError: the first unknown key, with the nearest known one, or the first missing key.
    """
    known = read_shipped(name)
    sections = {key: node for key, node in known.items() if key not in ("defaults", "hydra")}
    if name == "train":
        for group, pattern in PATTERNS.items():
            # What a group's files may leave out stands in the primary configuration.
            sections[group] = {**known.get(group, {}), **(read_shipped(pattern).get(group) or read_shipped(pattern))}
        sections["adapter"] = None
    for group in GLOBAL_GROUPS:
        if group in config:
            raise UserError(f"the file of {group}= must begin with the line '# @package _global_': add it")
    _compare(config, sections, "")
    for section, node in sections.items():
        if isinstance(node, Mapping):
            if not isinstance(config[section], Mapping):
                example = f"such as {section}.{next(iter(node))}" if node else "{NAME: value}"
                raise UserError(f"{section}={as_word(config[section])}: it holds settings, {example}")
            if node:  # one that the file leaves empty takes names of the user's
                _compare(config[section], node, f"{section}.")


def check_settings(config: Mapping[str, Any], limits: Mapping[str, Limit], where: str = "") -> None:
    """Hold every setting that is there against its limit; keys are dotted.

    Raises:
        UserError: naming the first setting that is not admitted, its value and what it may be.
    """
    for key, limit in limits.items():
        node: Any = config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                break
            node = node[part]
        else:
            if isinstance(limit, ByName) and isinstance(node, Mapping):
                check_settings(node, dict.fromkeys(map(str, node), limit.item), f"{where}{key}.")
            if not limit.admits(node):
                name, value, expected = _culprit(key, node, limit)
                raise UserError(f"{where}{name}={as_word(value)}: give {expected.describe()}")


def _culprit(key: str, value: Any, limit: Limit) -> tuple[str, Any, Limit]:
    """The entry of a mapping that is not admitted; the value itself where it is none, or has no such entry."""
    inner = limit.limit if isinstance(limit, OrNull) else limit
    if isinstance(inner, ByName) and isinstance(value, Mapping):
        for name, one in value.items():
            if not inner.item.admits(one):
                return f"{key}.{name}", one, inner.item
    return key, value, limit


def check_target(node: Mapping[str, Any], where: str) -> None:
    """Hold the fields of an adapter or a base model against their limits.

    Raises:
        UserError: naming the first that is not admitted, behind ``where`` and a dot.
    """
    target = node.get("_target_")
    check_settings(node, TARGETS.get(target, {}) if isinstance(target, str) else {}, f"{where}.")


def build(kind: type[Kind], fields: Mapping[str, Any], where: str) -> Kind:
    """Make a dataclass from named values; an unknown name is the user's mistake.

    Raises:
        UserError: a field that the class does not have, or one that is missing.
    """
    assert dataclasses.is_dataclass(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    needed = {field.name for field in dataclasses.fields(kind) if not _has_default(field)}
    unknown, missing = sorted(set(fields) - known), sorted(needed - set(fields))
    if unknown:
        near = suggest(unknown[0], sorted(known))
        raise UserError(f"unknown key {where}.{unknown[0]}{near}: the keys there are {', '.join(sorted(known))}")
    if missing:
        raise UserError(f"{where}.{missing[0]} must be given: add {where}.{missing[0]}=VALUE")
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _compare(found: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    for key in found:
        if key not in known:
            raise UserError(f"unknown key {prefix}{key}{suggest(f'{prefix}{key}', [prefix + name for name in known])}")
    for key, value in known.items():
        if key not in found:
            example = "" if isinstance(value, Mapping) else f", such as {as_word(value)}"
            raise UserError(f"{prefix}{key} is not set: a file or a ~ left it out; give it a value{example}")
