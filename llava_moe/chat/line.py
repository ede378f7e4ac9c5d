"""What a typed line means: a command, or a question with the images whose paths were typed or dragged with it.

Terminals write a dragged file as its path: as it is, in quotes, with backslashes before blanks, or as a ``file://``
URI.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image

from llava_moe.errors import UserError
from llava_moe.text.did_you_mean import did_you_mean

COMMANDS = {
    "/image": "PATH: attach an image to the next question (or drag it into the window); alone: list the images",
    "/reset": "begin a new conversation",
    "/undo": "take the last question and its answer back",
    "/save": "FILE: write the conversation as a record that train reads (path=FILE)",
    "/help": "this list",
    "/quit": "leave (also Ctrl-D, or Ctrl-C twice)",
}
ALIASES = {"/exit": "/quit", "/?": "/help", "/clear": "/reset"}
PATH_STARTS = ("/", "~", "./", "../", "'", '"', "file:")
ADDRESS = re.compile(r"(https?|ftp)://", re.IGNORECASE)
NOT_FETCHED = "{} is not fetched: save the image and give its path"


@dataclass(frozen=True)
class Command:
    """A slash command, by its full name, and the rest of the line."""

    name: str
    argument: str


@dataclass(frozen=True)
class Question:
    """Images to attach, and the text to ask; without text there is nothing to ask yet."""

    text: str
    images: tuple[Path, ...]


def read_line(line: str) -> Command | Question:
    """Take a line apart.

    Images stand at its beginning (as many as were dragged) or, one, at its end; elsewhere a path is text.

    Raises:
        UserError: an unknown command, a web address, an image file that does not exist, or text that is not UTF-8.
    """
    if not _is_unicode(line):
        raise UserError("the line is not UTF-8 text: set the terminal to UTF-8")
    text = line.strip()
    word, _, argument = text.partition(" ")
    name = ALIASES.get(word, word)
    if name in COMMANDS:
        return Command(name, argument.strip())
    images: list[Path] = []
    while found := _leading_file(text, is_first=not images):
        path, text = found
        images.append(path)
    if text.startswith(PATH_STARTS):
        _refuse_missing(text)
    elif ADDRESS.match(text) and (" " not in text or _has_image_suffix(Path(text.split()[0]))):
        raise UserError(NOT_FETCHED.format(text.split()[0]))
    trailing = _trailing_image(text)
    if trailing is not None:
        path, text = trailing
        images.append(path)
    return Question(text, tuple(images))


def image_path(text: str) -> Path:
    """The path that someone means by typing or dragging ``text``: an existing file if one reading gives one.

    Raises:
        UserError: a web address.
    """
    if ADDRESS.match(text.strip()):
        raise UserError(NOT_FETCHED.format(text.strip()))
    readings = list(_readings(text))
    return next((path for path in readings if _is_file(path)), readings[-1])


def refuse_no_file(path: Path) -> None:
    """Refuse the path of an image where no file lies.

    Raises:
        UserError: it is missing, a folder, or cannot be looked at.
    """
    try:
        kind = "" if path.is_file() else "is a folder" if path.is_dir() else "does not exist"
    except OSError as error:  # a name longer than names may be, a folder closed to us
        kind = f"cannot be opened ({error.strerror})"
    if kind:
        raise UserError(f"image {str(path)[:200]} {kind}: give the path of an image file")


def _readings(text: str) -> Iterator[Path]:
    """The paths that a stretch of text may stand for."""
    text = text.strip()
    if text.lower().startswith("file:"):
        yield Path(unquote(urlsplit(text.strip("'\"")).path))
        return
    yield _of_home(text)
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe that opens no quotation
        return
    if len(words) == 1 and words[0] != text:
        unquoted = words[0]
        if unquoted.lower().startswith("file:"):
            yield Path(unquote(urlsplit(unquoted).path))
        else:
            yield _of_home(unquoted)


def _of_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # the home of nobody
        return Path(text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than a name may be, or a NUL inside
        return False


def _leading_file(text: str, is_first: bool) -> tuple[Path, str] | None:
    """The longest beginning of ``text`` that names a file, and the rest."""
    if not text.startswith(PATH_STARTS):
        # A bare name is taken for a file only if it is all that was typed.
        path = Path(text)
        return (path, "") if is_first and text and _has_image_suffix(path) and _is_file(path) else None
    ends = [match.start() for match in re.finditer(r"\s+|$", text)]
    for end in reversed(ends):
        for path in _readings(text[:end]):
            if _is_file(path):
                return path, text[end:].strip()
    return None


def _trailing_image(text: str) -> tuple[Path, str] | None:
    """An image file that ends ``text``, and what stands before it."""
    for match in re.finditer(r"\s+", text):
        if text[match.end() :].startswith(PATH_STARTS):
            for path in _readings(text[match.end() :]):
                if _has_image_suffix(path) and _is_file(path):
                    return path, text[: match.start()].strip()
    return None


def _refuse_missing(text: str) -> None:
    """Refuse a beginning that looks like a command or an image and is neither; anything else is a question."""
    word = text.split()[0]
    if re.fullmatch(r"/\w*", word):
        hint = did_you_mean(word, [*COMMANDS, *ALIASES], cutoff=0.5)
        raise UserError(f"{word} is not a command{hint}: /help lists them")
    end = re.match(r"""('[^']*'|"[^"]*"|(\\.|[^\s\\])+)""", text)
    named = image_path(end[0] if end else word)
    if text.lower().startswith("file:") or _has_image_suffix(named):
        raise UserError(f"image {named} does not exist: give the path of an image file")


def _has_image_suffix(path: Path) -> bool:
    return path.suffix.lower() in Image.registered_extensions()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
