"""Running a benchmark: its files, going on after a kill, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from llava_moe.data.encode import Encoder
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question
from llava_moe.eval.files import read_answers, read_result
from llava_moe.eval.generation import generate
from llava_moe.eval.generation.generate import answer_questions
from llava_moe.eval.run import model_fingerprint, run_benchmark
from llava_moe.eval.tasks.demo import DemoBenchmark, open_demo_benchmark


@pytest.fixture
def benchmark(demo_folder: Path) -> DemoBenchmark:
    return open_demo_benchmark(demo_folder, limit=2, min_compared=0)


def files_of(scores: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (scores / "eval").iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_run_writes_answers_results_and_a_merged_summary(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder, benchmark: DemoBenchmark, folder: Path
) -> None:
    seen: list[tuple[int, int]] = []
    (folder / "eval").mkdir(parents=True)
    (folder / "eval" / "results.json").write_text('{"other": {"kept": 1}}')
    result = run_benchmark(
        benchmark,
        tiny_llava,
        encoder,
        folder,
        fingerprint="abc",
        batch_size=8,
        on_progress=lambda *now: seen.append(now),
    )
    assert set(files_of(folder)) == {"demo.answers.jsonl", "demo.json", "results.json"}
    questions = benchmark.questions()
    answers = read_answers(folder / "eval" / "demo.answers.jsonl")
    assert [answer.question_id for answer in answers] == [question.id for question in questions]
    assert [answer.prediction for answer in answers] == answer_questions(tiny_llava, encoder, questions, batch_size=8)
    assert all(
        answer.score == benchmark.score(question, answer.prediction)
        for answer, question in zip(answers, questions, strict=True)
    )
    assert seen[0] == (0, len(questions)) and seen[-1] == (len(questions), len(questions))
    assert seen == sorted(seen)
    reread = read_result(folder, "demo")
    assert reread == result
    merged = json.loads((folder / "eval" / "results.json").read_text())
    assert merged["other"] == {"kept": 1}
    assert set(merged["demo"]["domains"]) == {"general", "documents", "medical", "all"}
    assert all(0 <= merged["demo"]["domains"][name]["exact_match"] <= 1 for name in merged["demo"]["domains"])


def test_a_killed_run_goes_on_and_ends_with_the_same_files(
    tiny_llava: LlavaForConditionalGeneration,
    encoder: Encoder,
    benchmark: DemoBenchmark,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, broken = folder / "whole", folder / "broken"
    run_benchmark(benchmark, tiny_llava, encoder, whole, fingerprint="abc", batch_size=4)

    class KilledError(Exception):
        pass

    def kill_after_three(done: int, _: int) -> None:
        if done >= 12:
            raise KilledError

    with pytest.raises(KilledError):
        run_benchmark(
            benchmark, tiny_llava, encoder, broken, fingerprint="abc", batch_size=4, on_progress=kill_after_three
        )
    path = broken / "eval" / "demo.answers.jsonl"
    with path.open("a") as file:
        file.write('{"question_id": "cut sho')
    num_kept = len(read_answers(path))
    assert 12 <= num_kept < len(benchmark.questions())

    asked: list[str] = []
    original = generate.iterate_answers

    def spy(model: Any, encoder: Encoder, questions: Sequence[Question], **settings: Any) -> Iterator[Any]:
        asked.extend(question.id for question in questions)
        return original(model, encoder, questions, **settings)

    monkeypatch.setattr(generate, "iterate_answers", spy)
    run_benchmark(benchmark, tiny_llava, encoder, broken, fingerprint="abc", batch_size=4)
    assert len(asked) == len(benchmark.questions()) - num_kept
    assert files_of(broken)["demo.answers.jsonl"] == files_of(whole)["demo.answers.jsonl"]
    ended, unbroken = read_result(broken, "demo"), read_result(whole, "demo")
    assert ended is not None and unbroken is not None and ended.rows == unbroken.rows


def test_answers_of_another_model_are_refused_and_left_alone(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder, benchmark: DemoBenchmark, folder: Path
) -> None:
    run_benchmark(benchmark, tiny_llava, encoder, folder, fingerprint="abc")
    before = files_of(folder)
    with pytest.raises(UserError, match=r"another model \(abc, this one is def\)"):
        run_benchmark(benchmark, tiny_llava, encoder, folder, fingerprint="def")
    assert files_of(folder) == before


def test_questions_that_share_an_id_are_told_before_any_is_asked(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder, benchmark: DemoBenchmark, folder: Path
) -> None:
    first, *others = benchmark.questions()
    twice = SimpleNamespace(name="own", questions=lambda: [first, *others, first])
    with pytest.raises(UserError, match=f"benchmark own has 1 ids .* such as '{first.id}'"):
        run_benchmark(twice, tiny_llava, encoder, folder, fingerprint="abc")
    assert not folder.exists()


def test_a_question_that_changed_is_asked_again(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder, benchmark: DemoBenchmark, folder: Path
) -> None:
    run_benchmark(benchmark, tiny_llava, encoder, folder, fingerprint="abc")
    path = folder / "eval" / "demo.answers.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    stale = json.loads(lines[3]) | {"asked": "0" * 16, "prediction": "stale"}
    path.write_text("".join([*lines[:3], json.dumps(stale) + "\n", *lines[4:]]))
    run_benchmark(benchmark, tiny_llava, encoder, folder, fingerprint="abc")
    assert path.read_text() == "".join(lines)


def test_a_smaller_draw_keeps_the_answers_of_a_larger_one(
    tiny_llava: LlavaForConditionalGeneration,
    encoder: Encoder,
    benchmark: DemoBenchmark,
    demo_folder: Path,
    folder: Path,
) -> None:
    run_benchmark(benchmark, tiny_llava, encoder, folder, fingerprint="abc")
    path = folder / "eval" / "demo.answers.jsonl"
    before = {answer.question_id for answer in read_answers(path)}
    smaller = open_demo_benchmark(demo_folder, limit=1, min_compared=0)
    result = run_benchmark(smaller, tiny_llava, encoder, folder, fingerprint="abc")
    after = [answer.question_id for answer in read_answers(path)]
    drawn = [question.id for question in smaller.questions()]
    assert set(after) == before and after[: len(drawn)] == drawn
    assert result.row("general").measures["exact_match_all"].num_questions == len(smaller.pairs) - 6


def test_a_line_that_is_no_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "demo.answers.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UserError, match="line 1 is not an answer"):
        read_answers(path)


def test_the_fingerprint_changes_with_any_sampled_weight_and_with_nothing_else() -> None:
    torch.manual_seed(0)
    first, last = torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)
    model = torch.nn.Sequential(first, last)
    before = model_fingerprint(model)
    assert model_fingerprint(model.train()) == before
    with torch.no_grad():
        last.bias[2] += 1e-6
    assert model_fingerprint(model) != before


def test_a_runs_own_earlier_answers_are_set_aside_under_their_weights_name(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder, benchmark: DemoBenchmark, folder: Path
) -> None:
    run_benchmark(benchmark, tiny_llava, encoder, folder, fingerprint="abc")
    before = files_of(folder)["demo.answers.jsonl"]
    run_benchmark(benchmark, tiny_llava, encoder, folder, fingerprint="def", sets_aside=True)
    after = files_of(folder)
    assert after["demo.answers.abc.jsonl"] == before
    assert after["demo.answers.jsonl"].count('"def"') == before.count('"abc"') > 0
