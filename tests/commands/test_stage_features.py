"""``model.cache_features``: runs whose image features are kept equal those that run the tower at every step."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava_moe.cli import run
from tests.commands.conftest import Refusal
from tests.forked_commands import CommandServer

TIMES = ("seconds", "tokens_per_second", "supervised_tokens_per_second", "peak_memory_bytes")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def weights_of(folder: Path) -> dict[str, bytes]:
    last = folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()
    return {str(path.relative_to(last)): path.read_bytes() for path in sorted(last.rglob("*.safetensors"))}


def assert_same_run(one: Path, other: Path) -> None:
    assert lines_of(one) == lines_of(other) and lines_of(one)
    assert weights_of(one) == weights_of(other) and len(weights_of(one)) > 2


def features_in(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "features").glob("*/*.safetensors"))


@pytest.fixture
def train(tiny_words: list[str], tmp_path: Path) -> Callable[..., Path]:
    def train(name: str, kind: str, *words: str) -> Path:
        assert run(["train", *tiny_words, f"model.cache_features={kind}", f"out={tmp_path / name}", *words]) == 0
        return tmp_path / name

    return train


Made = Callable[..., Path]


@pytest.fixture(scope="module")
def off(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder of a run of these words that keeps no features; each is trained once, and nothing writes into it."""
    place, made = tmp_path_factory.mktemp("off"), dict[tuple[str, ...], Path]()

    def off(*words: str) -> Path:
        if words not in made:
            folder = made[words] = place / str(len(made))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LLAVA_MOE_CACHE", str(place / "cache"))
                patch.setenv("OMP_NUM_THREADS", "1")
                assert run(["train", *words_for_tiny, *words, f"out={folder}"]) == 0
        return made[words]

    return off


