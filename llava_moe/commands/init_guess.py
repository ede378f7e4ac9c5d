"""What ``init`` finds out of one file of the user's: format, records, splits, and where its images are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import glob, has_magic
from pathlib import Path

import numpy as np

from llava_moe.commands.init_tables import table_remedy
from llava_moe.data.auto_format import reading_formats, tell_format
from llava_moe.data.conversation import BadRecord, Conversation, image_identity, record_key
from llava_moe.data.images.roots import ImageRoot, guess_image_root, look_in
from llava_moe.data.readers.files import is_address
from llava_moe.data.readers.path_suggestion import near_place
from llava_moe.data.readers.splits import EVERY, TRAIN
from llava_moe.data.records import AUTO, Records, Source
from llava_moe.data.source import find_files, open_records, prepared_folder
from llava_moe.errors import UserError
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.text.shell_words import shell

MOST_READ = 5_000
"""Records of a source that are looked at one by one; of a larger one so many, in stretches spread evenly over it."""
_STRETCH = 100
# OWNER/NAME, where no folder OWNER is.
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_PAGE = "https://huggingface.co/datasets/"


@dataclass(frozen=True)
class Shown:
    """The images of n records that were looked at, as ``held_out.Shown`` has them."""

    keys: np.ndarray
    num_images: np.ndarray
    image_ids: np.ndarray


@dataclass(frozen=True)
class Guess:
    """One source as found.

    Attributes:
        source: what is to be written, with the paths as they are from here.
        is_told: the format is one that records show by their keys.
        num_records: that are read; ``splits``: how many each split has, those that are not read among them.
        num_looked, num_bad: records that were looked at, and those of them that cannot be read; ``fault``: the first.
        num_with_images: of those looked at.
        root: where the images are; None where no record names a file.
        shown: what ``data.held_out`` divides.
    """

    source: Source
    is_told: bool
    num_records: int
    num_looked: int
    num_bad: int
    fault: str
    num_with_images: int
    root: ImageRoot | None
    shown: Shown
    splits: Mapping[str, int] = field(default_factory=dict)


def guess_source(domain: str, path: str, images: str | None) -> Guess:
    """Find out what stands in one file, folder, pattern or address.

    Args:
        images: the folder of its images, where the user says it.

    Raises:
        UserError: it cannot be read, none of its records can be used, or its images are nowhere near.
    """
    if path.startswith(_HUB_PAGE):
        name = "/".join(path.removeprefix(_HUB_PAGE).split("/")[:2])
        raise UserError(f"{domain}: {path:.200} is a page; the data set itself is hf://datasets/{name}")
    _refuse_missing(domain, path)
    source, is_told = _with_format(Source(domain, domain, path, images=images))
    source, records = _opened(source)
    entries = [entry for start in _starts(len(records)) for entry in records.read(start, start + _STRETCH)]
    good = [entry.content for entry in entries if isinstance(entry.content, Conversation)]
    bad = [entry.content for entry in entries if isinstance(entry.content, BadRecord)]
    fault = f"{bad[0].reason}: {bad[0].detail}" if bad else ""
    if not good:
        raise UserError(f"{domain}: none of {len(records):,} records of {path} is usable ({fault})")
    root = _image_root(domain, path, source, good)
    if root is not None and source.images is None and records.image_root is None:
        source = replace(source, images=root.folder)
    return Guess(
        source,
        is_told,
        len(records),
        len(entries),
        len(bad),
        fault,
        sum(bool(one.images) for one in good),
        root,
        _shown(good),
        dict(records.splits),
    )


def _refuse_missing(domain: str, path: str) -> None:
    """Refuse a file that is not there, in the words of ``init``: its own key is the domain.

    Raises:
        UserError: with the nearest file that is there, or the address that was probably meant.
    """
    place = Path(path).expanduser()
    if is_address(path) or os.path.lexists(place):
        return
    if has_magic(path) and glob(str(place)):
        return
    if has_magic(path):
        raise UserError(f"{domain}={path}: no file is named so; quote the pattern, or give the folder")
    near = near_place(place)
    meant = f" (did you mean {shell(f'{domain}={near}')}?)" if near else ""
    if _HUB_NAME.fullmatch(path) and not place.parent.is_dir():
        raise UserError(f"{domain}={path}: no such file; a data set of the Hugging Face hub is hf://datasets/{path}")
    raise UserError(f"{domain}={path}: no such file or folder{meant}; paths start from the folder of the command")


def _with_format(source: Source) -> tuple[Source, bool]:
    """The source with its format named, and whether the records' keys say it."""
    try:
        if prepared_folder(source) is not None:
            return source, True
        return replace(source, format=tell_format(source, find_files(source))), True
    except UserError as error:
        if not is_address(source.path) and (remedy := table_remedy(source.name, source.path)) is not None:
            raise UserError(remedy) from error
        for name in reading_formats(source.path):
            return replace(source, format=name), False
        raise UserError(str(error).replace("; check path", f": give another behind {source.name}=")) from error


def _opened(source: Source) -> tuple[Source, Records]:
    """The records; where none is of ``train``, those of all splits."""
    try:
        return source, open_records(source, cache_folder())
    except UserError as error:
        if "no record of split" not in str(error):
            raise
    source = replace(source, split=EVERY)
    records = open_records(source, cache_folder())
    names = [name for name in records.splits if name != TRAIN]
    return (replace(source, split=names[0]) if len(names) == 1 else source), records


def _starts(num_records: int) -> list[int]:
    if num_records <= MOST_READ:
        return list(range(0, num_records, _STRETCH))
    return np.linspace(0, num_records - _STRETCH, MOST_READ // _STRETCH).astype(int).tolist()


def _image_root(domain: str, path: str, source: Source, records: Sequence[Conversation]) -> ImageRoot | None:
    paths = list(dict.fromkeys(ref for one in records for ref in one.images if isinstance(ref, str)))
    if not paths:
        return None
    if source.format == AUTO:  # a prepared folder knows its own
        return None
    if source.images is not None:
        return look_in(source.images, paths)
    if is_address(path):
        raise UserError(
            f"{domain}: its records name {len(paths):,} image files ({paths[0]:.100}), which are not fetched from "
            f"{path:.100}: download the data set and give its folder"
        )
    place = Path(path).expanduser()
    near = place if place.is_dir() else place.parent
    root = guess_image_root(paths, near, [domain, place.stem, f"{place.stem}_images"])
    if not root.num_found and "://" in paths[0][:16]:
        raise UserError(
            f"{domain}: its images are addresses ({paths[0]:.100}), which are not fetched: download them into a folder "
            "and write their file names into the records"
        )
    if not root.num_found:
        raise UserError(
            f"{domain}: none of {len(paths):,} images is found near {path} ({root.missing}); say where they are: "
            f"images={{{domain}: FOLDER}}"
        )
    return root


def _shown(records: Sequence[Conversation]) -> Shown:
    keys = b"".join(bytes.fromhex(record_key(one)) for one in records)
    return Shown(
        np.frombuffer(keys, dtype=np.uint8).reshape(-1, 32),
        np.asarray([len(one.images) for one in records], dtype=np.int16),
        np.asarray([image_identity(ref) for one in records for ref in one.images], dtype=np.uint64),
    )
