"""``report.html``: scores with their baselines, curves by domain, routing, the data account, examples, next commands.

One file, readable from a disk without a network: styles and pictures are inside, there is no script, and nothing
points outside.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from llava_moe.eval.benchmark import BenchmarkResult, Measure
from llava_moe.eval.results.stage_scores import BLIND, StageScores
from llava_moe.eval.results.stage_table import stage_notes, stage_table
from llava_moe.eval.results.table import TextTable, domain_table, kind_table, paper_table
from llava_moe.files.atomic_write import write_atomically
from llava_moe.pages.domain_colors import colors_of
from llava_moe.pages.html_page import page_template
from llava_moe.report.charts import loss_chart, score_chart, step_charts
from llava_moe.report.examples import ShownAnswer
from llava_moe.text.secrets import without_secrets
from llava_moe.train.stage_log import (
    DomainAccount,
    ExpertShares,
    StageLog,
    account_domains,
    count_reasons,
    last_expert_shares,
)

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Scores:
    """A benchmark's section of the page; ``tables`` are the headline's, ``stages`` what came before the final model."""

    result: BenchmarkResult
    tables: tuple[TextTable, ...]
    papers: TextTable
    kinds: TextTable
    chart: Markup
    stages: StageScores | None = None
    stage_notes: tuple[str, ...] = ()

    def tile_lines(self, domain: str) -> list[tuple[str, Measure]]:
        """What stands below a domain's score: each other score, and in words what it is."""
        measures = self.result.row(domain).measures
        lines = [("beside another image", measures.get("other_image"))]
        if self.stages is not None:
            lines += [(name, self.stages.measure_of(name, domain)) for name in (*self.stages.earlier[::-1], BLIND)]
        lines.append(("by majority answer", measures.get("majority_answer")))
        return [(told, measure) for told, measure in lines if measure is not None]


@dataclass(frozen=True)
class StageSection:
    """A stage's section of the page."""

    log: StageLog
    account: tuple[DomainAccount, ...]
    reasons: tuple[tuple[str, str, int], ...]
    experts: tuple[ExpertShares, ...]
    facts: tuple[tuple[str, str], ...]
    loss_chart: Markup
    step_charts: Markup


def write_report(
    folder: Path,
    stages: Sequence[StageLog],
    evaluation: Sequence[BenchmarkResult] = (),
    *,
    stage_scores: Mapping[str, StageScores] | None = None,
    next_commands: Sequence[str] = (),
    examples: Sequence[ShownAnswer] = (),
    caveats: Sequence[str] = (),
    title: str | None = None,
    analyses: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write ``report.html`` into a run's folder.

    Args:
        folder: the run's folder, or the folder of an experiment of several stages.
        stages: in the order they ran; one or more, or none when only scores are known.
        evaluation: the results there are; without any, the page says how to get them.
        stage_scores: by benchmark, what came before the final model, where that was asked.
        next_commands: what to type next, one command each.
        examples: answers to show.
        caveats: what the scores do not say.
        title: the page's heading; the folder's name by default.
        analyses: pages of ``llava-moe analyze`` to link, each a name and a path from ``folder``.

    Returns:
        The path of the page.

    Raises:
        UserError: the page cannot be written.
    """
    trained = [domain for stage in stages for domain in stage.domains]
    colors = colors_of(trained, more=[domain for result in evaluation for domain in result.domains])
    path = folder / "report.html"
    page = page_template(TEMPLATE, percent=_percent).render(
        title=title or folder.resolve().name,
        colors=colors,
        scores=[_scores(result, colors, (stage_scores or {}).get(result.benchmark)) for result in evaluation],
        stages=[_stage(stage, colors) for stage in stages],
        environment=_environment_facts(stages),
        next_commands=next_commands,
        examples=examples,
        caveats=caveats,
        analyses=[(name, quote(place)) for name, place in analyses],
        folder=folder,
    )
    write_atomically(path, page)
    return path


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _scores(result: BenchmarkResult, colors: Mapping[str, str], stages: StageScores | None) -> Scores:
    headline, papers, kinds = domain_table(result), paper_table(result), kind_table(result)
    if stages is None:
        return Scores(result, (headline,), papers, kinds, Markup(score_chart(result, colors)))
    of_stages, notes = stage_table(stages, result), stage_notes(stages)
    if not _is_of_all(stages, result):
        tables = (headline, replace(of_stages, title=_ASKED_OF_ALL))
        return Scores(result, tables, papers, kinds, Markup(score_chart(result, colors)), stage_notes=notes)
    chart = Markup(score_chart(result, colors, stages))
    return Scores(result, (of_stages,), papers, kinds, chart, stages, notes)


_ASKED_OF_ALL = "the questions that the earlier stages were asked too, %"


def _is_of_all(stages: StageScores, result: BenchmarkResult) -> bool:
    """Whether the stages were asked all that the headline counts, which their table then says too."""
    counts = {domain: result.row(domain).measures[stages.measure].num_questions for domain in stages.domains}
    return counts == dict(stages.counts)


def _stage(stage: StageLog, colors: Mapping[str, str]) -> StageSection:
    return StageSection(
        log=stage,
        account=account_domains(stage),
        reasons=count_reasons(stage),
        experts=last_expert_shares(stage),
        facts=_stage_facts(stage),
        loss_chart=Markup(loss_chart(stage, colors)),
        step_charts=Markup(step_charts(stage)),
    )


def _stage_facts(stage: StageLog) -> tuple[tuple[str, str], ...]:
    if not stage.steps:
        return tuple(("damaged", told) for told in stage.damaged)
    first, last = stage.steps[0], stage.steps[-1]
    tokens = sum(step.get("tokens", 0) for step in stage.steps)
    facts = [
        ("steps", f"{last['step']:,}"),
        ("time in steps", duration(stage.seconds)),
        ("loss", f"{_loss(first)} → {_loss(last)}"),
        ("tokens", f"{tokens:,}"),
        ("supervised tokens", f"{sum(step.get('supervised_tokens', 0) for step in stage.steps):,}"),
    ]
    if stage.seconds:
        facts.append(("tokens a second", f"{tokens / stage.seconds:,.0f}"))
    if memory := max((step.get("peak_memory_bytes", 0) for step in stage.steps), default=0):
        facts.append(("peak memory", f"{memory / 2**30:.2f} GiB"))
    if len(stage.steps) < last["step"]:
        facts.append(("logged", f"{len(stage.steps):,} of {last['step']:,} steps; sums are over these"))
    facts += [("damaged", told) for told in stage.damaged]
    return tuple(facts)


def _loss(step: Mapping[str, Any]) -> str:
    loss = step.get("loss", 0.0)
    return "not finite" if loss is None else f"{loss:.2f}"


def duration(seconds: float) -> str:
    """``1:05:09`` or ``4:31`` (minutes and seconds)."""
    text = str(datetime.timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if text.startswith("0:") else text


def _environment_facts(stages: Sequence[StageLog]) -> tuple[tuple[str, str], ...]:
    """The last stage's ``environment.json``, nested objects flattened to one line each."""
    described = [stage.environment for stage in stages if stage.environment]
    if not described:
        return ()
    return tuple((name.replace("_", " "), _one_line(value)) for name, value in described[-1].items() if value)


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_one_line(one)}" for name, one in value.items() if one not in (None, [], {}))
    if isinstance(value, list | tuple):
        return " ".join(_one_line(one) for one in value)
    return without_secrets(str(value))
