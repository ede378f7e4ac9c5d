"""``llava-moe analyze``: hands the settings to the instrument's own file, in one process or several."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from llava_moe.commands.analyze_run import Session
from llava_moe.errors import ToldElsewhereError
from llava_moe.runs.processes import answering_together
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.terminal.console import VisibleConsole

PIECES_STAND = "finished pieces are kept: run the same command again to go on"


def analyze(instrument: str, plain: Mapping[str, Any], judge: Callable[[Mapping[str, Any]], None]) -> int:
    """Run an instrument: ``measure(plain, session)`` of ``commands/analyze_<instrument>.py``.

    Args:
        judge: what judges the settings; called once, by the first of several processes.
    """
    with StopSignals(lambda: PIECES_STAND), answering_together() as (ranks, device):
        console = VisibleConsole(soft_wrap=True, quiet=not ranks.is_first)
        if not console.is_terminal:
            transformers.utils.logging.disable_progress_bar()  # its bars fill log files with control characters
        try:
            ranks.from_first(lambda: judge(plain))
            if plain.get("num_threads") is not None:
                torch.set_num_threads(int(plain["num_threads"]))
            measure = importlib.import_module(f"llava_moe.commands.analyze_{instrument}").measure
            return int(measure(plain, Session(ranks, device, console)))
        except ToldElsewhereError:
            return 2
