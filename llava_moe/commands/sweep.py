"""The end of a sweep (``train -m``): which run is which, what was measured of each, and what compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llava_moe.assemble import read_config
from llava_moe.commands.reporting import benchmarks_for, chat_with, has_scores
from llava_moe.config.as_typed import listed
from llava_moe.config.settings import is_embedded
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.files.our_files import read_objects
from llava_moe.runs.console import say_next
from llava_moe.terminal.console import print_whole
from llava_moe.text.shell_words import named, shell
from llava_moe.train.validation import HELD_OUT_LOSS, Validation


@dataclass(frozen=True)
class SweepJob:
    """A run of a sweep: its folder, and the words that start it alone."""

    root: Path
    words: tuple[str, ...]


def show_sweep(jobs: Sequence[SweepJob], typed: Sequence[str], console: Console) -> None:
    """Print the jobs beside each other and the commands that make sense after them.

    Args:
        jobs: in the order in which they ran.
        typed: the words of the whole sweep, as typed.
    """
    print_whole(console, _table(jobs))
    say_next(console, next_of_sweep(jobs, typed))


def next_of_sweep(jobs: Sequence[SweepJob], typed: Sequence[str]) -> list[str]:
    """Commands after a sweep, each to be typed as it stands: its runs are scored, then compared."""
    roots = [job.root for job in jobs]
    configs = [read_config(_last_stage(root)) for root in roots]
    chats = [chat_with(root, config, _told(job, jobs)) for root, config, job in zip(roots, configs, jobs, strict=True)]
    if any(config.stage.template == "plain" for config in configs):
        return chats
    if all(map(is_embedded, configs)):
        unscored = [f"llava-moe eval {named('run', root)}" for root in roots if not has_scores(root)]
        return [*unscored, shell("llava-moe", "eval", listed("runs", roots))]
    if all(_held_out_loss(root) is None for root in roots):
        apart = shell("llava-moe", "train", *typed, "data.held_out=0.1", "eval.every=100")
        chats.append(f"{apart}   # with a tenth of the images kept apart: their losses on them, side by side")
    return [*chats, benchmarks_for("them")]


def _table(jobs: Sequence[SweepJob]) -> Table:
    losses = [_held_out_loss(job.root) for job in jobs]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "what it is", *(["held-out loss"] if any(losses) else [])):
        table.add_column(heading, overflow="fold")
    for job, loss in zip(jobs, losses, strict=True):
        table.add_row(str(job.root), _told(job, jobs), "" if loss is None else f"{loss:.3f}")
    return table


def _told(job: SweepJob, jobs: Sequence[SweepJob]) -> str:
    """The words that tell a job from the others."""
    return " ".join(word for word in job.words if not all(word in other.words for other in jobs))


def _held_out_loss(root: Path) -> float | None:
    """The last held-out loss that a run measured on its way."""
    lines = read_objects(_last_stage(root) / "validation.jsonl", "put it back", {"step": int})
    scores: dict[str, Any] = Validation(lines[-1]).scores if lines else {}
    return scores.get(HELD_OUT_LOSS)


def _last_stage(root: Path) -> Path:
    return newest_checkpoint(root).parent.parent
