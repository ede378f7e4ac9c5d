"""Bad records, images and data files: one clear line, the right exit status, and nothing lost."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava_moe.cli import run

Refused = Callable[..., str]


GOOD_JPEG = io.BytesIO()
Image.effect_noise((60, 40), 80).convert("RGB").save(GOOD_JPEG, "JPEG")
RED = [{"from": "gpt", "value": "red"}]


def record(
    name: str, image: str | None = None, question: str | None = None, turns: list[Any] | None = None
) -> dict[str, Any]:
    asked = ("<image>\nWhat colour is it?" if image else "What colour is it?") if question is None else question
    return {
        "id": name,
        **({"image": image} if image else {}),
        "conversations": [{"from": "human", "value": asked}, *RED] if turns is None else turns,
    }


def write_odd_images(folder: Path) -> None:
    """Images that people have: some open although they look wrong, the others do not."""
    picture = Image.open(GOOD_JPEG)
    (folder / "plain.jpg").write_bytes(GOOD_JPEG.getvalue())
    picture.save(folder / "a gif.gif")
    (folder / "a gif.gif").rename(folder / "gif.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 20).save(folder / "sixteen_bits.png")
    (folder / "truncated.jpg").write_bytes(GOOD_JPEG.getvalue()[:-200])
    (folder / "text.jpg").write_text("no image at all")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.jpg").mkdir()
    Image.new("RGB", (50_000, 2)).save(folder / "wide.png")


OPENS = ("plain.jpg", "gif.jpg", "cmyk.jpg", "sixteen_bits.png")
FAILS = {
    "truncated.jpg": "image_unreadable",
    "text.jpg": "image_unreadable",
    "empty.jpg": "image_unreadable",
    "wide.png": "image_too_large",
    "missing.jpg": "image_missing",
    "folder.jpg": "image_unreadable",
    "nul\0.jpg": "image_missing",
    "long" * 100 + ".jpg": "image_missing",
}
UNUSABLE = {
    "two_for_one": ("image_count", record("two_for_one", "plain.jpg", "<image><image> What?")),
    "one_for_none": ("image_count", record("one_for_none", None, "<image> What?")),
    "none_for_one": ("image_count", record("none_for_one", "plain.jpg", "What?")),
    "blank_answer": (
        "empty_answer",
        record("blank_answer", turns=[*record("")["conversations"][:1], RED[0] | {"value": " "}]),
    ),
    "two_answers": ("role_order", record("two_answers", turns=[*record("")["conversations"], *RED])),
    "no_answer": ("role_order", record("no_answer", turns=record("")["conversations"][:1])),
    "a_system": (
        "role_order",
        record("a_system", turns=[*record("")["conversations"], {"from": "system", "value": "x"}, *RED]),
    ),
    "no_turns": ("no_turns", record("no_turns", turns=RED)),
    "no_list": ("not_a_conversation", {"id": "no_list"}),
    "too_long": ("too_long", record("too_long", question="What colour " * 200)),
}


@pytest.fixture
def odd_words(tiny_words: list[str], tmp_path: Path) -> list[str]:
    """Words that train for one epoch on 60 records, some of them bad in each way that there is."""
    folder = tmp_path / "odd"
    folder.mkdir()
    write_odd_images(folder)
    images = [record(name, name) for name in (*OPENS, *FAILS)]
    good = [record(f"good{number}") for number in range(60 - len(images) - len(UNUSABLE))]
    (folder / "train.json").write_text(json.dumps([*good, *images, *(content for _, content in UNUSABLE.values())]))
    num_steps = -(-(60 - len(UNUSABLE)) // 8)
    return [*tiny_words, f"path={folder / 'train.json'}", f"images={folder}", f"train.max_steps={num_steps}"]


def quarantined(folder: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_bad_records_are_left_out_with_their_reasons_and_odd_images_train(odd_words: list[str], tmp_path: Path) -> None:
    assert run(["train", *odd_words, "data.max_bad_share=0.5", f"out={tmp_path / 'run'}"]) == 0
    entries = quarantined(tmp_path / "run")
    reasons = {name: entry["reason"] for name, entry in entries.items()}
    assert reasons == {name: reason for name, (reason, _) in UNUSABLE.items()} | FAILS
    written = [content.get("id") for content in json.loads((tmp_path / "odd" / "train.json").read_text())]
    for name, entry in entries.items():
        assert (entry["source"], entry["domain"], written[entry["index"]]) == ("mine", "mine", name)
        assert entry["detail"] and "\n" not in entry["detail"]
    assert sum(step["samples"] for step in logged(tmp_path / "run")) == 60 - len(reasons)


def test_too_many_bad_records_stop_the_run_and_both_remedies_work(
    odd_words: list[str], refused: Refused, tmp_path: Path
) -> None:
    words = ["train", *odd_words, f"out={tmp_path / 'run'}", "train.max_steps=1"]
    line = refused(*words)
    assert "data source 'mine': 9 of 60 records are bad (image_count 3, role_order 3" in line
    assert "data.max_bad_share=0.01" in line and str(tmp_path / "run" / "quarantine.jsonl") in line
    assert len(quarantined(tmp_path / "run")) == len(UNUSABLE)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["quarantine.jsonl"], "no run was begun"
    assert run([*words, "data.max_bad_share=0.5"]) == 0
    fixed = [record("seen", "plain.jpg"), *(record(f"good{number}") for number in range(59))]
    (tmp_path / "odd" / "train.json").write_text(json.dumps(fixed))
    assert run([*words[:-2], f"out={tmp_path / 'fixed'}", words[-1]]) == 0
    assert not (tmp_path / "fixed" / "quarantine.jsonl").exists()


def test_bad_images_stop_a_run_on_its_way_and_it_goes_on_when_they_are_mended(
    tiny_words: list[str], refused: Refused, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(GOOD_JPEG.getvalue()[: -200 if number % 4 == 0 else None])
    (folder / "train.json").write_text(json.dumps([record(f"r{number}", f"{number}.jpg") for number in range(40)]))
    words = ["train", *tiny_words, f"path={folder / 'train.json'}", f"images={folder}", f"out={tmp_path / 'run'}"]
    words += ["data.max_bad_share=0.1", "train.save_every=1"]
    line = refused(*words)
    assert "5 of 40 records are bad (image_unreadable 5)" in line
    saved = (tmp_path / "run" / "checkpoints" / "last").read_text()
    assert "image_unreadable" in refused(*words)
    assert (tmp_path / "run" / "checkpoints" / "last").read_text() == saved
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(GOOD_JPEG.getvalue())
    assert run(words) == 0
    assert [step["step"] for step in logged(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def truncated(file: Path) -> None:
    text = json.dumps([record(f"good{number}") for number in range(40)])
    file.write_text(text[: len(text) // 2])


def without_comma(file: Path) -> None:
    file.write_text("".join(json.dumps(record(f"good{number}")) + "\n" for number in range(40)).replace('5", ', '5" '))


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("nowhere.json", None, "no file"),
        ("cut.json", truncated, r"line 1: the file ends inside a record \(.*\), character \d{4}; it was cut short"),
        ("broken.jsonl", without_comma, r"line 6: not valid JSON \(Expecting ',' delimiter\), character 16; fix"),
        ("list.json", lambda file: file.write_text("[]"), "holds no records"),
        ("latin.json", lambda file: file.write_bytes(b'[{"id": "\xe9"}]'), "not UTF-8 text"),
        ("table.csv", lambda file: file.write_text("id,answer\n1,red\n"), "CSV is not read; none of its .* name them"),
        ("deep.json", lambda file: file.write_text("[" * 100_000), "brackets too deep"),
        ("pipe.json", os.mkfifo, "it is a named pipe, not a regular file"),
        ("zero.jsonl", lambda file: file.symlink_to("/dev/zero"), "it is a device, not a regular file"),
        ("rows.parquet", lambda file: file.write_bytes(b"PAR1 and no more"), "not a readable Parquet file"),
        ("folder", lambda file: file.mkdir(), "no .parquet, .json or .jsonl file in"),
        ("one.json", lambda file: file.write_text(json.dumps({"data": []})), "none of 1 records is usable"),
    ],
)
def test_a_data_file_that_cannot_be_read_is_named_with_the_place(
    name: str,
    write: Callable[[Path], object] | None,
    told: str,
    refused: Refused,
    tiny_words: list[str],
    tmp_path: Path,
) -> None:
    if write is not None:
        write(tmp_path / name)
    line = refused("train", *tiny_words, f"path={tmp_path / name}")
    assert str(tmp_path / name) in line or "data source 'mine'" in line
    assert re.search(told, line), line


def test_ones_own_file_is_never_passed_over_for_other_data(
    refused: Refused, tiny_words: list[str], own_data: Path
) -> None:
    words = [word for word in tiny_words if not word.startswith(("images=", "data"))]
    line = refused("train", *words, "data=demo")
    assert f"path={own_data / 'train.json'} is not read by the data that was chosen: add data=mine" in line


def test_a_missing_image_folder_is_told_before_training(refused: Refused, tiny_words: list[str]) -> None:
    assert "check images=/nowhere" in refused("train", *tiny_words, "images=/nowhere")


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_process_of_its_own_says_one_line_and_ends_with_2(
    command: str, tiny_words: list[str], tmp_path: Path
) -> None:
    truncated(tmp_path / "cut.json")
    words = [*tiny_words, f"path={tmp_path / 'cut.json'}"] if command == "train" else [f"run={tmp_path / 'cut.json'}"]
    done = subprocess.run([sys.executable, "-m", "llava_moe", command, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("llava-moe: ") and done.stderr.count("\n") == 1 and "cut.json" in done.stderr
