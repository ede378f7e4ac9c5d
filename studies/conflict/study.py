"""A study as its yaml says it: what is trained on what, with which settings, and what is measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_moe.errors import UserError
from llava_moe.files.our_files import misfit, read_text
from llava_moe.text.structured_text import StructuredTextError, parse_yaml

SHIPPED = Path(__file__).with_name("study.yaml")
_SHAPE = {
    **{"stage1": [str], "words": [str], "both?": [str], "domains": {str: dict}, "epochs": int, "seeds": [int]},
    **{"baseline": str, "methods": {str: dict}},
    "measure": {"split": str, "benchmark": str, "limit": int},
}
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Measures:
    """What is measured of a cell: the held-out records of a split, and a benchmark's closed questions.

    Attributes:
        limit: questions of each kind; 0: all.
    """

    split: str
    benchmark: str
    limit: int


@dataclass(frozen=True)
class Study:
    """A study; words are those of ``llava-moe train``.

    Attributes:
        stage1: the words of the training that all cells of a seed start from.
        words: the words of every cell; ``both``: of every cell and of stage 1.
        domains: domain to source to its samples in an epoch.
        baseline: the method that is trained on each domain alone, too.
        methods: method to rank to the words of its adapter.
    """

    stage1: tuple[str, ...]
    words: tuple[str, ...]
    both: tuple[str, ...]
    domains: Mapping[str, Mapping[str, int]]
    epochs: int
    seeds: tuple[int, ...]
    baseline: str
    methods: Mapping[str, Mapping[int, tuple[str, ...]]]
    measures: Measures

    def samples(self, domain: str) -> int:
        """Samples of a domain that a cell which trains on it sees: the same alone and in the mix."""
        return self.epochs * sum(self.domains[domain].values())

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of the baseline."""
        return tuple(self.methods[self.baseline])


def read_study(path: Path) -> Study:
    """The study of a yaml file.

    Raises:
        UserError: it cannot be read, or something in it is missing or of another kind.
    """
    try:
        given = parse_yaml(read_text(path, "give the path of a study's yaml"))
    except StructuredTextError as error:
        raise UserError(f"{path} is no yaml ({error}): fix it there") from error
    if told := misfit(given, _SHAPE):
        raise UserError(f"{path}: {told}; studies/conflict/study.yaml shows what a study has")
    unknown = sorted(set(given) - {name.removesuffix("?") for name in _SHAPE})
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]}; a study has {', '.join(n.rstrip('?') for n in _SHAPE)}")
    _check(given, path)
    methods = {
        method: {rank: tuple(words) for rank, words in by_rank.items()} for method, by_rank in given["methods"].items()
    }
    return Study(
        stage1=tuple(given["stage1"]),
        words=tuple(given["words"]),
        both=tuple(given.get("both", ())),
        domains=given["domains"],
        epochs=given["epochs"],
        seeds=tuple(given["seeds"]),
        baseline=given["baseline"],
        methods=methods,
        measures=Measures(**{name: given["measure"][name] for name in ("split", "benchmark", "limit")}),
    )


def _check(given: Mapping[str, Any], path: Path) -> None:
    """Refuse what has the right shape and no sense."""
    for what in ("domains", "methods"):
        for name in given[what]:
            if not _NAME.fullmatch(name):
                raise UserError(f"{path}: {what}: {name!r} becomes part of a folder's name: use letters, digits, _.-")
    if "all" in given["domains"]:
        raise UserError(f"{path}: domains: 'all' stands for all of them in a cell's name; name that domain otherwise")
    if len(given["domains"]) < 2:
        raise UserError(f"{path}: domains: a conflict needs two domains or more, {len(given['domains'])} given")
    for domain, sources in given["domains"].items():
        if not sources or any(isinstance(num, bool) or not isinstance(num, int) or num < 1 for num in sources.values()):
            raise UserError(f"{path}: domains.{domain}: give each source its samples, such as {{SOURCE: 600}}")
    if given["epochs"] < 1 or not given["seeds"] or len(set(given["seeds"])) < len(given["seeds"]):
        raise UserError(f"{path}: epochs must be at least 1, and seeds must differ")
    if given["baseline"] not in given["methods"]:
        raise UserError(f"{path}: baseline: {given['baseline']} is none of methods: {', '.join(given['methods'])}")
    ranks = list(given["methods"][given["baseline"]])
    for method, by_rank in given["methods"].items():
        for rank, words in by_rank.items():
            if rank not in ranks or isinstance(rank, bool) or not isinstance(rank, int):
                raise UserError(f"{path}: methods.{method}: {rank} is no rank of {given['baseline']}: {ranks}")
            if not words or misfit(words, [str]):
                raise UserError(f"{path}: methods.{method}.{rank}: give a list of words, such as [adapter.r={rank}]")
