"""``llava-moe eval runs=[a,b]``: runs that were scored, held side by side; no model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_moe.commands.eval_judge import judge_run
from llava_moe.commands.eval_leaks import report_leaks
from llava_moe.commands.eval_losses import RunLosses, compare_losses, measure_losses, read_losses
from llava_moe.commands.eval_next import asked_alike, is_run
from llava_moe.commands.eval_words import results_wanted
from llava_moe.config.as_typed import listed
from llava_moe.errors import UserError
from llava_moe.eval.gray_images import BLIND_FOLDER
from llava_moe.eval.results.bootstrap import NUM_RESAMPLES
from llava_moe.eval.results.comparison import ComparedBenchmark, Comparison, compare_benchmark
from llava_moe.eval.results.comparison_table import (
    json_comparison,
    loss_explanation,
    markdown_comparison,
    rich_comparison,
    score_explanation,
)
from llava_moe.eval.results.latex import latex_comparison
from llava_moe.eval.results.scored_run import read_scored, refuse_unscored, run_labels, scored_benchmarks, word_of
from llava_moe.eval.tasks import called
from llava_moe.files.atomic_write import write_atomically
from llava_moe.runs.console import say_next
from llava_moe.terminal.console import VisibleConsole, print_whole
from llava_moe.text.shell_words import named, shell

FOLDER = Path("comparisons")


def read_results(config: Mapping[str, Any], words: Sequence[str]) -> int:
    """Compare runs, report leaks or have answers judged, as the words ask.

    Raises:
        UserError: words that do not go together, or results that are not there.
    """
    names = config["benchmarks"] if any(word.lstrip("+").startswith("benchmarks=") for word in words) else None
    console = VisibleConsole(soft_wrap=True)
    wanted = results_wanted(config)
    given = {"run=": config["run"], "model.path=": config["model"]["path"], "blind=": config["blind"]}
    others = wanted[1:] + [key for key, value in given.items() if value and (wanted[0] == "runs=" or key != "run=")]
    if others:
        raise UserError(f"{wanted[0]} reads what was scored before and takes no {others[0]}: give one of the two")
    if wanted[0] == "runs=":
        return compare_runs(config, names, console)
    if config["run"] is None:
        raise UserError(f"{wanted[0]} reads the answers of a scored run: add run=FOLDER")
    return (report_leaks if wanted[0] == "leaks=" else judge_run)(config, names, console)


def compare_runs(config: Mapping[str, Any], names: Sequence[str] | None, console: Console) -> int:
    """Compare ``config["runs"]`` and write ``comparison.{json,html,md,tex}``.

    Args:
        config: a resolved configuration of ``eval``.
        names: benchmarks that were asked for; None takes those that every run was scored on.

    Raises:
        UserError: a run lacks a result, or the runs cannot be compared.
    """
    folders = [Path(run) for run in config["runs"]]
    if not folders:
        raise UserError("runs=[] names no run: give the folders to compare, as runs=[runs/a,runs/b]")
    labels = run_labels(folders)
    if config["held_out"]:
        for folder, label in zip(folders, labels, strict=True):
            if not read_losses(folder).means:
                with console.status(f"measuring the held-out loss of {label}"):
                    measure_losses(folder)
    found = [read_losses(folder) for folder in folders]
    losses = compare_losses(found)
    chosen = _chosen(folders, labels, names, has_losses=losses is not None)
    comparison = Comparison(
        runs=labels,
        folders=tuple(map(str, folders)),
        benchmarks=tuple(_compared(folders, labels, name, config) for name in chosen),
        num_resamples=NUM_RESAMPLES,
        seed=config["seed"],
        notes=_unmeasured(folders, labels, found),
        losses=losses,
    )
    folder = Path(config["out"]) if config["out"] else FOLDER / "-".join(label.replace("/", "_") for label in labels)
    _show(comparison, console)
    following = _next_commands(comparison)
    page = write_comparison(folder, comparison, following)
    console.print(f"\npage: {page}\nbeside it: comparison.json, comparison.md, comparison.tex", markup=False)
    say_next(console, following)
    return 0


def write_comparison(folder: Path, comparison: Comparison, next_commands: Sequence[str] = ()) -> Path:
    """Write the four files of a comparison; returns the page's path.

    Raises:
        UserError: the folder cannot be written.
    """
    # Here and not above: the page draws with what the table in the terminal does not need.
    from llava_moe.report.comparison import write_comparison_page

    write_atomically(folder / "comparison.json", json_comparison(comparison))
    write_atomically(folder / "comparison.md", markdown_comparison(comparison))
    write_atomically(folder / "comparison.tex", latex_comparison(comparison))
    return write_comparison_page(folder, comparison, next_commands)


def _chosen(
    folders: Sequence[Path], labels: Sequence[str], names: Sequence[str] | None, *, has_losses: bool
) -> list[str]:
    """The benchmarks to compare; none where they share none, and have losses to compare instead."""
    if names is not None:
        refuse_unscored(folders, names)
        return list(dict.fromkeys(names))
    scored = {label: scored_benchmarks(folder) for folder, label in zip(folders, labels, strict=True)}
    if has_losses and not set.intersection(*map(set, scored.values())):
        return []
    refuse_unscored(folders, ())
    shared = [name for name in scored[labels[0]] if all(name in scored[label] for label in labels)]
    if not shared:
        told = "; ".join(f"{label}: {', '.join(found)}" for label, found in scored.items())
        raise UserError(f"runs: no benchmark was scored on all of them ({told}): score one alike with benchmarks=[...]")
    return shared


def _compared(
    folders: Sequence[Path], labels: Sequence[str], name: str, config: Mapping[str, Any]
) -> ComparedBenchmark:
    pairs = list(zip(folders, labels, strict=True))
    blind = [
        read_scored(folder / BLIND_FOLDER, label, name)
        for folder, label in pairs
        if called(name) in scored_benchmarks(folder / BLIND_FOLDER)
    ]
    runs = [read_scored(folder, label, name) for folder, label in pairs]
    return compare_benchmark(runs, common=config["common"], blind=blind, seed=config["seed"])


def _show(comparison: Comparison, console: Console) -> None:
    """Tables, each kind with what must be said of it right below."""
    tables, num = rich_comparison(comparison), len(comparison.benchmarks)
    told = [note for compared in comparison.benchmarks for note in compared.notes]
    of_scores, of_losses = [*score_explanation(comparison), *told], [*loss_explanation(comparison), *comparison.notes]
    for place, (part, sentences) in enumerate(((tables[:num], of_scores), (tables[num:], of_losses))):
        if place and num and part:
            console.print()
        for table in part:
            print_whole(console, table)
        for sentence in dict.fromkeys(sentences):
            console.print(sentence, style="dim", highlight=False)


def _unmeasured(folders: Sequence[Path], labels: Sequence[str], found: Sequence[RunLosses]) -> tuple[str, ...]:
    """A sentence on runs whose losses are not known, and can be."""
    unknown = [
        label for folder, label, one in zip(folders, labels, found, strict=True) if not one.means and is_run(folder)
    ]
    if not unknown:
        return ()
    return (f"Held-out loss of {', '.join(unknown)} is not known: the same command with held_out=true measures it.",)


def _next_commands(comparison: Comparison) -> list[str]:
    """The first run asked again in the same way beside grey pictures, and what of it stood in its training."""
    folder = Path(comparison.folders[0])
    if not is_run(folder) or not comparison.benchmarks:
        return []
    commands = []
    for names, words in asked_alike(comparison.benchmarks):
        score = f"llava-moe eval {named('run', folder)} {shell(listed('benchmarks', names), *words)}"
        commands.append(f"{score} blind=true   # the same questions beside grey pictures")
    asked = listed("benchmarks", [word_of(one.name, one.facts) for one in comparison.benchmarks])
    leaks = f"llava-moe eval {named('run', folder)} {shell(asked)} leaks=true"
    return [*commands, f"{leaks}   # which of them stand in what it was trained on"]
