"""Finished pieces: what is read back is what was kept, or it is made again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llava_moe.analyze.pieces import Pieces
from llava_moe.errors import UserError

NATS = np.arange(5, dtype=np.float64)
FLAT = np.linspace(0, 1, 1001, dtype=np.float32)


@pytest.fixture
def pieces(tmp_path: Path) -> Pieces:
    made = Pieces(tmp_path, "interference", {"weights": "abc", "records": ["a", "b"]})
    made.put("one", nats=NATS, names=np.array(["general", "documents"]))
    made.put_flat("gradient", FLAT)
    return made


def test_a_piece_is_read_back(pieces: Pieces) -> None:
    found = pieces.get("one")
    assert found is not None and [*found] == ["nats", "names"]
    assert np.array_equal(found["nats"], NATS) and [*found["names"]] == ["general", "documents"]
    flat = pieces.map_flat("gradient", len(FLAT))
    assert flat is not None and isinstance(flat, np.memmap) and np.array_equal(flat, FLAT)


def test_another_question_does_not_meet_the_answer(pieces: Pieces, tmp_path: Path) -> None:
    assert Pieces(tmp_path, "interference", {"weights": "abd", "records": ["a", "b"]}).get("one") is None
    assert pieces.map_flat("gradient", len(FLAT) + 1) is None
    assert pieces.get("two") is None and pieces.map_flat("two", 1) is None


@pytest.mark.parametrize("name", ["one.npz", "gradient.npy"])
def test_whatever_byte_is_damaged_the_piece_is_made_again(name: str, pieces: Pieces) -> None:
    path = pieces.folder / name
    whole = path.read_bytes()

    def is_gone() -> bool:
        read = pieces.get("one") if name == "one.npz" else pieces.map_flat("gradient", len(FLAT))
        return read is None

    for place in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert is_gone(), place
    for length in [0, 1, 4, 5, len(whole) // 2, len(whole) - 4, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert is_gone(), length
    for other in (bytes(4), bytes(8), whole + b"\0", whole * 2):
        path.write_bytes(other)
        assert is_gone()
    path.write_bytes(whole)
    assert not is_gone()


def test_a_folder_in_the_place_of_a_piece_is_told_when_it_is_written(pieces: Pieces) -> None:
    (pieces.folder / "three.npz").mkdir()
    assert pieces.get("three") is None
    with pytest.raises(UserError, match=r"cannot write .*three\.npz"):
        pieces.put("three", nats=NATS)
