"""Packages with entry points, as an installer leaves them, in a folder that Python imports from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import MetadataPathFinder
from pathlib import Path
from typing import Protocol

import pytest

from llava_moe import plugins
from llava_moe.adapters.registry import ADAPTERS, METHODS
from llava_moe.data.readers.formats import FORMATS
from llava_moe.model.families import FAMILIES


def write_package(
    folder: Path, name: str, entries: Mapping[str, str], modules: Mapping[str, str], version: str = "1.0"
) -> None:
    """Write a distribution and its modules.

    Args:
        entries: ``group name`` (without ``llava_moe.``) to the value, such as ``adapters sora`` to ``mine:Sora``.
        modules: path below ``folder`` to text.
    """
    record = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    record.mkdir(parents=True, exist_ok=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[llava_moe.{key.split()[0]}]\n{key.split()[1]} = {value}\n" for key, value in entries.items()]
    (record / "entry_points.txt").write_text("\n".join(lines))
    for path, text in modules.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        # Bytecode of a module is taken for fresh by the second and the size of its source: a package
        # that is installed twice within a second would run its first version.
        for bytecode in (folder / path).parent.glob(f"__pycache__/{(folder / path).stem}.*.pyc"):
            bytecode.unlink()


class Install(Protocol):
    """Installs a package; see :func:`write_package`."""

    def __call__(
        self, name: str, entries: Mapping[str, str], modules: Mapping[str, str], version: str = "1.0"
    ) -> None: ...


@contextmanager
def installing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install packages in this process: what they offer is forgotten at the end, and wherever one is installed again.

    Their modules are called ``mine`` and ``other``.
    """
    before = set(sys.modules)
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def forget() -> None:
        MetadataPathFinder().invalidate_caches()
        plugins.plugins.cache_clear()
        plugins.config_folders.cache_clear()
        for registry in (ADAPTERS, METHODS, FORMATS, FAMILIES):
            registry._loaded.clear()
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("mine", "other"):
                del sys.modules[name]

    def install(name: str, entries: Mapping[str, str], modules: Mapping[str, str], version: str = "1.0") -> None:
        write_package(folder, name, entries, modules, version)
        forget()

    yield install
    monkeypatch.undo()
    forget()
