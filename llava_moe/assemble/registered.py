"""The classes that a configuration may name in a ``_target_``, and the object that such a node describes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from llava_moe.adapters.core.field_types import first_misfit
from llava_moe.adapters.registry import ADAPTERS
from llava_moe.errors import UserError
from llava_moe.model import ARCHITECTURES
from llava_moe.text.did_you_mean import did_you_mean

__all__ = ["ADAPTERS", "ARCHITECTURES", "from_target"]


@contextmanager
def settings_named(kind: type, section: str) -> Iterator[None]:
    """Put the section before a setting's name where an object speaks of its own: ``r=0`` becomes ``adapter.r=0``.

    Raises:
        UserError: what is raised inside.
    """
    try:
        yield
    except UserError as error:
        first = re.match(r"\w+", str(error))
        if first is None or first[0] not in {field.name for field in fields(kind)}:
            raise
        raise UserError(f"{section}.{error}") from error


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
