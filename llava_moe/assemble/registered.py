"""The classes that a configuration may name in a ``_target_``, and the object that such a node describes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from llava_moe.adapters.core.field_types import first_misfit
from llava_moe.adapters.registry import ADAPTERS
from llava_moe.errors import UserError
from llava_moe.model import ARCHITECTURES
from llava_moe.text.did_you_mean import did_you_mean

__all__ = ["ADAPTERS", "ARCHITECTURES", "from_target"]


# What stands in quotes is a value of the user's, whatever it looks like.
_QUOTED = r"""(?<!\w)(?:'[^']*'|"[^"]*")"""


@contextmanager
def settings_named(kind: type, section: str) -> Iterator[None]:
    """Put the section before each setting where an object speaks of its own: ``r=0`` becomes ``adapter.r=0``.

    Raises:
        UserError: what is raised inside.
    """
    try:
        yield
    except UserError as error:
        told = with_keys(str(error), [field.name for field in fields(kind)], section)
        if told == str(error):
            raise
        raise UserError(told) from error


def with_keys(message: str, settings: Sequence[str], section: str) -> str:
    """A message with the section before every setting that it names.

    A name counts where the message begins with it, where ``=`` follows, and where it can be no word of a sentence
    (``num_experts``); ``experts`` inside a sentence are experts.
    """
    if not settings:
        return message
    names = "|".join(map(re.escape, settings))

    def keyed(found: re.Match[str]) -> str:
        name = found["name"]
        if name is None or not (found.start() == 0 or found["equals"] or "_" in name):
            return found[0]
        return f"{section}.{found[0]}"

    # Behind a dot, a slash or = it is a part of a key, of a path or of a value.
    return re.sub(rf"{_QUOTED}|(?<![\w./=-])(?P<name>{names})\b(?![.-])(?P<equals>=)?", keyed, message)


def from_target(node: Mapping[str, Any], registered: Mapping[str, type], section: str = "adapter") -> Any:
    """Build the object that a node's ``_target_`` names.

    Args:
        registered: the classes that may stand there: ``ADAPTERS`` or ``ARCHITECTURES``.
        section: where the node stands in the configuration.

    Raises:
        UserError: another class, or fields that it does not have.
    """
    target = node.get("_target_")
    if not isinstance(target, str) or target not in registered:
        raise UserError(f"_target_={target} is none of {', '.join(registered)}: take a file of llava-moe ls")
    kind: Any = registered[target]
    name = kind.__name__
    values = {key: value for key, value in node.items() if key != "_target_"}
    known = [field.name for field in fields(kind)]
    unknown = [key for key in values if key not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise UserError(f"unknown key {unknown[0]} of {name}{hint}: its keys are {', '.join(known)}")
    if misfit := first_misfit(kind, values):
        raise UserError(f"{name}: {misfit}; fix that setting")
    try:
        with settings_named(kind, section):
            return kind(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}; fix that setting") from error
