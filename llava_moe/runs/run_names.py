"""Names of runs that stand beside each other: what differs between them, and no more."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_moe.config.free_text import MIXTURE_ENDINGS

SEED = "seed"
_LONGEST = 80
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_BARE = ("true", "false", "null")
_FILES = ("data", "path", "images", "init_from", "model.path")
# What a reader looks for first in a name.
_FIRST = ("data", "path", "exp", "adapter")


def rank(key: str) -> tuple[bool, int, str]:
    """Where a key's value stands in a name: data and adapter first, the seed last, whatever was typed before what."""
    return key == SEED, _FIRST.index(key) if key in _FIRST else len(_FIRST), key


def job_name(swept: Sequence[str], typed: Mapping[str, str]) -> str:
    """How a run of a sweep is called: the experiment where one was typed, the mixture, and what differs.

    Args:
        swept: the keys that have several values.
        typed: key to value of the words of this run.
    """
    values = {key: typed[key] for key in sorted(swept, key=rank) if key in typed}
    parts = value_names({key: [value] for key, value in values.items()})
    told = [None if key in values else typed.get(key) for key in ("exp", "data")]
    name = joined(told[0], mixture_name(told[1]), *(parts[key][value] for key, value in values.items()))
    return as_folder(next(iter(apart({name: name}).values())))


def mixture_name(value: str | None) -> str | None:
    """How runs of ``data=value`` are called: a file's own name, or the name that was chosen."""
    return None if value is None else _plain(_stem(value))


def value_names(axes: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Key to value to its part in a name: ``lora`` of ``adapter=lora``, ``r8`` of ``adapter.r=8``.

    Args:
        axes: key to its values, as each stands behind ``key=``.
    """
    tails = Counter(key.rpartition(".")[2] for key in axes)
    names = {}
    for key, values in axes.items():
        tail = key.rpartition(".")[2]
        tail = "_".join(key.split(".")[-2:]) if tails[tail] > 1 else tail
        names[key] = apart({value: _value_name(key, tail, value) for value in values})
    return names


def _value_name(key: str, tail: str, value: str) -> str:
    if key in _FILES:
        return _plain(_stem(value))
    if _NUMBER.fullmatch(value):
        return _plain(f"{tail}{value}")
    return _plain(f"{tail}_{value}" if value in _BARE else value.strip("'\""))


def _stem(value: str) -> str:
    path = Path(value)
    return path.stem if path.suffix in (*MIXTURE_ENDINGS, ".json", ".jsonl", ".parquet") else path.name


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text).replace("+", "_").strip("_")


def apart(names: Mapping[str, str]) -> dict[str, str]:
    """What is named to its name: one that is taken or too long for a folder ends in digits of what it names.

    The first of equal names stays as it is: what is added behind it renames no run.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for one, name in names.items():
        found[one] = f"{name[:_LONGEST]}-{digest(one)}" if name in taken or len(name) > _LONGEST else name
        taken.add(name)
    return found


def as_folder(name: str) -> str:
    """A name that begins as a folder's may."""
    return name if re.match(r"[A-Za-z0-9]", name) else f"run-{name}".rstrip("-")


def joined(*parts: str | None) -> str:
    """A name of its parts, without those that are none."""
    return "-".join(part for part in parts if part)


def digest(*texts: str) -> str:
    """Eight hex digits of texts."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:8]
