"""The instruments of ``llava-moe analyze``: ours, a pair of files each, and those of installed packages.

A package's instrument (``llava_moe.instruments``) is a module with ``SUMMARY`` (a line), ``USAGE`` (what ``--help``
tells), ``judge(plain)``, which refuses settings before anything heavy is loaded, and ``measure(plain, session)``. Its
settings are ``analyze_NAME.yaml`` in a folder of ``llava_moe.configs``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llava_moe.commands.table import ANALYZE_COMMANDS, Command
from llava_moe.plugins import Plugin, lacking, plugins

_WANTED = {"SUMMARY": str, "USAGE": str, "judge": None, "measure": None}
Judge = Callable[[Mapping[str, Any]], None]
# ``measure(plain, session)``: a session is torch's, and so is told of where it is made.
Measure = Callable[[Mapping[str, Any], Any], int]


@dataclass(frozen=True)
class Instrument:
    """What judges an instrument's settings, and what measures."""

    judge: Judge
    load: Callable[[], Measure]
    """Gives what runs it, and loads what that needs."""


def summaries() -> dict[str, str]:
    """Each instrument's name and line; nothing is imported.

    Raises:
        UserError: a package's has the name of one of ours.
    """
    ours = {name: command.summary for name, command in ANALYZE_COMMANDS.items()}
    return ours | {name: f"of the installed package {one.package}" for name, one in _others().items()}


def find(name: str) -> Instrument:
    """An instrument by its name, which must be one of :func:`summaries`.

    Raises:
        UserError: a package's does not load, or lacks something.
    """
    if name in ANALYZE_COMMANDS:
        judge = importlib.import_module(f"llava_moe.commands.words.analyze_{name}").judge
        return Instrument(judge, lambda: importlib.import_module(f"llava_moe.commands.analyze_{name}").measure)
    found = _loaded(_others()[name])
    return Instrument(found.judge, lambda: found.measure)


def help_of(name: str) -> Command | None:
    """What ``--help`` tells of a package's instrument; None where no package has one of this name."""
    plugin = plugins("instruments").get(name)
    return None if plugin is None else Command(_loaded(plugin).SUMMARY, _loaded(plugin).USAGE)


def _others() -> Mapping[str, Plugin]:
    others = plugins("instruments")
    for name in others.keys() & ANALYZE_COMMANDS.keys():
        raise others[name].refused("has the name of one of llava-moe's own")
    return others


def _loaded(plugin: Plugin) -> Any:
    module = plugin.load()
    if lack := lacking(module, _WANTED):
        raise plugin.refused(f"{lack}; docs/contributing/a_package.md says what an instrument has")
    return module
