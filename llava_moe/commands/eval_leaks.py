"""``llava-moe eval run=FOLDER leaks=true``: which scored questions stand in what the run was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from llava_moe.errors import UserError
from llava_moe.eval.baselines import is_twin
from llava_moe.eval.benchmark import Benchmark, Question
from llava_moe.eval.protocol import find_protocol
from llava_moe.eval.results.leaks import LeakReport, leak_table, leaks_json, leaks_list, split_scores
from llava_moe.eval.results.scored_run import ScoredRun, open_asked, read_scored, scored_benchmarks
from llava_moe.files.atomic_write import write_atomically
from llava_moe.text.shell_words import named

if TYPE_CHECKING:
    from llava_moe.datatools.check.train_eval_overlap import TrainedOn


def report_leaks(config: Mapping[str, Any], names: Sequence[str] | None, console: Console) -> int:
    """Look for the questions of a run's results in its sources, and score without them.

    Writes ``eval/leaks.json`` (counts, scores) and ``eval/leaks.jsonl`` (the questions).

    Args:
        config: a resolved configuration of ``eval``.
        names: benchmarks that were asked for; None takes all that the run was scored on.

    Raises:
        UserError: the run is no run, has no results, or the data of either side is not there.
    """
    from llava_moe.commands.check_console import CheckBar
    from llava_moe.commands.check_views import open_views
    from llava_moe.data.ordered_prefetch import num_cores
    from llava_moe.datatools.check.eval_sets import asked_of
    from llava_moe.datatools.check.train_eval_overlap import find_trained
    from llava_moe.runs.console import open_progress

    run = Path(config["run"])
    folder = Path(config["out"]) if config["out"] else run
    stages = trained_stages(run)
    scored = [(one, opened_benchmark(one, "leaks=true")) for one in scored_runs(folder, names)]
    views, troubles = open_views(stages, keep_duplicates=True)
    asked = [asked_of(one.result.benchmark, shown_questions(one, benchmark)) for one, benchmark in scored]
    with CheckBar(open_progress()) as bar:
        found = find_trained(views, asked, num_cores(), bar)
    reports = []
    for one, benchmark in scored:
        name = one.result.benchmark
        num = sum(not is_twin(question_id) for question_id in one.answers)
        kinds = found.items[name]
        reports.append(LeakReport(name, num, kinds, split_scores(one, benchmark, kinds), found.num_unseen[name]))
    unread = [f"{trouble.label}: {trouble.detail}" for trouble in (*troubles, *found.troubles)]
    sources = sorted({view.source.name for view in views})
    _write(folder, reports, {"run": str(run), "sources": sources, "not_looked_at": unread}, found)
    for report in reports:
        _show(report, console)
    for trouble in unread:
        console.print(f"not looked at: {trouble}", style="bold", highlight=False, markup=False)
    console.print(
        f"{found.num_records:,} records with {found.num_images:,} different images were read, those that a cap, a "
        "held-out share or a list kept from training among them\n"
        f"scores: {folder / 'eval' / 'leaks.json'}\nquestions: {folder / 'eval' / 'leaks.jsonl'}",
        highlight=False,
        markup=False,
    )
    return 0


def _write(folder: Path, reports: Sequence[LeakReport], about: Mapping[str, Any], found: TrainedOn) -> None:
    counted = {**about, "num_records": found.num_records, "num_images": found.num_images}
    write_atomically(folder / "eval" / "leaks.json", leaks_json(reports, counted))
    write_atomically(folder / "eval" / "leaks.jsonl", leaks_list(reports))


def _show(report: LeakReport, console: Console) -> None:
    by_kind = ", ".join(f"{report.count(kind):,} by {kind}" for kind in dict.fromkeys(report.kinds.values()))
    console.print(
        f"{report.benchmark}: {len(report.kinds):,} of {report.num_questions:,} questions stand in the mixture"
        + (f": {by_kind}" if by_kind else ""),
        highlight=False,
        markup=False,
    )
    if report.num_unseen:
        console.print(f"{report.num_unseen:,} images of it could not be opened", highlight=False, markup=False)
    if report.kinds:
        console.print(_drawn(report))


def trained_stages(run: Path) -> list[Any]:
    """The stages that a run's weights come from, the one that it was started from first."""
    from llava_moe.assemble import lineage, read_config
    from llava_moe.files.checkpoints import newest_checkpoint
    from llava_moe.runs.stages import Stage

    folders = [checkpoint.parent.parent for checkpoint in reversed(lineage(newest_checkpoint(run)))]
    return [Stage(folder, read_config(folder), folder.name) for folder in folders]


def scored_runs(folder: Path, names: Sequence[str] | None) -> list[ScoredRun]:
    """A run's results of the benchmarks named, or of all that it was scored on.

    Raises:
        UserError: it was not scored.
    """
    chosen = scored_benchmarks(folder) if names is None else list(dict.fromkeys(names))
    if not chosen:
        raise UserError(f"{folder} has not been scored: llava-moe eval {named('run', folder)} comes first")
    return [read_scored(folder, folder.name, name) for name in chosen]


def opened_benchmark(run: ScoredRun, wanted_by: str) -> Benchmark:
    """The benchmark that a run was scored on.

    Raises:
        UserError: its data is not there, or is another.
    """
    benchmark, trouble = open_asked(run)
    if benchmark is None:
        raise UserError(f"{wanted_by} needs the questions and images of {run.result.benchmark}: {trouble}")
    return benchmark


def shown_questions(run: ScoredRun, benchmark: Benchmark) -> list[Question]:
    """The questions of the run's draw, without the sentence that a protocol puts before each."""
    prefix = "" if run.result.facts is None else find_protocol(run.result.facts.protocol).prefix
    return [
        replace(question, prompt=question.prompt.removeprefix(prefix))
        for question in benchmark.questions()
        if question.id in run.answers and not is_twin(question.id)
    ]


def _drawn(report: LeakReport) -> Table:
    table = leak_table(report)
    drawn = Table(title=table.title, title_justify="left", header_style="bold")
    for index, name in enumerate(table.header):
        drawn.add_column(name, justify="left" if index < table.num_labels else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn
