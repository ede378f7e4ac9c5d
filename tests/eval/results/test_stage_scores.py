"""What each stage adds, against plain loops over the answers."""

from __future__ import annotations

import io
import math
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from llava_moe.eval.baselines import TWIN_MARK, is_twin
from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Benchmark, BenchmarkResult
from llava_moe.eval.files import answers_path, read_answers, read_result, write_answers
from llava_moe.eval.headline import HeadlineBenchmark
from llava_moe.eval.metrics import exact_match
from llava_moe.eval.results.stage_scores import BLIND, MAJORITY, OTHER, StageScores, read_stage_scores
from llava_moe.eval.results.stage_table import stage_notes, stage_table
from llava_moe.eval.results.table import rich_table
from llava_moe.eval.tasks import demo
from llava_moe.eval.tasks.demo import DemoBenchmark, open_demo_benchmark
from tests.eval.scored_runs import guesser, write_scored

FINAL, FIRST = "after 2-instruct", "after 1-pretrain"


@pytest.fixture
def root(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment of two stages, scored on made-up answers: the end is better than the first stage."""
    monkeypatch.setattr(demo, "open_demo_benchmark", lambda **given: open_demo_benchmark(demo_folder, **given))
    whole = opened(demo_folder)
    write_scored(tmp_path / "run", whole, guesser(whole, 1, 0.7))
    write_scored(tmp_path / "run" / "1-pretrain", HeadlineBenchmark(whole), guesser(whole, 2, 0.4))
    write_scored(tmp_path / "run" / "no_picture", HeadlineBenchmark(whole, has_pictures=False), guesser(whole, 3, 0.2))
    return tmp_path / "run"


def opened(folder: Path) -> DemoBenchmark:
    return open_demo_benchmark(folder, limit=None)


def read(root: Path) -> StageScores | None:
    return read_stage_scores(root, [root / "1-pretrain", root / "2-instruct"], result_of(root))


def result_of(root: Path) -> BenchmarkResult:
    result = read_result(root, "demo")
    assert result is not None
    return result


def scores_in(folder: Path) -> dict[str, float]:
    return {one.question_id: one.score["exact_match"] for one in read_answers(answers_path(folder, "demo"))}


def test_each_line_is_a_plain_mean_and_each_difference_a_paired_one(root: Path, demo_folder: Path) -> None:
    found = read(root)
    assert found is not None
    assert [line.name for line in found.lines] == [
        *(MAJORITY, BLIND, FIRST, FINAL, OTHER),
        *("over 1-pretrain", "over another picture", "over majority answer"),
    ]
    whole = opened(demo_folder)
    final, first, blind = scores_in(root), scores_in(root / "1-pretrain"), scores_in(root / "no_picture")
    twins = {name.split(TWIN_MARK)[0]: name for name in final if is_twin(name)}
    guesses = {one.id: exact_match(whole.majority.answer(one), [one.answer]) for one in whole.pairs}
    columns = {MAJORITY: guesses, BLIND: blind, FIRST: first, FINAL: final}
    columns[OTHER] = {name: final[twin] for name, twin in twins.items()}
    assert found.domains == ("general", "documents", "medical", ALL_DOMAINS)
    for domain in found.domains:
        ids = [one.id for one in whole.pairs if one.closed and one.id in twins and domain in (one.domain, ALL_DOMAINS)]
        assert found.counts[domain] == len(ids) == (54 if domain == ALL_DOMAINS else 18)
        for name, column in columns.items():
            measure = found.measure_of(name, domain)
            assert measure is not None and measure.value == pytest.approx(sum(column[one] for one in ids) / len(ids))
        pairs = zip(found.lines[5:], (FIRST, OTHER, MAJORITY), strict=True)
        for line, name in pairs:
            differences = [final[one] - columns[name][one] for one in ids]
            spread = 1.959963984540054 * statistics.stdev(differences) / math.sqrt(len(ids))
            measure = line.measures[domain]
            assert measure.value == pytest.approx(statistics.mean(differences))
            assert (measure.low, measure.high) == pytest.approx((measure.value - spread, measure.value + spread))


def test_the_final_lines_are_those_of_the_whole_benchmark(root: Path) -> None:
    found = read(root)
    assert found is not None
    for domain in found.domains:
        measures = result_of(root).row(domain).measures
        assert found.measure_of(FINAL, domain) == measures["exact_match"]
        assert found.measure_of(OTHER, domain) == measures["other_image"]
        assert found.measure_of(MAJORITY, domain) == measures["majority_answer"]
        differences = {line.name: line.measures[domain] for line in found.lines if line.is_difference}
        assert differences["over another picture"] == measures["gap"]
        assert differences["over majority answer"] == measures["gap_over_majority"]


def test_only_questions_that_all_were_asked_count(root: Path, demo_folder: Path) -> None:
    path = answers_path(root / "1-pretrain", "demo")
    answers = read_answers(path)
    medical = [one for one in answers if one.question_id.startswith("medical")]
    write_answers(path, [one for one in answers if one not in medical[:3]])
    found = read(root)
    assert found is not None
    assert dict(found.counts) == {"general": 18, "documents": 18, "medical": 15, ALL_DOMAINS: 51}
    # Answers of other weights, and to a question that has changed, are none.
    write_answers(path, [changed(one, number) for number, one in enumerate(answers)])
    found = read(root)
    assert found is not None and found.counts[ALL_DOMAINS] == 52


def changed(answer: Answer, number: int) -> Answer:
    fields = vars(answer) | ({"model": "another"} if number == 0 else {"asked": "another"} if number == 1 else {})
    return Answer(**fields)


def test_without_earlier_answers_there_are_no_lines(root: Path) -> None:
    (root / "1-pretrain" / "eval" / "demo.json").unlink()
    found = read(root)
    assert found is not None and found.earlier == () and found.line(BLIND) is not None
    (root / "no_picture" / "eval" / "demo.json").unlink()
    assert read(root) is None


def test_the_table_fits_80_columns_and_says_what_blind_is(root: Path) -> None:
    found, result = read(root), result_of(root)
    assert found is not None
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(stage_table(found, result)))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    for name in (*(line.name for line in found.lines), "questions"):
        assert any(line.startswith(f"│ {name} ") for line in lines), name
    gain = found.lines[5].measures["general"]
    assert gain.high is not None
    told = f"{100 * gain.value:+.1f} ±{100 * (gain.high - gain.value):.1f}"
    assert told in next(line for line in lines if "over 1-pretrain" in line)
    assert any("without image tokens" in note for note in stage_notes(found))


def test_the_hashes_of_a_question_with_and_without_its_picture_differ(root: Path, demo_folder: Path) -> None:
    def asked(benchmark: Benchmark) -> set[str]:
        from llava_moe.eval.question_hash import question_hashes

        return set(question_hashes(benchmark.questions()).values())

    whole = opened(demo_folder)
    assert not asked(HeadlineBenchmark(whole)) & asked(HeadlineBenchmark(whole, has_pictures=False))
