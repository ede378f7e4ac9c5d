"""Which modules a list of ends of names, or one regular expression, names: as PEFT matches them, in bounded time.

Targets come from files that others wrote. A pattern such as ``(a+)+b`` takes Python's ``re`` longer than a lifetime, so
matching is done by ``regex``, which transformers brings and which stops on time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence

import regex

from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.errors import UserError

# A pattern for full names takes microseconds for each; seconds of processor time, for all of them together.
MOST_SECONDS = 0.2
LONGEST_PATTERN = 20_000


def matching(names: Iterable[str], targets: str | Sequence[str]) -> list[str]:
    """Those of ``names`` that ``targets`` names.

    Args:
        targets: names or ends of names (``q_proj``, ``self_attn.q_proj``), or one regular expression for full names.

    Raises:
        UserError: the expression is none, or takes too long.
    """
    if isinstance(targets, str):
        return _fully_matching(list(names), targets)
    wanted = set(targets)
    return [name for name in names if any(end in wanted for end in ends_of(name))]


def ends_of(name: str) -> Iterator[str]:
    """``a.b.c``, ``b.c`` and ``c``."""
    while name:
        yield name
        name = name.partition(".")[2]


def _fully_matching(names: Sequence[str], expression: str) -> list[str]:
    pattern, told = _compiled(expression), quote_value(expression)
    until = time.process_time() + MOST_SECONDS
    found = []
    for name in names:
        try:
            is_match = pattern.fullmatch(name, timeout=max(until - time.process_time(), 1e-3))
        except TimeoutError:
            raise UserError(
                f"adapter target {told} takes too long to match {name}: repetitions inside repetitions; write it "
                "plainly, or list the names"
            ) from None
        if is_match:
            found.append(name)
    return found


def _compiled(expression: str) -> regex.Pattern[str]:
    told = quote_value(expression)
    if len(expression) > LONGEST_PATTERN:
        raise UserError(f"adapter target {told} is a pattern of {len(expression)} characters: list the names instead")
    try:
        # What re does not accept is no pattern of PEFT's, whatever regex makes of it.
        re.compile(expression)
        return regex.compile(expression)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"adapter target {told} is no regular expression ({reason}); correct it") from error
