"""Hydra's own settings: what a word or a file may say there. Hydra calls what some of them name before our job runs.

A launcher or a sweeper of Hydra's, or of a plugin of it, may be chosen and set; all else stays as our files have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig, OmegaConf

from llava_moe.errors import UserError

OWN_FOLDER = ("-cd", "--config-dir", "-cp", "--config-path")
PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
SILENT = {"version": 1, "root": None, "disable_existing_loggers": False}
"""Hydra's ``job_logging=none``."""

AS_OURS: dict[str, tuple[Any, str]] = {
    "callbacks": ({}, "calls whatever it names: leave it out of the words and of your own files"),
    "hydra_logging": (SILENT, "calls whatever it names: leave it out of the words and of your own files"),
    "job_logging": (SILENT, "calls whatever it names: leave it out of the words and of your own files"),
    "job.env_set": ({}, "sets environment variables: set them in the shell"),
    "job.chdir": (None, "would move the run, and every path with it: leave it out"),
    "output_subdir": (None, "would write beside the run: leave it out, the run's folder has its configuration"),
    "run.dir": (".", "is not where a run goes: give out=FOLDER"),
    "sweep.dir": ("runs/.sweep", "is not where runs go: leave it out"),
    "sweep.subdir": (".", "is not where runs go: leave it out"),
    "searchpath": ([], "adds folders of files: give the folder with --config-dir"),
}
"""Setting -> what it holds in our files, and what to do where something else was asked for."""


def refuse_words(words: Sequence[str]) -> None:
    """Refuse what Hydra follows while it composes: a search path may name a package, which is then imported.

    Raises:
        UserError: naming the setting.
    """
    if any(word.lstrip("+~").startswith("hydra.searchpath") for word in words):
        raise UserError(f"hydra.searchpath {AS_OURS['searchpath'][1]}")


@contextmanager
def held_to_ours(words: Sequence[str]) -> Iterator[None]:
    """Refuse each composed configuration whose Hydra settings are not ours, before Hydra calls what they name.

    Args:
        words: the flags and overrides that Hydra will read.

    Raises:
        UserError: naming the setting.
    """
    loaded, mode = ConfigLoaderImpl.load_configuration, Hydra.get_mode

    def load(self: ConfigLoaderImpl, *words: Any, **named: Any) -> DictConfig:
        config = loaded(self, *words, **named)
        _refuse(config)
        return config

    ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]
    if not _may_set_mode(words):
        Hydra.get_mode = _no_mode  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration, Hydra.get_mode = loaded, mode  # type: ignore[method-assign]


def _may_set_mode(words: Sequence[str]) -> bool:
    """Whether ``hydra.mode`` may be set: our files leave it to ``-m``, so only words or the user's own files do."""
    return any(word.startswith(OWN_FOLDER) or word.lstrip("+~").startswith("hydra") for word in words)


def _no_mode(*_: Any, **__: Any) -> None:
    """What Hydra finds out by composing everything once more, a quarter of a second before each command."""


def _refuse(config: DictConfig) -> None:
    settings = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(settings, dict)
    for key, (ours, instead) in AS_OURS.items():
        found: Any = settings
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found != ours:
            raise UserError(f"hydra.{key} {instead}")
    for part in ("launcher", "sweeper"):
        for target in _targets(settings.get(part)):
            if not str(target).startswith(PLUGINS):
                raise UserError(f"hydra.{part} names {target!s:.100}, which is no plugin of Hydra's: leave it out")


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from [value] if key == "_target_" else _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
