"""What an instrument measures on: a run's model as it was trained, and records that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from llava_moe.adapters import NoAdapter
from llava_moe.analyze.output import Output, write_output
from llava_moe.analyze.records import HeldOutRecords, draw_records
from llava_moe.assemble import Assembled, model_spec_of, read_config, restore
from llava_moe.commands.reporting import write_run_report
from llava_moe.data.held_out import HeldOutSource
from llava_moe.errors import UserError
from llava_moe.eval.ranks import Ranks
from llava_moe.eval.run import answerer_fingerprint
from llava_moe.files.checkpoints import (
    MARKER,
    checkpoint_of,
    complete_checkpoints,
    is_complete,
    newest_checkpoint,
    pointed_at,
    stage_folders,
    step_of,
)
from llava_moe.run_config import RunConfig
from llava_moe.runs.console import say_notes
from llava_moe.runs.held_out_sources import held_out_sources
from llava_moe.terminal.fitted_bar import FittedBar, passing


@dataclass(frozen=True)
class Session:
    """The processes that measure together, this one's device, and where to speak."""

    ranks: Ranks
    device: torch.device
    console: Console


@dataclass(frozen=True)
class AnalyzedRun:
    """A run's model in memory, in eval mode and with dropout off.

    Attributes:
        root: the folder that the user named; of a checkpoint, its run's.
        folder: where the files go.
        config: the resolved configuration of the stage that the checkpoint is of.
        fingerprint: names the weights, and what is made of a record for them.
    """

    root: Path
    checkpoint: Path
    folder: Path
    config: RunConfig
    assembled: Assembled
    fingerprint: str

    @property
    def step(self) -> int:
        """The optimizer steps behind the checkpoint."""
        return step_of(self.checkpoint)

    @property
    def facts(self) -> dict[str, Any]:
        """What every JSON file says of the run."""
        return {
            "run": self.root.resolve().name,
            "stage": self.checkpoint.parent.parent.name,
            "step": self.step,
            "weights": self.fingerprint,
            "method": self.assembled.attached.config.method,
            "dtype": str(self.assembled.model.dtype).removeprefix("torch."),
        }


def open_run(plain: Mapping[str, Any], session: Session) -> AnalyzedRun:
    """Load the run that ``run=`` and ``checkpoint=`` name; every process its own.

    Raises:
        UserError: there is no such checkpoint, or the base that it was trained on is gone or another.
    """
    root, checkpoint = find_run(plain, session)
    config = session.ranks.together(lambda: read_config(checkpoint.parent.parent))
    with session.console.status(f"  loading {checkpoint}"):
        assembled = session.ranks.together(lambda: restore(checkpoint, session.device, plain["dtype"]))
    say_notes(session.console, assembled.notes)
    folder = root / "analyze"
    if plain["out"] is not None:
        folder = Path(plain["out"])
    elif checkpoint != newest_checkpoint(root):
        folder /= checkpoint.name
    fingerprint = answerer_fingerprint(assembled.model, assembled.encoder)
    return AnalyzedRun(root, checkpoint, folder, config, assembled, fingerprint)


def find_run(plain: Mapping[str, Any], session: Session) -> tuple[Path, Path]:
    """The folder that ``run=`` names (of a checkpoint, its run's), and the checkpoint that ``checkpoint=`` names.

    Raises:
        UserError: as :func:`find_checkpoint`.
    """
    named = Path(plain["run"])
    checkpoint = session.ranks.together(lambda: find_checkpoint(named, plain["checkpoint"]))
    return checkpoint.parent.parent if (named / MARKER).is_file() else named, checkpoint


def find_checkpoint(run: Path, wanted: str | int) -> Path:
    """The checkpoint of a run's last stage that a setting names.

    Raises:
        UserError: there is none of that name.
    """
    newest = newest_checkpoint(run)
    if wanted == "last" or (run / MARKER).is_file():
        return newest
    owner = newest.parent.parent
    told = ", ".join(str(step_of(path)) for path in complete_checkpoints(newest.parent))
    if wanted == "best":
        name = pointed_at(newest.parent / "best")
        if name is None or not is_complete(newest.parent / name):
            raise UserError(f"checkpoint=best: {owner} has none, it chose by no eval.best=; there are steps {told}")
        return newest.parent / name
    found = checkpoint_of(owner, int(wanted))
    if not is_complete(found):
        raise UserError(f"checkpoint={wanted}: {owner} keeps none of that step; there are {told} (train.keep_last=)")
    return found


