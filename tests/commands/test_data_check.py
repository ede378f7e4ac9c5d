"""``llava-moe data check``: all that is seeded is found, nothing is invented, and training honours the list."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llava_moe.check.kinds import KINDS, is_fault
from llava_moe.cli import run
from tests.check.seeded import Mixture

SOURCE_KINDS = {name for name, kind in KINDS.items() if kind.unit == "source"}
SEEDED_ELSEWHERE = {"not_plain", "nothing_supervised", "meant_duplicate"}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    return Mixture(tmp_path_factory.mktemp("mixture"))


@pytest.fixture
def words(words_for_tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that train a tiny model, without those that say on what."""
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return [word for word in words_for_tiny if not word.startswith(("data=", "path=", "images="))]


def data(place: Path) -> list[str]:
    return [f"data={place.name}", "--config-dir", str(place)]


def numbers(folder: str | Path) -> dict[str, Any]:
    return json.loads((Path(folder) / "check.json").read_text())


def listed(folder: str | Path) -> dict[tuple[str, int], dict[str, Any]]:
    lines = (Path(folder) / "quarantine.jsonl").read_text().splitlines()
    return {(entry["source"], entry["index"]): entry for entry in map(json.loads, lines)}


def hashes(run_folder: str) -> list[str]:
    return [json.loads(line)["sample_hash"] for line in Path(run_folder, "log.jsonl").read_text().splitlines()]


def test_every_seeded_fault_is_found_none_is_invented_and_training_honours_the_list(
    mixture: Mixture, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    seeded = set(mixture.faults.values()) | {kind for notes in mixture.notes.values() for kind in notes}
    assert seeded | SEEDED_ELSEWHERE | SOURCE_KINDS == set(KINDS) and len(seeded) >= 25
    dirty = mixture.write("dirty")
    asked = f"against=[{mixture.folder / 'asked' / 'asked.json'}]"
    assert run(["data", "check", *words, *data(dirty), asked, "out=found", "num_processes=2"]) == 0
    shown = capfd.readouterr().out

    expected = {source: Counter(notes) for source, notes in mixture.notes.items()}
    for (source, _), kind in mixture.faults.items():
        expected[source][kind] += 1
    told = numbers("found")
    found = {name: {k: v["count"] for k, v in one["kinds"].items()} for name, one in told["sources"].items()}
    assert found == {source: dict(counts) for source, counts in expected.items()}
    assert listed("found").keys() == mixture.faults.keys()
    assert not told["troubles"]

    for kind in seeded:
        assert kind in shown
    page = Path("found/check.html").read_text()
    assert all(f'id="{kind}"' in page for kind in seeded)
    assert "<script" not in page and "http-equiv" not in page and 'src="http' not in page
    assert "\x1b[31mc" not in page + shown and "<!DOCTYPE html><html>404" not in page

    train = ["train.max_steps=null", "train.epochs=2", "eval.benchmarks=[]"]
    assert run(["train", *words, *data(dirty), *train, "data.quarantine=found/quarantine.jsonl", "out=left_out"]) == 0
    clean = mixture.write("clean", frozenset(mixture.faults))
    assert run(["train", *words, *data(clean), *train, "out=never_there"]) == 0
    assert hashes("left_out") == hashes("never_there") and len(hashes("left_out")) > 20

    capfd.readouterr()
    assert run(["data", "check", *words, *data(clean), "out=again"]) == 0
    assert not listed("again")
    again = numbers("again")["sources"]
    assert not [kind for one in again.values() for kind in one["kinds"] if is_fault(kind)]
