"""The demo's earlier stage and its base answer the same questions, through the real command line."""

from __future__ import annotations

import io
import json
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from llava_moe.cli import run
from llava_moe.commands.eval_stages import refuse_unpaired
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question
from llava_moe.eval.files import read_answers, read_result
from llava_moe.eval.tasks.demo import open_demo_benchmark
from llava_moe.run_config import EvalConfig
from tests.forked_commands import CommandServer

WORDS = ("exp=demo", "model=tiny", "train.max_steps=1", "train.num_threads=1", "data.num_workers=0", "eval.limit=1")
PLACES = ("eval", "1-pretrain/eval", "no_picture/eval")


@pytest.fixture(scope="module")
def trained(embedded_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of both stages, which tests write into copies of, and what it printed."""
    root, printed = tmp_path_factory.mktemp("trained") / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("COLUMNS", "80")
        assert run(["train", *WORDS, f"out={root}"]) == 0
    return root, printed.getvalue()


@pytest.fixture(autouse=True)
def reads_the_embedded_data_once(embedded_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def answers_in(root: Path) -> dict[str, bytes]:
    return {place: (root / place / "demo.answers.jsonl").read_bytes() for place in PLACES}


def stage_one_scores(root: Path) -> dict[str, float]:
    result = read_result(root / "1-pretrain", "demo")
    assert result is not None
    return {row.domain: row.measures["exact_match"].value for row in result.rows if row.kind is None}


def rows_shown(printed: str) -> dict[str, list[str]]:
    """First cell of each table row to its other cells; of equal ones the first."""
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        if line.startswith("│"):
            first, *cells = [cell.strip() for cell in line.strip("│").split("│")]
            found.setdefault(first, cells)
    return found


def test_the_table_and_the_page_show_the_base_and_stage_one_and_eval_says_the_same(
    trained: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    root = shutil.copytree(trained[0], tmp_path / "run")
    shown = rows_shown(trained[1])
    scores = stage_one_scores(root)
    assert list(scores) == ["general", "documents", "medical", "all"]
    assert shown["after 1-pretrain"] == [f"{100 * score:.1f}" for score in scores.values()]
    blind = read_result(root / "no_picture", "demo")
    assert blind is not None and "no picture shown" in blind.facts.data  # type: ignore[union-attr]
    assert shown["blind, no picture"] == [f"{100 * row.measures['exact_match'].value:.1f}" for row in blind.rows]
    for name in ("majority answer", "after 2-instruct", "another picture", "over 1-pretrain", "over another picture"):
        assert len(shown[name]) == 4, name
    page = (root / "report.html").read_text()
    assert all(f">{name}</td>" in page for name in ("blind, no picture", "after 1-pretrain", "over 1-pretrain"))
    before = answers_in(root)
    assert run(["eval", f"run={root / '1-pretrain'}", "limit=1", "num_threads=1"]) == 0
    assert stage_one_scores(root) == pytest.approx(scores)
    asked = {one.question_id: one for one in read_answers(root / "1-pretrain" / "eval" / "demo.answers.jsonl")}
    kept = [json.loads(line) for line in before["1-pretrain/eval"].splitlines()]
    # The other questions joined; those that stood there were not asked again, by another name of the same weights.
    assert len(asked) > len(kept)
    assert all(asked[one["question_id"]].model == one["model"] for one in kept)
    # Trained again, the larger result of stage one stays.
    whole = (root / "1-pretrain" / "eval" / "demo.json").read_bytes()
    assert run(["train", *WORDS, f"out={root}"]) == 0
    assert rows_shown(capsys.readouterr().out)["after 1-pretrain"] == shown["after 1-pretrain"]
    assert (root / "1-pretrain" / "eval" / "demo.json").read_bytes() == whole


@pytest.mark.slow
def test_killed_between_the_evaluations_it_goes_on_to_the_same_answers(
    trained: tuple[Path, str], tmp_path: Path, command_server: CommandServer
) -> None:
    whole, broken = trained[0], tmp_path / "broken"
    process = command_server.start(["train", *WORDS, f"out={broken}"])
    deadline = time.monotonic() + 240
    while not (broken / "no_picture" / "eval" / "demo.json").exists():
        assert process.poll() is None, process.errors
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "1-pretrain" / "eval" / "demo.json").exists()
    stood = (broken / "eval" / "demo.answers.jsonl").read_bytes()
    assert run(["train", *WORDS, f"out={broken}"]) == 0
    assert answers_in(broken) == answers_in(whole)
    assert (broken / "eval" / "demo.answers.jsonl").read_bytes() == stood


def test_a_run_of_one_stage_pays_for_neither_unless_asked(words_for_tiny: tuple[str, ...], tmp_path: Path) -> None:
    words = [*words_for_tiny, "train.max_steps=1", "eval.benchmarks=[demo]", "eval.limit=1", f"out={tmp_path / 'run'}"]
    assert run(["train", *words]) == 0
    assert not (tmp_path / "run" / "no_picture").exists()
    assert run(["train", *words, "eval.no_picture=true"]) == 0
    assert read_result(tmp_path / "run" / "no_picture", "demo") is not None
    assert ">blind, no picture</td>" in (tmp_path / "run" / "report.html").read_text()


def test_a_headline_that_is_no_mean_over_questions_is_refused_by_name() -> None:
    class Summed:
        name, columns = "summed", ("a_sum_over_all",)

        def questions(self) -> Sequence[Question]:
            return open_demo_benchmark(limit=1, min_compared=0).questions()[:1]

        def score(self, question: Question, prediction: str) -> dict[str, float]:
            return {"exact_match": 0.0}

    refuse_unpaired(EvalConfig(stages="last", no_picture=False), [Summed()])  # type: ignore[list-item]
    for settings in (EvalConfig(stages="all"), EvalConfig(no_picture=True)):
        with pytest.raises(UserError, match=r"and summed scores none by itself: take it out of eval.benchmarks="):
            refuse_unpaired(settings, [Summed()])  # type: ignore[list-item]
    with pytest.raises(UserError, match="stages=all compares"):
        refuse_unpaired(EvalConfig(stages="all", no_picture=True), [Summed()])  # type: ignore[list-item]
