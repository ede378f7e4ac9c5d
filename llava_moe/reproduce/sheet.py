"""What a figure has to say: its drawings and tables, and contrasts that decide whether the paper's effect is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llava_moe.grid.in_words import MEASURES, UNITS, interval, shown
from llava_moe.grid.measured import Compared, Kind
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways, size_of
from llava_moe.pages.content import Picture, Table

Verdict = Literal["seen", "not seen", "undecided"]


@dataclass(frozen=True)
class Contrast:
    """What one way of training does against another.

    Attributes:
        claim: what is claimed of it, as a clause: "LoRA on the mix does worse on general than LoRA on general alone".
        expected: how ``after`` does against ``before`` by the claim; None: nothing is claimed.
        compared: None where no seed has both.
        parameters, flops: what ``after`` has more than ``before``, as a share; None where it is not known.
    """

    claim: str
    before: Ways
    after: Ways
    kind: Kind
    domains: tuple[str, ...]
    expected: Literal["better", "worse"] | None
    compared: Compared | None
    parameters: float | None
    flops: float | None

    @property
    def verdict(self) -> Verdict:
        """Seen where the whole interval lies on the side of the claim, not seen where on the other, else undecided."""
        effect = None if self.compared is None else self.compared.effect
        if effect is None or not effect.is_away_from_zero or self.expected is None:
            return "undecided"
        is_better = effect.low > 0 if self.kind == "accuracy" else effect.high < 0
        return "seen" if is_better == (self.expected == "better") else "not seen"

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        told = f"{self.verdict.capitalize()} at this scale: {self.claim}"
        compared = self.compared
        if compared is None:
            return f"{told}; no seed has both."
        over = f"{MEASURES[self.kind]} {shown(self.kind, compared.after)} against {shown(self.kind, compared.before)}"
        if compared.effect is None:
            return f"{told}; {over}, and one seed has no interval."
        num = len(compared.seeds)
        why = {
            "seen": "the interval lies on the side of the claim",
            "not seen": "the interval lies on the other side",
            "undecided": "0 lies in the interval",
        }[self.verdict]
        return f"{told}; {over}, difference {interval(compared)} {UNITS[self.kind]} over {num} seeds: {why}."


@dataclass(frozen=True)
class Finding:
    """A verdict on something else than what two ways of training do on items: what a router tells, for one.

    Attributes:
        claim: as a clause.
        evidence: the number that decides with its interval, as a clause.
        facts: the same for the JSON file.
    """

    claim: str
    verdict: Verdict
    evidence: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return f"{self.verdict.capitalize()} at this scale: {self.claim}; {self.evidence}."


@dataclass(frozen=True)
class FigureContent:
    """What a figure's module gives its page.

    Attributes:
        answers: the contrasts that decide whether the paper's effect is seen; the page opens with them.
        findings: what decides it beside contrasts.
        contrasts: more of them.
        ways: the ways of training that are compared, the one first that others are held against; their sizes are told.
        ours: id of a published number -> ours beside it, with its unit.
        facts: numbers of the figure's own, for its JSON file.
        notes: what a reader has to know, a sentence each.
    """

    answers: tuple[Contrast, ...] = ()
    findings: tuple[Finding, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    ways: tuple[Ways, ...] = ()
    ours: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def contrast(
    results: Results,
    claim: str,
    before: Ways,
    after: Ways,
    domains: Sequence[str],
    kind: Kind = "accuracy",
    expected: Literal["better", "worse"] | None = None,
) -> Contrast:
    """A contrast of two ways of training by what is there of them."""
    compared = results.against(before.labels, after.labels, kind, domains)
    sizes = [size_of(results, way) for way in (before, after)]
    more = [None if low is None or high is None else high / low - 1 for low, high in zip(*sizes, strict=True)]
    return Contrast(claim, before, after, kind, tuple(domains), expected, compared, more[0], more[1])
