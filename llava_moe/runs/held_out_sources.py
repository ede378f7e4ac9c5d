"""The records that a run did not learn from, by its configuration: what its losses are measured on afterwards."""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.console import Console

from llava_moe.config.settings import mixture_of
from llava_moe.data.encode import Encoder
from llava_moe.data.held_out import HeldOutSource
from llava_moe.data.readers.splits import settled
from llava_moe.data.source import open_records
from llava_moe.data.source_index import index_source
from llava_moe.errors import UserError
from llava_moe.run_config import RunConfig
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.processes import Processes
from llava_moe.runs.stage_data import open_data

VALIDATION = "val"


def held_out_sources(
    config: RunConfig, encoder: Encoder, asked: str | None, device: torch.device, console: Console
) -> tuple[list[HeldOutSource], str]:
    """The sources of a run's held-out records, and which records these are, in words.

    Those of the split ``asked`` where it is given; else the split that the run validated on (``eval.split``); else
    those that it held out of training (``data.held_out``); else the split ``val`` of its sources.

    Args:
        config: the run's.

    Raises:
        UserError: the run held nothing out and a source has no such split, or was trained on it.
    """
    mixture = mixture_of(config)
    split = asked or config.eval.split
    if split is None and mixture.held_out:
        data = open_data(config, encoder, Processes(0, 1, device, "local"), console, says=False)
        triples = zip(mixture.sources, data.records, data.held_out, strict=True)
        return [HeldOutSource(*triple) for triple in triples], f"data.held_out={mixture.held_out:g}"
    opened = [open_records(source, cache_folder()) for source in mixture.sources]
    if split is None:
        lacking = [
            one.name
            for one, read in zip(mixture.sources, opened, strict=True)
            if VALIDATION not in {settled(name) for name in read.splits}
        ]
        if lacking:
            raise UserError(
                f"the run held no record out of training and source {lacking[0]} has no split {VALIDATION}: give "
                "split=NAME, or train with data.held_out=0.05"
            )
        split = VALIDATION
    found = []
    for source, trained in zip(mixture.sources, opened, strict=True):
        held = replace(source, split=split)
        records = open_records(held, cache_folder())
        # A file that is named itself is trained on whatever split its name says.
        if any(trained.find(records.number(place)) is not None for place in range(len(records))):
            raise UserError(f"split={split}: source {source.name!r} was trained on it; name another split")
        found.append(HeldOutSource(held, records, index_source(held, records, encoder, cache_folder())))
    return found, f"split {split}"
