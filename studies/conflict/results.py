"""What a study has found so far: ``cells.jsonl``, a line a cell with its items, and ``asked.json``, what was asked.

Items stand in a line as ``nats`` (of each held-out record, summed over its tokens) and ``right`` (a bit a question, the
first the highest of the first hex digit), in the order of ``asked.json``. Any interval can be computed again from them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_moe.errors import UserError
from llava_moe.files.atomic_write import write_atomically
from llava_moe.files.our_files import NUMBER, read_object, read_objects
from studies.conflict.cells import Cell

CELLS, ASKED = "cells.jsonl", "asked.json"
_REMEDY = "put it back as it was committed"
_LINE = {
    **{"cell": str, "seed": int, "rank": int, "method": str, "trained_on": [str], "settings": str, "base": str},
    **{"asked": str, "parameters": int, "samples": {str: int}, "nats": [NUMBER], "right": str},
}
_ASKED = {"records": [[(str, int)]], "questions": [[(str, int)]]}


@dataclass(frozen=True)
class Asked:
    """What every cell is measured on, in order: N held-out records, Q closed questions.

    Attributes:
        tokens_N: float64, supervised tokens of each record.
        images_Q: int64, which image a question hangs on; those of one image are drawn together.
    """

    record_domains: tuple[str, ...]
    tokens_N: np.ndarray
    question_domains: tuple[str, ...]
    images_Q: np.ndarray


@dataclass(frozen=True)
class Result:
    """One cell, measured.

    Attributes:
        trained_on: the domains, one or all.
        parameters: trainable ones of the adapter.
        samples: of each domain, by the run's ledger.
        nats_N: float64, of each held-out record, summed over its tokens.
        right_Q: bool, each closed question.
    """

    name: str
    seed: int
    rank: int
    method: str
    trained_on: tuple[str, ...]
    settings: str
    base: str
    parameters: int
    samples: Mapping[str, int]
    nats_N: np.ndarray
    right_Q: np.ndarray


def read_asked(folder: Path) -> Asked:
    """Raises UserError where ``asked.json`` is not there or damaged."""
    told = read_object(folder / ASKED, _REMEDY, _ASKED)
    records, questions = told["records"], told["questions"]
    return Asked(
        record_domains=tuple(domain for _, domain, _ in records),
        tokens_N=np.asarray([tokens for _, _, tokens in records], dtype=np.float64),
        question_domains=tuple(domain for _, domain, _ in questions),
        images_Q=np.asarray([image for _, _, image in questions], dtype=np.int64),
    )


def read_results(folder: Path) -> list[Result]:
    """The cells that are there, in the order of their names; none where no cell is.

    Raises:
        UserError: a line is damaged, a cell is there twice, or cells are of several bases or were asked otherwise.
    """
    lines = read_objects(folder / CELLS, _REMEDY, _LINE)
    for what in ("base", "asked"):
        if len({line[what] for line in lines}) > 1:
            raise UserError(f"{folder / CELLS}: cells of several kinds of {what} in one study; keep each in a folder")
    if len({line["cell"] for line in lines}) < len(lines):
        raise UserError(f"{folder / CELLS}: a cell is there twice; {_REMEDY}")
    if lines and lines[0]["asked"] != _digest((folder / ASKED).read_text(encoding="utf-8")):
        raise UserError(f"{folder / ASKED} is not what the cells were asked; {_REMEDY}")
    num_questions = len(read_asked(folder).question_domains) if lines else 0
    return sorted((_result(line, num_questions) for line in lines), key=lambda one: one.name)


def _result(line: Mapping[str, Any], num_questions: int) -> Result:
    right = np.unpackbits(np.frombuffer(bytes.fromhex(line["right"]), dtype=np.uint8))[:num_questions]
    taken = {name: line[name] for name in ("seed", "rank", "method", "settings", "base", "parameters", "samples")}
    nats_N = np.asarray(line["nats"], dtype=np.float64)
    return Result(
        name=line["cell"], trained_on=tuple(line["trained_on"]), nats_N=nats_N, right_Q=right.astype(bool), **taken
    )


def append_result(folder: Path, cell: Cell, measured: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Add a cell's line; the first writes ``asked.json``.

    Args:
        measured: what ``measured.json`` of its run holds.
        facts: more of the line, such as ``samples`` and ``seconds``.

    Raises:
        UserError: it was asked otherwise than the cells before, or the folder cannot be written.
    """
    asked = json.dumps(
        {
            "records": [[one["key"], one["domain"], one["tokens"]] for one in measured["records"]],
            "questions": [[one["id"], one["domain"], one["image"]] for one in measured["questions"]],
        }
    )
    path = folder / ASKED
    if not path.exists():
        write_atomically(path, asked)
    elif path.read_text(encoding="utf-8") != asked:
        raise UserError(f"{cell.name} was asked otherwise than {path} says: give each kind of study its own --results")
    line = {
        **{"cell": cell.name, "seed": cell.seed, "rank": cell.rank, "method": cell.method},
        **{"trained_on": cell.trained_on, "settings": cell.settings, "base": measured["base"]},
        **{"parameters": measured["parameters"], **facts, "held_out": _losses(measured["records"])},
        **{"closed": _shares(measured["questions"]), "asked": _digest(asked)},
        **{"nats": [round(one["nats"], 4) for one in measured["records"]], "right": _bits(measured["questions"])},
    }
    _append(folder / CELLS, json.dumps(line) + "\n")


def _append(path: Path, line: str) -> None:
    try:
        with path.open("ab+") as file:
            content = path.read_bytes()
            # A kill may have cut the last line short.
            file.truncate(content.rfind(b"\n") + 1)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); free space, then run again") from error


def _losses(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Domain to nats a supervised token, for people to read."""
    sums: dict[str, tuple[float, int]] = {}
    for one in records:
        nats, tokens = sums.get(one["domain"], (0.0, 0))
        sums[one["domain"]] = (nats + one["nats"], tokens + one["tokens"])
    return {domain: round(nats / tokens, 4) for domain, (nats, tokens) in sums.items()}


def _shares(questions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Domain to the share of its closed questions that were right, for people to read."""
    right: dict[str, list[bool]] = {}
    for one in questions:
        right.setdefault(one["domain"], []).append(one["right"])
    return {domain: round(sum(of_domain) / len(of_domain), 4) for domain, of_domain in right.items()}


def _bits(questions: Sequence[Mapping[str, Any]]) -> str:
    return np.packbits([one["right"] for one in questions]).tobytes().hex()


def _digest(asked: str) -> str:
    return hashlib.sha256(asked.encode()).hexdigest()[:16]
