"""The words of ``llava-moe init``: the yaml to write, and a name for each file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from llava_moe.config.as_typed import as_typed
from llava_moe.config.as_word import as_word
from llava_moe.config.free_text import MIXTURE_ENDINGS
from llava_moe.config.limits import FilePath, Limit, OrNull, PathOrMapping
from llava_moe.config.path_mappings import is_mapping, read_mapping
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.text.shell_words import shell

IMAGES = "images"
LIMITS: dict[str, Limit] = {IMAGES: OrNull(PathOrMapping())}
_USAGE = "llava-moe init mix.yaml charts=charts.json photos=photos.jsonl"
# A key that the command line can name: data.sources.NAME.split=val.
_NAME = re.compile(r"[^\W\d][\w-]*")


def main(words: Sequence[str]) -> int:
    """Judge the words before any file is read."""
    typed = [as_typed(word) for word in words]
    if flags := [word for word in typed if word.startswith("-")]:
        raise UserError(f"cannot read {flags[0]}: init takes no flags; for example {_USAGE}")
    files = [word for word in typed if "=" not in word]
    places: dict[str, str] = {}
    images = None
    for word in typed:
        name, equals, place = word.partition("=")
        if not equals:
            continue
        if name == IMAGES:
            check_settings({IMAGES: place}, LIMITS)
            images = os.path.expanduser(place)
            continue
        _refuse_odd(name, place)
        if name in places:
            raise UserError(f"{name} names two sources, {places[name]} and {place}: two sources need two names")
        places[name] = os.path.expanduser(place)
    file = _file(files, places)
    if not places:
        raise UserError(f"no data is named: give a name and a file for each domain, for example {_USAGE}")
    folders = {} if images is None else _folders(images, places)
    from llava_moe.commands.init import init

    return init(file, places, folders)


def _file(files: Sequence[str], places: dict[str, str]) -> Path:
    yamls = [one for one in files if one.endswith(MIXTURE_ENDINGS)]
    for one in files:
        if one not in yamls and os.path.exists(one):
            stem = re.sub(r"\W+", "_", Path(one).name.partition(".")[0]) or "NAME"
            raise UserError(f"cannot read {one}: each file has a name before it, such as {shell(f'{stem}={one}')}")
    if len(yamls) != 1 or len(files) != 1:
        told = f"{files[0]} is no name of a yaml" if files and not yamls else "name the one yaml to write"
        raise UserError(f"{told}; for example {_USAGE}")
    if os.path.lexists(yamls[0]):
        raise UserError(f"{yamls[0]} is there already: choose another name, or move it away")
    if not FilePath().admits(yamls[0]):
        raise UserError(f"{as_word(yamls[0])}: give {FilePath().describe()}")
    return Path(yamls[0])


def _refuse_odd(name: str, place: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{as_word(name)}={as_word(place)}: a domain's name has letters, digits, _ and -, such as charts"
        )
    if not FilePath().admits(place):
        raise UserError(f"{name}={as_word(place)}: give {FilePath().describe()}")


def _folders(images: str, places: dict[str, str]) -> dict[str, str]:
    """Domain -> folder of its images.

    Raises:
        UserError: a domain that is none, or no folder.
    """
    folders = read_mapping(IMAGES, images) if is_mapping(images) else dict.fromkeys(places, images)
    for domain, folder in folders.items():
        if domain not in places:
            raise UserError(f"images: {domain} is none of the domains, {', '.join(places)}")
        if not os.path.isdir(folder):
            from llava_moe.data.readers.path_suggestion import path_meant

            raise UserError(f"images={folder}: no such folder{path_meant(Path(folder), only_folders=True)}")
    return folders
