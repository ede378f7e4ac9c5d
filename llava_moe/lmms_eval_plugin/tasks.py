"""What the yamls of the task folder call: our benchmarks' questions as lmms-eval's documents, and our scores.

Nothing of lmms-eval is imported. Reading, wording and scoring are those of ``llava_moe.eval.tasks``; a yaml names
them by one line of JSON: ``{"benchmark": "vsr", "protocol": "lmms_eval"}``. The data lies where ``llava-moe eval``
finds it: below ``LLAVA_MOE_BENCHMARKS``, or ``data/benchmarks`` in the current folder. ``own_questions`` stands for the
file of one's own that ``LLAVA_MOE_QUESTIONS`` names; its questions are asked once, beside their own images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import datasets
from PIL import Image

from llava_moe.errors import UserError
from llava_moe.eval.baselines import is_twin
from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Question
from llava_moe.eval.generation.question_images import open_images
from llava_moe.eval.own.benchmark import OwnBenchmark
from llava_moe.eval.published_benchmark import PublishedBenchmark
from llava_moe.eval.tasks import Places, open_benchmark

Document = Mapping[str, Any]
OWN = "own_questions"
QUESTIONS, IMAGES = "LLAVA_MOE_QUESTIONS", "LLAVA_MOE_IMAGES"
"""Variables of the environment: the file of one's own questions, and the folder of its images where it is not near."""


@cache
def opened(benchmark: str, protocol: str) -> PublishedBenchmark | OwnBenchmark:
    """All questions of a benchmark, read once a process.

    Raises:
        UserError: its data is missing, damaged or incomplete, or is such that a task of lmms-eval cannot ask it.
    """
    if benchmark == OWN:
        return _own(protocol)
    found = open_benchmark(benchmark, 0, protocol=protocol)
    if not isinstance(found, PublishedBenchmark):
        raise ValueError(f"{benchmark} has data of its own: it is no task for lmms-eval")
    return found


def _own(protocol: str) -> OwnBenchmark:
    path = os.environ.get(QUESTIONS)
    if not path:
        raise UserError(f"{OWN}: say which file holds the questions: export {QUESTIONS}=questions.jsonl")
    found = open_benchmark(path, 0, protocol=protocol, places=Places(images=os.environ.get(IMAGES) or None))
    if not isinstance(found, OwnBenchmark):
        raise UserError(f"{QUESTIONS}={path}: is a benchmark of its own, not a file of questions")
    for record in found.records.values():
        if len(record.conversation.turns) > 2 or record.conversation.system is not None:
            raise UserError(
                f"{record.place}: has earlier turns or a system text, which a task of lmms-eval has no place for: take "
                "the record out, or score the file by llava-moe eval"
            )
    return found


@cache
def _questions(benchmark: str, protocol: str) -> dict[str, Question]:
    asked = opened(benchmark, protocol).questions()
    return {question.id: question for question in asked if not is_twin(question.id)}


def forget() -> None:
    """Read benchmarks again when they are next asked for, as after their data has moved."""
    for read in (opened, _questions, _parts_of_scores):
        read.cache_clear()


def documents(named: datasets.Dataset) -> datasets.Dataset:
    """``process_docs``: the questions of the one benchmark and protocol that the yaml's JSON names."""
    (source,) = named
    return datasets.Dataset.from_list(
        [
            dict(source)
            | {"id": one.id, "prompt": _written(one), "references": list(one.references), "part": one.domain}
            for one in _questions(source["benchmark"], source["protocol"]).values()
        ]
    )


def _written(question: Question) -> str:
    """The text of a question; of several images each is marked where it stands."""
    return question.turns[-1].text if question.turns else question.prompt


def prompt(doc: Document) -> str:
    """``doc_to_text``: the question as our benchmark words it."""
    return str(doc["prompt"])


def references(doc: Document) -> str:
    """``doc_to_target``: the first answer that counts."""
    return str(doc["references"][0])


def images(doc: Document) -> list[Image.Image]:
    """``doc_to_visual``: the images as our benchmark opens them.

    Raises:
        UserError: one is missing or damaged.
    """
    question = _questions(doc["benchmark"], doc["protocol"])[doc["id"]]
    return open_images(question)


def scores(doc: Document, results: Sequence[str]) -> dict[str, Any]:
    """``process_results``: our scores of one answer, once more by part where parts share them.

    A measure that is more than a mean (F1, a sum of accuracies) gets the answer itself: :func:`over_all` sums it up.
    """
    benchmark, protocol = doc["benchmark"], doc["protocol"]
    question = _questions(benchmark, protocol)[doc["id"]]
    found: dict[str, Any] = dict(opened(benchmark, protocol).score(question, results[0]))
    if benchmark == OWN:
        return found  # which domains a file has, no yaml can know
    parts_of = _parts_of_scores(benchmark, protocol)
    found |= {f"{name}_{doc['part']}": score for name, score in found.items() if len(parts_of[name]) > 1}
    answered = {key: doc[key] for key in ("benchmark", "protocol", "id")} | {"prediction": results[0]}
    sums = [name for name in opened(benchmark, protocol).columns if name not in parts_of]
    return found | {name: answered | {"measure": name} for name in sums}


@cache
def _parts_of_scores(benchmark: str, protocol: str) -> dict[str, set[str]]:
    """Which parts of a benchmark have a score of a name, seen from one question of each part."""
    found: dict[str, set[str]] = {}
    one_a_part = {question.domain: question for question in _questions(benchmark, protocol).values()}
    for part, question in one_a_part.items():
        for name in opened(benchmark, protocol).score(question, ""):
            found.setdefault(name, set()).add(part)
    return found


def over_all(answered: Sequence[Mapping[str, str]]) -> float:
    """Aggregation of a measure over all answers, by our own benchmark, over the questions that were asked."""
    first = answered[0]
    whole = opened(first["benchmark"], first["protocol"])
    assert isinstance(whole, PublishedBenchmark), "the scores of one's own questions are means"
    items = {one["id"]: whole.items[one["id"]] for one in answered}
    asked = replace(whole, items=items)
    questions = {question.id: question for question in asked.questions()}
    answers = {
        one["id"]: Answer(
            one["id"],
            one["prediction"],
            questions[one["id"]].references,
            asked.score(questions[one["id"]], one["prediction"]),
        )
        for one in answered
    }
    (row,) = [row for row in asked.summarize(answers) if row.domain == ALL_DOMAINS]
    return row.measures[first["measure"]].value
