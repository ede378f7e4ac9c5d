"""The folder that the image paths of records start from, guessed by looking where the images are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.paths import find_image

USUAL = ("images", "image", "imgs", "img", "pictures", "pics", "photos", "media", "files", "data", "train")
"""What folders of images are called."""
NUM_TRIED = 24
"""Paths that a folder is judged by before all are looked for in the best."""
_MOST_FOLDERS = 300
_MOST_WALKED = 20_000


@dataclass(frozen=True)
class ImageRoot:
    """A folder of images.

    Attributes:
        folder: None where the paths lead from the root of the disk.
        num_found, num_sought: of the paths that were looked for there.
        missing: what is said of the first that is not there; "" where all are.
    """

    folder: str | None
    num_found: int
    num_sought: int
    missing: str = ""


def guess_image_root(paths: Sequence[str], near: Path, names: Sequence[str] = ()) -> ImageRoot:
    """The folder in which most of the images lie; of several the nearest.

    Looked at are the folder of the records, the one above it, those of usual names and all others in these, and the
    current folder; where nothing is found, whatever lies below.

    Args:
        paths: as the records write them.
        near: the folder of the records.
        names: other names that the folder may have, such as the domain's.
    """
    tried = [paths[number * len(paths) // NUM_TRIED] for number in range(NUM_TRIED)] if paths else []
    tried = list(dict.fromkeys(tried))
    best: tuple[int, str | None] = (0, str(near))
    for folder in _candidates(tried, near, names):
        found = sum(_is_there(path, folder) for path in tried)
        if found > best[0]:
            best = (found, folder)
        if found == len(tried):
            break
    if not best[0] and tried and (deeper := _found_below(tried[0], near)) is not None:
        best = (1, deeper)
    return look_in(best[1], paths)


def look_in(folder: str | None, paths: Sequence[str]) -> ImageRoot:
    """How many of the images lie in a folder."""
    num_found, missing = 0, ""
    for path in paths:
        try:
            find_image(path, folder)
            num_found += 1
        except BadRecord as fault:
            missing = missing or fault.detail
    return ImageRoot(folder, num_found, len(paths), missing)


def _candidates(tried: Sequence[str], near: Path, names: Sequence[str]) -> Iterator[str | None]:
    if tried and all(os.path.isabs(path) for path in tried):
        yield None
    bases = list(dict.fromkeys([near, near.parent, Path()]))
    yield from map(str, bases)
    known = (*names, *USUAL)
    for base in bases:
        yield from (str(base / name) for name in known if (base / name).is_dir())
    for base in bases:
        for place in _folders_in(base):
            yield str(place)
    for base in bases[:1]:
        for place in _folders_in(base):
            yield from (str(place / name) for name in known if (place / name).is_dir())


def _folders_in(base: Path) -> list[Path]:
    try:
        with os.scandir(base) as entries:
            found = (Path(base, entry.name) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
            return sorted(islice(found, _MOST_FOLDERS))
    except OSError:
        return []


def _is_there(path: str, folder: str | None) -> bool:
    try:
        return find_image(path, folder).is_file()
    except BadRecord:
        return False


def _found_below(path: str, near: Path) -> str | None:
    """A folder below, however deep, in which a path leads to a file; None where none of those walked through is it."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or ".." in parts:
        return None
    walked = islice(os.walk(near), _MOST_WALKED)
    for folder, _, files in walked:
        if parts[-1] in files:
            place = Path(folder, parts[-1])
            if len(parts) <= len(place.parts) and place.parts[-len(parts) :] == parts:
                return str(Path(*place.parts[: -len(parts)]))
    return None
