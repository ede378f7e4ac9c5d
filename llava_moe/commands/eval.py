"""``llava-moe eval``: score a run, or a Hugging Face LLaVA checkpoint, on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from llava_moe.commands.compose_config import resolved, run_composed
from llava_moe.commands.limits import EVAL, check_settings
from llava_moe.commands.settings import cache_folder
from llava_moe.commands.stop_signals import StopSignals
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Benchmark, BenchmarkResult
from llava_moe.eval.protocol import DEFAULT_PROTOCOL
from llava_moe.eval.run import model_fingerprint, run_benchmark
from llava_moe.eval.table import rich_tables
from llava_moe.eval.tasks import Places, open_benchmark

if TYPE_CHECKING:
    from llava_moe.assemble import Assembled


def main(words: Sequence[str]) -> int:
    """Compose the configuration and score."""
    return run_composed("eval", words, _eval)


def _eval(config: DictConfig, words: list[str]) -> int:
    with StopSignals():
        return _score(config)


def _score(config: DictConfig) -> int:
    from llava_moe.assemble import newest_checkpoint, open_checkpoint, restore
    from llava_moe.commands.reporting import next_commands, write_run_report

    plain = resolved(config, "eval")
    check_settings(plain, EVAL)
    if plain["num_threads"] is not None:
        torch.set_num_threads(int(plain["num_threads"]))
    if (plain["run"] is None) == (plain["model"]["path"] is None):
        raise UserError("eval needs one model: run=FOLDER, or model.path= a LLaVA checkpoint's folder or hub id")
    # Names and data are checked before a model is loaded.
    if plain["run"] is not None:
        newest_checkpoint(Path(plain["run"]))
    benchmarks = open_benchmarks(
        plain["benchmarks"], plain["limit"], plain["seed"], plain["protocol"], places_of(plain)
    )
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        transformers.utils.logging.disable_progress_bar()  # its bars fill log files with control characters
    if plain["run"] is None:
        folder = Path(plain["out"] or "runs/eval")
        assembled = open_checkpoint(plain["model"]["path"], plain["dtype"])
    else:
        folder = Path(plain["out"] or plain["run"])
        assembled = restore(plain["run"], dtype=plain["dtype"])
    is_own_run = plain["run"] is not None and plain["out"] is None
    results = evaluate(assembled, folder, benchmarks, console, plain["batch_size"], is_own_run)
    show_results(results, console)
    console.print(f"scores and answers: {folder / 'eval'}", highlight=False, markup=False)
    if is_own_run:
        console.print(f"report: {write_run_report(folder)}\n\nNext:", highlight=False, markup=False)
        for command in next_commands(folder, has_scores=True):
            console.print(f"  {command}", highlight=False, markup=False)
    return 0


def places_of(config: Mapping[str, Any]) -> Places:
    """Where benchmarks' data lies: the keys ``benchmark_root`` and ``benchmark_paths``."""
    return Places(config["benchmark_root"], config["benchmark_paths"], cache_folder())


def open_benchmarks(
    names: Sequence[str],
    limit: int | None,
    seed: int,
    protocol: str = DEFAULT_PROTOCOL.name,
    places: Places | None = None,
) -> list[Benchmark]:
    """Every benchmark by its name; raises as ``open_benchmark`` does."""
    return [open_benchmark(name, limit, seed, protocol=protocol, places=places) for name in dict.fromkeys(names)]


def evaluate_run(
    run: Path, benchmarks: Sequence[str], console: Console, limit: int | None, seed: int
) -> list[BenchmarkResult]:
    """Score the newest checkpoint of a run; answers already there by the same weights are kept."""
    from llava_moe.assemble import restore

    return evaluate(restore(run), run, open_benchmarks(benchmarks, limit, seed), console)


def evaluate(
    assembled: Assembled,
    folder: Path,
    benchmarks: Sequence[Benchmark],
    console: Console,
    batch_size: int = 32,
    is_own_run: bool = True,
) -> list[BenchmarkResult]:
    """Ask every benchmark's questions and write ``folder/eval``.

    In a run's own folder, answers of its earlier weights are set aside; anywhere else another model's are refused.

    Raises:
        UserError: the model was trained to caption and reads no question.
    """
    if assembled.encoder.template.kind == "plain":
        raise UserError(
            "the run was trained on the plain template (stage 1): it captions images and reads no question; score the "
            "stage that was trained from it"
        )
    fingerprint = model_fingerprint(assembled.model)
    results = []
    for benchmark in benchmarks:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"scoring on {benchmark.name}", total=None)
            results.append(
                run_benchmark(
                    benchmark,
                    assembled.model,
                    assembled.encoder,
                    folder,
                    fingerprint=fingerprint,
                    batch_size=batch_size,
                    sets_aside=is_own_run,
                    on_progress=lambda done, total: bar.update(task, completed=done, total=total),  # noqa: B023
                )
            )
    return results


def show_results(results: Sequence[BenchmarkResult], console: Console) -> None:
    """Print each benchmark's tables and what a reader must know."""
    for result in results:
        for table in rich_tables(result):
            console.print(table)
        for note in result.notes:
            console.print(f"[dim]{note}[/dim]", highlight=False)
