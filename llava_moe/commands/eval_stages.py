"""What came before the final model answers the same questions: earlier stages, and the base without a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llava_moe.assemble import restore, restore_base
from llava_moe.commands.eval import evaluate, evaluate_run
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Benchmark, BenchmarkResult
from llava_moe.eval.files import answers_path, read_answers, read_result
from llava_moe.eval.generation.generate import LocalModel
from llava_moe.eval.headline import NO_PICTURE_FOLDER, HeadlineBenchmark
from llava_moe.eval.question_hash import question_hashes
from llava_moe.eval.results.stage_scores import StageScores, read_stage_scores
from llava_moe.run_config import EvalConfig, RunConfig
from llava_moe.runs.own_questions import training_benchmarks
from llava_moe.runs.scored_model import ScoredModel, scored_model, with_questions
from llava_moe.runs.stages import Stage


def refuse_unpaired(settings: EvalConfig, benchmarks: Sequence[Benchmark]) -> None:
    """Refuse to compare stages on a benchmark that scores no question by itself.

    Args:
        settings: the section ``eval`` of a training's configuration.

    Raises:
        UserError: naming the benchmark.
    """
    asked = ["eval.stages=all"] if settings.stages == "all" else []
    asked += ["eval.no_picture=true"] if settings.no_picture else []
    for benchmark in benchmarks if asked else ():
        if not HeadlineBenchmark(benchmark).is_by_question:
            raise UserError(
                f"{asked[0]} compares question by question, and {benchmark.name} scores none by itself: take it out "
                "of eval.benchmarks=, or give eval.stages=last eval.no_picture=false"
            )


def evaluate_stages(
    config: RunConfig, root: Path, stages: Sequence[Stage], console: Console
) -> tuple[list[BenchmarkResult], dict[str, StageScores]]:
    """Score a trained run, and what came before it where the settings ask for that.

    Args:
        config: a resolved configuration of ``train``.
        root: the folder of the run, or of the experiment of several stages.

    Returns:
        The final model's results, and by benchmark what each stage adds, where an earlier one was asked.
    """
    settings = config.eval
    benchmarks = training_benchmarks(config, settings.benchmarks)
    results = evaluate_run(root, benchmarks, console)
    _evaluate_earlier(settings, root, stages, benchmarks, console)
    folders = [stage.folder for stage in stages]
    found = {result.benchmark: read_stage_scores(root, folders, result) for result in results}
    return results, {name: scores for name, scores in found.items() if scores is not None}


def _evaluate_earlier(
    settings: EvalConfig, root: Path, stages: Sequence[Stage], benchmarks: Sequence[Benchmark], console: Console
) -> None:
    """Have the headline's questions answered by what the settings name; answers that stand are kept.

    Each stage's answers go into its own folder, those of the base into ``no_picture`` below ``root``.
    """
    if settings.no_picture:
        unseeing = [HeadlineBenchmark(one, has_pictures=False) for one in benchmarks]
        model = scored_model(restore_base(stages[-1].folder), f"the base of {root}")
        _ask("the base before training, no picture", model, root / NO_PICTURE_FOLDER, unseeing, console)
    for stage in stages[:-1] if settings.stages == "all" else ():
        model = scored_model(with_questions(restore(stage.folder), stage.folder), str(stage.folder))
        _ask(f"after {stage.folder.name}", model, stage.folder, [*map(HeadlineBenchmark, benchmarks)], console)


def _ask(
    who: str, model: ScoredModel[LocalModel], folder: Path, benchmarks: Sequence[HeadlineBenchmark], console: Console
) -> None:
    waiting = [one for one in benchmarks if not _stand(folder, one, model.fingerprint)]
    if waiting:
        console.print(f"the same questions, {who}", highlight=False, markup=False)
        evaluate(model, folder, waiting, console, sets_aside=True)


def _stand(folder: Path, benchmark: HeadlineBenchmark, fingerprint: str) -> bool:
    """Whether all answers are there, and their result: it may be one of more questions, which is left as it is."""
    result = read_result(folder, benchmark.name)
    if result is None or result.model != fingerprint:
        return False
    asked = question_hashes(benchmark.questions())
    answers = read_answers(answers_path(folder, benchmark.name))
    there = {one.question_id for one in answers if (one.asked, one.model) == (asked.get(one.question_id), fingerprint)}
    return there == set(asked)
