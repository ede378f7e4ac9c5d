"""The user's own folder of configurations (``--config-dir``), looked through before Hydra loads what it needs of it.

Hydra writes aliases out and goes down brackets without any bound. What is merely wrong in a file that nobody chose is
no hindrance: Hydra tells it of those that are chosen.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

from llava_moe.config.config_folder import config_folder
from llava_moe.errors import UserError
from llava_moe.files.regular_file import read_regular
from llava_moe.text.structured_text import StructuredTextError, UnboundedTextError, check_yaml

MOST_BYTES = 4 << 20
FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")


def refuse_unbounded(words: Sequence[str]) -> None:
    """Refuse configuration files that take more than their size to read.

    Args:
        words: of the command line; folders behind ``FLAGS`` are looked through.

    Raises:
        UserError: naming the file and its line.
    """
    for folder in own_folders(words):
        for path in _files(folder):
            try:
                check_yaml(read_regular(path, MOST_BYTES))
            except UnboundedTextError as error:
                raise UserError(f"{path}: {error}; no configuration needs that, so fix it or move it away") from error
            except OSError as error:
                if error.errno == errno.EFBIG:
                    raise UserError(f"{path}: {error.strerror} of a configuration; move it away") from error
            except StructuredTextError:
                continue


def broken_choice(words: Sequence[str]) -> str:
    """The first file of the user's own that a word chose and that cannot be read as YAML, and why; "" for none."""
    chosen = {tuple(word.lstrip("+").split("=", 1)) for word in words if "=" in word}
    for folder in own_folders(words):
        for path in _files(folder):
            group, name = path.relative_to(folder).parent, path.stem
            if not any(typed == (str(group), name) for typed in chosen):
                continue
            try:
                check_yaml(read_regular(path, MOST_BYTES))
            except (StructuredTextError, OSError) as error:
                return f"{path}: {error}"
    return ""


def _files(folder: Path) -> Iterator[Path]:
    """All that Hydra can reach: files of the folder itself and of the groups that there are."""
    yield from folder.glob("*.yaml")
    for group in sorted(path for path in config_folder().iterdir() if path.is_dir()):
        yield from (folder / group.name).rglob("*.yaml")


def own_folders(words: Sequence[str]) -> list[Path]:
    """The folders behind ``FLAGS`` that are there."""
    return [folder for folder in split_folders(words)[0] if str(folder) != "" and folder.is_dir()]


def split_folders(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders behind ``FLAGS``, there or not, and the other words."""
    folders, others, waiting = [], [], list(words)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=")
        if flag in FLAGS:
            folders.append(Path(value if equals else waiting.pop(0) if waiting else ""))
        else:
            others.append(word)
    return folders, others
