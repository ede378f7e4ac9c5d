"""One, two and three processes, batches of 1 and 8, killed and resumed: the same answers and scores, byte for byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from llava_moe.cli import run
from llava_moe.commands.eval_progress import EvalProgress
from tests.distributed.conftest import launcher_of
from tests.forked_commands import ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

StartRanks = Callable[..., list[ForkedCommand]]

NUM_QUESTIONS = 60
WORDS = ["square", "circle", "red", "blue", "three", "bars", "small", "Axial", "number", "left of"]


@pytest.fixture(scope="module")
def words(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words that score a tiny LLaVA-MoLE run on charts of our own."""
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert run(["train", *words_for_tiny, f"out={folder / 'run'}"]) == 0
    stir(folder / "run")
    write_charts(folder / "charts")
    return [
        *(f"run={folder / 'run'}", "benchmarks=[chartqa]", f"benchmark_paths.chartqa={folder / 'charts'}"),
        *("protocol=lmms_eval", "dtype=fp32", "num_threads=1"),
    ]


def stir(folder: Path) -> None:
    """Add noise to what was trained: answers then hang on every token and pixel, where a tiny model's are all alike."""
    generator = torch.Generator().manual_seed(0)
    newest = folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()
    for path in (newest / "adapter" / "adapter_model.safetensors", newest / "projector.safetensors"):
        tensors = {
            name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})


def write_charts(folder: Path) -> None:
    """Questions of many lengths in ChartQA's layout, two about each image."""
    generator = np.random.default_rng(0)
    (folder / "png").mkdir(parents=True)
    rows: dict[str, list[dict[str, str]]] = {"human": [], "augmented": []}
    for number in range(NUM_QUESTIONS):
        name = f"{number // 2}.png"
        pixels = generator.integers(0, 256, (20 + number % 7, 31, 3)) * generator.integers(0, 2, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "png" / name)
        question = "What colour is the " + " ".join(generator.choice(WORDS, 1 + number * 5 % 17)) + "?"
        rows["human" if number % 3 else "augmented"].append({"imgname": name, "query": question, "label": str(number)})
    for part, of_part in rows.items():
        (folder / f"test_{part}.json").write_text(json.dumps(of_part))


def scored_by_ranks(start_ranks: StartRanks, world: int, words: list[str], out: Path) -> dict[str, str]:
    ranks = start_ranks(world, ["eval", *words, f"out={out}"])
    told = [(rank.wait(timeout=240), rank.output)[1] for rank in ranks]
    assert "scores and answers" in told[0], told
    assert all("scores and answers" not in text for text in told[1:])
    return files_of(out)


def files_of(out: Path) -> dict[str, str]:
    """What an evaluation leaves, without what tells how it was run."""
    files = {path.name: path.read_text() for path in (out / "eval").iterdir()}
    result = json.loads(files["chartqa.json"])
    assert result["facts"]["num_questions"] == NUM_QUESTIONS
    headline = json.loads(files["results.json"])["chartqa"]
    for kept in (result, headline):
        del kept["seconds"], kept["answered_by"]
    return {**files, "chartqa.json": json.dumps(result), "results.json": json.dumps(headline)}


