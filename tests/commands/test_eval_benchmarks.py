"""``llava-moe eval`` on the papers' benchmarks, through the real command line, on a run that was really trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava_moe import load_run
from llava_moe.cli import run
from llava_moe.eval.files import read_answers, read_result
from tests.commands.conftest import Refusal
from tests.eval.tasks.published import LAYOUTS

pytestmark = pytest.mark.slow
CHOSEN = {"pathvqa": "hub", "pope": "official", "tiny_lvlm": "folders", "vsr": "jsonl"}


@pytest.fixture(scope="module")
def trained(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short run ``run``, one that captions, ``captions``, and four benchmarks in ``my data``."""
    folder = tmp_path_factory.mktemp("trained")
    words = [*words_for_tiny, "train.max_steps=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert run(["train", *words, "adapter=llava_mole", f"out={folder / 'run'}"]) == 0
        captions = ["stage=pretrain", "data.max_bad_share=1", f"out={folder / 'captions'}"]
        assert run(["train", *words, *captions]) == 0
    for name, layout in CHOSEN.items():
        LAYOUTS[name][layout](folder / "my data" / name)
    return folder


@pytest.fixture
def words(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that score a copy of the run."""
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.copytree(trained / "my data", tmp_path / "my data")
    return ["eval", f"run={tmp_path / 'run'}", f"benchmark_root={tmp_path / 'my data'}", "num_threads=1"]


def test_a_run_is_scored_on_published_benchmarks_and_its_files_say_how(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = f"benchmarks=[{','.join(CHOSEN)}]"
    assert run([*words, asked]) == 0
    shown = capfd.readouterr().out
    assert "protocol llava_1_5" in shown and "RUCAIBox/POPE evaluate.py" in shown
    folder = tmp_path / "run"
    merged = json.loads((folder / "eval" / "results.json").read_text())
    assert set(merged) == set(CHOSEN)
    for name, kept in merged.items():
        result = read_result(folder, name)
        assert result is not None and result.facts is not None
        assert kept["protocol"] == result.facts.protocol == "llava_1_5"
        assert kept["place"] == str(tmp_path / "my data" / name)
        assert kept["num_questions"] == len(read_answers(folder / "eval" / f"{name}.answers.jsonl"))
        assert (kept["decoding"]["temperature"], kept["decoding"]["repetition_penalty"]) == (0.0, 1.0)
    assert (folder / "report.html").is_file()
    # Scored again, nothing is asked again; under another protocol everything is.
    before = {path.name: path.read_bytes() for path in (folder / "eval").glob("*.answers.jsonl")}
    assert run([*words, asked]) == 0
    assert before == {path.name: path.read_bytes() for path in (folder / "eval").glob("*.answers.jsonl")}
    old = {answer.question_id: answer.asked for answer in read_answers(folder / "eval" / "pope.answers.jsonl")}
    assert run([*words, "benchmarks=[pope]", "protocol=llava_mole"]) == 0
    new = {answer.question_id: answer.asked for answer in read_answers(folder / "eval" / "pope.answers.jsonl")}
    assert set(old) == set(new) and not set(old.values()) & set(new.values())
    result = read_result(folder, "pope")
    assert result is not None and result.facts is not None
    assert result.facts.protocol == "llava_mole" and result.facts.decoding.repetition_penalty == 10.0
    assert result.facts.prompt.startswith("Analyze the image") and "Engligh" in result.facts.prompt


def test_what_is_wrong_with_the_data_is_one_line_and_answers_are_kept(
    words: list[str], trained: Path, tmp_path: Path, refused: Refusal
) -> None:
    chosen = "benchmarks=[tiny_lvlm]"
    assert run([*words, chosen]) == 0
    path = tmp_path / "run" / "eval" / "tiny_lvlm.answers.jsonl"
    before = path.read_bytes()
    assert "protocol=llava15 is not known (did you mean llava_1_5?)" in refused(*words, chosen, "protocol=llava15")
    assert "benchmarks: tiny_lvm does not exist (did you mean tiny_lvlm?)" in refused(*words, "benchmarks=[tiny_lvm]")
    assert "benchmark chartqa: " in refused(*words, "benchmarks=[chartqa]")
    assert "does not exist" in refused(*words, chosen, f"benchmark_paths.tiny_lvlm={tmp_path}/my, other {{place}}")
    assert "does not exist" in refused(*words, chosen, "benchmark_paths={tiny_lvlm: elsewhere}")
    (tmp_path / "my data" / "tiny_lvlm" / "Visual_Commonsense" / "images" / "0.png").unlink()
    assert "1 of its images are missing" in refused(*words, chosen)
    assert path.read_bytes() == before
    line = refused("eval", f"run={trained / 'captions'}", "benchmarks=[pope]", *words[2:])
    assert "captions images and reads no question" in line


def test_another_models_answers_are_refused_and_kept(words: list[str], tmp_path: Path, refused: Refusal) -> None:
    out = tmp_path / "scores"
    assert run([*words, "benchmarks=[pope]", f"out={out}"]) == 0
    path = out / "eval" / "pope.answers.jsonl"
    lines = [json.dumps(json.loads(line) | {"model": "0" * 16}) for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    assert "another model" in refused(*words, "benchmarks=[pope]", f"out={out}")
    assert path.read_bytes() == before


def test_a_tokenizer_that_cannot_write_the_template_is_one_line(
    words: list[str], trained: Path, tmp_path: Path, refused: Refusal
) -> None:
    model, processor = load_run(trained / "captions")
    model.save_pretrained(tmp_path / "hf")
    processor.tokenizer.eos_token = "<unk>"
    processor.save_pretrained(tmp_path / "hf")
    asked = [f"model.path={tmp_path / 'hf'}", "model.template=v1"]
    line = refused("eval", *asked, "benchmarks=[pope]", *words[2:])
    assert "cannot write LLaVA-1.5's template" in line and "<unk>" in line
