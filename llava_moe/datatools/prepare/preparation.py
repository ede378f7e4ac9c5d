"""What is to be prepared, settled before a record is read: the raw files of a recipe, and what decides the result."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from llava_moe.data.readers.content import content_hash
from llava_moe.data.readers.files import is_address
from llava_moe.data.readers.formats import FORMATS
from llava_moe.data.readers.path_suggestion import path_meant
from llava_moe.data.readers.reader import RawFile
from llava_moe.data.readers.shards import BYTES_A_GROUP, ROWS_A_GROUP
from llava_moe.datatools.prepare import chunks
from llava_moe.datatools.prepare.chunks import PartFile
from llava_moe.datatools.prepare.recipe import Part, Recipe
from llava_moe.datatools.prepare.shard_maker import LOOKED_AT_A_CHUNK
from llava_moe.datatools.prepare.tokens import TextTokenizer
from llava_moe.errors import UserError

VERSION = 1
"""Raised whenever the same raw files would become other shards."""


@dataclass(frozen=True)
class Choices:
    """What the user chose.

    Attributes:
        downloads: the folder that the recipe's files were fetched to; None reads them from the recipe's address.
        images: the folder that image paths start from, where it is not the recipe's.
        splits: those to prepare; None for all that the recipe has.
        tokenizer: counts tokens; None where none is at hand.
        tokenizer_was_asked_for: by the user, by name; else any that counted will do.
        probe_images: look at every image path, not a sample.
        memory: folder that remembers what raw files hold, see ``content_hash``.
    """

    downloads: str | None
    images: str | None = None
    splits: tuple[str, ...] | None = None
    tokenizer: TextTokenizer | None = None
    tokenizer_was_asked_for: bool = False
    probe_images: bool = False
    memory: Path | None = None


@dataclass(frozen=True)
class Preparation:
    """One recipe with its raw files.

    Attributes:
        base: folder or address that the recipe's paths start from.
        files: in the order in which they are read.
        images: absolute folder that the image paths of all shards start from; None where there are none.
    """

    recipe: Recipe
    choices: Choices
    base: str
    files: tuple[PartFile, ...]
    images: str | None

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that are prepared."""
        return tuple(dict.fromkeys(file.split for file in self.files))

    def facts(self) -> dict[str, Any]:
        """All that decides the shards, by the name that the user knows it by: a level of plain JSON."""
        recipe, tokenizer = self.recipe, self.choices.tokenizer
        return {
            "version": VERSION,
            "recipe": recipe.name,
            "recipe fingerprint": recipe_fingerprint(recipe),
            "splits": list(self.splits),
            "images": self.images,
            "tokenizer": None if tokenizer is None else f"{tokenizer.name} {tokenizer.fingerprint[:16]}",
            "probe_images": self.choices.probe_images,
            "sizes": [*(chunks.ROWS_A_CHUNK, chunks.BYTES_A_CHUNK, ROWS_A_GROUP, BYTES_A_GROUP, LOOKED_AT_A_CHUNK)],
            **{f"raw file {file.name}": file.changed for file in self.files},
        }


def recipe_fingerprint(recipe: Recipe) -> str:
    """SHA-256 over what decides the records; words for people may be fixed."""
    deciding = (recipe.name, recipe.domain, recipe.format, recipe.parts, recipe.images, recipe.draw)
    return sha256(repr((*deciding, *FORMATS.origin(recipe.format))).encode()).hexdigest()


def settle_preparation(recipe: Recipe, choices: Choices) -> Preparation:
    """Find the raw files of a recipe.

    Raises:
        UserError: a format that is not there, a split that the recipe does not have, no address to stream from, a
            folder that does not hold the files (which file was looked for, and how to get them).
    """
    if recipe.format not in FORMATS:
        raise UserError(f"recipe {recipe.name}: format={recipe.format} is none of {', '.join(FORMATS)}")
    base = _base(recipe, choices)
    parts = [part for part in recipe.parts if choices.splits is None or part.split in choices.splits]
    unknown = [split for split in choices.splits or () if split not in recipe.splits]
    if unknown or not parts:
        asked = ",".join(choices.splits or ())
        there = ", ".join(recipe.splits)
        raise UserError(f"splits=[{asked}]: recipe {recipe.name} has {there}: name one or more, or leave out splits=")
    root, prefixes = _image_roots(recipe, choices, base, parts)
    files = [
        _part_file(raw, part, recipe.parts.index(part), prefix, base, choices.memory)
        for part, prefix in zip(parts, prefixes, strict=True)
        for raw in _find(recipe, part, base)
    ]
    return Preparation(recipe, choices, base, tuple(files), root)


