"""``llava-moe ls``: what there is to choose from, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from llava_moe.cli import config_folder
from llava_moe.commands.known_keys import suggest
from llava_moe.embedded_base import EMBEDDED, read_version
from llava_moe.errors import UserError
from llava_moe.visible_console import VisibleConsole

GROUPS = ("exp", "model", "data", "adapter", "stage", "parallel", "scale")
KINDS = (*GROUPS, "recipe", "benchmark", "run")


def list_kinds(kinds: Sequence[str]) -> int:
    """List these kinds of things; all kinds where none is given.

    Raises:
        UserError: there is no such kind.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"ls {unknown[0]}{suggest(unknown[0], KINDS)}: choose one of {', '.join(KINDS)}")
    console = VisibleConsole()
    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "name", "what it is"):
        table.add_column(heading, overflow="fold")
    for kind in kinds or KINDS:
        for name, summary in entries(kind):
            table.add_row(kind, name, summary)
    console.print(table)
    return 0


def entries(kind: str) -> list[tuple[str, str]]:
    """Names and one-line summaries of a kind."""
    if kind in GROUPS:
        return [
            (path.stem, summary_of(path) + _version_in(path))
            for path in sorted((config_folder() / kind).glob("*.yaml"))
        ]
    if kind == "benchmark":
        from llava_moe.eval.tasks import benchmark_summaries

        return sorted(benchmark_summaries().items())
    if kind == "recipe":
        from llava_moe.prepare.recipe import load_recipe, recipe_names

        return [(name, load_recipe(name).title) for name in recipe_names()]
    return [(str(path), _state_of(path)) for path in _runs()]


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


def _runs() -> list[Path]:
    return sorted(
        {path.parent for path in Path("runs").glob("*/config.yaml")}
        | {path.parent for path in Path("runs").glob("*/*/config.yaml")}
    )


def _state_of(folder: Path) -> str:
    from llava_moe.train.checkpoint import last_checkpoint
    from llava_moe.train.folder import FINISHED

    if (folder / FINISHED).is_file():
        return "finished"
    checkpoint = last_checkpoint(folder)
    return f"unfinished, last checkpoint {checkpoint.name}" if checkpoint else "unfinished, no checkpoint yet"
