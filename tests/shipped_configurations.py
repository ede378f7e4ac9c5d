"""The configuration files that ship are parsed once: to parse them takes a quarter of what Hydra needs to compose."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource

from llava_moe.config.config_folder import config_folder


@contextmanager
def parsed_once() -> Iterator[None]:
    """Have Hydra's sources keep what they read of the project's files and its own; all others are read each time."""
    Plugins.instance()  # which registers the sources
    kept: dict[tuple[str, str], bytes] = {}
    with ExitStack() as patches:
        for scheme in ("file", "pkg"):
            kind = SourcesRegistry.instance().resolve(scheme)
            patches.enter_context(mock.patch.object(kind, "load_config", _keeping(kind, kept)))
        yield


def _keeping(
    kind: type[ConfigSource], kept: dict[tuple[str, str], bytes]
) -> Callable[[ConfigSource, str], ConfigResult]:
    load, shipped = kind.load_config, (str(config_folder()), "hydra.conf")

    def load_config(self: ConfigSource, config_path: str) -> ConfigResult:
        if self.path not in shipped:
            return load(self, config_path)
        key = (self.path, config_path)
        if key not in kept:
            kept[key] = pickle.dumps(load(self, config_path))
        # Hydra changes what it was given, and of its nodes a deep copy takes seven times as long.
        found: ConfigResult = pickle.loads(kept[key])
        return found

    return load_config
