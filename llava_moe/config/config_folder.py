"""Where the configurations are that come with the package."""

from __future__ import annotations

from pathlib import Path

from llava_moe.plugins import config_folders


def config_folder() -> Path:
    """Folder of the configuration tree: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_folders() -> list[Path]:
    """Ours, and those of installed packages (``llava_moe.configs``)."""
    return [config_folder(), *config_folders()]
