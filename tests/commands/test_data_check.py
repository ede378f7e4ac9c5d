"""``llava-moe data check``: all that is seeded is found, nothing is invented, and training honours the list."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from llava_moe.cli import run
from llava_moe.datatools.check.fault_kinds import KINDS, is_fault, is_listed
from tests.datatools.check.seeded import Mixture, noise

Refused = Callable[..., str]
SOURCE_KINDS = {name for name, kind in KINDS.items() if kind.unit == "source"}
# A doubled key is gone once the record is an object: tests/data/test_record_text.py.
SEEDED_ELSEWHERE = {"not_plain", "meant_duplicate", "doubled_key"}


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


def test_every_seeded_fault_is_found_none_is_invented_and_training_honors_the_list(
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
    assert "<script" not in page and page.count("http-equiv") == 1 and 'src="http' not in page
    assert "\x1b[31mc" not in page + shown and "<!DOCTYPE html><html>404" not in page

    train = ["train.max_steps=null", "train.epochs=2", "train.global_batch_size=16"]
    assert run(["train", *words, *data(dirty), *train, "data.quarantine=found/quarantine.jsonl", "out=left_out"]) == 0
    clean = mixture.write("clean", frozenset(mixture.faults))
    assert run(["train", *words, *data(clean), *train, "out=never_there"]) == 0
    assert hashes("left_out") == hashes("never_there") and len(hashes("left_out")) >= 10

    capfd.readouterr()
    assert run(["data", "check", *words, *data(clean), "out=again"]) == 0
    assert not listed("again")
    again = numbers("again")["sources"]
    assert not [kind for one in again.values() for kind in one["kinds"] if is_listed(kind)]


def test_the_check_and_training_refuse_the_same_records_for_the_same_reasons(
    mixture: Mixture, words: list[str]
) -> None:
    place = mixture.write("as_is")
    assert run(["data", "check", *words, *data(place), "out=found"]) == 0
    once = ["train.max_steps=null", "train.epochs=1", "train.global_batch_size=16", "data.max_bad_share=1"]
    assert run(["train", *words, *data(place), *once, "out=trained"]) == 0
    refused = {entry: told for entry, told in listed("trained").items() if told["reason"] != "too_long"}
    only_here = {name for name in KINDS if is_listed(name) and not is_fault(name)}
    assert only_here == {"duplicate", "leak"}
    found = {entry: told for entry, told in listed("found").items() if told["reason"] not in only_here}
    assert {entry: told["reason"] for entry, told in found.items()} == {
        entry: told["reason"] for entry, told in refused.items()
    }
    assert len(found) > 20 and {entry[0] for entry in found} == {"photos", "pages", "scans"}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train.json``, in which nothing is wrong."""
    folder = tmp_path_factory.mktemp("clean")
    records = []
    for number in range(12):
        noise(number).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": f"<image>\nWhat is {number}?"}, {"from": "gpt", "value": "noise"}]
        records.append({"id": f"r{number}", "image": f"{number}.png", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(records))
    return folder


@pytest.fixture
def mine(words: list[str], clean: Path) -> list[str]:
    """Words that check clean data of one's own."""
    return ["data", "check", *words, "data=mine", f"path={clean / 'train.json'}", f"images={clean}"]


def test_clean_data_ends_with_the_command_that_trains_on_it(
    mine: list[str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run([*mine, "strict=true"]) == 0
    shown = capfd.readouterr().out
    (folder,) = (tmp_path / "checks").iterdir()
    assert folder.name.startswith("mix_general-") and (folder / "quarantine.jsonl").read_text() == ""
    last = shown.rstrip().splitlines()[-1].strip()
    assert last.startswith("llava-moe train exp=mix_general") and "quarantine" not in last and "strict" not in last
    assert "No evaluation set was given" in shown
    other = tmp_path / "asked"
    other.mkdir()
    noise(99).save(other / "a.png")
    turns = [{"from": "human", "value": "<image> What is 3?"}]
    (other / "asked.json").write_text(json.dumps([{"id": "q", "image": "a.png", "conversations": turns}]))
    assert run([*mine, f"against=[{other / 'asked.json'}]"]) == 0
    assert "asked.json is among those opened" in capfd.readouterr().out


def test_the_next_command_names_the_list_and_strict_refuses(
    mine: list[str], clean: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], refused: Refused
) -> None:
    records = json.loads((clean / "train.json").read_text())
    (tmp_path / "my data.json").write_text(json.dumps([*records, records[0], {"id": "none"}]))
    words = [word for word in mine if not word.startswith("path=")]
    assert run([*words, f"path={tmp_path / 'my data.json'}", "out=a folder"]) == 0
    shown = capfd.readouterr().out
    assert f"'path={tmp_path / 'my data.json'}'" in shown and "'data.quarantine=a folder/quarantine.jsonl'" in shown
    assert [entry["reason"] for entry in listed("a folder").values()] == ["duplicate", "not_a_conversation"]
    assert "1 of 14 records are bad, more than data.max_bad_share=0.01" in shown
    assert "1 record is on the list alone (duplicate 1): training takes it unless it is given the list." in shown
    line = refused(*words, f"path={tmp_path / 'my data.json'}", "out=a folder", "strict=true")
    assert "2 records are to be left out and strict=true" in line
    assert run([*words, f"path={tmp_path / 'my data.json'}", "out=kept", "duplicates=keep"]) == 0
    assert [entry["reason"] for entry in listed("kept").values()] == ["not_a_conversation"]


def test_the_known_faults_of_published_sets_are_named_by_their_paths(
    mine: list[str], clean: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    for folder in ("ocr_vqa/images", "vg/VG_100K"):
        (root / folder).mkdir(parents=True)
    records = []
    for number in range(6):
        Image.open(clean / f"{number}.png").save(root / "ocr_vqa/images" / f"{number}.gif")
        turns = [{"from": "human", "value": f"<image>\nWho wrote book {number}?"}, {"from": "gpt", "value": "somebody"}]
        records.append({"id": "b", "image": f"ocr_vqa/images/{number}.jpg", "conversations": turns})
    (root / "vg/VG_100K/7.jpg").touch()
    for image in ("ocr_vqa/images/gone.jpg", "vg/VG_100K/7.jpg"):
        turns = [{"from": "human", "value": f"<image>\nWho is in {image}?"}, {"from": "gpt", "value": "nobody"}]
        records.append({"id": "c", "image": image, "conversations": turns})
    (tmp_path / "mix.json").write_text(json.dumps(records))
    words = [word for word in mine if not word.startswith(("path=", "images="))]
    assert run([*words, f"path={tmp_path / 'mix.json'}", f"images={root}", "out=mix"]) == 0
    told = numbers("mix")
    known = {entry["name"]: entry["images"] for entry in told["known_faults"]}
    assert known == {"ocr-vqa-suffix": 6, "ocr-vqa-gone": 1, "vg-empty": 1}
    assert (
        "355 of the 80,000 covers" in capfd.readouterr().out
        and "355 of the 80,000" in Path("mix/check.html").read_text()
    )


def test_a_source_of_two_stages_is_checked_once_and_with_two_lengths_twice(
    mine: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own" / "exp").mkdir(parents=True)
    words = [word for word in mine if not word.startswith(("exp=", "scale=", "train.max_length="))]
    for name, lengths in (("alike", (256, 256)), ("differ", (256, 24))):
        stages = [
            {
                "name": f"{number}-stage",
                "overrides": ["exp=mix_general", "scale=demo", f"train.max_length={length}"],
                "ignores": [],
            }
            for number, length in enumerate(lengths, 1)
        ]
        text = yaml.safe_dump({"stages": stages})
        (tmp_path / "own" / "exp" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
        assert run([*words, f"exp={name}", "--config-dir", str(tmp_path / "own"), f"out={name}"]) == (
            0 if name == "alike" else 2
        )
    (alike,) = numbers("alike")["sources"].values()
    assert alike["stages"] == ["1-stage", "2-stage"] and alike["kinds"] == {}
    first, second = numbers("differ")["sources"].items()
    assert first[0] == "mine (1-stage)" and first[1]["kinds"] == {}
    assert second[0] == "mine (2-stage)" and second[1]["kinds"]["too_long"]["count"] == second[1]["dropped"] == 12
    assert "mine (2-stage): nothing_usable" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("path=nowhere.json", "no file nowhere.json"),
        ("images=nowhere", "image_root"),
        ("against=[nothing]", "no such evaluation set and no such file; the sets are "),
        ("num_processes=0", "num_processes=0: give a whole number of at least 1"),
        ("sample_images=some", "sample_images=some: give a whole number"),
        ("duplicates=drop", "duplicates=drop: give leave_out or keep"),
        ("strikt=true", "unknown key strikt"),
        ("train.max_length=2", "nothing_usable"),
        ("out=/proc/nowhere", "out=/proc/nowhere: cannot be written"),
        ("out=file", "file is there already and is no folder"),
    ],
)
def test_bad_words_are_one_line(mine: list[str], refused: Refused, word: str, told: str) -> None:
    Path("file").touch()
    key = word.partition("=")[0]
    words = [*(one for one in mine if not one.startswith(f"{key}=")), word]
    assert told in refused(*words)


def test_while_training_would_not_begin_nothing_is_praised_and_no_training_is_advised(
    mine: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*(word for word in mine if not word.startswith("images=")), "images=nowhere", "out=found"]) == 2
    shown = capfd.readouterr().out
    assert "fault: mine: image_root" in shown
    assert "nothing was found" not in shown and "Next:" not in shown and "llava-moe train" not in shown
    assert "<h2>Next</h2>" not in Path("found/check.html").read_text()
    assert run([*mine, "out=found"]) == 0
    shown = capfd.readouterr().out
    assert "nothing was found" in shown and "Next:\n  llava-moe train" in shown


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'[{"id": "\xff"}]', "not UTF-8 text"),
        (b"[1, 2, 3]", "holds no records"),
        (b"", "holds no records"),
        (b'[{"id": 1}, {"id": 2', "cut short"),
        (b'[{"id": 1}, {"id": 2}]', "nothing_usable"),
    ],
)
def test_a_source_with_nothing_readable_is_one_line(
    mine: list[str], refused: Refused, tmp_path: Path, content: bytes, told: str
) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    words = [word for word in mine if not word.startswith("path=")]
    assert told in refused(*words, f"path={tmp_path / 'bad.json'}")


