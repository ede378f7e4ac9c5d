"""The adapter methods that there are: ours, and those of installed packages (``llava_moe.adapters``)."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from llava_moe.adapters.core.method import Method
from llava_moe.adapters.methods.llava_mole import LlavaMole
from llava_moe.adapters.methods.lora import Lora
from llava_moe.adapters.methods.mixlora import MixLora
from llava_moe.adapters.methods.mole import Mole
from llava_moe.adapters.methods.no_adapter import NoAdapter
from llava_moe.plugins import Plugin, Registry, lacking

OURS: tuple[type[Method], ...] = (Lora, LlavaMole, MixLora, Mole, NoAdapter)
_WANTED = {"method": str, "decides_per_example": bool, "build": None, "write": None}


def _judged(plugin: Plugin, found: Any) -> type[Method]:
    """The class of another package, if it is a method.

    Raises:
        UserError: naming what it lacks.
    """
    if not isinstance(found, type) or not is_dataclass(found):
        raise plugin.refused("is no dataclass of an adapter's settings")
    if lack := lacking(found, _WANTED):
        raise plugin.refused(f"{lack}; docs/contributing/an_adapter.md says what an adapter has")
    kind: Any = found
    if kind.method != plugin.name:
        raise plugin.refused(f"calls itself {kind.method}, which must be the name of its entry point")
    method: type[Method] = kind
    return method


METHODS: Registry[type[Method]] = Registry("adapters", {one.method: one for one in OURS}, _judged)
"""By the name in an adapter's files."""

ADAPTERS: Registry[type[Method]] = Registry(
    "adapters", {f"llava_moe.adapters.{one.__name__}": one for one in OURS}, _judged, lambda plugin: plugin.dotted
)
"""By the ``_target_`` of a configuration: ours by their public name, others by where they stand."""
