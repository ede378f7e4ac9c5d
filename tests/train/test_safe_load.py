"""A pickle that would run a program runs none, whatever the library that loads it asks for."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_moe.errors import UserError
from llava_moe.train.safe_load import tensors_only


@dataclass
class Trap:
    """Unpickled, it makes a file."""

    place: str

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.place,)


@dataclass
class Numbers:
    scale: float = 2.0


@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_of_a_pickle_is_run(
    tmp_path: Path, is_zip: bool, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    before, sprung = dict(os.environ), tmp_path / "sprung"
    torch.save({"a": torch.ones(2), "b": Trap(str(sprung))}, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    told = pytest.raises(UserError, match=r"a\.pt holds more than tensors, and nothing else is unpickled here")
    with told as caught, tensors_only(tmp_path / "a.pt"):
        torch.load(tmp_path / "a.pt", weights_only=False)
    assert not sprung.exists() and "\n" not in str(caught.value) and os.environ == before
    with pytest.raises(UserError), tensors_only(tmp_path / "b"):
        (tmp_path / "b").write_bytes(pickle.dumps(Trap(str(sprung))))
        torch.load(tmp_path / "b", weights_only=False)
    assert not sprung.exists()


def test_tensors_and_the_classes_that_are_named_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "n": Numbers(3.0)}, tmp_path / "a.pt")
    with tensors_only(tmp_path / "a.pt", [Numbers]):
        read = torch.load(tmp_path / "a.pt", weights_only=False)
    assert read["n"] == Numbers(3.0) and torch.equal(read["a"], torch.ones(2))
    with pytest.raises(UserError, match="more than tensors"), tensors_only(tmp_path / "a.pt"):
        torch.load(tmp_path / "a.pt", weights_only=False)
