"""``llava-moe ls``: what there is to choose from, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.table import Table

from llava_moe.config.choices import GROUPS, KINDS
from llava_moe.config.config_folder import shipped_folders
from llava_moe.config.free_text import MIXTURE_ENDINGS
from llava_moe.config.nearest_key import suggest
from llava_moe.config.own_yamls import MOST_BYTES, split_folders
from llava_moe.embedded_base import EMBEDDED, read_version
from llava_moe.errors import UserError
from llava_moe.files.regular_file import read_regular
from llava_moe.terminal.console import VisibleConsole, print_whole
from llava_moe.text.structured_text import StructuredTextError, parse_yaml


def list_kinds(kinds: Sequence[str]) -> int:
    """List these kinds of things; all kinds where none is given.

    Args:
        kinds: as the words of the command line: folders of the user's own stand behind ``--config-dir``.

    Raises:
        UserError: there is no such kind, or no such folder.
    """
    folders, kinds = split_folders(kinds)
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"--config-dir {missing[0]}: no such folder")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"ls {unknown[0]}{suggest(unknown[0], KINDS)}: choose one of {', '.join(KINDS)}")
    console = VisibleConsole()
    if [*kinds] == ["run"]:
        from llava_moe.commands.ls_runs import list_runs

        return list_runs(console)
    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "name", "what it is"):
        table.add_column(heading, overflow="fold")
    for kind in kinds or KINDS:
        for name, summary in entries(kind, folders):
            table.add_row(kind, name, summary)
    print_whole(console, table)
    return 0


def entries(kind: str, folders: Sequence[Path] = ()) -> list[tuple[str, str]]:
    """Names and one-line summaries of a kind, those of the user's own ``folders`` behind what is shipped."""
    if kind in GROUPS:
        shipped = [
            (path.stem, summary_of(path) + _version_in(path))
            for folder in shipped_folders()
            for path in sorted((folder / kind).glob("*.yaml"))
        ]
        return shipped + _own_entries(kind, folders)
    if kind == "benchmark":
        from llava_moe.eval.tasks import benchmark_summaries

        return sorted(benchmark_summaries().items())
    if kind == "recipe":
        from llava_moe.datatools.prepare.recipe import Recipe, recipes_that_load

        found = recipes_that_load()
        return [(name, one.title if isinstance(one, Recipe) else str(one)) for name, one in found.items()]
    from llava_moe.commands.ls_runs import run_lines

    return [(line.place, line.stands) for line in run_lines()]


def _own_entries(group: str, folders: Sequence[Path]) -> list[tuple[str, str]]:
    """What the user wrote himself: by name in the folders given, and mixtures in this folder by their file."""
    named = [(path.stem, path) for folder in folders for path in sorted((folder / group).glob("*.yaml"))]
    beside = [(str(path), path) for path in mixtures_here()] if group == "data" else []
    return [(name, f"your own, {path}: {_summary_or_none(path)}".removesuffix(": ")) for name, path in named] + [
        (name, f"your own: {_summary_or_none(path)}".removesuffix(": ")) for name, path in beside
    ]


def mixtures_here() -> list[Path]:
    """The files of sources in the current folder, which ``data=`` takes by their path."""
    found = []
    for path in sorted(path for end in MIXTURE_ENDINGS for path in Path().glob(f"*{end}")):
        with suppress(OSError, StructuredTextError):
            content = parse_yaml(read_regular(path, MOST_BYTES))
            if isinstance(content, dict) and isinstance(content.get("sources"), dict):
                found.append(path)
    return found


def _summary_or_none(path: Path) -> str:
    try:
        return summary_of(path)
    except (OSError, UnicodeDecodeError):
        return ""


def summary_of(path: Path) -> str:
    """The first sentence of a configuration's leading comment."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            words.append(line.lstrip("# "))
    text = " ".join(words)
    return text.split(". ")[0].rstrip(".")


def _version_in(path: Path) -> str:
    """The version of the embedded base, of a configuration that names its weights; empty for another."""
    settings = path.read_text(encoding="utf-8").splitlines()
    names = ("vision_tower", "language_model")
    is_of_it = any(line.strip().startswith(f"{name}: {EMBEDDED}") for line in settings for name in names)
    return f"; {read_version()}" if is_of_it else ""
