"""Runs compared: differences, what is refused, what is shared, baselines, and the tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question
from llava_moe.eval.files import answers_path, read_answers, write_answers, write_result
from llava_moe.eval.results.bootstrap import Interval
from llava_moe.eval.results.comparison import (
    Cell,
    ComparedBenchmark,
    ComparedLosses,
    ComparedRow,
    Comparison,
    LossRow,
    compare_benchmark,
)
from llava_moe.eval.results.comparison_table import (
    comparison_table,
    explanation,
    json_comparison,
    long_table,
    loss_explanation,
    loss_table,
    markdown_comparison,
    rich_comparison,
    score_explanation,
    shown_difference,
)
from llava_moe.eval.results.latex import latex_comparison, latex_text
from llava_moe.eval.results.majority_baseline import BLIND_GUESS, DOMAIN_GUESS, guessed_answers
from llava_moe.eval.results.scored_run import (
    ScoredRun,
    read_scored,
    refuse_unscored,
    run_labels,
    scored_benchmarks,
    shared_questions,
)
from llava_moe.eval.tasks import Places, open_benchmark
from tests.eval.scored_runs import guesser, write_scored
from tests.eval.tasks.published import LAYOUTS


def scored(tmp_path: Path, name: str, skills: dict[str, float], **more: Any) -> list[ScoredRun]:
    """Runs of one benchmark's fixture; their labels are the folders' names."""
    place = tmp_path / "data" / name
    if not place.exists():
        next(iter(LAYOUTS[name].values()))(place)
    benchmark = open_benchmark(name, places=Places(paths={name: str(place)}, cache=tmp_path / "cache"), **more)
    runs = []
    for number, (label, skill) in enumerate(skills.items()):
        folder = write_scored(tmp_path / label, benchmark, guesser(benchmark, number, skill))
        runs.append(read_scored(folder, label, name))
    return runs


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["pope", "mme", "mmbench", "tiny_lvlm", "docvqa"])
def test_a_run_against_its_copy_differs_by_exactly_nothing(tmp_path: Path, name: str) -> None:
    [run] = scored(tmp_path, name, {"one": 0.5})
    compared = compare_benchmark([run, replace(run, label="copy")], num_resamples=200)
    assert compared.rows
    for row in compared.rows:
        cell = row.cells[1]
        assert cell.difference == 0.0 and not cell.stands_out
        if cell.difference_interval is not None:
            assert cell.difference_interval == Interval(0.0, 0.0)
    assert compared.disagreements == ()


@pytest.mark.parametrize("name", ["mme", "mmbench", "tiny_lvlm", "vqav2", "pathvqa", "chartqa"])
def test_values_are_the_results_own_and_intervals_hold_them(tmp_path: Path, name: str) -> None:
    runs = scored(tmp_path, name, {"low": 0.3, "high": 0.9})
    compared = compare_benchmark(runs, num_resamples=200)
    seen = 0
    for row in compared.rows:
        for run, cell in zip(runs, row.cells, strict=True):
            assert cell.value == pytest.approx(run.result.row(row.domain).measures[row.measure].value)
            if cell.interval is not None:
                assert cell.value is not None
                assert cell.interval.low <= cell.value <= cell.interval.high
                seen += 1
        if row.cells[1].difference_interval is not None:
            interval, difference = row.cells[1].difference_interval, row.cells[1].difference
            assert difference is not None
            assert interval.low <= difference <= interval.high
    assert seen > 0


def test_swapped_runs_differ_by_the_opposite(tmp_path: Path) -> None:
    runs = scored(tmp_path, "pope", {"low": 0.3, "high": 0.9})
    there, back = (compare_benchmark(order, num_resamples=300) for order in (runs, runs[::-1]))
    for one, other in zip(there.rows, back.rows, strict=True):
        difference = other.cells[1].difference
        assert difference is not None and one.cells[1].difference == -difference
        low, high = one.cells[1].difference_interval, other.cells[1].difference_interval
        if low is not None:
            assert high is not None and low.low == pytest.approx(-high.high)


def test_another_protocol_is_refused_by_name(tmp_path: Path) -> None:
    [one] = scored(tmp_path, "pope", {"one": 0.5})
    [two] = scored(tmp_path, "pope", {"two": 0.5}, protocol="llava_mole")
    for common in (False, True):
        with pytest.raises(UserError, match="pope: protocol differs: one has 'llava_1_5', two has 'llava_mole'"):
            shared_questions([one, two], common=common)


@pytest.mark.parametrize(
    ("fact", "value"), [("scorer", "another"), ("max_new_tokens", 3), ("system", "Hello."), ("data", "other data")]
)
def test_another_fact_is_refused_by_name(tmp_path: Path, fact: str, value: Any) -> None:
    [one] = scored(tmp_path, "pope", {"one": 0.5})
    assert one.result.facts is not None
    facts = replace(one.result.facts, **{fact: value})
    other = replace(one, label="two", result=replace(one.result, facts=facts))
    with pytest.raises(UserError, match=f"pope: {fact} differs: one has") as refused:
        shared_questions([one, other])
    assert "\n" not in str(refused.value)
    if fact == "data":
        assert len(shared_questions([one, other], common=True)) == len(one.answers)


def test_other_questions_are_refused_and_common_ones_compared_on_request(tmp_path: Path) -> None:
    [whole] = scored(tmp_path, "chartqa", {"whole": 0.6})
    [part] = scored(tmp_path, "chartqa", {"part": 0.6}, limit=1)
    assert 0 < len(part.answers) < len(whole.answers)
    told = rf"whole was asked without a limit, part with limit=1: {len(part.answers)} of {len(whole.answers)} .*common"
    with pytest.raises(UserError, match=told):
        compare_benchmark([whole, part])
    compared = compare_benchmark([whole, part], common=True, num_resamples=100)
    assert compared.num_questions == len(part.answers)
    row = next(row for row in compared.rows if row.is_main and row.domain == "all")
    assert row.num_questions == len(part.answers)
    for run, cell in zip((whole, part), row.cells, strict=True):
        scores = [run.answers[name].score[row.measure] for name in part.answers]
        assert cell.value == pytest.approx(sum(scores) / len(scores))
    assert any("questions that were put alike" in note for note in compared.notes)


def test_a_question_that_was_put_otherwise_is_not_shared(tmp_path: Path) -> None:
    [one] = scored(tmp_path, "docvqa", {"one": 0.5})
    name = next(iter(one.answers))
    changed = {**one.answers, name: replace(one.answers[name], asked="0" * 16)}
    other = replace(one, label="two", answers=changed)
    with pytest.raises(UserError, match="the questions differ"):
        shared_questions([one, other])
    assert name not in shared_questions([one, other], common=True)


def test_without_the_data_the_runs_are_compared_question_by_question(tmp_path: Path) -> None:
    runs = scored(tmp_path, "pope", {"low": 0.3, "high": 0.9})
    for file in (tmp_path / "data" / "pope").glob("**/*.json"):
        file.unlink()
    compared = compare_benchmark(runs, num_resamples=100)
    assert any("Without domains, images and guesses" in note for note in compared.notes)
    whole = next(row for row in compared.rows if (row.domain, row.measure) == ("all", "pope_accuracy"))
    assert whole.cells[1].difference_interval is not None and compared.baselines == ()
    assert compared.num_clusters == compared.num_questions
    assert all(one.prompt == "" and one.images == () for one in compared.disagreements)


def test_an_unfinished_or_mixed_result_is_refused(tmp_path: Path) -> None:
    [run] = scored(tmp_path, "pope", {"one": 0.5})
    path = answers_path(run.folder, "pope")
    lines = read_answers(path)
    write_answers(path, lines[:-1])
    with pytest.raises(UserError, match=rf"{len(lines) - 1} of {len(lines)} answers"):
        read_scored(run.folder, "one", "pope")
    write_answers(path, [replace(lines[0], model="stranger"), *lines[1:]])
    with pytest.raises(UserError, match="answers of the model stranger"):
        read_scored(run.folder, "one", "pope")
    with pytest.raises(UserError, match="has not been scored on mme"):
        read_scored(run.folder, "one", "mme")
    with pytest.raises(UserError, match="does not exist"):
        read_scored(tmp_path / "nowhere", "x", "pope")
    assert scored_benchmarks(run.folder) == ["pope"]


def test_all_runs_that_lack_scores_are_refused_in_one_line_with_all_commands(tmp_path: Path) -> None:
    [run] = scored(tmp_path, "pope", {"one": 0.5})
    bare = [tmp_path / "two", tmp_path / "three"]
    for folder in bare:
        folder.mkdir()
    refuse_unscored([run.folder], ["pope"])
    refuse_unscored([run.folder], [])

    def told(words: list[str]) -> str:
        with pytest.raises(UserError) as refused:
            refuse_unscored([bare[0], run.folder, bare[1]], words)
        return str(refused.value)

    two, three = (f"llava-moe eval run={folder}" for folder in bare)
    both = f"runs: {bare[0]}, {bare[1]} have not been scored"
    assert told([]) == f"{both}: {two} && {three}"
    assert told(["pope"]) == f"{both} on pope: {two} 'benchmarks=[pope]' && {three} 'benchmarks=[pope]'"
    assert told(["pope", "mme"]).count("&&") == 2 and "'benchmarks=[pope,mme]'" in told(["pope", "mme"])
    with pytest.raises(UserError, match=r"runs: .*nowhere does not exist"):
        refuse_unscored([bare[0], tmp_path / "nowhere"], [])


def test_labels_are_the_shortest_that_tell_folders_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "x" / "2-instruct", tmp_path / "y" / "2-instruct"]
    assert run_labels(folders) == ("x/2-instruct", "y/2-instruct")
    assert run_labels([tmp_path / "a", tmp_path / "b"]) == ("a", "b")
    with pytest.raises(UserError, match="named twice"):
        run_labels([tmp_path / "a", tmp_path / "a"])


def test_one_answer_a_domain_is_its_most_frequent_reference(tmp_path: Path) -> None:
    """Twelve prompts about colour, eight red; ten about numbers, all of them two: each kind has its own best guess."""

    class Colors:
        def score(self, question: Question, prediction: str) -> dict[str, float]:
            return {"right": float(prediction == question.references[0])}

    def ask(number: int, prompt: str, kind: str, answer: str) -> Question:
        return Question(f"{kind}{number}", (b"",), prompt, (answer,), "general", kind, True)

    colors = [ask(number, "What colour is it?", "colour", "Red" if number < 8 else "blue") for number in range(12)]
    counts = [ask(number, "How many are there?", "count", "two") for number in range(10)]
    rare = [ask(0, "Who is it?", "person", "Ada")]
    guesses = guessed_answers(Colors(), [*colors, *counts, *rare])  # type: ignore[arg-type]
    assert {answer.prediction for answer in guesses[DOMAIN_GUESS].values()} == {"two"}
    best = guesses[BLIND_GUESS]
    assert best["colour11"].prediction == "Red" and best["count0"].prediction == "two"
    # One prompt alone of its kind would be its own answer.
    assert best["person0"].prediction == "two"
    assert sum(answer.score["right"] for answer in best.values()) == 18


def test_baselines_stand_in_the_rows(tmp_path: Path) -> None:
    compared = compare_benchmark(scored(tmp_path, "pope", {"one": 0.5}), num_resamples=50)
    row = next(row for row in compared.rows if (row.domain, row.measure) == ("all", "pope_accuracy"))
    assert set(row.baselines) == {DOMAIN_GUESS, BLIND_GUESS} and 0 <= row.baselines[DOMAIN_GUESS] <= 1


def test_a_blind_run_is_a_baseline(tmp_path: Path) -> None:
    runs = scored(tmp_path, "pope", {"one": 0.9})
    [blind] = scored(tmp_path, "pope", {"blind": 0.1})
    compared = compare_benchmark(runs, blind=[replace(blind, label="one")], num_resamples=50)
    row = next(row for row in compared.rows if (row.domain, row.measure) == ("all", "pope_f1"))
    published = blind.result.row("all").measures["pope_f1"].value
    assert row.baselines["one, grey images"] == pytest.approx(published)
    assert blind.result.facts is not None
    other = replace(blind, result=replace(blind.result, facts=replace(blind.result.facts, prompt="{question}?")))
    assert all("grey" not in name for name in compare_benchmark(runs, blind=[other], num_resamples=50).baselines)


def test_disagreements_are_those_with_the_widest_spread_each_run_losing_in_turn(tmp_path: Path) -> None:
    runs = scored(tmp_path, "pope", {"low": 0.4, "high": 0.8})
    compared = compare_benchmark(runs, num_resamples=50)
    assert compared.disagreements
    for one in compared.disagreements:
        assert one.spread == 1.0 and one.prompt and one.images and len(one.predictions) == 2
    losers = [one.scores.index(min(one.scores)) for one in compared.disagreements]
    num_each = min(losers.count(0), losers.count(1))
    assert losers[: 2 * num_each] in ([0, 1] * num_each, [1, 0] * num_each)


NASTY = 'a_b & c% $x^2$ {~#} \\ <i> | "q"'


def made_comparison() -> Comparison:
    """Three runs; the second is best and its difference stands out."""

    def row(domain: str, values: tuple[float, ...], is_main: bool = True) -> ComparedRow:
        cells = [Cell(values[0], Interval(0.4, 0.6))]
        for value in values[1:]:
            gap = value - values[0]
            cells.append(Cell(value, Interval(value - 0.1, value + 0.1), gap, Interval(gap - 0.05, gap + 0.05)))
        return ComparedRow(domain, "exact_match", 300, tuple(cells), {"one answer a domain": 0.25}, is_main)

    rows = (row("general", (0.5, 0.712, 0.52)), row("all", (0.5, 0.5, 0.4)))
    compared = ComparedBenchmark("made", 600, 300, None, rows, notes=("A note.",))
    return Comparison((NASTY, "two", "three"), ("/a", "/b", "/c"), (compared,), 10_000, 0)


def unescaped(text: str) -> str:
    return re.sub(r"\\[a-zA-Z]+(\{\})?|\\.", "", text)


def test_the_latex_table_is_balanced_escaped_and_ranks_each_column() -> None:
    latex = latex_comparison(made_comparison())
    lines = latex.splitlines()
    begins, ends = re.findall(r"\\begin\{(\w+)\}", latex), re.findall(r"\\end\{(\w+)\}", latex)
    assert begins == ["table", "tabular"] and ends == begins[::-1]
    body = [line for line in lines if line.endswith(r"\\")]
    for line in body[1:]:
        assert len(re.findall(r"(?<!\\)&", line)) == 2
    plain = unescaped("\n".join(line for line in lines if not line.startswith("%")))
    assert plain.count("{") == plain.count("}")
    assert not set("#%~_") & set(plain) and set(re.findall(r"\^.", plain)) == {"^{"}
    assert [line for line in lines if line in (r"\toprule", r"\bottomrule")] == [r"\toprule", r"\bottomrule"]
    two, three = (next(line for line in lines if line.startswith(name)) for name in ("two", "three"))
    assert two == r"two & \textbf{71.2}$^{\dagger}$ & \textbf{50.0} \\"
    assert three == r"three & \underline{52.0} & \underline{40.0}$^{\dagger}$ \\"
    assert r"\textit{one answer a domain} & 25.0 & 25.0 \\" in lines


@pytest.mark.parametrize("character", '\\{}$&#_%~^<>|"')
def test_every_special_character_of_latex_is_escaped(character: str) -> None:
    assert latex_text(character) != character and not unescaped(latex_text(character)).strip("{}")


def test_a_name_in_brackets_or_with_a_star_is_no_argument_of_the_row_before() -> None:
    comparison = replace(made_comparison(), runs=("one", "[9cm] two"))
    rows = [line for line in latex_comparison(comparison).splitlines() if "two" in line]
    assert rows[0].startswith("{[}9cm{]} two &") and latex_text("*x") == "{*}x"


def test_line_breaks_and_control_characters_do_not_reach_latex() -> None:
    assert latex_text("a\nb\x00c\td") == "a b c d"


def test_tables_say_what_differs_and_what_stands_out() -> None:
    comparison = made_comparison()
    table = comparison_table(comparison, comparison.benchmarks[0])
    # No other image was shown, so none is called the right one.
    assert table.rows[0][:4] == ("general", "exact match", "300", "50.0")
    assert table.rows[0][5] == "+21.2 [+16.2, +26.2] *"
    assert table.rows[0][7] == "+2.0 [-3.0, +7.0]"
    assert shown_difference("exact_match", Cell(None)) == "-"
    assert comparison.num_differences == 4 and comparison.num_standing_out == 2
    assert "2 of the 4 differences" in " ".join(explanation(comparison))
    assert len(rich_comparison(comparison)) == 1
    lines = long_table(comparison, comparison.benchmarks[0]).rows
    assert lines[1] == ("", "", "two", "71.2", "+21.2 [+16.2, +26.2] *")
    assert lines[3] == ("", "", "one answer a domain", "25.0", "") and lines[4][:2] == ("all", "300")
    markdown = markdown_comparison(comparison)
    for line in markdown.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == len(table.header) + 1


def test_a_star_says_beside_its_table_which_runs_it_holds_for() -> None:
    cells = (Cell(2.0), Cell(1.9, None, -0.1, Interval(-0.2, -0.05)), Cell(2.1))
    losses = ComparedLosses((LossRow("charts", cells),), ("record by record",) * 3)
    comparison = replace(made_comparison(), losses=losses, notes=("A note.",))
    below = markdown_comparison(comparison).split("held-out loss, nats a token")
    scores, of_losses = below[0], below[1]
    assert "2 of the 4 differences of scores shown" in scores and "differences" not in of_losses
    assert of_losses.startswith(": lower is better; * between these 3 runs, another training may differ")
    for part, where in ((scores, "at a score"), (of_losses, "at a loss")):
        assert f"\\*, {where}: the" in part and "It holds for these 3 runs, one training each" in part
    assert of_losses.endswith("A note.\n")
    alone = replace(comparison, benchmarks=(), runs=("a", "b"), folders=("a", "b"), losses=None)
    assert score_explanation(alone) == loss_explanation(alone) == ()
    same = replace(losses, rows=(LossRow("charts", (Cell(2.0), Cell(2.0))),), told=("", ""))
    table = loss_table(replace(alone, losses=same))
    assert table is not None and table.title == "held-out loss, nats a token: lower is better"


def test_the_json_holds_every_number(tmp_path: Path) -> None:
    runs = scored(tmp_path, "pope", {"low": 0.3, "high": 0.9})
    compared = compare_benchmark(runs, num_resamples=100)
    content = json.loads(json_comparison(Comparison(("low", "high"), ("/l", "/h"), (compared,), 100, 0)))
    rows = content["benchmarks"]["pope"]["rows"]
    assert len(rows) == len(compared.rows) and content["benchmarks"]["pope"]["facts"]["protocol"] == "llava_1_5"
    for row, one in zip(rows, compared.rows, strict=True):
        cell, interval = row["runs"]["high"], one.cells[1].difference_interval
        assert (cell["value"], cell["difference"]) == (one.cells[1].value, one.cells[1].difference)
        assert cell["difference_interval"] == (None if interval is None else [interval.low, interval.high])


def test_results_of_an_earlier_version_are_compared_with_their_like_alone(tmp_path: Path) -> None:
    runs = scored(tmp_path, "pope", {"old": 0.3, "new": 0.9})
    old = replace(runs[0].result, facts=None)
    write_result(runs[0].folder, old)
    with pytest.raises(UserError, match="old was scored by an earlier version"):
        compare_benchmark([read_scored(runs[0].folder, "old", "pope"), runs[1]])
