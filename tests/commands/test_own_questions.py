"""Files of one's own questions as benchmarks, through the real command line, on a run that was really trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava_moe.cli import run
from llava_moe.commands.measure_items import questions_of
from llava_moe.errors import UserError
from llava_moe.eval.baselines import is_twin
from llava_moe.eval.files import read_answers, read_result
from llava_moe.eval.image_swap_pairs import COLUMNS
from llava_moe.grid.measured import Measures, Score
from tests.commands.conftest import Refusal
from tests.commands.test_rates import stages_of
from tests.eval.own.files import asking, write_lines, write_questions

ASKED = 8
SCORES = "eval/questions.answers.jsonl"


@pytest.fixture(scope="module")
def trained(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``set/questions.jsonl`` and a run that asked it on its way, by which it chose its best, and at its
    end."""
    folder = tmp_path_factory.mktemp("own_questions")
    write_questions(folder / "set" / "questions.jsonl")
    own = ["eval.every=2", "eval.during=[set/questions.jsonl]", "eval.best=questions.token_f1.photos"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        words = [*words_for_tiny, "train.max_steps=4", "adapter=lora", *own, "eval.benchmarks=[set/questions.jsonl]"]
        assert run(["train", *words, "eval.no_picture=true", "out=run"]) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that is the current folder."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "copy" / "cache"))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_a_training_asks_them_on_its_way_and_at_its_end(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "run" / "validation.jsonl").read_text().splitlines()]
    measures = [line["benchmarks"]["questions"] for line in lines]
    assert [line["step"] for line in lines] == [2, 4]
    wanted = {*COLUMNS, "exact_match_all", "token_f1"}
    for one in measures:
        assert {name for name in one if "." not in name} == wanted and "token_f1.charts" in one
    scores = [one["token_f1.photos"] for one in measures]
    best = (trained / "run" / "checkpoints" / "best").read_text()
    assert best == f"step-{2 + 2 * scores.index(max(scores)):06d}\n"
    result = read_result(trained / "run", "questions")
    assert result is not None and result.facts is not None
    assert (result.facts.place, result.domains) == ("set/questions.jsonl", ("photos", "charts"))
    # Asked last while training, and then of the same weights.
    last = read_result(trained / "run" / "validation" / "step-000004", "questions")
    assert last is not None and last.rows == result.rows
    blind = read_result(trained / "run" / "no_picture", "questions")
    assert blind is not None and blind.facts is not None and "no picture shown" in blind.facts.data
    page = (trained / "run" / "report.html").read_text()
    assert "What colour is it?" in page and "data:image/webp" in page and "blind, no picture" in page


def test_they_are_measured_question_by_question_for_a_comparison(folder: Path) -> None:
    result = read_result(folder / "run", "questions")
    assert result is not None and result.facts is not None
    now = Measures((), None, {"questions": Score("questions", content=result.facts.content)})
    told = questions_of(folder / "run", now)
    assert len(told) == ASKED and {one["domain"] for one in told} == {"questions"}
    # An answer to a question that the result did not ask counts nothing.
    answers = folder / "run" / SCORES
    gone = json.loads(answers.read_text().splitlines()[0]) | {"question_id": "taken out"}
    answers.write_text(answers.read_text() + json.dumps(gone) + "\n")
    assert questions_of(folder / "run", now) == told
    with pytest.raises(UserError, match=r"has changed while .*run was scored"):
        questions_of(folder / "run", Measures((), None, {"questions": Score("questions", content="0" * 16)}))


def test_answers_that_stand_are_kept_and_a_changed_file_is_asked_anew(
    folder: Path, capfd: pytest.CaptureFixture[str], refused: Refusal
) -> None:
    words = ["eval", "run=run", "benchmarks=[set/questions.jsonl]", "num_threads=1"]
    before = (folder / "run" / SCORES).read_bytes()
    assert run(words) == 0
    assert (folder / "run" / SCORES).read_bytes() == before
    shown = capfd.readouterr().out
    assert "closed questions, exact match in %" in shown and "token F1, open questions too" in shown
    assert f"{ASKED} questions of the file questions; columns" in shown and "has changed" not in shown
    # Another file of the same name would overwrite the scores, and one that has changed is told.
    other = write_lines(folder / "other" / "questions.jsonl", [asking("How many?", "two", id="q0")])
    line = refused("eval", "run=run", f"benchmarks=[{other}]")
    assert "holds the scores of set/questions.jsonl" in line and "rename one" in line
    assert "asks other questions" in refused("eval", "runs=[run]", f"benchmarks=[{other}]")
    assert (folder / "run" / SCORES).read_bytes() == before
    records = [json.loads(line) for line in (folder / "set" / "questions.jsonl").read_text().splitlines()]
    records[-2] = asking("<image>\nDescribe it.", "A square", ["0.png"], id="open", domain="photos")
    write_lines(folder / "set" / "questions.jsonl", records)
    assert run(words) == 0
    assert "set/questions.jsonl has changed since it was scored" in capfd.readouterr().out
    after = {one.question_id: one for one in read_answers(folder / "run" / SCORES)}
    kept = [json.loads(line) for line in before.splitlines()]
    assert [one["question_id"] for one in kept if after[one["question_id"]].asked != one["asked"]] == ["open"]
    assert after["open"].references == ("A square",)


def test_runs_are_compared_on_them_and_a_blind_run_stands_beside(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "run", folder / "second")
    asked = "benchmarks=[set/questions.jsonl]"
    assert run(["eval", "run=run", asked, "blind=true", "num_threads=1"]) == 0
    for words in ([asked], []):
        assert run(["eval", "runs=[run,second]", *words, "out=out"]) == 0
        found = json.loads((folder / "out" / "comparison.json").read_text())["benchmarks"]["questions"]
        row = next(row for row in found["rows"] if row["domain"] == "all" and row["is_main"])
        assert row["runs"]["second"]["difference"] == 0.0
        assert {"majority", "one answer a domain", "run, grey images"} <= set(row["baselines"])
    shown = capfd.readouterr().out
    assert "'benchmarks=[set/questions.jsonl]' blind=true" in shown
    questions = [one for one in read_answers(folder / "run" / SCORES) if not is_twin(one.question_id)]
    assert len(questions) == ASKED
    assert run(["eval", "run=run", asked, "leaks=true"]) == 0
    assert "of 8 questions stand in the mixture" in capfd.readouterr().out


def test_in_an_experiment_of_ones_own_a_file_starts_from_the_experiments_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Refusal
) -> None:
    (folder / "mine" / "exp").mkdir(parents=True)
    (folder / "mine" / "exp" / "asked.yaml").write_text(
        "# @package _global_\ndefaults: [mix_general]\n"
        "eval: {every: 2, during: [pope, ../../set/questions.jsonl], images: ../../set}\n"
    )
    words = ["exp=asked", "--config-dir", "mine", "scale=demo"]
    (stage,) = stages_of(*words)
    assert stage.config.plain["eval"]["during"] == ["pope", "mine/exp/../../set/questions.jsonl"]
    assert stage.config.plain["eval"]["images"] == "mine/exp/../../set"
    (stage,) = stages_of(*words, "eval.during=[set/questions.jsonl]", "eval.images={questions: set}")
    assert stage.config.plain["eval"]["during"] == ["set/questions.jsonl"]
    assert stage.config.plain["eval"]["images"] == "{questions: set}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["benchmarks=[nowhere.jsonl]"], "benchmarks: no file nowhere.jsonl"),
        (["benchmarks=[question]"], "a file of your own is given by its path, such as questions.jsonl"),
        (["benchmarks=[set/questions.jsonl,other/questions.json]"], "would both be called questions: rename one"),
        (["benchmarks=[other/demo.jsonl]"], "demo is a benchmark that there is already: rename the file"),
        (["benchmarks=[set/questions.jsonl]", "images={quest: set}"], "quest is none of the files of questions"),
        (["benchmarks=[set/questions.jsonl]", "images=nowhere"], "images=nowhere: no such folder"),
        (["benchmarks=[demo]", "images=set"], "belongs to a file of your own questions"),
        (["benchmarks=[set/questions.jsonl]", "images=cache"], "record 1 (id q0): no file cache/0.png (6 of 6 images"),
    ],
)
def test_words_that_cannot_be_asked_are_one_line(folder: Path, refused: Refusal, words: list[str], told: str) -> None:
    before = (folder / "run" / SCORES).read_bytes()
    assert told in refused("eval", "run=run", *words)
    assert (folder / "run" / SCORES).read_bytes() == before
