"""What a way of training costs: parameters, time, memory, tokens a second, by the logs of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from llava_moe.compare.comparison import Comparison
from llava_moe.compare.tables import NONE
from llava_moe.grid.in_words import share
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways, size_of
from llava_moe.pages.content import Table
from llava_moe.train.stage_log import StageLog

HEADER = (
    "",
    "trains",
    "of the adapter",
    "beside the first",
    "operations a token",
    "steps",
    "seconds",
    "tokens a second",
    "peak memory, GB",
    "disk, GB",
)


def cost_table(comparison: Comparison, results: Results, logs: Mapping[str, Sequence[StageLog]]) -> Table:
    """A row a way, the mean of its runs; the peak is the highest."""
    first = size_of(results, comparison.ways[0])[0]
    rows = [_row(results, way, logs[way.name], first) for way in comparison.ways]
    caption = (
        "Parameters that train, and those of the adapter; floating-point operations a token of a forward pass; "
        "seconds of the steps themselves, the mean of a run; the highest peak. What else ran on the machine is in the "
        "seconds"
    )
    return Table(caption, HEADER, tuple(rows))


def _row(results: Results, way: Ways, logs: Sequence[StageLog], first: float | None) -> tuple[str, ...]:
    adapter, flops = size_of(results, way)
    trained = [sum(run.trained.values()) for run in results.of(**way.labels).values() if run.trained]
    seconds = [log.seconds for log in logs if log.steps]
    tokens = sum(step.get("tokens", 0) for log in logs for step in log.steps)
    peaks = [step["peak_memory_bytes"] for log in logs for step in log.steps if step.get("peak_memory_bytes")]
    sizes = [results.cards[cell.name].num_bytes for cell in results.find(**way.labels).values()]
    steps = [len(log.steps) and log.steps[-1]["step"] for log in logs]
    return (
        way.name,
        f"{trained[0]:,}" if trained else NONE,
        NONE if adapter is None else f"{adapter:,.0f}",
        share(None if adapter is None or not first else adapter / first - 1),
        NONE if flops is None else f"{flops:,.0f}",
        f"{max(steps):,}" if steps else NONE,
        f"{np.mean(seconds):,.0f}" if seconds else NONE,
        f"{tokens / sum(seconds):,.0f}" if seconds and sum(seconds) > 0 else NONE,
        f"{max(peaks) / 1e9:.2f}" if peaks else NONE,
        f"{np.mean(sizes) / 1e9:.2g}" if sizes else NONE,
    )
