"""What other installed packages add: found by their entry points without an import, loaded where one is asked for.

A package says in its ``pyproject.toml``, for example::

    [project.entry-points."llava_moe.adapters"]
    sora = "my_package.sora:Sora"

Groups: ``llava_moe.adapters`` (a method's class), ``.families`` (a family of models), ``.formats`` (a reader),
``.benchmarks`` (a module), ``.recipes`` (a ``Recipe``), ``.instruments`` (a module), ``.configs`` (a package whose
folder holds yamls as ``configs/`` does).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from llava_moe.errors import UserError

T = TypeVar("T")
_SINGULAR = {"families": "family"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Plugin:
    """One entry point of another package.

    Attributes:
        kind: the group without ``llava_moe.``, such as ``adapters``.
        value: where it stands, ``package.module:object`` or ``package.module``.
        package: the installed distribution that offers it.
        version: of that distribution: what it reads or makes may differ from one to the next.
    """

    kind: str
    name: str
    value: str
    package: str
    version: str = ""

    def __str__(self) -> str:
        return f"{_SINGULAR.get(self.kind, self.kind[:-1])} {self.name} of the installed package {self.package}"

    @property
    def dotted(self) -> str:
        """Its place as a dotted name, as a ``_target_`` says it."""
        return self.value.replace(":", ".")

    def load(self) -> Any:
        """Import it.

        Raises:
            UserError: its package does not import, or has no such thing.
        """
        try:
            return EntryPoint(self.name, self.value, f"llava_moe.{self.kind}").load()
        except Exception as error:  # whatever another package does at its import
            raise self.refused(f"does not load ({type(error).__name__}: {error})") from error

    def made(self, found: Any) -> Any:
        """What it loaded, an object, or one of the class that it loaded, which is made without arguments.

        Raises:
            UserError: the class cannot be made so.
        """
        try:
            return found() if isinstance(found, type) else found
        except Exception as error:  # whatever another package's class does
            raise self.refused(f"cannot be made without arguments ({type(error).__name__}: {error})") from error

    def is_beside(self, dotted: str) -> bool:
        """Whether a dotted name is one of the same package of modules."""
        return dotted.split(".")[0] == self.value.split(":")[0].split(".")[0]

    def refused(self, what: str) -> UserError:
        """The error that says what is wrong with it, and what to do."""
        return UserError(f"{self} {what}: fix it there, or uninstall {self.package}")


@cache
def plugins(kind: str) -> Mapping[str, Plugin]:
    """The plugins of a kind by name, in the order of the alphabet; nothing is imported.

    Raises:
        UserError: two packages offer one name, or one is no name: files and folders are called so.
    """
    found: dict[str, Plugin] = {}
    for entry in sorted(entry_points(group=f"llava_moe.{kind}"), key=lambda entry: entry.name):
        package, version = ("unknown", "") if entry.dist is None else (entry.dist.name, entry.dist.version)
        one = Plugin(kind, entry.name, entry.value, package, version)
        if not _NAME.fullmatch(one.name):
            raise one.refused("has a name that is not of letters, digits, _ and -")
        other = found.setdefault(one.name, one)
        if (other.package, other.value) != (one.package, one.value):
            raise UserError(f"{one} has the name of one of {other.package}: uninstall one of the two packages")
    return found


class Registry(Mapping[str, T], Generic[T]):
    """Things by name: ours, and those of plugins, which are loaded and judged when one is asked for.

    Args:
        kind: of the plugins.
        ours: by name.
        judge: gives what a plugin loaded, or raises :meth:`Plugin.refused` where it is not what it should be.
        named: the name of a plugin here; its entry point's by default.
    """

    def __init__(
        self,
        kind: str,
        ours: Mapping[str, T],
        judge: Callable[[Plugin, Any], T],
        named: Callable[[Plugin], str] = lambda plugin: plugin.name,
    ) -> None:
        self.kind, self.ours, self._judge, self._named = kind, ours, judge, named
        self._loaded: dict[str, T] = {}

    @property
    def others(self) -> dict[str, Plugin]:
        """Those of plugins, by the names that they have here; nothing is imported.

        Raises:
            UserError: one has the name of ours.
        """
        others = {self._named(plugin): plugin for plugin in plugins(self.kind).values()}
        for name in others.keys() & self.ours.keys():
            raise others[name].refused("has the name of one of llava-moe's own")
        return others

    def __getitem__(self, name: str) -> T:
        others = self.others
        if name in self.ours:
            return self.ours[name]
        if name not in self._loaded:
            self._loaded[name] = self._judge(others[name], others[name].load())
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        # Mapping's own would load what is asked about.
        return name in self.ours or name in self.others

    def __iter__(self) -> Iterator[str]:
        yield from self.ours
        yield from self.others

    def __len__(self) -> int:
        return len(self.ours) + len(self.others)

    def origin(self, name: str) -> tuple[str, ...]:
        """Package and version of a plugin's, for caches of what it made; nothing of ours."""
        other = self.others.get(name)
        return () if other is None else (other.package, other.version)


def lacking(found: Any, wanted: Mapping[str, type | None]) -> str:
    """What an object lacks of what it must have: ``""``, or the first attribute that is not there or of another type.

    Args:
        wanted: attribute to its type; ``None`` for one that is called.
    """
    for name, kind in wanted.items():
        if not hasattr(found, name):
            return f"lacks {name}{'()' if kind is None else ''}"
        if kind is None and not callable(getattr(found, name)):
            return f"has a {name} that cannot be called"
        if kind is not None and not isinstance(getattr(found, name), kind):
            return f"has a {name} that is no {kind.__name__}"
    return ""


@cache
def config_folders() -> tuple[Path, ...]:
    """The folders of configurations that plugins bring, in the order of their names.

    Nothing is imported, since the parts below a top package are its folders.

    Raises:
        UserError: one names no folder of a package.
    """
    folders = []
    for plugin in plugins("configs").values():
        top, *inner = plugin.value.split(".")
        try:
            found = importlib.util.find_spec(top)
        except ValueError:  # a name that is no module's
            found = None
        places = [Path(place).joinpath(*inner) for place in (found and found.submodule_search_locations) or ()]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise plugin.refused(f"names {plugin.value}, which is no package with a folder")
        folders.append(folder)
    return tuple(folders)
