"""What may be chosen by a name: the kinds of things that there are, and the names of a group of configurations."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.config.config_folder import shipped_folders
from llava_moe.config.own_yamls import own_folders

GROUPS = ("exp", "model", "data", "adapter", "stage", "parallel", "scale")
KINDS = (*GROUPS, "recipe", "benchmark", "run")


def names_of(group: str, words: Sequence[str] = ()) -> list[str]:
    """Names that may stand behind ``group=``, those in the folders of ``--config-dir`` among the words too."""
    folders = [*shipped_folders(), *own_folders(words)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
