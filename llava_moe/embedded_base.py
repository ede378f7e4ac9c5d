"""The base model that ships with the package: its version, and fingerprints of what its files hold.

A release may bring another base of the same sizes, on which an adapter of the old one would load without a word. The
base therefore has a version, and each of its parts a fingerprint: SHA-256 over the names and bytes of its files, which
``demo/base/version.json`` holds and every opening computes again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_moe.errors import UserError
from llava_moe.files.our_files import read_object
from llava_moe.files.regular_file import read_regular

EMBEDDED = "embedded:"
VERSION_FILE = "version.json"
PART_FILES = {
    "vision_tower": ("config.json", "model.safetensors", "preprocessor_config.json"),
    "language_model": ("config.json", "generation_config.json", "model.safetensors"),
    "tokenizer": ("tokenizer.json", "tokenizer_config.json"),
}
PART_FOLDERS = {"vision_tower": "vision_tower", "language_model": "language_model", "tokenizer": "language_model"}
# A language model is opened with its tokenizer.
PARTS_OF_SETTING = {
    "vision_tower": ("vision_tower",),
    "language_model": ("language_model", "tokenizer"),
    "tokenizer": ("tokenizer",),
}
REMEDY = "reinstall llava-moe"
_ONE = {"version": int, "fingerprint": str}
_SHAPE = _ONE | {"parts": {str: str}, "weights": {str: str}, "earlier": [_ONE | {"weights": {str: str}}]}


@dataclass(frozen=True)
class EmbeddedBase:
    """A version of the base.

    Attributes:
        fingerprint: 64 hex digits over those of its parts.
        parts: part -> 64 hex digits over its files.
        weights: precision -> ``model.fingerprint.base_fingerprint`` of the whole, which is all that runs recorded
            before the base had a version.
        earlier: the versions before, without their parts.
    """

    version: int
    fingerprint: str
    parts: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    earlier: tuple[EmbeddedBase, ...] = ()

    def __str__(self) -> str:
        return say(self.version, self.fingerprint)

    def named(self, weights: str) -> str | None:
        """The newest version with a whole of these weights, in words; None where none had them."""
        return next((str(one) for one in (self, *self.earlier) if weights in one.weights.values()), None)


def say(version: int, fingerprint: str) -> str:
    """A base in words: ``embedded base 1 (5089419f)``."""
    return f"embedded base {version} ({fingerprint[:8]})"


def base_folder() -> Path:
    """Folder of the base inside the installed package."""
    return Path(__file__).resolve().parent / "demo" / "base"


def read_version() -> EmbeddedBase:
    """What ``version.json`` says of the base.

    Raises:
        UserError: it is not there, or damaged.
    """
    told = read_object(base_folder() / VERSION_FILE, REMEDY, _SHAPE)
    earlier = tuple(EmbeddedBase(one["version"], one["fingerprint"], weights=one["weights"]) for one in told["earlier"])
    return EmbeddedBase(told["version"], told["fingerprint"], told["parts"], told["weights"], earlier)


def parts_of(architecture: Any) -> tuple[str, ...]:
    """The parts of the embedded base that an architecture is made of; none where it stands on others."""
    named = {name: getattr(architecture, name, None) for name in PARTS_OF_SETTING}
    ours = [name for name, value in named.items() if isinstance(value, str) and value.startswith(EMBEDDED)]
    return tuple(dict.fromkeys(part for name in ours for part in PARTS_OF_SETTING[name]))


def fingerprint_part(part: str) -> str:
    """SHA-256 over the names, sizes and bytes of a part's files: 20 MB take a thirtieth of a second.

    Raises:
        UserError: a file is not there or cannot be read.
    """
    digest = hashlib.sha256()
    for name in PART_FILES[part]:
        path = base_folder() / PART_FOLDERS[part] / name
        try:
            content = read_regular(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {REMEDY}") from error
        digest.update(f"{name}|{len(content)}|".encode())
        digest.update(content)
    return digest.hexdigest()


def fingerprint_whole(parts: Mapping[str, str]) -> str:
    """SHA-256 over the fingerprints of all parts."""
    return hashlib.sha256("".join(f"{name}|{parts[name]}|" for name in PART_FILES).encode()).hexdigest()


def checked_version(parts: Iterable[str]) -> EmbeddedBase:
    """The version of the base, whose parts named here are what ``version.json`` says.

    Raises:
        UserError: the files of one are others, or cannot be read.
    """
    base = read_version()
    for part in parts:
        found = fingerprint_part(part)
        if found != base.parts.get(part):
            raise UserError(
                f"{base_folder() / PART_FOLDERS[part]}: the {part.replace('_', ' ')} is not that of {base}, which "
                f"{VERSION_FILE} names (contents {found[:8]}, {base.parts.get(part, 'none')[:8]} there): {REMEDY}"
            )
    return base
