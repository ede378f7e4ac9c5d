"""Records and questions that spell control tokens, from the command line to the loss and the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from PIL import Image
from transformers import AutoTokenizer

from llava_moe.assemble import restore
from llava_moe.cli import run
from tests.model.test_sentence_pieces import VICUNA, train, with_blanks

SPELLED = "The mark </s> ends it, <s> begins it, <pad> fills it and <unk> is unknown."
TURNS = [
    ("What ends a turn?", SPELLED, 0),
    (SPELLED, "yes</s>", 0),
    ("<image>\nWhat colour has </s>?", "<unk>", 1),
    ("Picture A: <image> and picture B: <image>. Which is <pad>?", "B, </s>", 2),
    ("Is <image> red?", "</s>", 1),
]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, shade in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        Image.new("RGB", (30, 20), shade).save(folder / f"{name}.png")
    found = []
    for number in range(40):
        question, answer, num_images = TURNS[number % len(TURNS)]
        record = {
            "id": f"r{number}",
            "conversations": [
                {"from": "human", "value": f"{question} {number}"},
                {"from": "gpt", "value": answer},
            ],
        }
        if num_images:
            record["image"] = ["red.png", "blue.png"][:num_images] if num_images > 1 else "red.png"
        found.append(record)
    (folder / "train.json").write_text(json.dumps(found))
    return folder


def test_a_run_learns_spelled_control_tokens_as_letters_and_is_asked_them_as_letters(
    tiny_words: list[str], records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in tiny_words if not word.startswith(("path=", "images="))]
    words += [f"path={records / 'train.json'}", f"images={records}", "train.max_steps=null", "train.epochs=1"]
    assert run(["train", *words, "adapter=lora", "train.global_batch_size=40", "out=trained"]) == 0
    quarantine = Path("trained/quarantine.jsonl")
    assert not quarantine.exists() or not quarantine.read_text()
    (step,) = [json.loads(line) for line in Path("trained/log.jsonl").read_text().splitlines()]
    tokenizer = restore(tmp_path / "trained", torch.device("cpu")).encoder.tokenizer
    # Each answer is supervised to its last letter: a token for each of the marks' letters, and one for the end.
    assert step["samples"] == 40
    pieces = [len(tokenizer(answer.replace("<", "("), add_special_tokens=False).input_ids) for _, answer, _ in TURNS]
    assert step["supervised_tokens"] >= 8 * sum(pieces)
    capsys.readouterr()
    assert run(["chat", "run=trained", "prompt=What does </s> mean, and <s>?", "max_new_tokens=3"]) == 0
    told = capsys.readouterr()
    assert "Traceback" not in told.err


def test_the_check_tells_of_them_and_leaves_no_record_out(tiny_words: list[str], records: Path) -> None:
    words = [word for word in tiny_words if not word.startswith(("path=", "images="))]
    assert run(["data", "check", *words, f"path={records / 'train.json'}", f"images={records}", "out=found"]) == 0
    assert not Path("found/quarantine.jsonl").read_text()
    assert "It is trained as text." in Path("found/check.html").read_text()


def test_a_base_with_a_bare_sentencepiece_model_trains_and_is_exported_with_its_tokens(
    tiny_words: list[str], tmp_path: Path
) -> None:
    proto = with_blanks(train())
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "tokenizer.model").write_bytes(proto.SerializeToString())
    (tmp_path / "bare" / "tokenizer_config.json").write_text(json.dumps(VICUNA))
    bare = f"model.architecture.tokenizer={tmp_path / 'bare'}"
    words = [word for word in tiny_words if not word.startswith("model.architecture.tokenizer=")]
    few = ["adapter=lora", "train.max_steps=4", "train.max_length=512", "train.tokens_per_micro_batch=512"]
    assert run(["train", *words, bare, *few, "stage.demo.learning_rates.adapter=0.01", "out=trained"]) == 0
    assert run(["export", "run=trained", "to=hf", "out=exported"]) == 0
    pieces = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    exported = AutoTokenizer.from_pretrained(tmp_path / "exported")
    for text in ("red     dog\n\n  the    cat", "a  b", f"the{' ' * 21}end", "\t\t what 🙂  这"):
        ours = restore(tmp_path / "trained", torch.device("cpu")).encoder.tokenizer
        assert ours(text).input_ids == exported(text).input_ids == [1, *pieces.encode(text)]
