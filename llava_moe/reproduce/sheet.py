"""What a figure has to say: drawings, tables, and contrasts that decide whether the paper's effect is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from llava_moe.grid.measured import Compared, Kind
from llava_moe.reproduce.results import Results

MINUS = "\N{MINUS SIGN}"
Verdict = Literal["seen", "not seen", "undecided"]
UNITS: Mapping[Kind, str] = {
    **{"accuracy": "points", "loss": "nats a token"},
    **{"negative": "points", "surely negative": "points"},
}
MEASURES: Mapping[Kind, str] = {
    **{"accuracy": "accuracy", "loss": "held-out loss"},
    **{"negative": "cells below 0", "surely negative": "cells surely below 0"},
}


@dataclass(frozen=True)
class Ways:
    """One way of training: how a page calls it, and the labels of its cells."""

    name: str
    labels: Mapping[str, Any]


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
class Picture:
    """A drawing, as :func:`~llava_moe.pages.inline_svg.inline_svg` gives it.

    Attributes:
        name: of its own file, ``NAME.svg``.
    """

    name: str
    drawing: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column is a label."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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


def size_of(results: Results, way: Ways) -> tuple[float | None, float | None]:
    """Trainable parameters of the adapter, and floating-point operations a token of a forward pass."""
    found = [*results.of(**way.labels).values()]
    flops = [one.flops_per_token for one in found if one.flops_per_token is not None]
    return (float(found[0].parameters) if found else None), (float(np.mean(flops)) if flops else None)


def shown(kind: Kind, number: float, has_sign: bool = False) -> str:
    """``51.3`` points or ``2.135`` nats; with a sign, of a difference."""
    text = f"{number:+.3f}" if kind == "loss" else f"{100 * number:+.1f}"
    return (text if has_sign else text.lstrip("+")).replace("-", MINUS)


def interval(compared: Compared, has_sign: bool = True) -> str:
    """``+1.2 (-0.3 to +2.7)``; the number alone where there is no interval."""
    kind, effect = compared.kind, compared.effect
    if effect is None:
        return shown(kind, compared.after - compared.before, has_sign)
    ends = [shown(kind, end, has_sign) for end in (effect.low, effect.high)]
    return f"{shown(kind, effect.value, has_sign)} ({ends[0]} to {ends[1]})"


def share(number: float | None) -> str:
    """``+116.5 %``; a dash where it is not known."""
    return "\N{EN DASH}" if number is None else f"{100 * number:+.1f} %".replace("-", MINUS)
