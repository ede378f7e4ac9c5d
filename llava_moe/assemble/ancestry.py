"""The runs that a run was started from, one after the other, and the weights that each of them left."""

from __future__ import annotations

from pathlib import Path

from transformers import LlavaForConditionalGeneration

from llava_moe.assemble.checkpoint_weights import load_base_parts
from llava_moe.assemble.spec import read_config
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.model.recorded_weights import fingerprint_start, refuse_other_start


def lineage(checkpoint: Path) -> list[Path]:
    """The checkpoint and those that its run was started from, newest first."""
    chain = [checkpoint]
    while (start := _start_of(chain[-1].parent.parent)) is not None:
        chain.append(newest_checkpoint(start))
        if chain[-1] in chain[:-1]:
            raise UserError(f"{checkpoint}: init_from goes round in a circle through {chain[-1]}")
    return chain


def _start_of(run: Path) -> Path | None:
    """What a run was started from: the folder it names, or the one of that name beside it where both were moved."""
    named = read_config(run).init_from
    if named is None:
        return None
    beside = run.absolute().parent / Path(named).name
    return beside if beside.is_dir() and not Path(named).exists() else Path(named)


def load_lineage(model: LlavaForConditionalGeneration, checkpoint: Path) -> None:
    """Load projector and base parts of a checkpoint into a bare model, those of the runs it started from first.

    Raises:
        UserError: a file does not fit, or a run that one was started from is not the one that lies there.
    """
    chain = lineage(checkpoint)
    for number, one in reversed([*enumerate(chain)]):
        if number + 1 < len(chain):
            refuse_other_start(one, chain[number + 1], fingerprint_start(model))
        load_base_parts(model, one)
