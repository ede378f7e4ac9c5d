"""``llava-moe eval run=FOLDER judge.endpoint=ADDRESS judge.name=NAME``: a language model judges a run's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llava_moe.commands.eval_leaks import opened_benchmark, scored_runs, shown_questions
from llava_moe.config.as_typed import listed
from llava_moe.errors import UserError
from llava_moe.eval.generation.server import ChatServer
from llava_moe.eval.judging.judge import Verdicts, judge_answers, judged_path, write_verdicts
from llava_moe.runs.console import say_next
from llava_moe.runs.named_server import server_of
from llava_moe.terminal.fitted_bar import FittedBar, passing
from llava_moe.text.shell_words import shell


def judge_run(config: Mapping[str, Any], names: Sequence[str] | None, console: Console) -> int:
    """Judge the answers of a run's results; replies and verdicts are written beside them.

    Raises:
        UserError: no judge, no results, the benchmark's data is gone, or the judge fails again and again.
    """
    given = config["judge"]
    if given["endpoint"] is None or given["name"] is None:
        raise UserError("a judge needs judge.endpoint=, its address, and judge.name=, the name of its model")
    folder = Path(config["out"] or config["run"])
    scored = [(run, opened_benchmark(run, "judge.endpoint=")) for run in scored_runs(folder, names)]
    server = _judge_of(given)
    for run, benchmark in scored:
        questions = shown_questions(run, benchmark)
        console.print(
            f"{run.result.benchmark}: {given['name']} judges {len(questions):,} answers, five calls each",
            highlight=False,
            markup=False,
        )
        with passing(FittedBar("judging"), console) as bar:
            verdicts = judge_answers(
                server,
                given["name"],
                run,
                questions,
                temperature=given["temperature"],
                concurrency=config["batch_size"],
                on_progress=bar.tell,
            )
        path = write_verdicts(run, verdicts, given["name"], server.address, given["temperature"])
        console.print(_drawn(run.result.benchmark, verdicts))
        replies = judged_path(folder, run.result.benchmark)
        console.print(f"verdicts: {path}\nreplies: {replies}", highlight=False, markup=False)
        if any(one.failed for one in verdicts.values()):
            console.print(
                "questions with a failed call are in no score: the same command asks them again", style="bold"
            )
    say_next(console, [f"{shell('llava-moe', 'eval', listed('runs', [folder]))}   # name others behind it to compare"])
    return 0


def _judge_of(given: Mapping[str, Any]) -> ChatServer:
    """The judge's server, greeted; its complaints name the keys of ``judge``."""
    try:
        server = server_of(given)
        server.describe()
    except UserError as error:
        raise UserError(str(error).replace("model.", "judge.")) from error
    return server


def _drawn(benchmark: str, verdicts: Mapping[str, Verdicts]) -> Table:
    table = Table(title=f"{benchmark}: judged, %", title_justify="left", header_style="bold")
    for name in ("domain", "right", "of those read", "n right", "wrong", "unreadable", "failed"):
        table.add_column(name, justify="left" if name == "domain" else "right", overflow="fold")
    for domain, one in verdicts.items():
        shares = ["-" if share is None else f"{100 * share:.1f}" for share in (one.accuracy, one.accuracy_readable)]
        counts = (one.right, one.wrong, one.unreadable, one.failed)
        table.add_row(domain, *shares, *(f"{count:,}" for count in counts))
    return table
