"""Which keys of a sweep have several values, and how many runs that makes.

It is told before Hydra composes each of them, which takes hours for a million.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import OverrideParseException

from llava_moe.errors import UserError

MOST_RUNS = 1_000


def refuse_large_sweep(words: Sequence[str]) -> None:
    """Refuse words that ask for more runs than anyone waits for.

    Raises:
        UserError: telling how many they are.
    """
    try:
        overrides = OverridesParser.create().parse_overrides(list(words))
    except OverrideParseException:
        return  # told where the words are read in earnest
    num_runs = math.prod(map(_num_values, overrides))
    if num_runs > MOST_RUNS:
        told = f"{num_runs:,}" if num_runs < 10**15 else "beyond counting"
        raise UserError(
            f"-m with these words asks for {told} runs, more than the {MOST_RUNS:,} of one sweep: give fewer values"
        )


def swept_keys(words: Sequence[str]) -> list[str]:
    """The keys of words that give several values; of words that no grammar reads none."""
    try:
        overrides = OverridesParser.create().parse_overrides(list(words))
    except OverrideParseException:
        return []
    return [one.key_or_group for one in overrides if _num_values(one) > 1]


def _num_values(override: Override) -> int:
    sweep = override.value()
    if isinstance(sweep, ChoiceSweep):
        return max(1, len(sweep.list))
    if isinstance(sweep, RangeSweep):
        start, stop, step = sweep.start or 0, sweep.stop, sweep.step
        if stop is None or not step or not all(map(math.isfinite, (start, stop, step))):
            return 1  # no range, as Hydra says itself
        return max(1, math.ceil((stop - start) / step))
    return 1
