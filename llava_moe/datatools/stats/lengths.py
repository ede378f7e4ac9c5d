"""How long samples are: quantiles that are lengths of real samples, and a histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_BINS = 16
_NICE = (1, 2, 4, 5, 8, 10)


@dataclass(frozen=True)
class LengthSummary:
    """Tokens of samples. A quantile q is the least length that at least a share q of the samples does not exceed.

    Attributes:
        histogram: samples in bins of ``bin_width`` tokens, the first from 0 (its end excluded, as every bin's).
    """

    mean: float
    median: int
    p90: int
    p99: int
    max: int
    bin_width: int
    histogram: tuple[int, ...]


def summarize(lengths: np.ndarray, bin_width: int) -> LengthSummary | None:
    """The summary of int [n] lengths; None of none."""
    if not len(lengths):
        return None
    median, p90, p99 = np.quantile(lengths, [0.5, 0.9, 0.99], method="inverted_cdf").tolist()
    histogram = np.bincount(lengths // bin_width, minlength=NUM_BINS)
    return LengthSummary(
        mean=float(lengths.mean()),
        median=int(median),
        p90=int(p90),
        p99=int(p99),
        max=int(lengths.max()),
        bin_width=bin_width,
        histogram=tuple(histogram.tolist()),
    )


def bin_width_for(longest: int) -> int:
    """Width of a bin, a round number, so that ``NUM_BINS`` bins hold lengths up to ``longest``."""
    least = (longest + 1) / NUM_BINS
    scale = 1
    while True:
        for step in _NICE:
            if step * scale >= least:
                return step * scale
        scale *= 10


def sparkline(histogram: Sequence[int]) -> str:
    """The histogram as a line of blocks; a bin that holds anything shows at least the lowest block."""
    most = max(histogram, default=0)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(" " if not count else blocks[-(-count * len(blocks) // most) - 1] for count in histogram)
