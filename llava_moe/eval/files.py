"""Files of an evaluation: atomic writes, the answers file that survives a kill, results as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Answer, BenchmarkResult, Decoding, Facts, Measure, ModelFacts, ScoreRow
from llava_moe.files.atomic_write import write_atomically
from llava_moe.files.our_files import MAYBE_NUMBER, NUMBER, misfit, read_object
from llava_moe.files.regular_file import read_regular
from llava_moe.text.structured_text import parse_json

AGAIN = "delete it and evaluate again"
ANSWER = {"question_id": str, "prediction": str, "references": [str], "score": {str: MAYBE_NUMBER}}
ANSWER |= {"asked?": str, "model?": str}
RESULT = {
    "benchmark": str,
    "model": str,
    "columns": [str],
    "notes": [str],
    "seconds": NUMBER,
    "rows": [{"domain": str, "measures": {str: {"value": NUMBER, "num_questions": int}}}],
    "facts?": (dict, NoneType),
    "answered_by?": (dict, NoneType),
}


def answers_path(folder: Path, benchmark: str) -> Path:
    """``eval/<benchmark>.answers.jsonl`` of a run's folder."""
    return folder / "eval" / f"{benchmark}.answers.jsonl"


def result_path(folder: Path, benchmark: str) -> Path:
    """``eval/<benchmark>.json`` of a run's folder."""
    return folder / "eval" / f"{benchmark}.json"


def answer_line(answer: Answer) -> str:
    """One JSON object and its line break."""
    return json.dumps(asdict(answer), ensure_ascii=False) + "\n"


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, in its order; a last line that a kill cut short is left out; no file means no answers.

    Raises:
        UserError: any other line is not an answer.
    """
    if not path.exists():
        return []
    try:
        *lines, _cut_short = read_regular(path).split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); move it away and run again") from error
    answers = []
    for number, line in enumerate(lines, start=1):
        try:
            fields = parse_json(line)
            if told := misfit(fields, ANSWER):
                raise ValueError(told)
            answers.append(Answer(**(fields | {"references": tuple(fields["references"])})))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} line {number} is not an answer ({str(error)[:150]}); move the file away and run again"
            ) from error
    return answers


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write a whole answers file atomically."""
    write_atomically(path, "".join(answer_line(answer) for answer in answers))


def write_result(folder: Path, result: BenchmarkResult) -> None:
    """Write ``eval/<benchmark>.json``; enter its headline in ``eval/results.json``, the others' left alone."""
    write_atomically(result_path(folder, result.benchmark), json.dumps(asdict(result), indent=2, ensure_ascii=False))
    merged = read_results(folder)
    merged[result.benchmark] = headline(result)
    write_atomically(folder / "eval" / "results.json", json.dumps(merged, indent=2, sort_keys=True, ensure_ascii=False))


def read_results(folder: Path) -> dict[str, Any]:
    """``eval/results.json``: benchmark to headline; empty where there is none.

    Raises:
        UserError: the file is damaged or of another shape.
    """
    path = folder / "eval" / "results.json"
    return read_object(path, AGAIN, {str: dict}) if path.exists() else {}


def headline(result: BenchmarkResult) -> dict[str, Any]:
    """What ``results.json`` keeps of a benchmark: the model, its facts and each domain's measures."""
    scores = {
        row.domain: {name: round(measure.value, 6) for name, measure in row.measures.items()}
        | {"num_questions": max((measure.num_questions for measure in row.measures.values()), default=0)}
        for row in result.rows
        if row.kind is None
    }
    facts = {} if result.facts is None else asdict(result.facts)
    if result.answered_by is not None:
        facts["answered_by"] = asdict(result.answered_by)
    return {"model": result.model, "seconds": round(result.seconds, 1), **facts, "domains": scores}


def read_result(folder: Path, benchmark: str) -> BenchmarkResult | None:
    """The result that an earlier evaluation wrote into this run's ``eval/``, or None.

    Raises:
        UserError: the file is there and cannot be read.
    """
    path = result_path(folder, benchmark)
    if not path.exists():
        return None
    fields = read_object(path, AGAIN, RESULT)
    try:
        rows = tuple(_read_row(row) for row in fields["rows"])
        tuples = {name: tuple(fields[name]) for name in ("columns", "notes")}
        facts = fields.get("facts")
        if facts is not None:
            drawn = facts["decoding"]
            decoding = Decoding(**(drawn | {"stop": tuple(drawn.get("stop", ()))}))
            facts = Facts(**(facts | {"decoding": decoding}))
        asked = fields.get("answered_by")
        answered_by = None if asked is None else ModelFacts(**asked)
        return BenchmarkResult(**(fields | tuples | {"rows": rows, "facts": facts, "answered_by": answered_by}))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is not a result of this version; delete it and evaluate again") from error


def _read_row(fields: Mapping[str, Any]) -> ScoreRow:
    measures = {name: Measure(**measure) for name, measure in fields["measures"].items()}
    return ScoreRow(**(dict(fields) | {"measures": measures}))
