"""What leaves records out, in words: training by itself, or only the list that it is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llava_moe.datatools.check.findings import Findings


def bad_lines(findings: Sequence[Findings], max_bad_share: float) -> list[str]:
    """A line for each source at which training stops, since it leaves out more than ``max_bad_share`` by itself."""
    return [
        f"{one.view.label}: {one.num_bad:,} of {len(one.view.records):,} records are bad, more than "
        f"data.max_bad_share={max_bad_share:g}, at which training stops: look at the examples before you train "
        "without them, by the list."
        for one in findings
        if one.num_bad > max_bad_share * len(one.view.records)
    ]


def listed_lines(findings: Sequence[Findings]) -> list[str]:
    """What training takes unless it is given the list, in a line; then each source of which the list leaves nothing."""
    kinds = sum((one.listed_alone for one in findings), Counter[str]())
    if not kinds:
        return []
    told = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
    many, them = ("1 record is", "it") if kinds.total() == 1 else (f"{kinds.total():,} records are", "them")
    return [
        f"{many} on the list alone ({told}): training takes {them} unless it is given the list.",
        *(
            f"{one.view.label}: the list leaves nothing of it, and training with the list stops at that: fix the "
            "source, or drop it from the mixture."
            for one in findings
            if is_emptied(one)
        ),
    ]


def is_emptied(findings: Findings) -> bool:
    """Whether training takes records of the view, and none once it is given the list."""
    num_left = len(findings.view.records) - len(findings.faults) - len(findings.dropped)
    return num_left <= 0 and bool(findings.listed_alone)
