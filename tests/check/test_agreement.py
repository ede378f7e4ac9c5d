"""The check and training can never disagree: records of any shape, judged by both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_moe.check.mix import check_mix
from llava_moe.check.view import View
from llava_moe.data.conversation import BadRecord
from llava_moe.data.encode import Encoder
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from tests.check.seeded import encoded, noise

CHECK_ONLY = {"end_token", "duplicate"}
TEXTS = st.sampled_from(
    ["", " ", "<image>", "<image>\nWhat?", "What?", "yes</s>", "long " * 150, "<image><image>", "é\n\n"]
)
TURNS = st.lists(
    st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "Human", "system"]), "value": TEXTS}), max_size=5
)
IMAGES = st.sampled_from(["good.png", "good.png", "cut.jpg", "gone.png", "../good.png", "http://a/b.png", "text.png"])
NEARLY_GOOD = st.builds(
    lambda image, question, answer: {
        "image": image,
        "conversations": [{"from": "human", "value": f"<image>{question}"}, {"from": "gpt", "value": answer}],
    },
    IMAGES,
    st.sampled_from(["", "\nWhat?", " Why?", "long " * 150]),
    st.sampled_from(["yes", "no", "so", "long " * 150, " ", "it is</s>"]),
)
ANYTHING = st.fixed_dictionaries(
    {"conversations": st.one_of(TURNS, TURNS, TURNS, st.none(), st.just("text"))},
    optional={"image": st.one_of(IMAGES, st.lists(IMAGES, max_size=2)), "id": st.sampled_from(["a", 1, None])},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agreement") / "images"
    folder.mkdir()
    noise(0).save(folder / "good.png")
    noise(0).save(folder.parent / "good.png")
    (folder / "cut.jpg").write_bytes(encoded(noise(1), "JPEG")[:-200])
    (folder / "text.png").write_text("no image")
    return folder


def trained(records: Any, encoder: Encoder) -> dict[int, str]:
    """Record to reason, as training finds them."""
    refused = {}
    for row in range(len(records)):
        try:
            encoder.encode(records[row], records.image_root, 0)
        except BadRecord as fault:
            refused[row] = fault.reason
    return refused


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.lists(NEARLY_GOOD | ANYTHING, min_size=1, max_size=12))
def test_what_training_refuses_is_found_and_nothing_else(
    drawn: list[dict[str, Any]], folder: Path, encoder: Encoder
) -> None:
    good = {
        "image": "good.png",
        "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "!"}],
    }
    path = folder.parent / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in [good, *drawn]))
    path.with_suffix(".cache").mkdir(exist_ok=True)
    source = Source("mine", "general", str(path), "llava", images=str(folder))
    records = open_records(source, path.with_suffix(".cache"))
    checked = check_mix([View("mine", ("a",), source, records, encoder)])
    (findings,) = checked.findings
    found = {row: fault.reason for row, fault in findings.faults.items() if fault.kind not in CHECK_ONLY}
    dropped = dict.fromkeys(findings.dropped, "too_long")
    assert found | dropped == trained(records, encoder)
    assert not any(trouble.kind == "image_root" for trouble in checked.troubles)
