"""The check and training can never disagree: records of any shape, judged by both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_moe.data.conversation import BadRecord
from llava_moe.data.encode import Encoder
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.datatools.check.fault_kinds import KINDS, is_fault, is_listed
from llava_moe.datatools.check.run_check import check_mix
from llava_moe.datatools.check.stage_view import View
from tests.datatools.check.seeded import encoded, noise

CHECK_ONLY = {name for name in KINDS if is_listed(name) and not is_fault(name)}
TEXTS = st.sampled_from(
    [
        *("", " ", "<image>", "<image>\nWhat?", "What?", "yes</s>", "long " * 150, "<image><image>", "é\n\n"),
        *("</s>", "<s> " * 40, "A: <image> and </s> B: <image>"),
    ]
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
    st.sampled_from(["yes", "no", "so", "long " * 150, " ", "it is</s>", "</s> " * 40, "<pad>"]),
)
ANYTHING = st.fixed_dictionaries(
    {"conversations": st.one_of(TURNS, TURNS, TURNS, st.none(), st.just("text"))},
    optional={"image": st.one_of(IMAGES, st.lists(IMAGES, max_size=2)), "id": st.sampled_from(["a", 1, None])},
)

FLAGS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("loss", "train", "weight"), st.sampled_from([0, 1, True, False, 0.5, "no", None]))
)
CONTENTS = st.one_of(
    TEXTS,
    st.lists(
        st.sampled_from(
            [
                {"type": "text", "text": "What?"},
                {"type": "image"},
                {"type": "image_url", "image_url": {"url": "good.png"}},
                {"type": "image", "text": None, "image_url": None},
                {"type": "video", "video": "a.mp4"},
                {"type": "text", "text": "<video>"},
            ]
        ),
        max_size=3,
    ),
)
MESSAGE = st.builds(
    lambda role, content, flags: {"role": role, "content": content, **flags},
    st.sampled_from(["user", "assistant", "assistant", "system", "tool", "model"]),
    CONTENTS,
    FLAGS,
)
MEDIA = st.fixed_dictionaries(
    {},
    optional={
        "image": st.sampled_from(["good.png", "", None]),
        "images": st.sampled_from([["good.png"], ["good.png", "good.png"], [], None, ["cut.jpg"]]),
        "video": st.sampled_from(["a.mp4", None, []]),
        "image_path": st.sampled_from(["good.png", "other.png", ""]),
        "system": st.sampled_from(["Be brief.", "", None, "<image>", "<|image_1|>"]),
        "system_prompt": st.sampled_from(["Be brief.", "Be long."]),
        "tools": st.sampled_from([[], [{"name": "zoom"}]]),
    },
)
OF_TODAY = st.builds(
    lambda key, said, media: {key: said, **media},
    st.sampled_from(["messages", "conversations"]),
    st.one_of(
        st.lists(MESSAGE, max_size=5),
        st.builds(
            lambda first, asked, answer, flags: [
                *first,
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answer, **flags},
            ],
            st.sampled_from([[], [{"role": "system", "content": "Be brief."}]]),
            CONTENTS,
            st.sampled_from(["yes", "no", "so"]),
            FLAGS,
        ),
    ),
    MEDIA,
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


def judge_alike(drawn: list[dict[str, Any]], folder: Path, encoder: Encoder, format: str) -> None:
    good = {
        "image": "good.png",
        "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "!"}],
    }
    path = folder.parent / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in [good, *drawn]))
    path.with_suffix(".cache").mkdir(exist_ok=True)
    source = Source("mine", "general", str(path), format, images=str(folder))
    records = open_records(source, path.with_suffix(".cache"))
    checked = check_mix([View("mine", ("a",), source, records, encoder)])
    (findings,) = checked.findings
    found = {row: fault.reason for row, fault in findings.faults.items() if fault.kind not in CHECK_ONLY}
    dropped = dict.fromkeys(findings.dropped, "too_long")
    assert found | dropped == trained(records, encoder)
    assert not any(trouble.kind in ("image_root", "no_images") for trouble in checked.troubles)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.lists(NEARLY_GOOD | ANYTHING, min_size=1, max_size=12))
def test_what_training_refuses_is_found_and_nothing_else(
    drawn: list[dict[str, Any]], folder: Path, encoder: Encoder
) -> None:
    judge_alike(drawn, folder, encoder, "llava")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.lists(OF_TODAY, min_size=1, max_size=12), format=st.sampled_from(["auto", "messages", "records"]))
def test_of_the_formats_of_today_too(drawn: list[dict[str, Any]], format: str, folder: Path, encoder: Encoder) -> None:
    judge_alike(drawn, folder, encoder, format)


SPELLED = st.sampled_from(
    [
        "12.50",
        "1e3",
        "-0",
        "NaN",
        "Infinity",
        "true",
        "null",
        '"\\ud83d"',
        '"yes"',
        '"a", "value": "b"',
        "[1]",
        "7" * 60,
    ]
)
SPLIT_WORDS = st.sampled_from(['"train"', '"validation"', '"dev"', '"test"', "null", '""', '"\\udc00"', "NaN", "3"])


@st.composite
def spelled_record(draw: st.DrawFn) -> str:
    """A record as its file spells it, where Python's own reader would take it for another."""
    turns = f'[{{"from": "human", "value": {draw(SPELLED)}}}, {{"from": "gpt", "value": {draw(SPELLED)}}}]'
    more = f'"split": {draw(SPLIT_WORDS)}, ' if draw(st.booleans()) else ""
    return f'{{{more}"id": {draw(st.sampled_from(["1", "true", "1.0", "NaN"]))}, "conversations": {turns}}}'


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.lists(spelled_record(), min_size=1, max_size=12), split=st.sampled_from([None, "val", "all"]))
def test_what_a_file_spells_is_judged_alike(
    drawn: list[str], split: str | None, folder: Path, encoder: Encoder
) -> None:
    good = '{"split": %s, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "!"}]}'
    path = folder.parent / "spelled.jsonl"
    path.write_text("\n".join([*(good % word for word in ('"train"', '"val"')), *drawn]))
    path.with_suffix(".cache").mkdir(exist_ok=True)
    records = open_records(Source("mine", "general", str(path), "llava", split=split), path.with_suffix(".cache"))
    checked = check_mix([View("mine", ("a",), records.source, records, encoder)])
    (findings,) = checked.findings
    found = {records.find(row): fault.reason for row, fault in findings.faults.items() if fault.kind not in CHECK_ONLY}
    assert found == trained(records, encoder)
    assert any(trouble.kind == "split_unread" for trouble in checked.troubles) == (records.unread is not None)
