"""``llava-moe eval``: score a run, or a Hugging Face LLaVA checkpoint, on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from llava_moe.commands.eval_next import folder_of, next_of_scores
from llava_moe.commands.eval_progress import EvalProgress
from llava_moe.commands.eval_words import check_words
from llava_moe.errors import ReportedByRankZeroError
from llava_moe.eval.benchmark import Benchmark, BenchmarkResult
from llava_moe.eval.generation.endpoint import Endpoint
from llava_moe.eval.generation.generate import Answerer, LocalModel
from llava_moe.eval.gray_images import BLIND_FOLDER, BlindBenchmark
from llava_moe.eval.protocol import DEFAULT_PROTOCOL
from llava_moe.eval.ranks import ALONE, Ranks
from llava_moe.eval.results.stage_scores import StageScores
from llava_moe.eval.results.stage_table import stage_notes, stage_table
from llava_moe.eval.results.table import paper_table, rich_table, rich_tables
from llava_moe.eval.run import ask_benchmark, has_changed
from llava_moe.eval.tasks import Places, open_benchmark
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.console import say_next, say_notes
from llava_moe.runs.image_reading import tell_dark
from llava_moe.runs.own_questions import image_folders
from llava_moe.runs.processes import answering_together
from llava_moe.runs.scored_model import ScoredModel, open_model, scored_model
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.terminal.console import VisibleConsole

ANSWERS_STAND = "answers so far are kept: run the same command again to go on"


def score(plain: Mapping[str, Any], words: Sequence[str]) -> int:
    """Score the model that the settings name.

    Args:
        words: what was typed, for the commands to type next.
    """
    with StopSignals(lambda: ANSWERS_STAND), answering_together() as (ranks, device):
        try:
            return _score(plain, ranks, device, words)
        except ReportedByRankZeroError:
            return 2


def _score(plain: Mapping[str, Any], ranks: Ranks, device: torch.device, words: Sequence[str]) -> int:
    console = VisibleConsole(soft_wrap=True, quiet=not ranks.is_first)
    if not console.is_terminal or not ranks.is_first:
        transformers.utils.logging.disable_progress_bar()  # its bars fill log files with control characters
    # Names and data are checked before a model is loaded; what is downloaded or laid out is so by one process.
    opened: list[Benchmark] = []
    ranks.from_first(lambda: opened.extend(_check(plain, ranks)))
    if plain["num_threads"] is not None:
        torch.set_num_threads(int(plain["num_threads"]))
    benchmarks = ranks.together(lambda: opened or _benchmarks_of(plain))
    model = ranks.together(lambda: open_model(plain, device, ranks))
    say_notes(console, model.notes)
    folder = folder_of(plain)
    is_own_run = plain["run"] is not None and plain["out"] is None
    if plain["blind"]:
        folder /= BLIND_FOLDER
    results = evaluate(model, folder, benchmarks, console, sets_aside=is_own_run, ranks=ranks)
    if ranks.is_first:
        _report(results, folder, console, is_own_run and not plain["blind"])
        say_next(console, next_of_scores(plain, words, results))
    return 0


def _check(plain: Mapping[str, Any], ranks: Ranks) -> list[Benchmark]:
    check_words(plain, ranks.world)
    return _benchmarks_of(plain)


def _benchmarks_of(plain: Mapping[str, Any]) -> list[Benchmark]:
    limit, seed, protocol = plain["limit"], plain["seed"], plain["protocol"]
    benchmarks = open_benchmarks(plain["benchmarks"], limit, seed, protocol, places_of(plain))
    return [BlindBenchmark(one) for one in benchmarks] if plain["blind"] else benchmarks


def _report(results: Sequence[BenchmarkResult], folder: Path, console: Console, is_own_run: bool) -> None:
    from llava_moe.commands.reporting import write_run_report

    show_results(results, console)
    console.print(f"scores and answers: {folder / 'eval'}", highlight=False, markup=False)
    if is_own_run:
        console.print(f"report: {write_run_report(folder)}", highlight=False, markup=False)


def places_of(config: Mapping[str, Any]) -> Places:
    """Where benchmarks' data lies: the keys ``benchmark_root``, ``benchmark_paths`` and ``images``."""
    images = image_folders("images", config["images"], config["benchmarks"])
    return Places(config["benchmark_root"], config["benchmark_paths"], cache_folder(), images)


def open_benchmarks(
    names: Sequence[str],
    limit: int | None,
    seed: int,
    protocol: str = DEFAULT_PROTOCOL.name,
    places: Places | None = None,
) -> list[Benchmark]:
    """Every benchmark by its name; raises as ``open_benchmark`` does."""
    return [open_benchmark(name, limit, seed, protocol=protocol, places=places) for name in dict.fromkeys(names)]


def evaluate_run(run: Path, benchmarks: Sequence[Benchmark], console: Console) -> list[BenchmarkResult]:
    """Score the newest checkpoint of a run; answers already there by the same weights are kept."""
    from llava_moe.assemble import restore

    model = scored_model(restore(run), str(run))
    say_notes(console, model.notes)
    return evaluate(model, run, benchmarks, console, sets_aside=True)


def evaluate(
    model: ScoredModel[Answerer],
    folder: Path,
    benchmarks: Sequence[Benchmark],
    console: Console,
    *,
    sets_aside: bool,
    ranks: Ranks = ALONE,
) -> list[BenchmarkResult]:
    """Ask every benchmark's questions and write ``folder/eval``; see :func:`~llava_moe.eval.run.ask_benchmark`.

    Args:
        sets_aside: answers of other weights are set aside, as in a run's own folder; otherwise they are refused.
    """
    results = []
    for benchmark in benchmarks:
        if draw := benchmark.facts.draw:
            console.print(f"{benchmark.name}: {draw}", highlight=False, markup=False)
        if ranks.from_first(partial(has_changed, folder, benchmark)):
            told = "has changed since it was scored: answers to questions that stayed are kept, the others are asked"
            console.print(f"{benchmark.facts.place} {told}", highlight=False, markup=False)
        with EvalProgress(console, benchmark.name) as progress:
            results.append(
                ask_benchmark(
                    benchmark,
                    model.answerer,
                    folder,
                    fingerprint=model.fingerprint,
                    answered_by=model.facts,
                    sets_aside=sets_aside,
                    on_progress=progress.tell,
                    ranks=ranks,
                )
            )
        _tell_dark(model.answerer, console, ranks)
    return results


def _tell_dark(answerer: Answerer, console: Console, ranks: Ranks) -> None:
    """Name the images of the benchmark that came out nearly black, those that other processes met among them."""
    if not isinstance(answerer, LocalModel | Endpoint):
        return
    met = [one for share in ranks.gather([*answerer.dark]) for one in share]
    answerer.dark.clear()
    tell_dark(met, console)


def show_results(
    results: Sequence[BenchmarkResult], console: Console, stages: Mapping[str, StageScores] | None = None
) -> None:
    """Print each benchmark's tables and what a reader must know.

    Args:
        stages: of the benchmarks whose earlier stages were asked too; their lines stand in place of the headline.
    """
    for result in results:
        of_stages = (stages or {}).get(result.benchmark)
        if of_stages is None:
            tables, notes = rich_tables(result), result.notes
        else:
            tables = [rich_table(one) for one in (stage_table(of_stages, result), paper_table(result)) if one.rows]
            notes = (*stage_notes(of_stages), *result.notes)
        for table in tables:
            console.print(table)
        for note in notes:
            console.print(note, style="dim", highlight=False)
