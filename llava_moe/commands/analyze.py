"""``llava-moe analyze``: hands the settings to the instrument's own file, in one process or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from llava_moe.commands.analyze_run import Session
from llava_moe.commands.find_instrument import Instrument
from llava_moe.errors import ReportedByRankZeroError
from llava_moe.runs.processes import answering_together
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.terminal.console import VisibleConsole

PIECES_STAND = "finished pieces are kept: run the same command again to go on"


def analyze(plain: Mapping[str, Any], instrument: Instrument) -> int:
    """Run an instrument, whose settings the first of several processes judges for all."""
    with StopSignals(lambda: PIECES_STAND), answering_together() as (ranks, device):
        console = VisibleConsole(soft_wrap=True, quiet=not ranks.is_first)
        if not console.is_terminal:
            transformers.utils.logging.disable_progress_bar()  # its bars fill log files with control characters
        try:
            ranks.from_first(lambda: instrument.judge(plain))
            if plain.get("num_threads") is not None:
                torch.set_num_threads(int(plain["num_threads"]))
            return int(instrument.load()(plain, Session(ranks, device, console)))
        except ReportedByRankZeroError:
            return 2
