"""Which keys there are: those of the shipped files, and the fields of a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from llava_moe.config.config_folder import shipped_folders
from llava_moe.text.structured_text import parse_yaml

# A file of each group whose keys all the group's files have. What lies deeper is checked where it is used.
PATTERNS = {"data": "data/mine", "model": "model/tiny", "stage": "stage/instruct", "parallel": "parallel/auto"}


def data_keys() -> list[str]:
    """The keys that a file of sources may have beside them, and ``sources`` itself."""
    return list({"sources": None, **read_shipped("train")["data"], **read_shipped(PATTERNS["data"])})


def source_keys() -> list[str]:
    """The keys of one source."""
    from llava_moe.data.records import Source  # words are judged before it is loaded

    return [field.name for field in dataclasses.fields(Source) if field.name != "name"]


def dotted(node: Any, prefix: str = "") -> list[str]:
    """All keys of nested mappings, sections included, as dotted names."""
    keys: list[str] = []
    for key, value in node.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys += dotted(value, f"{prefix}{key}.")
    return keys


def read_shipped(name: str) -> dict[str, Any]:
    """A shipped file of configs/, such as ``data/mine``, as it is written."""
    places = [folder / f"{name}.yaml" for folder in shipped_folders()]
    content = parse_yaml(next(path for path in places if path.is_file()).read_bytes())
    assert isinstance(content, dict)
    return content