@pytest.fixture(scope="module")
def kept(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which a run has kept its features on disk; tests write into copies of it."""
    place = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(place / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        assert run(["train", *words_for_tiny, "model.cache_features=disk", f"out={place / 'run'}"]) == 0
    return place / "cache"


def test_kept_features_change_no_byte_of_a_run_over_two_epochs(
    train: Callable[..., Path], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("train.max_steps=null", "train.epochs=2", "train.tokens_per_micro_batch=96", "train.max_length=96")
    off = train("off", "off", *words)
    told = {kind: (train(kind, kind, *words), capfd.readouterr().out)[1] for kind in ("memory", "disk")}
    for kind, text in told.items():
        assert_same_run(off, tmp_path / kind)
        assert "features of 36 images" in text and "36 computed" in text and "about 72 times" in text, text
    train("again", "disk", *words)
    assert "0 computed" in capfd.readouterr().out
    assert_same_run(off, tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("data.num_workers=2",), ("train.dtype=bf16",), ("stage.image_mode=crop",)])
def test_neither_workers_nor_precision_nor_the_way_to_a_square_make_a_difference(
    train: Callable[..., Path], words: tuple[str, ...]
) -> None:
    without = train("off", "off", *words)
    for kind in ("disk", "memory"):
        assert_same_run(without, train(kind, kind, *words))


def test_what_cannot_be_opened_is_left_out_and_counted_as_without_a_cache(
    train: Callable[..., Path], own_data: Path, tmp_path: Path
) -> None:
    """A cut file, a missing one, two records about one cut image; and one that comes out nearly black."""
    records, pictures = json.loads((own_data / "train.json").read_text()), tmp_path / "pictures"
    shutil.copytree(own_data, pictures)
    (pictures / "0.png").write_bytes((own_data / "0.png").read_bytes()[:90])
    (pictures / "5.png").unlink()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(pictures / "1.png")
    records[4]["image"] = "0.png"
    (pictures / "train.json").write_text(json.dumps(records))
    words = [f"path={pictures / 'train.json'}", f"images={pictures}", "data.max_bad_share=0.5", "train.max_steps=14"]
    off = train("off", "off", *words)
    bad = (off / "quarantine.jsonl").read_text()
    assert bad.count("image_unreadable") == 2 and bad.count("image_missing") == 1
    for kind in ("memory", "disk", "disk"):
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        train(kind, kind, *words)
        assert (tmp_path / kind / "quarantine.jsonl").read_text() == bad
        assert_same_run(off, tmp_path / kind)


@pytest.mark.slow
def test_a_dark_image_is_told_of_as_without_a_cache(
    train: Callable[..., Path], own_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(own_data, pictures)
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(pictures / "1.png")
    words = [f"path={pictures / 'train.json'}", f"images={pictures}"]
    told = []
    for name, kind in (("off", "off"), ("memory", "memory"), ("disk", "disk"), ("again", "disk")):
        train(name, kind, *words)
        told.append([line for line in capfd.readouterr().out.splitlines() if "nearly black" in line])
    assert told[0] and told == [told[0]] * 4


@pytest.mark.slow
def test_features_are_found_again_only_where_the_same_pixels_are_seen_the_same_way(
    train: Callable[..., Path], own_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def computed(name: str, *words: str) -> str:
        train(name, "disk", *words)
        return next(line for line in capfd.readouterr().out.splitlines() if "features of" in line)

    pictures = tmp_path / "elsewhere"
    shutil.copytree(own_data, pictures)
    whole = ("train.max_steps=6",)
    assert "36 computed" in computed("first", *whole)
    assert " 0 computed" in computed("moved", *whole, f"path={pictures / 'train.json'}", f"images={pictures}")
    # One of the 36 is a square: it is the same pixels either way.
    assert " 35 computed" in computed("other_way", *whole, "stage.image_mode=crop")
    assert " 36 computed" in computed("bf16", *whole, "train.dtype=bf16")
    assert " 36 computed" in computed("tower", *whole, "model.architecture.vision.num_hidden_layers=4")
    Image.new("RGB", (40, 40), "white").save(pictures / "0.png")
    assert " 1 computed" in computed("changed", *whole, f"path={pictures / 'train.json'}", f"images={pictures}")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "features", "facts", "header", "empty"])
def test_a_damaged_file_is_computed_again(
    train: Callable[..., Path], off: Made, kept: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(kept, tmp_path / "cache")
    (path,) = features_in(tmp_path)
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    first = {name: 8 + length + header[name]["data_offsets"][0] for name in ("features", "pixels")}
    if damage in ("features", "facts"):
        content[first["features" if damage == "features" else "pixels"] + 5] ^= 1
    ends = {"cut": len(content) - 7, "empty": 0}
    if damage == "header":
        content[:8] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(content[: ends.get(damage, len(content))])
    assert_same_run(off(), train("second", "disk"))
    assert_same_run(off(), train("third", "disk"))


@pytest.mark.slow
def test_features_that_vanish_while_training_are_one_line(
    tiny_words: list[str], tmp_path: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_moe.runs import stage
    from llava_moe.runs.stage_features import open_features

    def open_and_lose(*given: Any) -> object:
        features = open_features(*given)
        for path in features_in(tmp_path):
            path.unlink()
        return features

    monkeypatch.setattr(stage, "open_features", open_and_lose)
    line = refused("train", *tiny_words, "model.cache_features=disk", f"out={tmp_path / 'run'}")
    assert "cannot be read" in line and "run the same command again" in line
    monkeypatch.setattr(stage, "open_features", open_features)
    assert run(["train", *tiny_words, "model.cache_features=disk", f"out={tmp_path / 'run'}"]) == 0


def test_a_tower_that_trains_is_refused(tiny_words: list[str], tmp_path: Path, refused: Refusal) -> None:
    rate = "stage.learning_rates.vision_tower=1e-5"
    for kind in ("memory", "disk"):
        line = refused("train", *tiny_words, f"model.cache_features={kind}", rate, f"out={tmp_path / 'run'}")
        assert f"model.cache_features={kind}" in line and rate.removesuffix("1e-5") in line
    line = refused("train", *tiny_words, "model.cache_features=ram")
    assert line.endswith("model.cache_features=ram: give off or memory or disk\n")


@pytest.mark.slow
def test_what_has_no_room_is_refused_before_it_is_computed(
    tiny_words: list[str], tmp_path: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_moe.runs.stage_features.free_memory", lambda: 20_000)
    line = refused("train", *tiny_words, "model.cache_features=memory", f"out={tmp_path / 'run'}")
    assert "memory is free" in line and "model.cache_features=disk" in line
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 20_000_000_000_000))
    assert run(["train", *tiny_words, "model.cache_features=disk", f"out={tmp_path / 'run'}"]) == 0
    monkeypatch.setattr("llava_moe.data.features.disk.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1))
    monkeypatch.setattr("llava_moe.runs.stage.refuse_small_disk", lambda *_: None)
    words = ["model.cache_features=disk", "model.architecture.vision.num_hidden_layers=4", f"out={tmp_path / 'other'}"]
    assert "free space" in refused("train", *tiny_words, *words)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_run_killed_and_started_again_equals_one_never_stopped(
    kind: str,
    train: Callable[..., Path],
    off: Made,
    tiny_words: list[str],
    tmp_path: Path,
    command_server: CommandServer,
) -> None:
    words = ["train.max_steps=40", "train.save_every=4", "data.num_workers=1"]
    broken = tmp_path / kind
    process = command_server.start(
        ["train", *tiny_words, *words, f"model.cache_features={kind}", f"out={broken}"],
    )
    deadline = time.monotonic() + 120
    log = broken / "log.jsonl"
    while not log.exists() or len(log.read_bytes().splitlines()) < 13:
        assert process.poll() is None and time.monotonic() < deadline, process.errors
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "finished.json").exists()
    train(kind, kind, *words)
    assert_same_run(off(*words), broken)


@pytest.mark.slow
def test_a_run_stopped_with_a_cache_goes_on_without_it_and_the_other_way_round(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("train.max_steps=8", "train.save_every=4", "train.keep_last=9")
    whole = train("whole", "off", *words)
    for kind, then in (("disk", "off"), ("off", "memory")):
        folder = train(f"{kind}-{then}", kind, *words)
        # As a kill behind the fourth step leaves it.
        (folder / "finished.json").unlink()
        shutil.rmtree(folder / "checkpoints" / "step-000008")
        (folder / "checkpoints" / "last").write_text("step-000004")
        train(f"{kind}-{then}", then, *words)
        assert_same_run(whole, folder)


@pytest.mark.slow
def test_two_runs_at_once_share_what_they_write(
    tiny_words: list[str], off: Made, tmp_path: Path, command_server: CommandServer
) -> None:
    words = [*tiny_words, "model.cache_features=disk"]
    both = [command_server.start(["train", *words, f"out={tmp_path / name}"]) for name in ("a", "b")]
    assert [one.wait() for one in both] == [0, 0], [one.errors for one in both]
    for name in ("a", "b"):
        assert_same_run(off(), tmp_path / name)
    assert len(features_in(tmp_path)) == 1
