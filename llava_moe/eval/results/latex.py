"""A comparison as a LaTeX table, as papers print it: runs in rows, benchmarks in columns, booktabs, one decimal."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.eval.benchmark import ALL_DOMAINS
from llava_moe.eval.results.comparison import ComparedBenchmark, ComparedRow, Comparison
from llava_moe.eval.results.comparison_table import as_one_line, explanation, shown_value

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    # Behind the \\ of the row before, these would be its arguments.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}


def latex_text(text: str) -> str:
    """Text as LaTeX prints it: special characters escaped, line breaks and control characters to blanks."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return "".join(_ESCAPES.get(character, character) for character in as_one_line(plain))


def latex_comparison(comparison: Comparison) -> str:
    r"""The table of the headline measures, with the packages that it needs in a comment.

    The best run of a column is bold, the second underlined, baselines apart; runs that are shown as equal share a
    place. A dagger marks a difference to the first run whose interval leaves zero out.
    """
    columns = [(compared, row) for compared in comparison.benchmarks for row in compared.main_rows]
    names = tuple(dict.fromkeys(name for compared in comparison.benchmarks for name in compared.baselines))
    lines = [
        "% \\usepackage{booktabs}; \\usepackage[T1]{fontenc} for quotation marks",
        r"\begin{table}[t]",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        *_header(comparison, columns),
        r"\midrule",
    ]
    cells = [_column(row) for _, row in columns]
    for number, run in enumerate(comparison.runs):
        lines.append(_line([latex_text(run), *(column[number] for column in cells)]))
    if names:
        lines.append(r"\midrule")
    for name in names:
        shown = [shown_value(row.measure, row.baselines.get(name)) for _, row in columns]
        lines.append(_line([rf"\textit{{{latex_text(name)}}}", *map(latex_text, shown)]))
    caption = " ".join(
        latex_text(sentence) for sentence in [*_protocols(comparison), *explanation(comparison, "A dagger")]
    )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}", ""])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _header(comparison: Comparison, columns: Sequence[tuple[ComparedBenchmark, ComparedRow]]) -> list[str]:
    spans, rules, start = [""], [], 2
    for compared in comparison.benchmarks:
        width = len(compared.main_rows)
        if width == 0:
            continue
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{latex_text(compared.name)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    titles = [latex_text(_title(compared, row)) for compared, row in columns]
    return [_line(spans), " ".join(rules), _line(["run", *titles])]


def _title(compared: ComparedBenchmark, row: ComparedRow) -> str:
    alone = sum(other.domain == row.domain for other in compared.main_rows) == 1
    if alone and row.domain != ALL_DOMAINS:
        return row.domain
    measure = row.measure.replace("_", " ")
    return "all" if alone and len(compared.main_rows) > 1 else measure


def _column(row: ComparedRow) -> list[str]:
    shown = [shown_value(row.measure, cell.value) for cell in row.cells]
    places = sorted({float(text) for text in shown if text != "-"}, reverse=True)
    cells = []
    for text, cell in zip(shown, row.cells, strict=True):
        mark = r"$^{\dagger}$" if cell.stands_out else ""
        if len(row.cells) > 1 and places and text != "-":
            if float(text) == places[0]:
                text = rf"\textbf{{{text}}}"
            elif len(places) > 1 and float(text) == places[1]:
                text = rf"\underline{{{text}}}"
        cells.append(text + mark)
    return cells


def _protocols(comparison: Comparison) -> list[str]:
    told = []
    for compared in comparison.benchmarks:
        if compared.facts is not None:
            facts = compared.facts
            told.append(f"{compared.name}: protocol {facts.protocol}, scorer {facts.scorer}, {facts.data}.")
    return told
