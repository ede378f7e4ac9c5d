"""Where the configurations are that come with the package."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> Path:
    """Folder of the configuration tree: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