def refuse_without_adapter(run: AnalyzedRun, instrument: str, otherwise: str = "") -> None:
    """Raise ``UserError`` where the run has no adapter to look into.

    Args:
        otherwise: what else the instrument can do with such a run, as a clause.
    """
    if isinstance(model_spec_of(run.config).adapter, NoAdapter):
        raise UserError(
            f"{run.checkpoint.parent.parent} has no adapter, and analyze {instrument} looks into one: give a run that "
            f"trained one{otherwise}"
        )


def open_records_of(run: AnalyzedRun, plain: Mapping[str, Any], session: Session, fewest: int) -> HeldOutRecords:
    """Draw the held-out records that the settings ask for, the same in every process.

    Which records: those of ``split=`` where it is given; else the split that the run validated on (``eval.split``);
    else those that it held out of training (``data.held_out``); else the split ``val`` of its sources.

    Args:
        fewest: least that a domain or task must have.

    Raises:
        UserError: the run held nothing out and its sources have no such split, or :func:`draw_records` refuses.
    """
    ranks, encoder, console = session.ranks, run.assembled.encoder, session.console
    if ranks.world > 1:  # the first makes what the others then find in the cache
        ranks.from_first(lambda: bool(_held_out_sources(run, plain["split"], session)))
    sources, told = ranks.together(lambda: _held_out_sources(run, plain["split"], session))
    bar = FittedBar("  reading held-out records")
    with passing(bar, console):
        records = ranks.together(
            lambda: draw_records(
                sources,
                encoder,
                by=plain["by"],
                told=told,
                samples=plain["samples"],
                seed=plain["seed"],
                fewest=fewest,
                progress=bar.tell,
            )
        )
    if records.too_small:
        left_out = ", ".join(f"{name} ({num_there})" for name, num_there in records.too_small)
        console.print(f"  left out, fewer than {fewest} records each: {left_out}", highlight=False, markup=False)
    for group in records.groups:
        unread = f"; {group.num_unread} more have images that cannot be read" if group.num_unread else ""
        console.print(
            f"  {group.name}: {len(group.examples):,} of {group.num_there:,} held-out records ({told}){unread}",
            highlight=False,
            markup=False,
        )
    return records


def _held_out_sources(run: AnalyzedRun, asked: str | None, session: Session) -> tuple[list[HeldOutSource], str]:
    return held_out_sources(run.config, run.assembled.encoder, asked, session.device, session.console)


def finish(run: AnalyzedRun, instrument: str, output: Output | None, session: Session) -> int:
    """The first process writes the four files, and the report of the run again, which links them.

    Args:
        output: may be None in all other processes.
    """

    def write() -> None:
        assert output is not None
        page = write_output(run.folder, instrument, output)
        session.console.print(f"{instrument}: {page} (and .json, .csv, .svg)", highlight=False, markup=False)
        if run.folder.is_relative_to(run.root) and ((run.root / "log.jsonl").is_file() or stage_folders(run.root)):
            session.console.print(f"report: {write_run_report(run.root)}", highlight=False, markup=False)

    session.ranks.from_first(write)
    return 0


def settings_asked(run: AnalyzedRun, records: HeldOutRecords, **more: Any) -> dict[str, Any]:
    """What the pieces of a measurement depend on: model, records, and settings of the instrument's own.

    Two runs may meet in one folder (``out=``), with the same weights before their first step: an adapter's scale or its
    kind of router is no weight.
    """
    keys = [example.key for example in records.examples]
    asked = {"weights": run.fingerprint, "adapter": run.config.plain["adapter"], "by": records.by}
    return {**asked, "groups": records.names, "records": keys, **more}
