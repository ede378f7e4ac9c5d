"""lmms-eval itself, on a run of ours: skipped where it is not installed; scripts/check_lmms_eval.sh has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_moe.errors import UserError
from llava_moe.lmms_eval_plugin import manifest
from llava_moe.lmms_eval_plugin.answering import Replies

pytest.importorskip("lmms_eval", reason="lmms-eval is no dependency: scripts/check_lmms_eval.sh runs this with it")

SHARED = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: rows.jsonl
test_split: test
doc_to_visual: !function functions.show
"""
CHOICES = """
task: own_choices
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
ROUNDS = """
task: own_rounds
output_type: generate_until_multi_round
doc_to_text: !function functions.ask
doc_to_target: answer
generation_kwargs: {max_new_tokens: 6, until: []}
process_results: !function functions.count
metric_list:
  - {metric: rounds, aggregation: mean, higher_is_better: true}
"""
TEXT = """
task: own_text
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 6, until: []}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
FUNCTIONS = """
from PIL import Image


def show(doc):
    return [Image.open(doc["image"])]


def ask(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    return show(doc), f"Not {previous_output[-1]}?", round_idx == 2, previous_output, None


def count(doc, results):
    return {"rounds": len(results[0])}
"""


@pytest.fixture(scope="module")
def run(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from llava_moe.cli import run as command

    folder = tmp_path_factory.mktemp("runs") / "tiny, odd=name"
    assert command(["train", *words_for_tiny, "train.max_steps=2", f"out={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = []
    for number, color in enumerate(("red", "blue", "green", "red")):
        Image.new("RGB", (20, 10 + number), color).save(folder / f"{number}.png")
        rows.append(
            {
                "question": "What colour is the square?",
                "image": str(folder / f"{number}.png"),
                "choices": ["red", "blue", "green"],
                "answer": ("red", "blue", "green").index(color),
            }
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "functions.py").write_text(FUNCTIONS)
    (folder / "choices.yaml").write_text(SHARED + CHOICES)
    (folder / "rounds.yaml").write_text(SHARED + ROUNDS)
    (folder / "text.yaml").write_text(SHARED.replace("doc_to_visual: !function functions.show\n", "") + TEXT)
    return folder


@pytest.fixture
def model(run: Path) -> Any:
    from lmms_eval.models import get_model

    # As the command line has it; the folder's name holds a comma and an equals sign.
    return get_model(manifest.MODEL_ID).create_from_arg_string(f'run="{run}"', {"batch_size": "2", "device": None})


def evaluated(model: Any, folder: Path, task: str) -> dict[str, Any]:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    results: dict[str, Any] = simple_evaluate(
        model,
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
    )
    return results


def test_the_model_is_registered_by_its_entry_point() -> None:
    from lmms_eval.models import get_model_manifest

    assert get_model_manifest(manifest.MODEL_ID).simple_class_path == manifest.CLASS_PATH


def test_multiple_choice_takes_the_likeliest_answer(
    model: Any, own_tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Any] = []
    judge = Replies.judge

    def kept(self: Replies, requests: Any) -> list[Any]:
        judged.extend(judge(self, requests))
        return judged

    monkeypatch.setattr(Replies, "judge", kept)
    results = evaluated(model, own_tasks, "own_choices")
    losses = [one.loss for one in judged]
    assert len(losses) == 12
    said = [min(range(3), key=losses[3 * doc : 3 * doc + 3].__getitem__) for doc in range(4)]
    right = sum(one == gold for one, gold in zip(said, (0, 1, 2, 0), strict=True))
    assert results["results"]["own_choices"]["acc,none"] == right / 4


def test_rounds_reach_the_task_one_by_one(model: Any, own_tasks: Path) -> None:
    assert evaluated(model, own_tasks, "own_rounds")["results"]["own_rounds"]["rounds,none"] == 2


def test_a_task_of_text_alone_is_answered(model: Any, own_tasks: Path) -> None:
    samples = evaluated(model, own_tasks, "own_text")["samples"]["own_text"]
    assert len(samples) == 4 and all(isinstance(sample["filtered_resps"][0], str) for sample in samples)


def test_a_system_prompt_replaces_the_models_own(run: Path, tmp_path: Path) -> None:
    from lmms_eval.models import get_model

    (tmp_path / "system.txt").write_text("Speak, briefly.\n")
    for given in ("Speak, briefly.", str(tmp_path / "system.txt")):
        model = get_model(manifest.MODEL_ID)(run=str(run), system=given)
        with model._replies(0) as replies:
            assert replies.assembled.encoder.template.system == "Speak, briefly."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "name one model"),
        ({"run": "a", "pretrained": "b"}, "name one model"),
        ({"rum": "a"}, "model_args rum"),
        ({"run": "a", "batch_size": "many"}, "batch_size=many"),
        ({"run": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(arguments: dict[str, str], said: str) -> None:
    from lmms_eval.models import get_model

    with pytest.raises(UserError, match=said):
        get_model(manifest.MODEL_ID)(**arguments)


def test_a_run_of_another_embedded_base_is_refused_and_one_that_does_not_say_is_told_of(
    words_for_tiny: tuple[str, ...], tmp_path: Path
) -> None:
    from lmms_eval.models import get_model

    from llava_moe.cli import run as command

    words = [word for word in words_for_tiny if not word.startswith("model.architecture.tokenizer")]
    assert command(["train", *words, "train.max_steps=1", f"out={tmp_path / 'run'}"]) == 0
    path = tmp_path / "run" / "environment.json"
    told = json.loads(path.read_text())
    theirs = {"version": 99, "fingerprint": "f" * 64, "parts": {"tokenizer": "0" * 64}}
    path.write_text(json.dumps(told | {"embedded_base": theirs}))
    with pytest.raises(UserError, match=r"was trained on embedded base 99 \(ffffffff\), and this llava-moe has"):
        get_model(manifest.MODEL_ID)(run=str(tmp_path / "run"))
    path.unlink()
    with pytest.warns(UserWarning, match="recorded nothing of its base"):
        get_model(manifest.MODEL_ID)(run=str(tmp_path / "run"))


def test_the_model_is_let_go_of_after_its_answers(model: Any) -> None:
    model.clean()
    with pytest.raises(AssertionError, match="clean"):
        model.generate_until([])
    assert "torchvision" not in sys.modules
