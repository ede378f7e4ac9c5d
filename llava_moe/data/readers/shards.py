"""Prepared folders: sharded Parquet of our own records, and the manifest that says what must be there.

``manifest.json`` appears last, when all shards are whole. While a folder is being prepared its state lies in
``.preparing/``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from llava_moe.errors import UserError
from llava_moe.files.atomic_write import replace_file
from llava_moe.files.regular_file import read_regular
from llava_moe.text.structured_text import parse_json

MANIFEST = "manifest.json"
PREPARING = ".preparing"
VERSION = 1

SHARD_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        (
            "images",
            pa.list_(
                pa.struct(
                    [
                        ("path", pa.string()),
                        ("bytes", pa.binary()),
                        ("sha256", pa.string()),
                        ("width", pa.int32()),
                        ("height", pa.int32()),
                    ]
                )
            ),
        ),
        (
            "conversations",
            pa.list_(pa.struct([("role", pa.string()), ("text", pa.string()), ("is_supervised", pa.bool_())])),
        ),
        ("system", pa.string()),
        ("caption", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("domain", pa.string()),
        ("task", pa.string()),
    ]
)
"""One record a row: the ``records`` format. An image is a path, or bytes with their SHA-256 and size in pixels.

``is_supervised`` is False for an answer without supervision, else null. Shards of earlier releases have neither
it nor ``system``.
"""

ROWS_A_GROUP = 128
BYTES_A_GROUP = 4 << 20
"""Rows and image bytes of a Parquet row group at most: reading one record reads its group."""


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a prepared folder."""

    file: str
    split: str | None
    num_records: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds.

    Attributes:
        recipe: name of the recipe.
        images: the folder that image paths start from; None where all images lie in the shards.
        shards: in the order of their records.
        counts: the account of each split, as ``prepare`` wrote it.
        raw: the raw files: ``file``, ``bytes``, ``records``.
        about: source, licence, recipe fingerprint and other facts for people.
    """

    recipe: str
    images: str | None
    shards: tuple[Shard, ...]
    counts: Mapping[str, Any] = field(default_factory=dict)
    raw: tuple[Mapping[str, Any], ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' own: changes whenever a record does."""
        return sha256(repr([(shard.file, shard.split, shard.sha256) for shard in self.shards]).encode()).hexdigest()


def is_prepared(folder: Path) -> bool:
    """Whether a folder is one that ``data prepare`` made or has begun."""
    return (folder / MANIFEST).is_file() or (folder / PREPARING).is_dir()


def is_ours(folder: Path) -> bool:
    """Whether a folder with a manifest is certainly one of ``data prepare``: another program's may have that name."""
    if (folder / PREPARING).is_dir():
        return True
    try:
        told = parse_json(read_regular(folder / MANIFEST))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and {"recipe", "shards", "version"} <= told.keys()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``; it appears whole or not at all."""
    replace_file(folder / MANIFEST, json.dumps(asdict(manifest), indent=1, ensure_ascii=False))


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest and hold it against the shards' sizes.

    Raises:
        UserError: the folder is not finished, the manifest is damaged, or a shard is missing or of another size.
    """
    path = folder / MANIFEST
    again = "run llava-moe data prepare again"
    if not path.is_file():
        raise UserError(f"{folder}: its preparation is not finished; {again} with the words it was begun with")
    try:
        fields = parse_json(read_regular(path))
        shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
        manifest = Manifest(shards=shards, raw=tuple(fields.pop("raw", ())), **fields)
        if manifest.version == VERSION:
            _check_fields(manifest)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest ({error}); {again} with restart=true") from error
    if manifest.version != VERSION:
        raise UserError(f"{path}: version {manifest.version}, this program reads {VERSION}; {again} with restart=true")
    for shard in manifest.shards:
        _hold_against(folder, shard, again)
    return manifest


def _check_fields(manifest: Manifest) -> None:
    """Raise ``ValueError`` for a field that no preparation wrote: the file may come from anywhere."""
    _expect(isinstance(manifest.recipe, str), "recipe", manifest.recipe, "text")
    _expect(isinstance(manifest.images, str | None), "images", manifest.images, "a folder or null")
    _expect(isinstance(manifest.about, Mapping), "about", manifest.about, "a mapping")
    _expect(all(isinstance(one, Mapping) for one in manifest.raw), "raw", manifest.raw, "a list of mappings")
    _expect(isinstance(manifest.counts, Mapping), "counts", manifest.counts, "a mapping")
    for split, account in manifest.counts.items():
        name = f"counts of {split}"
        _expect(isinstance(account, Mapping), name, account, "a mapping")
        records, rejected = account.get("records"), account.get("rejected")
        _expect(records is None or _is_count(records), f"records in the {name}", records, "a number")
        fits = rejected is None or (isinstance(rejected, Mapping) and all(map(_is_count, rejected.values())))
        _expect(fits, f"rejected in the {name}", rejected, "a mapping to numbers")
    for shard in manifest.shards:
        is_name = (
            isinstance(shard.file, str) and shard.file not in ("", ".", "..") and not set(shard.file) & set("/\\\0")
        )
        _expect(is_name, "file of a shard", shard.file, "a file's name, without folders")
        _expect(isinstance(shard.split, str | None), f"split of {shard.file}", shard.split, "text or null")
        _expect(_is_count(shard.num_records), f"num_records of {shard.file}", shard.num_records, "a number")
        _expect(_is_count(shard.num_bytes), f"num_bytes of {shard.file}", shard.num_bytes, "a number")
        _expect(isinstance(shard.sha256, str), f"sha256 of {shard.file}", shard.sha256, "text")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _expect(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {str(value)[:100]!r}, not {wanted}")


def _hold_against(folder: Path, shard: Shard, again: str) -> None:
    try:
        size = (folder / shard.file).stat().st_size
    except OSError as error:
        raise UserError(
            f"{folder / shard.file}: in the manifest and not there ({error.strerror}); copy it, or {again} with "
            "restart=true"
        ) from error
    if size != shard.num_bytes:
        raise UserError(
            f"{folder / shard.file}: {size:,} bytes, the manifest says {shard.num_bytes:,}; copy it again, or {again} "
            "with restart=true"
        )
