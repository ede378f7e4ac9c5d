"""What was measured of a cell, item by item, and how one way of training does against another, paired over items.

Shape suffixes: N items of a domain, G groups of items (questions of one image are one group), S seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llava_moe.errors import UserError
from llava_moe.files.our_files import NUMBER, read_object
from llava_moe.grid.effects import Effect, Stratum, effect_of
from llava_moe.text.structured_text import parse_json

FILE = "measured.json"
_REMEDY = "delete the cell's folder and run again"
_SHAPE = {
    "parameters": int,
    "flops_per_token": (int, float, type(None)),
    "records": [{"key": str, "domain": str, "tokens": int, "nats": NUMBER}],
    "questions": [{"id": str, "domain": str, "image": int, "score": NUMBER}],
    "curve": {str: [[NUMBER]]},
    "trained?": {str: int},
    "checkpoint?": str,
}
Kind = Literal["loss", "accuracy", "negative", "surely negative"]
"""The last two are shares of cells of interference matrices, which have no items."""
KINDS: tuple[Kind, ...] = ("accuracy", "loss")


@dataclass(frozen=True)
class Score:
    """Which score of a benchmark stands for a domain.

    Attributes:
        name: of an answer's scores, such as ``exact_match``; "": the first column of the benchmark's table that an
            answer has by itself, and nothing of a benchmark whose answers have none.
        closed: count closed questions alone. Of a benchmark that knows the domain its questions count, of another all.
        content: of a file of the user's, a fingerprint of what it asks: scores of what it asked before are others.
        kinds: count questions of these kinds alone; empty: of all. Where they are given, the domain may be one that the
            benchmark does not know.
        shown: of such a file, a fingerprint of the questions that are drawn, with the pictures as they are now.
    """

    benchmark: str
    name: str = ""
    closed: bool = False
    content: str = ""
    kinds: tuple[str, ...] = ()
    shown: str = ""

    def as_told(self) -> dict[str, Any]:
        """What is said of it in :meth:`Measures.as_word`."""
        quiet = ("content", "kinds", "shown")
        return {name: value for name, value in asdict(self).items() if value or name not in quiet}

    @staticmethod
    def of_told(told: Mapping[str, Any]) -> Score:
        """Reads what :meth:`as_told` says."""
        return Score(**{**told, "kinds": tuple(told.get("kinds", ()))})


@dataclass(frozen=True)
class Measures:
    """What is measured of each cell.

    Attributes:
        domains: those whose held-out records are read.
        split: of the held-out records; None: none are read, unless ``held_out`` says so.
        scores: domain to what stands for it.
        held_out: read the records that the run itself kept apart, whichever way.
        limit: records of a domain to read, the same for every seed; 0: all.
    """

    domains: tuple[str, ...]
    split: str | None
    scores: Mapping[str, Score] = field(default_factory=dict)
    held_out: bool = False
    limit: int = 0

    def as_word(self) -> str:
        """``measure=JSON``."""
        # What is not asked for is not said: cells that an earlier release measured stay measured.
        told = {name: value for name, value in vars(self).items() if value or name not in ("held_out", "limit")}
        told["scores"] = {domain: score.as_told() for domain, score in self.scores.items()}
        return f"measure={json.dumps(told, separators=(',', ':'))}"

    @staticmethod
    def from_word(text: str) -> Measures:
        """Reads what :meth:`as_word` wrote behind the ``=``."""
        told: Any = parse_json(text)
        scores = {domain: Score.of_told(one) for domain, one in told["scores"].items()}
        return Measures(**told | {"domains": tuple(told["domains"]), "scores": scores})


@dataclass(frozen=True)
class Items:
    """The items of one domain that one cell was measured on.

    Attributes:
        names: what they are; cells are compared on the same.
        sums_G: nats, or points, summed over a group.
        weights_G: supervised tokens, or questions.
    """

    names: tuple[str, ...]
    sums_G: np.ndarray
    weights_G: np.ndarray

    @property
    def mean(self) -> float:
        """Nats a token, or points a question."""
        return float(self.sums_G.sum() / self.weights_G.sum())

    def are_those_of(self, other: Items) -> bool:
        """Whether both are the same items with as many tokens each: a record that was cut elsewhere is another."""
        return self.names == other.names and np.array_equal(self.weights_G, other.weights_G)


@dataclass(frozen=True)
class Measured:
    """One cell, measured.

    Attributes:
        parameters: trainable ones of the adapter.
        flops_per_token: of a forward pass; None where nothing was held out.
        items: kind, domain -> the items.
        curve: domain -> (step, mean training loss).
        trained: part of the model -> parameters that trained; empty where an earlier release measured.
        checkpoint: the name of the one that was measured; None where an earlier release measured.
    """

    parameters: int
    flops_per_token: float | None
    items: Mapping[tuple[Kind, str], Items]
    curve: Mapping[str, Sequence[Sequence[float]]]
    trained: Mapping[str, int] = field(default_factory=dict)
    checkpoint: str | None = None


def read_measured(run: Path) -> Measured:
    """What was measured of a run.

    Raises:
        UserError: the file is missing or damaged.
    """
    told = read_object(run / FILE, _REMEDY, _SHAPE)
    items: dict[tuple[Kind, str], Items] = {}
    for domain in dict.fromkeys(one["domain"] for one in told["records"]):
        records = [one for one in told["records"] if one["domain"] == domain]
        tokens = np.asarray([one["tokens"] for one in records], dtype=np.float64)
        nats = np.asarray([one["nats"] for one in records], dtype=np.float64)
        items["loss", domain] = Items(tuple(one["key"] for one in records), nats, tokens)
    for domain in dict.fromkeys(one["domain"] for one in told["questions"]):
        questions = [one for one in told["questions"] if one["domain"] == domain]
        groups = np.unique([one["image"] for one in questions], return_inverse=True)[1].reshape(-1)
        sums = np.bincount(groups, [one["score"] for one in questions])
        names = tuple(one["id"] for one in questions)
        items["accuracy", domain] = Items(names, sums, np.bincount(groups).astype(np.float64))
    sizes = told["parameters"], told["flops_per_token"]
    return Measured(*sizes, items, told["curve"], told.get("trained", {}), told.get("checkpoint"))


@dataclass(frozen=True)
class Compared:
    """One way of training against another, or, without another, how it does.

    Attributes:
        before, after: means over seeds and domains of what is held against, and of what is looked at.
        effect: after minus before with its interval; None of fewer than two seeds.
        seeds: those that both have.
    """

    kind: Kind
    domains: tuple[str, ...]
    seeds: tuple[int, ...]
    before: float
    after: float
    effect: Effect | None


def compare(
    before: Mapping[int, Measured] | None, after: Mapping[int, Measured], kind: Kind, domains: Sequence[str]
) -> Compared | None:
    """What ``after`` has more than ``before``, the mean over domains, paired over items and the seeds of both.

    Args:
        before: seed to cell; None: against nothing, so that the effect is the level of ``after``.

    Returns:
        None where no seed has both, or a domain was not measured so.

    Raises:
        UserError: the cells were asked different items.
    """
    seeds = tuple(seed for seed in after if before is None or seed in before)
    if not seeds or any((kind, domain) not in after[seed].items for seed in seeds for domain in domains):
        return None
    strata, levels = [], []
    for domain in domains:
        pairs = [(None if before is None else before[seed].items, after[seed].items) for seed in seeds]
        deltas_SG, weights_G, means = _deltas(pairs, kind, domain)
        levels.append(means)
        if len(seeds) > 1 and len(weights_G) > 1:
            strata.append(Stratum(deltas_SG, weights_G))
    low, high = np.mean(levels, axis=0).tolist()
    effect = effect_of(strata) if len(strata) == len(domains) else None
    return Compared(kind, tuple(domains), seeds, low, high, effect)


def _deltas(
    pairs: Sequence[tuple[Mapping[tuple[Kind, str], Items] | None, Mapping[tuple[Kind, str], Items]]],
    kind: Kind,
    domain: str,
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Differences [S, G], weights [G], and the mean before and after."""
    first = pairs[0][1][kind, domain]
    deltas, before, after = [], [], []
    for low, high in pairs:
        new = high[kind, domain]
        old = Items(new.names, np.zeros_like(new.sums_G), new.weights_G) if low is None else low[kind, domain]
        if not (old.are_those_of(first) and new.are_those_of(first)):
            raise UserError(
                f"cells were asked different items of {domain} ({kind}): the data changed between them; delete the "
                "older ones and run again"
            )
        deltas.append(new.sums_G - old.sums_G)
        before.append(old.mean)
        after.append(new.mean)
    return np.asarray(deltas), first.weights_G, (float(np.mean(before)), float(np.mean(after)))
