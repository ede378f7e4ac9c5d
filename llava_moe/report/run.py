"""The report of a run's folder: everything the page shows is read from what training and evaluation wrote there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import BenchmarkResult
from llava_moe.eval.files import answers_path, read_answers, read_result
from llava_moe.eval.question_hash import question_hash
from llava_moe.eval.results.scored_run import scored_benchmarks
from llava_moe.eval.results.stage_scores import read_stage_scores
from llava_moe.eval.tasks import reopen_benchmark
from llava_moe.eval.tasks.demo import CAVEATS
from llava_moe.report.examples import ShownAnswer, choose_examples
from llava_moe.report.page import write_report
from llava_moe.train.stage_log import read_stage


def report_run(root: Path, *, next_commands: Sequence[str] = (), stages: Sequence[Path] | None = None) -> Path:
    """Write ``report.html`` of a run.

    Args:
        root: the folder of a stage, or of an experiment whose stages are sub-folders.
        next_commands: what to type next.
        stages: the stages' folders in order; by default those below ``root`` that hold a log, by name, or ``root``.

    Returns:
        The path of the page.

    Raises:
        UserError: a file of the run cannot be read, or the page not written.
    """
    results = [result for name in scored_benchmarks(root) if (result := read_result(root, name)) is not None]
    folders = stage_folders(root) if stages is None else stages
    before = {result.benchmark: read_stage_scores(root, folders, result) for result in results}
    return write_report(
        root,
        [read_stage(folder) for folder in folders],
        results,
        stage_scores={name: scores for name, scores in before.items() if scores is not None},
        next_commands=next_commands,
        examples=[example for result in results for example in _examples(root, result)],
        caveats=CAVEATS if any(result.benchmark == "demo" for result in results) else (),
        analyses=analyses_of(root),
    )


def analyses_of(root: Path) -> list[tuple[str, str]]:
    """The pages of ``llava-moe analyze`` below a run: what each is, and its path from the run's folder.

    ``analyze/interference.html`` is of the last checkpoint, ``analyze/step-000100/interference.html`` of another; those
    of a stage lie in the stage's folder.
    """
    places = [path.relative_to(root) for pattern in ("", "*/") for path in root.glob(f"{pattern}analyze/**/*.html")]
    named = [(place, [part for part in place.parent.parts if part != "analyze"]) for place in sorted(places)]
    return [(" · ".join([place.stem, *where]), place.as_posix()) for place, where in named]


def stage_folders(root: Path) -> list[Path]:
    """The stages of a run: sub-folders with a log, by name; the run itself where there are none."""
    return sorted(path.parent for path in root.glob("*/log.jsonl")) or [root]


def _examples(root: Path, result: BenchmarkResult) -> tuple[ShownAnswer, ...]:
    answers = {answer.question_id: answer for answer in read_answers(answers_path(root, result.benchmark))}
    # All of the benchmark's questions: the run may have been scored on any draw of them.
    try:
        questions = reopen_benchmark(result).questions()
    except UserError:
        return ()  # its data has moved since; scores and answers stand without pictures
    asked = [
        question
        for question in questions
        if question.id in answers and answers[question.id].asked == question_hash(question)
    ]
    return choose_examples(asked, answers)
