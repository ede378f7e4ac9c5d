"""One's own data in the formats of today, by the command line: it trains as it says, or one line says why not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.cli import run

Refused = Callable[..., str]
NUM = 16


@pytest.fixture
def words(tiny_words: list[str]) -> list[str]:
    """Words that train for two steps, without those that say on what."""
    kept = [word for word in tiny_words if not word.startswith(("path=", "images="))]
    return [*kept, "train.max_steps=2", "train.global_batch_size=8"]


def shown(folder: Path) -> list[str]:
    """Images of the tests' own data."""
    return [f"{number}.png" for number in range(24) if number % 4 != 3][:NUM]


def uri(folder: Path, name: str) -> str:
    return "data:image/png;base64," + base64.b64encode((folder / name).read_bytes()).decode()


def pair(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}, {"role": "assistant", "content": "red"}]


def parts(image: dict[str, Any]) -> list[dict[str, Any]]:
    return [image, {"type": "text", "text": "Which colour?"}]


def llava(image: Any) -> dict[str, Any]:
    said = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]
    return {"image": image, "conversations": said}


BY_PATH: dict[str, Callable[[str], dict[str, Any]]] = {
    "llamafactory": lambda name: {"messages": pair("<image>\nWhich colour?"), "images": [name]},
    "openai": lambda name: {"messages": pair(parts({"type": "image_url", "image_url": {"url": name}}))},
    "trl": lambda name: {"messages": pair(parts({"type": "image"})), "images": [name]},
}


def trained(words: list[str], folder: Path, path: Path, out: Path) -> list[tuple[str, float]]:
    assert run(["train", *words, f"path={path}", f"images={folder}", f"out={out}"]) == 0
    return [
        (step["sample_hash"], step["loss"]) for step in map(json.loads, (out / "log.jsonl").read_text().splitlines())
    ]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"id": f"r{number}"} | one) + "\n" for number, one in enumerate(records)))
    return path


@pytest.mark.parametrize("name", BY_PATH)
def test_messages_train_as_llavas_records_of_the_same_content(
    name: str, words: list[str], own_data: Path, tmp_path: Path
) -> None:
    images = shown(own_data)
    expected = trained(words, own_data, write(tmp_path / "llava.jsonl", [*map(llava, images)]), tmp_path / "llava")
    path = write(tmp_path / "chat.jsonl", [*map(BY_PATH[name], images)])
    assert trained(words, own_data, path, tmp_path / "chat") == expected


def test_images_inside_messages_train_as_inside_llavas_records(
    words: list[str], own_data: Path, tmp_path: Path
) -> None:
    images = shown(own_data)
    records = [llava(uri(own_data, name)) for name in images]
    expected = trained(words, own_data, write(tmp_path / "llava.jsonl", records), tmp_path / "llava")
    held = [{"type": "image_url", "image_url": {"url": uri(own_data, name)}} for name in images]
    path = write(tmp_path / "openai.jsonl", [{"messages": pair(parts(image))} for image in held])
    assert trained(words, own_data, path, tmp_path / "openai") == expected
    rows = [
        {"id": f"r{number}", "images": [{"bytes": (own_data / name).read_bytes(), "path": None}],
         "messages": [turn | {"content": listed(turn["content"])} for turn in pair(parts({"type": "image"}))]}
        for number, name in enumerate(images)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "trl.parquet")
    assert trained(words, own_data, tmp_path / "trl.parquet", tmp_path / "trl") == expected


def listed(content: Any) -> list[dict[str, Any]]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def test_media_that_is_not_read_stops_the_run_or_is_quarantined_and_the_check_agrees(
    words: list[str], own_data: Path, tmp_path: Path, refused: Refused
) -> None:
    images = shown(own_data)
    misspelt = [llava(None) | {"image_path": name} for name in images]
    path = write(tmp_path / "misspelt.jsonl", misspelt)
    line = refused("train", *words, f"path={path}", f"images={own_data}", f"out={tmp_path / 'none'}")
    assert f"none of {NUM} records is usable" in line and "the key image_path holds" in line
    assert not (tmp_path / "none" / "checkpoints").exists()
    path = write(tmp_path / "most.jsonl", [*misspelt, {"messages": pair("Which colour?")}])
    line = refused("train", *words, f"path={path}", f"images={own_data}", f"out={tmp_path / 'most'}")
    assert "none of its 17 records has an image" in line and "the key image_path holds" in line
    texts = write(tmp_path / "texts.jsonl", [{"messages": pair("Which colour?")}] * 9)
    line = refused("train", *words, f"path={texts}", f"images={own_data}", f"out={tmp_path / 'texts'}")
    assert "none of its 9 records has an image" in line
    bad = [
        llava(images[0]) | {"video": "clip.mp4"},
        {"conversations": [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "a ball"}]},
        {"messages": pair("Picture 1: <img>red.png</img>"), "conversations": None},
    ]
    path = write(tmp_path / "mixed.jsonl", [*map(llava, images), *bad])
    mixed = [*words, f"path={path}", f"images={own_data}"]
    line = refused("train", *mixed, f"out={tmp_path / 'few'}")
    assert "unread_media 3" in line and "the key video holds" in line
    assert run(["train", *mixed, "data.max_bad_share=0.5", f"out={tmp_path / 'run'}"]) == 0
    kept = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [(entry["index"], entry["reason"]) for entry in kept] == [(NUM + at, "unread_media") for at in range(3)]
    for entry, told in zip(kept, ("the key video", "<video>", "<img>red.png</img>"), strict=True):
        assert told in entry["detail"]
    run(["data", "check", *mixed, f"out={tmp_path / 'check'}"])
    found = [json.loads(line) for line in (tmp_path / "check" / "quarantine.jsonl").read_text().splitlines()]
    assert [(entry["index"], entry["reason"]) for entry in found if entry["reason"] == "unread_media"] == [
        (entry["index"], entry["reason"]) for entry in kept
    ]


def test_a_file_of_another_shape_is_refused_in_one_line(words: list[str], tmp_path: Path, refused: Refused) -> None:
    path = write(tmp_path / "alpaca.jsonl", [{"instruction": "Which?", "input": "", "output": "red"}] * 9)
    line = refused("train", *words, f"path={path}", f"out={tmp_path / 'run'}")
    assert "instruction, input, output, as Alpaca's" in line and "wanted are conversations" in line
    assert "the nearest format is messages" in line and "alpaca.jsonl" in line