@pytest.fixture(scope="module")
def expected(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process makes of it, a question at a time."""
    out = tmp_path_factory.mktemp("alone")
    assert run(["eval", *words, "batch_size=1", f"out={out}"]) == 0
    files = files_of(out)
    assert set(files) == {"chartqa.answers.jsonl", "chartqa.json", "results.json"}
    answers = [json.loads(line) for line in files["chartqa.answers.jsonl"].splitlines()]
    assert [answer["question_id"] for answer in answers] == [str(number) for number in range(NUM_QUESTIONS)]
    texts = [answer["prediction"] for answer in answers]
    assert len(set(texts)) > NUM_QUESTIONS // 3, f"the test would prove nothing: {texts}"
    return files


def test_batches_of_eight_answer_as_questions_alone(words: list[str], expected: dict[str, str], tmp_path: Path) -> None:
    assert run(["eval", *words, "batch_size=8", f"out={tmp_path}"]) == 0
    assert files_of(tmp_path) == expected


def test_two_ranks_of_torchrun_write_what_one_process_writes(
    words: list[str], expected: dict[str, str], tmp_path: Path
) -> None:
    finished = subprocess.run(
        [*launcher_of("torchrun"), "eval", *words, "batch_size=8", f"out={tmp_path}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("scores and answers") == 1
    assert json.loads((tmp_path / "eval" / "chartqa.json").read_text())["answered_by"]["num_processes"] == 2
    assert files_of(tmp_path) == expected


def test_three_killed_ranks_are_gone_on_from_by_two(
    words: list[str], expected: dict[str, str], start_ranks: StartRanks, tmp_path: Path
) -> None:
    ranks = start_ranks(3, ["eval", *words, "batch_size=1", f"out={tmp_path}"])
    path = tmp_path / "eval" / "chartqa.answers.jsonl"
    parts = [path, *(path.with_name(f"chartqa.answers.part{rank}.jsonl") for rank in (1, 2))]
    until = time.monotonic() + 240
    while time.monotonic() < until and not all(part.exists() and part.stat().st_size for part in parts):
        assert any(process.poll() is None for process in ranks)
        time.sleep(0.002)
    for process in ranks:
        process.send_signal(signal.SIGKILL)
    for process in ranks:
        process.wait()
    kept = sum(part.read_text().count("\n") for part in parts)
    assert 3 <= kept < NUM_QUESTIONS
    with parts[1].open("a") as file:
        file.write('{"question_id": "cut sho')
    assert scored_by_ranks(start_ranks, 2, [*words, "batch_size=8"], tmp_path) == expected


def test_a_rank_that_is_killed_is_told_in_one_line_by_the_other(
    words: list[str], expected: dict[str, str], start_ranks: StartRanks, tmp_path: Path
) -> None:
    ranks = start_ranks(2, ["eval", *words, "batch_size=1", f"out={tmp_path}"])
    part = tmp_path / "eval" / "chartqa.answers.part1.jsonl"
    until = time.monotonic() + 240
    while time.monotonic() < until and not (part.exists() and part.stat().st_size):
        assert ranks[0].poll() is None, ranks[0].output
        time.sleep(0.002)
    ranks[1].send_signal(signal.SIGKILL)
    assert ranks[0].wait(timeout=200) == 2, ranks[0].output
    assert "Traceback" not in ranks[0].output and "another process has stopped" in ranks[0].output
    assert scored_by_ranks(start_ranks, 2, [*words, "batch_size=8"], tmp_path) == expected


def test_one_process_goes_on_where_several_stopped(words: list[str], expected: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    lines = expected["chartqa.answers.jsonl"].splitlines(keepends=True)
    for name, some in (("", lines[3:20]), (".part2", lines[18:30]), (".part7", lines[50:])):
        (tmp_path / "eval" / f"chartqa.answers{name}.jsonl").write_text("".join(some))
    assert run(["eval", *words, "batch_size=8", f"out={tmp_path}"]) == 0
    assert files_of(tmp_path) == expected


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_keeps_the_answers_so_far_and_the_same_command_goes_on(
    number: signal.Signals,
    status: int,
    words: list[str],
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command, tell = ["eval", *words, "batch_size=8", f"out={tmp_path}"], EvalProgress.tell

    def tell_and_stop(self: EvalProgress, done: int, total: int) -> None:
        tell(self, done, total)
        if done == 24:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(EvalProgress, "tell", tell_and_stop)
        assert run(command) == status
    assert (tmp_path / "eval" / "chartqa.answers.jsonl").read_text().count("\n") == 24
    assert run(command) == 0
    assert files_of(tmp_path) == expected


def test_what_the_user_must_fix_is_told_once_by_many_ranks(
    words: list[str], start_ranks: StartRanks, tmp_path: Path
) -> None:
    processes = start_ranks(2, ["eval", *words, "batch_size=0", f"out={tmp_path}"])
    assert [process.wait(timeout=240) for process in processes] == [2, 2]
    told = [process.output for process in processes]
    assert "batch_size=0: give" in told[0] and told[0].count("\n") == 1
    assert told[1] == ""
