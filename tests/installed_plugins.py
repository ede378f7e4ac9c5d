"""Packages with entry points, as an installer leaves them, in a folder that Python imports from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


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
