"""The commands that the documentation shows, and what a page says that one of them needs beside a laptop."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LAUNCHERS = ("scripts/launch.sh", "scripts/launch_multinode.sh")
NEEDS = ("a GPU", "GPUs", "a cluster", "the network")
"""What a page may say that a command needs: ``needs a GPU`` in its comment, or in parentheses behind its backticks."""
_MARK = re.compile(rf"\bneeds ({'|'.join(NEEDS)})\b")
_INLINE = re.compile(r"`(llava-moe [^`]*)`(\s\([^)]*\))?")
# What a shell takes off a command before it is one: settings in front, and the words of a loop.
_BEFORE = re.compile(r"[A-Z_]+=.*|do|then")


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it.

    Attributes:
        page: the page, from the root of the checkout.
        line: the line that it stands in, or what the backticks hold.
        words: its words as a shell splits them, without what is written to a file.
        needs: one of ``NEEDS`` where the page says so; "": it runs on a laptop.
    """

    page: str
    line: str
    words: tuple[str, ...]
    needs: str

    @property
    def place(self) -> str:
        return f"{self.page}: {self.line}"

    @property
    def is_ours(self) -> bool:
        """Whether the command line takes it, by itself or through a launch script."""
        return self.words[0] in ("llava-moe", *LAUNCHERS)


def blocks_of(page: Path) -> list[str]:
    """The blocks of a page that hold commands, a command a line."""
    text = page.read_text(encoding="utf-8")
    return [block.replace("\\\n", " ") for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.DOTALL)]


def shown_commands() -> Iterator[Shown]:
    """Every command of ours that a page shows: in the blocks, and between backticks.

    A command of one word (`llava-moe train`) is named and not shown where it stands between backticks. Of what else a
    block holds (pip, git, make, pytest) the lines that start something of ours come, too: sbatch, lmms-eval.
    """
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        for line in (line for block in blocks_of(page) for line in block.splitlines()):
            for words in _split(line):
                if words[0] in LAUNCHERS or any(re.search("llava[-_]moe", word) for word in words):
                    yield Shown(name, line, words, _mark(line.partition(" #")[2]))
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for line, behind in _INLINE.findall(text):
            for words in _split(line):
                if len(words) > 2:
                    yield Shown(name, line, words, _mark(behind))


def _mark(text: str) -> str:
    found = _MARK.search(text)
    return found[1] if found else ""


def _split(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if re.fullmatch(r"[;|&]+", word):
            if words:
                yield tuple(words[: words.index(">")] if ">" in words else words)
            words = []
        elif words or not _BEFORE.fullmatch(word):
            words.append(word)


def write_shown_files(folder: Path) -> list[Path]:
    """Write the files that the documentation shows, each by the path in its first line; return their paths."""
    written = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, content in re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", text, flags=re.DOTALL):
            written.append(folder / name)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_text(content)
    return written