def _base(recipe: Recipe, choices: Choices) -> str:
    if choices.downloads is None:
        if recipe.address is None:
            raise UserError(f"recipe {recipe.name} has no address to be read from: fetch it first ({_get(recipe)})")
        if recipe.images is not None and choices.images is None:
            raise UserError(
                f"recipe {recipe.name}: its images are not in its records and cannot be streamed: fetch them "
                f"({_get(recipe)}) and add images=FOLDER"
            )
        return recipe.address.rstrip("/")
    folder = Path(choices.downloads).expanduser()
    if not folder.is_dir():
        near = path_meant(folder, only_folders=True)
        raise UserError(
            f"downloads={choices.downloads}: no such folder{near}; fetch {recipe.name} into it: {_get(recipe)}"
        )
    own = folder / recipe.name
    return str((own if own.is_dir() else folder).resolve())


def _get(recipe: Recipe) -> str:
    return " && ".join(recipe.get)


def _find(recipe: Recipe, part: Part, base: str) -> list[RawFile]:
    place = base if part.find == "." else f"{base}/{part.find}"
    try:
        files = _files(recipe, part, base)
    except UserError as error:
        missing = f"recipe {recipe.name}: {error}; to get it: {_get(recipe)}"
        raise UserError(f"{missing}{_way_round(recipe, part, base)}") from error
    if not files:
        missing = f"recipe {recipe.name}: no {part.split} file in {place}; to get it: {_get(recipe)}"
        raise UserError(f"{missing}{_way_round(recipe, part, base)}")
    return files


def _files(recipe: Recipe, part: Part, base: str) -> list[RawFile]:
    found = FORMATS[recipe.format].find(base if part.find == "." else f"{base}/{part.find}")
    return [raw for raw in found if raw.split in (None, part.split)]


def _way_round(recipe: Recipe, missing: Part, base: str) -> str:
    """The splits that can do without the missing one: those of which every file is there."""
    others = dict.fromkeys(split for split in recipe.splits if split != missing.split)
    lacks = {part.split for part in recipe.parts if part.split in others and not _is_there(recipe, part, base)}
    there = [split for split in others if split not in lacks]
    return f"; to do without it: splits=[{','.join(there)}]" if there else ""


def _is_there(recipe: Recipe, part: Part, base: str) -> bool:
    try:
        return bool(_files(recipe, part, base))
    except UserError:
        return False


def _image_roots(
    recipe: Recipe, choices: Choices, base: str, parts: Sequence[Part]
) -> tuple[str | None, tuple[str, ...]]:
    """The one folder that all image paths can start from, and what each part's paths get in front for that."""
    if choices.images is not None:
        folder = Path(choices.images).expanduser()
        if not folder.is_dir():
            near = path_meant(folder, only_folders=True)
            raise UserError(f"images={choices.images}: no such folder{near}; give the one that image paths start from")
        return str(folder.resolve()), ("",) * len(parts)
    named = [part.images if part.images is not None else recipe.images for part in parts]
    if choices.downloads is None or all(name is None for name in named):
        return None, ("",) * len(parts)
    roots = [os.path.normpath(os.path.join(base, name or ".")) for name in named]
    common = os.path.commonpath(roots)
    prefixes = (os.path.relpath(root, common) for root in roots)
    return common, tuple("" if prefix == "." else Path(prefix).as_posix() for prefix in prefixes)


def _part_file(raw: RawFile, part: Part, number: int, prefix: str, base: str, memory: Path | None) -> PartFile:
    name = posixpath.relpath(raw.path, base) if raw.path.startswith(f"{base}/") else raw.path
    size, changed = _state(raw.path, memory)
    beside = [_state(path, memory)[1] for path in raw.beside]
    return PartFile(raw, name, part.split, number, prefix, size, "; ".join([changed, *beside]))


def _state(path: str, memory: Path | None) -> tuple[int | None, str]:
    """Size of a file and a word that changes when it does."""
    try:
        if not is_address(path):
            return os.stat(path).st_size, f"content {content_hash(path, memory)[:16]}"
        system, inside = url_to_fs(path)
        told: Mapping[str, Any] = system.info(inside)
    except Exception as error:
        # Behind an address stands any of fsspec's backends, each with a network library's own exceptions.
        if not isinstance(error, OSError) and not is_address(path):
            raise
        raise UserError(f"{path}: cannot be reached ({' '.join(str(error).split())[:200]}); check it") from error
    size = told.get("size")
    mark = next((told[key] for key in ("blob_id", "ETag", "etag", "mtime", "LastModified") if told.get(key)), "")
    return size if isinstance(size, int) else None, f"{size} bytes of {mark}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two preparations' :meth:`Preparation.facts`, a phrase each, raw files first."""
    for key in sorted(before.keys() | now.keys(), key=lambda key: (not key.startswith("raw file"), key)):
        if before.get(key) == now.get(key):
            continue
        if key not in now:
            yield f"{key} is gone"
        elif key not in before:
            yield f"{key} is new"
        elif key.startswith("raw file"):
            yield f"{key} has changed ({before[key]} then, {now[key]} now)"
        else:
            yield f"{key} was {before[key]}, is {now[key]}"
