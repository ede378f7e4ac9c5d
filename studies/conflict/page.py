"""The page of a study from the lines that are there: what was found, by domain and rank, and what it holds for."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from llava_moe.errors import UserError
from llava_moe.eval.tasks.demo import CAVEATS
from llava_moe.files.atomic_write import write_atomically
from llava_moe.pages.html_page import page_template
from llava_moe.pages.inline_svg import standalone_svg
from studies.conflict.cells import cells_of
from studies.conflict.chart import effect_chart
from studies.conflict.contrasts import Contrast, Found, find_contrasts
from studies.conflict.findings import interval, method_name, sentences
from studies.conflict.results import Asked, Result, read_asked, read_results
from studies.conflict.study import SHIPPED, Study, read_study

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Section:
    """One question of the page: a figure, and a row a domain and rank with both measures.

    Attributes:
        name: of the figure's own file, such as ``lora-alone`` and ``llava_mole-mix``.
    """

    name: str
    title: str
    before: str
    after: str
    chart: Markup
    rows: tuple[tuple[str, ...], ...]


def write_page(study: Study, folder: Path) -> tuple[Path, list[str]]:
    """Write ``page.html`` and each figure's SVG beside the results; also gives the sentences that it opens with.

    Raises:
        UserError: no cell is there, or the results cannot be read or the page written.
    """
    results = read_results(folder)
    if not results:
        raise UserError(f"no cell is in {folder} yet: run python -m studies.conflict.run first")
    asked = read_asked(folder)
    found = find_contrasts(results, asked, study.baseline)
    sections = _sections(found)
    told = sentences(found) or ["Nothing can be said yet: no question has two seeds of its cells."]
    page = page_template(TEMPLATE).render(
        sentences=told,
        num_cells=len(results),
        num_planned=len(cells_of(study)),
        sections=sections,
        num_single=len(found.single),
        num_standing=sum(row.stands for row in found.single),
        sizes=_sizes(results, study.baseline),
        facts=_facts(study, results, asked),
        caveats=CAVEATS if study.measures.benchmark == "demo" else (),
    )
    path = folder / "page.html"
    write_atomically(path, page)
    for section in sections:
        write_atomically(folder / f"{section.name}.svg", standalone_svg(section.chart))
    return path, told


def _sections(found: Found) -> list[Section]:
    sections = []
    for method, against in dict.fromkeys((row.method, row.against) for row in found.single):
        rows = [row for row in found.single if (row.method, row.against) == (method, against)]
        means = [row for row in found.means if (row.method, row.against) == (method, against)]
        name = method_name(method)
        alone = against == "alone"
        title = f"{name} of all domains against {name} of one" if alone else f"{name} against LoRA of equal size"
        chart = Markup(effect_chart(rows, f"Effect by domain and rank: {title}"))
        before, after = ("alone", "together") if alone else ("LoRA", name)
        sections.append(Section(f"{method}-{against}", title, before, after, chart, tuple(_table(rows, means))))
    return sections


def _table(rows: Sequence[Contrast], means: Sequence[Contrast]) -> list[tuple[str, ...]]:
    table = []
    for domain, rank in dict.fromkeys((row.domain, row.rank) for row in rows):
        here = {row.measure: row for row in rows if (row.domain, row.rank) == (domain, rank)}
        table.append((str(domain), str(rank), *_cells(here["loss"]), *_cells(here["accuracy"])))
    mean = {row.measure: row for row in means}
    if mean:
        table.append(("all", "all", *_cells(mean["loss"]), *_cells(mean["accuracy"])))
    return table


def _cells(row: Contrast) -> tuple[str, ...]:
    shown = "{:.3f}" if row.measure == "loss" else "{:.1f}"
    scale = 1.0 if row.measure == "loss" else 100.0
    star = " *" if row.stands else ""
    return shown.format(scale * row.before), shown.format(scale * row.after), interval(row) + star


def _sizes(results: Sequence[Result], baseline: str) -> list[tuple[str, str, str, str]]:
    """Rank, method, its trainable parameters, and how far that is from the baseline's, where both are there."""
    sizes = {(one.rank, one.method): one.parameters for one in results}
    rows = []
    for (rank, method), size in sorted(
        sizes.items(), key=lambda item: (item[0][0], item[0][1] != baseline, item[0][1])
    ):
        ours = sizes.get((rank, baseline))
        apart = "" if ours is None or method == baseline else f"{100 * (size / ours - 1):+.1f} %"
        rows.append((str(rank), method_name(method), f"{size:,}", apart))
    return rows


def _facts(study: Study, results: Sequence[Result], asked: Asked) -> list[str]:
    samples = ", ".join(f"{domain} {study.samples(domain):,}" for domain in study.domains)
    records, questions = Counter(asked.record_domains), Counter(asked.question_domains)
    asked_about = set(zip(asked.question_domains, asked.images_Q.tolist(), strict=True))
    images = Counter(domain for domain, _ in asked_about)
    held = ", ".join(f"{domain} {records[domain]:,}" for domain in study.domains)
    closed = ", ".join(f"{domain} {questions[domain]:,} about {images[domain]:,} images" for domain in study.domains)
    return [
        f"Samples of a domain, alone and together: {samples}.",
        f"Seeds {', '.join(map(str, sorted({one.seed for one in results})))}; base {results[0].base}.",
        f"Held-out records (split {study.measures.split}): {held}.",
        f"Closed questions ({study.measures.benchmark}): {closed}.",
        f"Every training: {' '.join(study.words)}.",
        "Together, a domain has the same samples and more steps, those on the other domains: what is measured is the "
        "sum of what they help and hurt.",
    ]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", type=Path, default=SHIPPED, help="a yaml (default: the embedded demo's)")
    parser.add_argument("--results", type=Path, default=SHIPPED.with_name("results"), help="where the lines are")
    given = parser.parse_args(words)
    try:
        path, told = write_page(read_study(given.study), given.results)
    except UserError as error:
        sys.stderr.write(f"conflict: {error}\n")
        return 2
    sys.stdout.write("\n".join([*told, f"page: {path}", ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
