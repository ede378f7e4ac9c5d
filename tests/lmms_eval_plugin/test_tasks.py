"""The task folder: its yamls name what exists, ask what ``llava-moe eval`` asks and score as it does."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from llava_moe.errors import UserError
from llava_moe.eval.baselines import is_twin
from llava_moe.eval.benchmark import Answer, Decoding
from llava_moe.eval.tasks import open_benchmark
from llava_moe.lmms_eval_plugin import task_folder, tasks
from llava_moe.lmms_eval_plugin.requests import read_generation_kwargs
from tests.eval.own.files import asking, write_lines, write_questions
from tests.peers.lmms_eval_scores import BENCHMARKS

NAMES = sorted(path.stem for path in task_folder().glob("*.yaml") if path.stem != tasks.OWN)


class _Loader(yaml.SafeLoader):
    pass


def _function(loader: yaml.SafeLoader, node: yaml.Node) -> Callable[..., Any]:
    module, _, name = str(loader.construct_scalar(node)).rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


_Loader.add_constructor("!function", _function)


def load(path: Path) -> dict[str, Any]:
    """A yaml as lmms-eval 0.7.3 loads it: functions imported, what it includes below it."""
    config: dict[str, Any] = yaml.load(path.read_text(), _Loader)
    if "include" in config:
        config = load(path.with_name(config.pop("include"))) | config
    return config


@pytest.fixture(params=NAMES)
def config(request: pytest.FixtureRequest, local_benchmarks: Path) -> dict[str, Any]:
    return load(task_folder() / f"{request.param}.yaml")


def named(config: dict[str, Any]) -> dict[str, str]:
    lines = (task_folder() / config["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    (line,) = lines
    source: dict[str, str] = json.loads(line)
    return source


def documents(config: dict[str, Any]) -> datasets.Dataset:
    return config["process_docs"](datasets.Dataset.from_list([named(config)]))


def test_there_is_a_task_for_each_benchmark_that_lmms_eval_lacks() -> None:
    assert set(NAMES) == {*BENCHMARKS, "tiny_lvlm_llava_mole"}


def test_the_tasks_and_the_answers_need_no_lmms_eval() -> None:
    check = (
        "import sys; sys.modules['lmms_eval'] = None; "
        "import llava_moe.lmms_eval_plugin.tasks, llava_moe.lmms_eval_plugin.answering"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_prompts_images_and_answers_are_those_of_llava_moe_eval(config: dict[str, Any]) -> None:
    benchmark = tasks.opened(**named(config))
    docs = documents(config)
    questions = benchmark.questions()
    assert [config["doc_to_text"](doc) for doc in docs] == [question.prompt for question in questions]
    assert [config["doc_to_target"](doc) for doc in docs] == [question.references[0] for question in questions]
    for doc, question in zip(docs, questions, strict=True):
        images = config["doc_to_visual"](doc)
        assert len(images) == len(question.images) == 1 and images[0].mode == "RGB"


def test_answers_are_drawn_as_the_protocol_says(config: dict[str, Any]) -> None:
    facts = tasks.opened(**named(config)).facts
    asked = read_generation_kwargs(config["generation_kwargs"])
    assert (asked.decoding, asked.max_new_tokens) == (facts.decoding, facts.max_new_tokens)
    assert asked.decoding.stop == () and "until" in config["generation_kwargs"]
    if config["task"] == "tiny_lvlm_llava_mole":
        assert asked.decoding == Decoding(repetition_penalty=10.0)
        assert facts.prompt.startswith("Analyze the image")


@pytest.mark.parametrize("answers", ["oracle", "empty", "mixed"])
def test_scores_are_those_of_llava_moe_eval(config: dict[str, Any], answers: str) -> None:
    benchmark = tasks.opened(**named(config))
    predictions = {
        question.id: ""
        if answers == "empty" or (answers == "mixed" and number % 3 == 1)
        else "yes"
        if answers == "mixed" and number % 3 == 2
        else benchmark.oracle(question)
        for number, question in enumerate(benchmark.questions())
    }
    given = {
        question.id: Answer(
            question.id,
            predictions[question.id],
            question.references,
            benchmark.score(question, predictions[question.id]),
        )
        for question in benchmark.questions()
    }
    gathered: dict[str, list[Any]] = {}
    for doc in documents(config):
        for name, value in config["process_results"](doc, [predictions[doc["id"]]]).items():
            gathered.setdefault(name, []).append(value)
    aggregations = {one["metric"]: one["aggregation"] for one in config["metric_list"]}
    assert set(gathered) == set(aggregations)
    found = {
        name: sum(gathered[name]) / len(gathered[name]) if how == "mean" else how(gathered[name])
        for name, how in aggregations.items()
    }
    for row in benchmark.summarize(given):
        for name, measure in row.measures.items():
            theirs = name if row.domain == "all" else f"{name}_{row.domain}"
            if row.domain == "all" or theirs in found:
                assert found.pop(theirs) == pytest.approx(measure.value, abs=1e-12), theirs
    assert not found


def test_ones_own_questions_are_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_questions(tmp_path / "questions.jsonl")
    with path.open("a") as file:
        file.write(json.dumps(asking("Is <image> as <image>?", "no", ["0.png", "1.png"])) + "\n")
    monkeypatch.setenv(tasks.QUESTIONS, str(path))
    tasks.forget()
    config = load(task_folder() / f"{tasks.OWN}.yaml")
    docs = documents(config)
    benchmark = open_benchmark(str(path), protocol="lmms_eval")
    asked = [question for question in benchmark.questions() if not is_twin(question.id)]
    assert [doc["id"] for doc in docs] == [question.id for question in asked]
    assert [config["doc_to_text"](doc) for doc in docs][-2:] == [asked[-2].prompt, "Is <image> as <image>?"]
    assert [len(config["doc_to_visual"](doc)) for doc in docs] == [1] * 8 + [2]
    found = [config["process_results"](doc, ["red"]) for doc in docs]
    assert found == [benchmark.score(question, "red") for question in asked]
    assert set(found[0]) == {one["metric"] for one in config["metric_list"]}
    facts, drawn = benchmark.facts, read_generation_kwargs(config["generation_kwargs"])
    assert (drawn.decoding, drawn.max_new_tokens) == (facts.decoding, facts.max_new_tokens)
    talk = asking("a?", "b")
    talk["messages"] += talk["messages"]
    write_lines(path, [talk])
    tasks.forget()
    with pytest.raises(UserError, match="record 1: has earlier turns"):
        documents(config)
    monkeypatch.delenv(tasks.QUESTIONS)
    with pytest.raises(UserError, match=f"export {tasks.QUESTIONS}=questions.jsonl"):
        tasks.opened(tasks.OWN, "lmms_eval")


def test_measures_over_a_part_of_the_questions_are_those_of_that_part(local_benchmarks: Path) -> None:
    config = load(task_folder() / "vsr.yaml")
    docs = list(documents(config))[:6]
    f1 = [config["process_results"](doc, ["yes"])["vsr_f1"] for doc in docs]
    right = sum(doc["references"] == ["yes"] for doc in docs)
    assert tasks.over_all(f1) == pytest.approx(2 * right / (len(docs) + right))
