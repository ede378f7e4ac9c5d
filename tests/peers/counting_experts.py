"""What the counts of experts in ``log.jsonl`` cost: steps with and without them in turn, in one training.

    python -m tests.peers.counting_experts exp=mix_general_doc_med scale=demo adapter=mixlora train.max_steps=20 out=x

CPU time of the training's thread, so that other work on the machine does not count; give ``OMP_NUM_THREADS=1``. The
first two steps warm up and are left out.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from llava_moe.cli import run
from llava_moe.train import loop
from llava_moe.train.optimizer_step import take_step


@dataclass
class Stopwatch:
    """Stands in for the loop's ``take_step``: lets every second step count nothing."""

    with_counts: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    counting: list[float] = field(default_factory=list)
    num_steps: int = 0

    def take_step(self, take: Any, engine: Any, objective: Any, *rest: Any) -> Any:
        """Take a step and note its CPU time, and that of counting within it."""
        self.num_steps += 1
        counts, spent = self.num_steps % 2 == 1, [0.0]

        def counted(*given: Any) -> Any:
            started = time.thread_time()
            totals = objective.expert_totals(*given)
            spent[0] += time.thread_time() - started
            return totals

        started = time.thread_time()
        outcome = take(engine, replace(objective, expert_totals=counted if counts else None), *rest)
        if self.num_steps > 2:
            (self.with_counts if counts else self.without).append(time.thread_time() - started)
            self.counting += [spent[0]] if counts else []
        return outcome


def main(words: Sequence[str]) -> int:
    """Train by ``words`` and print what counting took."""
    watch = Stopwatch()
    with patch.object(loop, "take_step", lambda *given: watch.take_step(take_step, *given)):
        status = run(["train", *words])
    if watch.counting and watch.without:
        on, off = statistics.median(watch.with_counts), statistics.median(watch.without)
        share = sum(watch.counting) / sum(watch.with_counts)
        print(f"a step with counts {on:.3f} s, without {off:.3f} s (medians, CPU time)")
        print(f"counting {statistics.median(watch.counting) * 1e3:.2f} ms, {100 * share:.2f} % of a step")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
