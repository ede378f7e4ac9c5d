"""What a configuration claims is held against its files before anything is built of it."""

from __future__ import annotations

import json
import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_moe.errors import UserError
from llava_moe.model import FromCheckpoint, FromParts, FromShape, build_base
from llava_moe.model.sizes import INDEX
from tests.tiny_models import write_parts

HUGE = [
    ("num_hidden_layers", 1_000_000),
    ("num_hidden_layers", 900),
    ("hidden_size", 1_000_000_000),
    ("hidden_size", "64"),
    ("intermediate_size", 10**30),
    ("intermediate_size", True),
]


@pytest.fixture
def parts(tmp_path: Path, tokenizer_folder: Path) -> FromParts:
    tower, language_model = write_parts(tmp_path, tokenizer_folder)
    return FromParts(vision_tower=str(tower), language_model=str(language_model))


def refusal(architecture: Any) -> str:
    begin = time.process_time()
    with pytest.raises(UserError) as info:
        build_base(architecture, torch.float32)
    assert time.process_time() - begin < 3
    line = str(info.value)
    assert "\n" not in line and len(line) < 600
    return line


def test_sizes_beyond_the_files_are_refused_before_they_are_filled_at_random(parts: FromParts) -> None:
    for folder, more in (
        (parts.language_model, [("vocab_size", 10**12)]),
        (parts.vision_tower, [("image_size", 10**6), ("num_channels", 10**9), ("patch_size", 0)]),
    ):
        path = Path(folder) / "config.json"
        whole = path.read_text()
        for name, value in [*HUGE, *more]:
            path.write_text(json.dumps(json.loads(whole) | {name: value}))
            assert folder in refusal(parts), (name, value)
        path.write_text(whole)
    build_base(parts, torch.float32)


def test_an_index_leads_to_regular_files_beside_it_alone(parts: FromParts) -> None:
    folder = Path(parts.language_model)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    for names in (["../../x"], [3], [""], "text", ["/dev/zero"]):
        weights = {f"w{number}": name for number, name in enumerate(names)} if isinstance(names, list) else names
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weights}))
        assert str(folder) in refusal(parts)
    os.mkfifo(folder / "model-00002-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"w": "model-00002-of-00002.safetensors"}}))
    assert str(folder) in refusal(parts)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("text", "num_hidden_layers", 1_000_000),
        ("text", "hidden_size", 10**7),
        ("text", "vocab_size", 10**13),
        ("vision", "num_hidden_layers", 1_000_000),
        ("vision", "image_size", 10**6),
    ],
)
def test_a_shape_that_nothing_holds_is_refused(part: str, name: str, value: int, tokenizer_folder: Path) -> None:
    line = refusal(FromShape(**{part: {name: value}}, tokenizer=str(tokenizer_folder)))  # type: ignore[arg-type]
    assert name in line or "GiB" in line


def test_a_whole_checkpoint_is_held_against_its_files(tmp_path: Path, tokenizer_folder: Path) -> None:
    shape = FromShape(
        vision={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        text={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        tokenizer=str(tokenizer_folder),
    )
    base = build_base(shape, torch.float32)
    base.model.save_pretrained(tmp_path / "hf")
    base.tokenizer.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    whole = json.loads(path.read_text())
    for part in ("text_config", "vision_config"):
        for name, value in HUGE[:3]:
            path.write_text(json.dumps(whole | {part: whole[part] | {name: value}}))
            line = refusal(FromCheckpoint(str(tmp_path / "hf")))
            assert str(tmp_path / "hf") in line, (part, name, value)


@dataclass
class Trap:
    """Unpickled, it makes a folder."""

    place: str

    def __reduce__(self) -> Any:
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_base_that_is_a_pickle_runs_nothing_and_is_named(parts: FromParts, is_zip: bool, tmp_path: Path) -> None:
    folder, sprung = Path(parts.language_model), tmp_path / "sprung"
    (folder / "model.safetensors").unlink()
    torch.save({"w": Trap(str(sprung))}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    assert f"model {folder} holds more than tensors" in refusal(parts)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(str(sprung))))
    assert f"model {folder} holds more than tensors" in refusal(parts)
    assert not sprung.exists()


def test_a_damaged_tokenizer_is_one_line(parts: FromParts) -> None:
    path = Path(parts.language_model) / "tokenizer.json"
    for text in ("{", "[]", "{}", '{"model": 3}', "null", "\x00", '{"version": "1.0", "model": {"type": "BPE"}}'):
        path.write_text(text)
        assert str(path.parent) in refusal(parts), text
