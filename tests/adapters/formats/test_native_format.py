"""What an adapter's folder may not hold: pickles, damage, weights that are no numbers."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_moe.adapters import Lora, attach, load_adapter
from llava_moe.errors import UserError


def written(build_llama: Any, folder: Path) -> Path:
    attach(build_llama(), Lora(r=2)).save(folder)
    return folder / "adapter_model.safetensors"


def copied(path: Path) -> dict[str, torch.Tensor]:
    """The file's tensors, apart from the file: what is read is mapped, and the tests write over it."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def refusal(build_llama: Any, folder: Path) -> str:
    with pytest.raises(UserError) as info:
        load_adapter(build_llama(), folder)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(build_llama: Any, tmp_path: Path, value: float) -> None:
    path = written(build_llama, tmp_path)
    tensors = copied(path)
    name = sorted(tensors)[3]
    tensors[name][0, 0] = value
    save_file(tensors, path)
    assert f"{name} holds NaN or infinite weights" in refusal(build_llama, tmp_path)


@pytest.mark.parametrize("protocol", [None, 2, 5])
def test_pickle_under_the_name_of_a_safetensors_file_is_not_opened(
    build_llama: Any, tmp_path: Path, protocol: int | None
) -> None:
    path = written(build_llama, tmp_path)
    tensors = copied(path)
    if protocol is None:
        torch.save(tensors, path)
    else:
        path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    assert "is a pickle under another name" in refusal(build_llama, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 20, b"garbage garbage garbage"])
def test_damaged_file_is_said_to_be_damaged(build_llama: Any, tmp_path: Path, content: bytes) -> None:
    written(build_llama, tmp_path).write_bytes(content)
    assert "is damaged" in refusal(build_llama, tmp_path)
