"""``path={DOMAIN: FILE, ...}``: several files of one's own without a yaml, each a source and a domain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_moe.config.as_typed import key_of
from llava_moe.config.as_word import as_word
from llava_moe.config.config_folder import config_folder
from llava_moe.config.nearest_key import suggest
from llava_moe.errors import UserError
from llava_moe.text.structured_text import StructuredTextError, parse_yaml

KEYS = ("path", "images")
_EXAMPLE = {
    "path": "path={charts: charts.json, photos: photos.jsonl}",
    "images": "images={charts: folder, photos: another}",
}


def words_with_own_data(words: Sequence[str]) -> list[str]:
    """The words, and ``data=mine`` where a path is given and no data that would read it."""
    typed = {key_of(word): word.partition("=")[2] for word in words}
    shipped = {path.stem for path in (config_folder() / "exp").glob("*.yaml")}
    # An experiment of one's own may choose data that reads the path.
    is_meant = typed.get("path", "null") != "null" and "data" not in typed and typed.get("exp", "demo") in shipped
    return [*words, "data=mine"] if is_meant else [*words]


def without_implied_data(words: Sequence[str]) -> list[str]:
    """The words without the ``data=mine`` that a path brings along by itself: the inverse of the above."""
    kept = [word for word in words if word != "data=mine"]
    return kept if sorted(words_with_own_data(kept)) == sorted(words) else [*words]


def spread_paths(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Make a source of each file that ``path=`` maps a domain to, in the place of the one that reads ``path=``.

    Returns:
        The keys that were mappings, and are read now.

    Raises:
        UserError: a mapping that is none, or folders of images for a domain that has no file.
    """
    path, images, data = config["path"], config["images"], config["data"]
    if not is_mapping(path):
        if is_mapping(images):
            raise UserError(f"images={images}: path= gives one file, so one folder stands there")
        return ()
    reading = next((name for name, one in data["sources"].items() if one.get("path") == path), None)
    if reading is None:
        return ()
    files = read_mapping("path", path)
    folders = read_mapping("images", images) if is_mapping(images) else dict.fromkeys(files, images)
    for domain in folders:
        if domain not in files:
            raise UserError(f"images: {domain} is none of the domains of path=, {', '.join(files)}")
    others = {name: one for name, one in data["sources"].items() if name != reading}
    made = {}
    for domain, file in files.items():
        own = {"domain": domain, "path": file, "images": folders.get(domain)}
        made[domain] = {**data["sources"][reading], **own, **others.pop(domain, {})}
    for name, source in others.items():
        if source.get("path") is None:
            raise UserError(
                f"data.sources.{name}{suggest(name, list(files))}: the sources of path= are {', '.join(files)}"
            )
    data["sources"] = made | others
    return tuple(key for key in KEYS if is_mapping(config[key]))


def is_mapping(value: str | None) -> bool:
    """Whether the value of ``path=`` or ``images=`` maps domains, and is no file of such a name."""
    return value is not None and value.startswith("{") and not (len(value) < 255 and Path(value).exists())


def read_mapping(key: str, text: str) -> dict[str, str]:
    """Domain -> file or folder, as ``{charts: charts.json, photos: photos.jsonl}`` says them.

    Raises:
        UserError: it does not.
    """
    try:
        content = parse_yaml(text)
    except StructuredTextError as error:
        raise UserError(f"{key}={as_word(text)}: {error}; write {_EXAMPLE[key]}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{key}={as_word(text)}: maps no domain to anything; write {_EXAMPLE[key]}")
    for domain, place in content.items():
        if not isinstance(domain, str) or not isinstance(place, str) or "." in domain:
            raise UserError(f"{key}={as_word(text)}: {domain!s:.100} stands for no path; write {_EXAMPLE[key]}")
    return {domain: os.path.expanduser(place) for domain, place in content.items()}
