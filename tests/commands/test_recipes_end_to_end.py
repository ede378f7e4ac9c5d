"""Downloads as their sources write them: prepared, checked, trained on and scored, through the real command line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llava_moe.cli import run
from llava_moe.data.conversation import BadRecord, image_identity
from llava_moe.data.readers.shards import read_manifest
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.datatools.prepare.recipe import Recipe, load_recipe, recipe_names
from llava_moe.eval.tasks import demo
from tests.data.readers.raw import Raw, write_raw

TRAINED = ("llava_mix665k", "llava_med_alignment", "m3it", "m3it80", "ureader", "pathvqa")
"""A recipe of each raw format; of LLaVA's records the two kinds that differ most."""


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Words that train a tiny model for two steps."""
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    # The benchmark's own size would take longer than all the rest.
    monkeypatch.setattr(
        demo, "open_benchmark", lambda limit, seed: demo.open_demo_benchmark(limit=limit, seed=seed, min_compared=0)
    )
    return [
        *("exp=mix_general", "scale=demo", "model=tiny", "data=mine", "data.num_workers=0", "train.max_steps=2"),
        *("train.global_batch_size=4", "train.tokens_per_micro_batch=512", "train.max_length=512"),
        *("train.num_threads=1",),
    ]


def prepare(name: str, folder: Path) -> tuple[Raw, Path]:
    raw = write_raw(name, folder / "raw")
    asked = ["data", "prepare", f"recipe={name}", f"downloads={raw.folder}", f"out={folder / 'data'}"]
    assert run([*asked, "num_processes=1"]) == 0
    return raw, folder / "data" / name


def assert_prepared(raw: Raw, folder: Path, name: str) -> int:
    """Every raw record is in a shard or among the rejected; how many training records were rejected."""
    manifest = read_manifest(folder)
    assert manifest.recipe == name
    kept = Counter[str | None]()
    for shard in manifest.shards:
        kept[shard.split] += shard.num_records
    path = folder / "rejected.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rejected = {split: count - kept[split] for split, count in raw.records.items()}
    assert sum(rejected.values()) == len(lines) and min(rejected.values()) >= 0
    reasons = Counter(line["reason"] for line in lines)
    assert reasons == {reason: count for reason, count in raw.faults.items() if reason in reasons}
    return rejected["train"]


def said(source: Source, cache: Path) -> list[tuple[Any, ...]]:
    """What the usable records of a source say and show, whatever they are called."""
    entries = open_records(source, cache).read(0, 10_000)
    told = [entry.content for entry in entries if not isinstance(entry.content, BadRecord)]
    shown = [tuple(image_identity(image) for image in record.images) for record in told]
    return [(record.turns, record.task, images) for record, images in zip(told, shown, strict=True)]


def assert_same_as_raw(raw: Raw, folder: Path, recipe: Recipe, cache: Path) -> None:
    """The prepared records are those that the raw files give when they are read as they are, in the same order."""
    (part,) = {part.find for part in recipe.parts}
    has_splits = recipe.format != "llava"
    direct = Source("a", "b", str(raw.folder / part), recipe.format, split="train" if has_splits else None)
    assert said(direct, cache) == said(Source("a", "b", str(folder), split="train"), cache)


def check(folder: Path, words: list[str], out: Path) -> list[dict[str, Any]]:
    source = [f"path={folder}", "data.sources.mine.split=train"]
    assert run(["data", "check", *words, *source, f"out={out}", "num_processes=1"]) == 0
    assert (out / "check.html").is_file()
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_a_download_is_prepared_checked_trained_on_and_scored(name: str, words: list[str], tmp_path: Path) -> None:
    raw, folder = prepare(name, tmp_path)
    num_rejected = assert_prepared(raw, folder, name)
    found = check(folder, words, tmp_path / "check")
    assert_same_as_raw(raw, folder, load_recipe(name), tmp_path / "cache")
    # UReader's val.jsonl repeats a record on purpose; all else that is found is what the download was seeded with.
    faults = Counter(entry["reason"] for entry in found)
    assert sum(faults.values()) == sum(raw.faults.values()) - num_rejected
    assert set(faults) <= set(raw.faults)
    # Faults that the set is known for are named as such.
    known = json.loads((tmp_path / "check" / "check.json").read_text())["known_faults"]
    assert {repair.name for repair in load_recipe(name).repairs} >= {fault["name"] for fault in known}
    assert bool(known) == bool(faults)
    if name not in TRAINED:
        return
    listed = f"data.quarantine={tmp_path / 'check' / 'quarantine.jsonl'}"
    source = [f"path={folder}", "data.sources.mine.split=train", listed]
    assert run(["train", *words, *source, f"out={tmp_path / 'run'}"]) == 0
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [(step["step"], step["samples"]) for step in steps] == [(1, 4), (2, 4)]
    assert all(step["supervised_tokens"] > 0 and 0 < step["loss"] < 20 for step in steps)
    assert run(["eval", f"run={tmp_path / 'run'}", "limit=1"]) == 0
    assert json.loads((tmp_path / "run" / "eval" / "results.json").read_text())


def test_every_raw_format_is_trained_on_here() -> None:
    assert {load_recipe(name).format for name in TRAINED} == {load_recipe(name).format for name in recipe_names()}
