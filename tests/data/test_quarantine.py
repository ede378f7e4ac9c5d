"""Records left out are written once, counted, and stop the run when they are too many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.data.quarantine import Quarantine, Quarantined
from llava_moe.errors import UserError


def bad(index: int, source: str = "vg", domain: str = "general", reason: str = "image_missing") -> Quarantined:
    return Quarantined(source, domain, index, f"id{index}", reason, f"no file é{index}.jpg")


def test_each_record_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "quarantine.jsonl"
    quarantine = Quarantine(path, {"vg": 1000, "xray": 1000})
    assert not path.exists()
    assert quarantine.add([]) == 0 and not path.exists()
    assert quarantine.add([bad(1), bad(2), bad(1), bad(1, "xray", "medical", "too_long")]) == 3
    assert quarantine.add([bad(2), bad(3)]) == 1
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(one["source"], one["index"]) for one in written] == [("vg", 1), ("vg", 2), ("xray", 1), ("vg", 3)]
    assert written[0] == {
        "source": "vg",
        "domain": "general",
        "index": 1,
        "id": "id1",
        "reason": "image_missing",
        "detail": "no file é1.jpg",
    }
    assert quarantine.by_source() == {"vg": 3, "xray": 1}
    assert quarantine.by_domain() == {"general": 3, "medical": 1}
    assert quarantine.by_reason() == {"image_missing": 3, "too_long": 1} and len(quarantine) == 4


def test_a_resumed_run_reads_its_own_file_back(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path, {"vg": 1000}).add([bad(1), bad(2)])
    with open(path, "a") as file:
        file.write('{"source": "vg", "ind')
    resumed = Quarantine(path, {"vg": 1000})
    assert resumed.by_source() == {"vg": 2}
    assert resumed.add([bad(2), bad(3)]) == 1
    assert Quarantine(path, {"vg": 1000}).by_source() == {"vg": 3}


def test_too_many_of_a_source_stop_the_run_with_the_reasons(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, {"vg": 200, "xray": 9}, max_bad_share=0.01)
    quarantine.add([bad(1), bad(2)])
    with pytest.raises(UserError) as caught:
        quarantine.add([bad(3), bad(4, reason="empty_answer")])
    words = str(caught.value)
    assert "data source 'vg': 4 of 200 records are bad (image_missing 3, empty_answer 1)" in words
    assert "data.max_bad_share=0.01" in words and str(path) in words and "\n" not in words
    assert len(path.read_text().splitlines()) == 4, "what stopped the run is written down"


def test_the_limit_itself_is_allowed_and_zero_allows_none(tmp_path: Path) -> None:
    Quarantine(tmp_path / "a.jsonl", {"vg": 100}, 0.02).add([bad(1), bad(2)])
    with pytest.raises(UserError, match="1 of 100"):
        Quarantine(tmp_path / "b.jsonl", {"vg": 100}, 0.0).add([bad(1)])


def test_long_samples_are_written_down_and_not_held_against_the_source(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "a.jsonl", {"vg": 10}, 0.01)
    assert quarantine.add([bad(n, reason="too_long") for n in range(9)]) == 9
    quarantine.check()
