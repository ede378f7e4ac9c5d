"""Optimizer state is written whole, in files of a size, and read by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_moe.train.whole_state import WholeStateReader, WholeStateWriter

STATE = {
    name: {
        "master": torch.randn(shape, generator=torch.Generator().manual_seed(number)),
        "exp_avg": torch.ones(shape),
        "exp_avg_sq": torch.full(shape, 2.0),
        "step": torch.tensor(float(number)),
    }
    for number, (name, shape) in enumerate({"a.weight": (3, 5), "b": (7,), "c": (1, 1, 2)}.items())
}
SHAPES = {name: state["master"].shape for name, state in STATE.items()}


@pytest.mark.parametrize(("most", "num_files"), [(1 << 30, 1), (250, 2), (1, 3)])
def test_what_is_written_in_several_files_is_read_as_one(tmp_path: Path, most: int, num_files: int) -> None:
    writer = WholeStateWriter(tmp_path, most)
    for name, state in STATE.items():
        writer.add(name, state)
    writer.close()
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == num_files
    together = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    assert together.keys() == {f"{kind}/{name}" for name, state in STATE.items() for kind in state}
    reader = WholeStateReader(tmp_path)
    reader.check(SHAPES)
    for name, state in STATE.items():
        read = reader.read(name)
        assert read.keys() == state.keys() and all(torch.equal(read[kind], state[kind]) for kind in state)


def test_a_file_that_is_lost_or_damaged_is_told_by_what_it_held(tmp_path: Path) -> None:
    writer = WholeStateWriter(tmp_path, 1)
    for name, state in STATE.items():
        writer.add(name, state)
    writer.close()
    (tmp_path / "optimizer-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="no state for c"):
        WholeStateReader(tmp_path).check(SHAPES)
    broken = load_file(tmp_path / "optimizer-00002.safetensors")
    for name, told in (("exp_avg/b", "exp_avg of b is damaged"), ("master/b", "master of b is damaged")):
        save_file(broken | {name: torch.full((7,), float("nan"))}, tmp_path / "optimizer-00002.safetensors")
        with pytest.raises(ValueError, match=told):
            WholeStateReader(tmp_path).check(SHAPES)
    save_file(
        {name: one for name, one in broken.items() if "step" not in name}, tmp_path / "optimizer-00002.safetensors"
    )
    with pytest.raises(ValueError, match="no state for b"):
        WholeStateReader(tmp_path).check(SHAPES)


def test_what_no_step_reached_has_its_master_alone(tmp_path: Path) -> None:
    writer = WholeStateWriter(tmp_path)
    writer.add("moved", STATE["b"])
    writer.add("still", {"master": STATE["c"]["master"]})
    writer.close()
    reader = WholeStateReader(tmp_path)
    reader.check({"moved": SHAPES["b"], "still": SHAPES["c"]})
    assert reader.read("still").keys() == {"master"}
