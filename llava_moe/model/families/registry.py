"""The families that there are: ours, and those of installed packages (``llava_moe.families``)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from llava_moe.errors import UserError
from llava_moe.model.architecture import Architecture, FromCheckpoint, name_of
from llava_moe.model.families.llava import LLAVA
from llava_moe.model.families.protocol import Family, PartNames
from llava_moe.plugins import Plugin, Registry, lacking

OURS: tuple[Family, ...] = (LLAVA,)
_WANTED: dict[str, type | None] = {
    **{"name": str, "parts": PartNames, "published_roots": Mapping, "default_template": str, "architectures": tuple},
    **{name: None for name, member in vars(Family).items() if inspect.isfunction(member) and name[0] != "_"},
}


def _judged(plugin: Plugin, found: Any) -> Family:
    """The family of another package: an object, or a class that is made without arguments.

    Raises:
        UserError: naming what it lacks.
    """
    family: Family = plugin.made(found)
    if lack := lacking(family, _WANTED):
        raise plugin.refused(f"{lack}; docs/contributing/a_family.md says what a family has")
    if family.name != plugin.name:
        raise plugin.refused(f"calls itself {family.name}, which must be the name of its entry point")
    for one in family.architectures:
        if not isinstance(one, type) or not is_dataclass(one):
            raise plugin.refused(f"has {one!r} among its architectures, which is no dataclass")
    return family


FAMILIES: Registry[Family] = Registry("families", {one.name: one for one in OURS}, _judged)
"""By their names: ours, and those of installed packages."""


class Architectures(Mapping[str, type]):
    """The classes that ``model.architecture._target_`` may name: ours by their public names, others by their places.

    A package is imported where a class of its own is named; all are where one asks which there are.
    """

    def __getitem__(self, target: str) -> type:
        beside = [name for name, plugin in FAMILIES.others.items() if plugin.is_beside(target)]
        return _by_target((*FAMILIES.ours, *beside))[target]

    def __iter__(self) -> Iterator[str]:
        return iter(_by_target(FAMILIES))

    def __len__(self) -> int:
        return len(_by_target(FAMILIES))


ARCHITECTURES = Architectures()


def _by_target(names: Iterable[str]) -> dict[str, type]:
    found = {}
    for name in names:
        for one in FAMILIES[name].architectures:
            module = "llava_moe.model" if name in FAMILIES.ours else one.__module__
            found[f"{module}.{one.__qualname__}"] = one
    return found


def family_of(architecture: Architecture) -> Family:
    """The family that an architecture is built by: the first that takes it.

    A package's is asked about its own classes, and before ours about checkpoints: it may know a kind that ours do not.

    Raises:
        UserError: there is none.
    """
    kind = type(architecture)
    asked = [
        name for name, plugin in FAMILIES.others.items() if kind is FromCheckpoint or plugin.is_beside(kind.__module__)
    ]
    for name in (*asked, *FAMILIES.ours):
        if FAMILIES[name].takes(architecture):
            return FAMILIES[name]
    raise UserError(f"model {name_of(architecture)} is of no family that is known here: {', '.join(FAMILIES)}")