def test_a_source_that_cannot_be_opened_does_not_hide_the_others(
    mixture: Mixture, words: list[str], refused: Refused
) -> None:
    place = mixture.write("broken")
    (place / "pages.jsonl").write_bytes(b'{"id": "\xff"}\n')
    (place / "scans.jsonl").unlink()
    line = refused("data", "check", *words, *data(place), "out=found")
    assert "pages: source_unreadable" in line and "not UTF-8" in line and "1 more" in line
    told = numbers("found")
    assert [trouble["label"] for trouble in told["troubles"]] == ["pages", "scans"]
    assert {source for source, _ in listed("found")} == {"photos"}


def test_text_from_the_data_is_shown_and_never_obeyed(
    mine: list[str], clean: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wicked = "<script>alert(1)</script>\x1b]0;title\x07\"' {{ 1111 * 3 }} [bold]\u202e"
    turns = [{"from": "human", "value": f"<image> {wicked}"}, {"from": "gpt", "value": " "}]
    records = json.loads((clean / "train.json").read_text())
    records += [{"id": wicked, "image": "0.png", "conversations": turns}]
    records += [{"id": wicked, "image": f"{wicked}.png", "conversations": [turns[0], {"from": "gpt", "value": wicked}]}]
    (tmp_path / "wicked.json").write_text(json.dumps(records))
    words = [word for word in mine if not word.startswith("path=")]
    assert run([*words, f"path={tmp_path / 'wicked.json'}", "out=found"]) == 0
    page, shown = Path("found/check.html").read_text(), capfd.readouterr().out
    assert (
        "<script>" not in page
        and "&lt;script&gt;" in page
        and "{{ 1111 * 3 }}" in page
        and "3333" not in re.sub('data:image/webp;base64,[^"]+', "", page)
    )
    for text in (page, shown):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
