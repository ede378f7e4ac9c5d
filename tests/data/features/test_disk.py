"""Files of kept features: what was written comes back, and what was cut or altered is never taken."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from llava_moe.data.features.disk import DiskFeatures, open_disk_features, refuse_full_disk, remove_remains
from llava_moe.data.features.memory import MemoryFeatures
from llava_moe.data.features.shape import FeatureShape
from llava_moe.data.features.store import FeatureStore, Seen
from llava_moe.errors import UserError

SHAPE = FeatureShape(3, 5, torch.float32, 1)
BF16 = FeatureShape(3, 5, torch.bfloat16)


def key(name: str) -> bytes:
    return sha256(name.encode()).digest()


def features(number: int, shape: FeatureShape = SHAPE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(shape.num_vectors, shape.width, generator=generator).to(shape.dtype)


def opened(folder: Path, shape: FeatureShape = SHAPE, writer: str = "w") -> DiskFeatures:
    return open_disk_features(folder, shape, writer)[0]


def filled(folder: Path, numbers: range = range(4), writer: str = "w") -> DiskFeatures:
    store = opened(folder, writer=writer)
    for number in numbers:
        store.add(key(f"pixels {number}"), features(number))
        store.name(key(f"image {number}"), Seen(key(f"pixels {number}"), (1.0, 9.5) if number == 2 else None))
    store.flush()
    return store


def read(store: FeatureStore, *numbers: int) -> torch.Tensor:
    return store.read([store.slot(key(f"pixels {number}")) for number in numbers])


@pytest.mark.parametrize("shape", [SHAPE, BF16])
def test_what_is_kept_comes_back_to_the_bit_laid_out_as_the_tower_lays_it_out(
    tmp_path: Path, shape: FeatureShape
) -> None:
    stores: list[FeatureStore] = [opened(tmp_path, shape), MemoryFeatures(shape, room=10_000)]
    for store in stores:
        for number in range(4):
            store.add(key(f"pixels {number}"), features(number, shape))
        store.flush()
    for store in (*stores, opened(tmp_path, shape)):
        found_ITW = read(store, 3, 0, 3)
        assert found_ITW.dtype == shape.dtype
        assert found_ITW.equal(torch.stack([features(number, shape) for number in (3, 0, 3)]))
        assert found_ITW.stride() == (5 * (3 + shape.num_dropped), 5, 1)
        assert store.holds(key("pixels 0")) and not store.holds(key("pixels 9"))


def test_what_an_image_became_is_known_to_the_next_process(tmp_path: Path) -> None:
    filled(tmp_path)
    again = opened(tmp_path)
    assert again.seen(key("image 1")) == Seen(key("pixels 1"))
    assert again.seen(key("image 2")) == Seen(key("pixels 2"), (1.0, 9.5))
    assert again.seen(key("image 9")) is None
    again.name(key("image 1"), Seen(key("pixels 1")))
    again.flush()
    assert len(list(tmp_path.iterdir())) == 1, "nothing new, no file"


def test_any_changed_byte_costs_at_most_what_it_stands_in_and_gives_no_wrong_number(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    (name,) = os.listdir(tmp_path / "whole")
    content = (tmp_path / "whole" / name).read_bytes()
    folder = tmp_path / "damaged"
    folder.mkdir()
    num_lost = 0
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 0x10
        (folder / name).write_bytes(changed)
        store = opened(folder)
        for number in range(4):
            seen = store.seen(key(f"image {number}"))
            if seen is None:
                num_lost += 1
                continue
            assert seen == Seen(key(f"pixels {number}"), (1.0, 9.5) if number == 2 else None)
            assert read(store, number)[0].equal(features(number))
    assert num_lost > 100


def test_a_file_cut_anywhere_is_left_out_and_named(tmp_path: Path) -> None:
    filled(tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for length in (0, 3, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        store, damaged = open_disk_features(tmp_path, SHAPE, "w")
        assert store.num_kept == 0 and damaged == [(path, "it is cut short")]
    path.write_bytes(content + b"more")
    assert open_disk_features(tmp_path, SHAPE, "w")[0].num_kept == 0


def test_a_file_of_another_shape_is_left_out(tmp_path: Path) -> None:
    filled(tmp_path)
    for shape in (BF16, FeatureShape(3, 6, torch.float32), FeatureShape(4, 5, torch.float32)):
        store, damaged = open_disk_features(tmp_path, shape, "w")
        assert store.num_kept == 0 and "another shape" in damaged[0][1]


def test_features_computed_again_count_before_damaged_ones(tmp_path: Path) -> None:
    filled(tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    start = 8 + length + json.loads(content[8 : 8 + length])["features"]["data_offsets"][0]
    content[start] ^= 1
    path.write_bytes(content)
    store = opened(tmp_path)
    lost = [number for number in range(4) if not store.holds(key(f"pixels {number}"))]
    assert len(lost) == 1
    with pytest.raises(UserError, match="altered"):
        read(store, *lost)
    store.add(key(f"pixels {lost[0]}"), features(lost[0]))
    store.flush()
    for again in (store, opened(tmp_path)):
        assert read(again, *range(4)).equal(torch.stack([features(number) for number in range(4)]))


def test_two_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    one, other = opened(tmp_path, writer="one"), opened(tmp_path, writer="other")
    for number in range(3):
        one.add(key(f"pixels {number}"), features(number))
        other.add(key(f"pixels {number + 1}"), features(number + 1))
    one.flush()
    other.flush()
    assert read(one, 0, 1, 2).equal(torch.stack([features(number) for number in range(3)]))
    assert read(opened(tmp_path), 0, 1, 2, 3).equal(torch.stack([features(number) for number in range(4)]))


def test_what_a_killed_process_left_is_no_file_of_features_and_is_removed(tmp_path: Path) -> None:
    filled(tmp_path)
    (path,) = tmp_path.iterdir()
    shutil.copy(path, tmp_path / f"000002-w{path.suffix}.77.part")
    store, damaged = open_disk_features(tmp_path, SHAPE, "w")
    assert store.num_kept == 4 and not damaged
    remove_remains(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_has_no_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryFeatures(SHAPE, room=2 * SHAPE.num_bytes)
    store.add(key("a"), features(0))
    store.add(key("b"), features(1))
    with pytest.raises(UserError, match="cache_features=disk"):
        store.add(key("c"), features(2))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 40, 60))
    refuse_full_disk(tmp_path, 1, SHAPE)
    with pytest.raises(UserError, match="free space"):
        refuse_full_disk(tmp_path, 2, SHAPE)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="LLAVA_MOE_CACHE"):
        open_disk_features(tmp_path / "file" / "folder", SHAPE, "w")
