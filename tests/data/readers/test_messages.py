"""Chat formats of today are read as they are: each shape comes out as the same conversation."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.data.conversation import BadRecord, Conversation, Turn
from llava_moe.data.readers.shapes import EXAMPLE
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.errors import UserError
from tests.data.readers.raw import encoded

RED, BLUE = encoded(1), encoded(2)
URI = "data:image/jpeg;base64," + base64.b64encode(RED).decode()


def read(tmp_path: Path, *records: Any, format: str = "auto") -> list[Conversation | BadRecord]:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    opened = open_records(Source("mine", "general", str(path), format), tmp_path / "cache")
    return [entry.content for entry in opened.read(0, len(records))]


def read_parquet(tmp_path: Path, records: list[dict[str, Any]]) -> list[Conversation | BadRecord]:
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "train.parquet")
    opened = open_records(Source("mine", "general", str(tmp_path / "train.parquet")), tmp_path / "cache")
    return [entry.content for entry in opened.read(0, len(records))]


def chat(*said: Any, **more: Any) -> dict[str, Any]:
    """A record of messages; the first is the user's."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[at % 2], "content": one} for at, one in enumerate(said)]} | more


def part(kind: str, **held: Any) -> dict[str, Any]:
    return {"type": kind, **held}


def text(said: str) -> dict[str, Any]:
    return part("text", text=said)


ONE_IMAGE: list[tuple[dict[str, Any], Any]] = [
    (chat([part("image_url", image_url={"url": URI, "detail": "auto"}), text("Colour?")], "red"), RED),
    (chat([part("image_url", image_url=URI), text("Colour?")], [text("red")]), RED),
    (chat([part("image_url", image_url={"url": "red.png"}), text("Colour?")], "red"), "red.png"),
    (
        chat(
            [part("input_image", image_url=URI), part("input_text", text="Colour?")], [part("output_text", text="red")]
        ),
        RED,
    ),
    (chat([part("image"), text("Colour?")], "red", images=["red.png"]), "red.png"),
    (chat([part("image"), text("Colour?")], "red", image="red.png"), "red.png"),
    (chat([part("image", image="red.png"), text("Colour?")], "red"), "red.png"),
    (chat([part("image", path="red.png"), text("Colour?")], "red"), "red.png"),
    (chat([part("image", url="red.png"), text("Colour?")], "red"), "red.png"),
    (chat([{"image": "red.png"}, {"text": "Colour?"}], "red"), "red.png"),
    (
        chat(
            [
                part("image", source={"type": "base64", "media_type": "image/jpeg", "data": URI.partition(",")[2]}),
                text("Colour?"),
            ],
            "red",
        ),
        RED,
    ),
    (chat([part("image", image="red.png"), text("Colour?")], "red", images=["red.png"]), "red.png"),
    (chat("<image>\nColour?", "red", images=["red.png"]), "red.png"),
    (chat([text("<image>\nColour?")], "red", images=["red.png"]), "red.png"),
    ({"conversations": chat("<image>\nColour?", "red")["messages"], "images": ["red.png"]}, "red.png"),
    ({"conversation": chat("<image>\nColour?", "red")["messages"], "image": "red.png"}, "red.png"),
    (
        {
            "messages": [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": "red"}],
            "image": "red.png",
        },
        "red.png",
    ),
    (chat("<image>\nColour?", "red", images=[{"path": "red.png", "bytes": None}]), "red.png"),
]


@pytest.mark.parametrize(("record", "image"), ONE_IMAGE)
def test_a_question_about_an_image_is_the_same_in_every_dress(
    record: dict[str, Any], image: Any, tmp_path: Path
) -> None:
    (content,) = read(tmp_path, record)
    turns = (Turn("user", "<image>\nColour?"), Turn("assistant", "red"))
    assert content == Conversation("0", (image,), turns, "mine", "general")
    assert read(tmp_path, record, format="messages") == [content]


def test_images_without_a_place_open_the_first_question(tmp_path: Path) -> None:
    (content,) = read(tmp_path, chat("Colour?", "red", "And?", "so", images=["red.png", "blue.png"]))
    assert isinstance(content, Conversation)
    assert content.turns[0].text == "<image>\n<image>\nColour?" and content.images == ("red.png", "blue.png")


def test_several_images_stay_where_they_stand_in_their_order(tmp_path: Path) -> None:
    said = [text("First"), part("image"), text("second"), part("image", image="own.png"), text("which?"), text("Say.")]
    record = chat(said, "a", [part("image"), text("And <image>?")], "b", images=["1.png", "2.png", "3.png"])
    (content,) = read(tmp_path, record)
    assert isinstance(content, Conversation)
    assert content.images == ("1.png", "own.png", "2.png", "3.png")
    assert [turn.text for turn in content.turns[::2]] == [
        "First<image>second<image>which?\nSay.",
        "<image>\nAnd <image>?",
    ]


def test_images_that_open_a_list_of_parts_stand_a_line_each(tmp_path: Path) -> None:
    said = [part("image"), part("image"), text("Alike?"), part("image"), text("Say."), text("Now.")]
    (content,) = read(tmp_path, chat(said, "a", images=["1.png", "2.png", "3.png"]))
    assert isinstance(content, Conversation)
    assert content.turns[0].text == "<image>\n<image>\nAlike?<image>Say.\nNow."


def test_parquet_fills_every_part_and_turn_with_the_keys_of_all_others(tmp_path: Path) -> None:
    held = {"type": "text", "text": None, "image": None, "image_url": {"url": None}}
    parts = [[held | {"type": "image"}, held | {"text": "Colour?"}], [held | {"text": "red"}]]
    messages = [
        {"role": role, "content": said, "weight": weight, "tool_calls": None, "name": None}
        for role, said, weight in zip(("user", "assistant"), parts, (None, 1.0), strict=True)
    ]
    images = [{"bytes": RED, "path": None}]
    record = {
        "messages": messages,
        "images": images,
        "image": {"bytes": None, "path": None},
        "system": None,
        "video": None,
    }
    mute = record | {"images": [], "image": images[0], "system": "Be brief."}
    asked = chat(parts[0], parts[1])["messages"]
    told = read_parquet(tmp_path, [record, mute, record | {"video": "clip.mp4"}])
    turns = (Turn("user", "<image>\nColour?"), Turn("assistant", "red"))
    assert told[0] == Conversation("0", (RED,), turns, "mine", "general")
    assert told[1] == Conversation("1", (RED,), turns, "mine", "general", system="Be brief.")
    assert isinstance(told[2], BadRecord) and told[2].reason == "unread_media" and "key video" in told[2].detail
    pair = {"prompt": asked[:1], "completion": asked[1:], "images": images}
    assert read_parquet(tmp_path, [pair])[0] == Conversation("0", (RED,), turns, "mine", "general")


def test_of_a_prompt_and_its_completion_the_completion_alone_is_learnt(tmp_path: Path) -> None:
    dialog = chat("One?", "1", "Two?", "2")["messages"]
    system = {"role": "system", "content": "Count."}
    (content,) = read(tmp_path, {"prompt": [system, *dialog[:3]], "completion": dialog[3:]})
    assert isinstance(content, Conversation) and content.system == "Count."
    assert [turn.is_supervised for turn in content.turns] == [True, False, True, True]


@pytest.mark.parametrize("role", ["human", "user", "Human", "USER", "prompter"])
@pytest.mark.parametrize("answerer", ["gpt", "assistant", "bot", "model", "chatgpt", "Assistant", "ai"])
def test_usual_names_of_roles_are_known(role: str, answerer: str, tmp_path: Path) -> None:
    for keys in (("role", "content"), ("from", "value"), ("role", "text")):
        dialog = [dict(zip(keys, said, strict=True)) for said in ((role, "q"), (answerer, "a"))]
        for record in ({"messages": dialog}, {"conversations": dialog}):
            assert read(tmp_path, record) == [
                Conversation("0", (), (Turn("user", "q"), Turn("assistant", "a")), "mine", "general")
            ]


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("unread_media", chat([part("video", video="clip.mp4"), text("q")], "a"), "video"),
    ("unread_media", chat([part("video_url", video_url={"url": "clip.mp4"}), text("q")], "a"), "video_url"),
    (
        "unread_media",
        chat([part("input_audio", input_audio={"data": "UklG", "format": "wav"}), text("q")], "a"),
        "audio",
    ),
    ("unread_media", chat([part("file", file={"file_id": "f"}), text("q")], "a"), "file"),
    ("unread_media", chat([part("text", text="q", image="red.png")], "a"), "image"),
    ("unread_media", chat([part("image", image="red.png", url="blue.png"), text("q")], "a"), "different"),
    (
        "unread_media",
        {"messages": [{"role": "user", "content": "q", "images": ["a.png"]}, chat("", "a")["messages"][1]]},
        r"turns\[0\].images",
    ),
    ("unread_media", chat("<video>q", "a", videos=["clip.mp4"]), "videos"),
    ("unread_media", chat("Picture 1: <img>red.png</img> q", "a"), "<img>red.png</img>"),
    ("unread_media", chat("Picture 1: <img>red\n.png</img> q", "a"), "<img>red .png</img>"),
    ("image_count", chat([part("image"), text("q")], "a"), "1 <image> in the text, 0 images"),
    ("image_count", chat("<image><image>q", "a", images=["a.png"]), "2 <image>"),
    ("image_count", chat("<image>q", "a", images=["a.png", "b.png"]), "2 images"),
    ("image_count", chat("q", [part("image", image="a.png"), text("a")]), "in an answer"),
    ("tool_call", chat("q", "a", tools=[{"name": "zoom"}]), "tools"),
    (
        "tool_call",
        {"messages": [*chat("q")["messages"], {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]},
        "tool_calls",
    ),
    (
        "tool_call",
        {"messages": [*chat("q")["messages"], {"role": "tool", "content": "3"}, *chat("q", "a")["messages"][1:]]},
        "tool",
    ),
    (
        "tool_call",
        {"conversations": [*({"from": name, "value": "x"} for name in ("human", "function_call", "observation"))]},
        "function_call",
    ),
    ("tool_call", chat("q", [part("tool_use", name="zoom")]), "tool_use"),
    ("not_a_conversation", chat("q", [part("thought", text="hm")]), "thought"),
    ("not_a_conversation", chat("q", [part("text")]), "part without text"),
    ("not_a_conversation", chat("q", ["a"]), "part that is str"),
    ("not_a_conversation", chat("q", None), "null"),
    (
        "not_a_conversation",
        {"messages": [{"role": "user", "content": "q", "value": "p"}, {"role": "assistant"}]},
        "turn 0",
    ),
    (
        "not_a_conversation",
        {"messages": [{"user": "q", "assistant": "a"}], "conversations": [{"from": "gpt"}]},
        "different",
    ),
    ("role_order", {"messages": [*chat("q")["messages"], {"role": "narrator", "content": "a"}]}, "narrator"),
    (
        "role_order",
        {
            "messages": [
                *chat("q", "a")["messages"],
                {"role": "system", "content": "Be brief."},
                *chat("q", "a")["messages"],
            ]
        },
        "system",
    ),
    (
        "not_a_conversation",
        chat("Find <ref-object>", "<bbox>", objects={"ref": ["a cat"], "bbox": [[1, 2, 3, 4]]}),
        "<bbox>",
    ),
    ("no_turns", chat(), "no user turn"),
]


@pytest.mark.parametrize(("reason", "record", "told"), FAULTS)
def test_what_messages_cannot_say_is_a_fault_that_is_named(
    reason: str, record: dict[str, Any], told: str, tmp_path: Path
) -> None:
    fault = read(tmp_path, chat("q", "a"), record)[1]
    assert isinstance(fault, BadRecord) and fault.reason == reason, fault
    assert told.replace("\\", "") in fault.detail and "\n" not in fault.detail


SYSTEMS: list[dict[str, Any]] = [
    {"messages": [{"role": "system", "content": "Be brief."}, *chat("q", "a")["messages"]]},
    {"messages": [{"role": "developer", "content": [text("Be brief.")]}, *chat("q", "a")["messages"]]},
    {
        "conversations": [
            {"from": "System", "value": "Be brief."},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ]
    },
    {
        "conversations": [
            {"role": role, "text": said} for role, said in (("system", "Be brief."), ("user", "q"), ("assistant", "a"))
        ]
    },
    *(
        chat("q", "a") | {key: "Be brief."}
        for key in ("system", "system_prompt", "system_message", "system_instruction")
    ),
    chat("q", "a") | {"system": "Be brief.", "system_prompt": "Be brief."},
    {"system": "Be brief.", "messages": [{"role": "system", "content": "Be brief."}, *chat("q", "a")["messages"]]},
    {"system": " ", "messages": [{"role": "system", "content": "Be brief."}, *chat("q", "a")["messages"]]},
    {"system_prompt": "Be brief.", "messages": [{"role": "system", "content": ""}, *chat("q", "a")["messages"]]},
]


@pytest.mark.parametrize("record", SYSTEMS)
def test_a_system_text_is_the_conversations_wherever_it_is_written(record: dict[str, Any], tmp_path: Path) -> None:
    turns = (Turn("user", "q"), Turn("assistant", "a"))
    for format in ("auto", "llava", "records", "messages"):
        assert read(tmp_path, record, format=format) == [
            Conversation("0", (), turns, "mine", "general", system="Be brief.")
        ]


def test_two_system_texts_are_a_fault_and_a_blank_one_is_none(tmp_path: Path) -> None:
    first = {"role": "system", "content": "Be long."}
    told = read(
        tmp_path,
        chat("q", "a", system=" "),
        chat("q", "a", system="Be brief.", system_prompt="Be long."),
        {"system": "Be brief.", "messages": [first, *chat("q", "a")["messages"]]},
        chat("q", "a", system="See <image>."),
        chat("q", "a", system="See <|image_1|>."),
        chat("q", "a", system={"text": "Be brief."}),
    )
    assert isinstance(told[0], Conversation) and told[0].system is None
    reasons = [fault.reason for fault in told[1:] if isinstance(fault, BadRecord)]
    assert reasons == ["system_text", "system_text", "image_count", "unread_media", "not_a_conversation"]


def marked(key: str, value: Any, role: str = "assistant") -> dict[str, Any]:
    record = chat("1?", "one", "2?", "two")
    record["messages"][1 if role == "assistant" else 0][key] = value
    return record


@pytest.mark.parametrize("key", ["loss", "train", "weight"])
def test_marks_say_which_answers_are_learnt(key: str, tmp_path: Path) -> None:
    value: object
    for value in (0, False, 0.0):
        (content,) = read(tmp_path, marked(key, value))
        assert isinstance(content, Conversation)
        assert [turn.is_supervised for turn in content.turns] == [True, False, True, True]
    for value in (1, True, 1.0, None):
        assert read(tmp_path, marked(key, value)) == read(tmp_path, chat("1?", "one", "2?", "two"))
    for value in (0.5, 2, -1, "0", "false", [0], {"a": 1}):
        (fault,) = read(tmp_path, marked(key, value), format="messages")
        assert isinstance(fault, BadRecord) and fault.reason == "loss_flag" and key in fault.detail


def test_marks_on_questions_may_say_only_what_is_so(tmp_path: Path) -> None:
    plain = read(tmp_path, chat("1?", "one", "2?", "two"))
    assert read(tmp_path, marked("loss", False, "user")) == read(tmp_path, marked("weight", 0, "user")) == plain
    (fault,) = read(tmp_path, marked("train", True, "user"))
    assert isinstance(fault, BadRecord) and fault.reason == "loss_flag"
    both = marked("train", True)
    both["messages"][1]["weight"] = 0
    (fault,) = read(tmp_path, both)
    assert isinstance(fault, BadRecord) and fault.reason == "loss_flag"
    none = chat("q", "a")
    none["messages"][1]["loss"] = False
    (fault,) = read(tmp_path, none)
    assert isinstance(fault, BadRecord) and fault.reason == "nothing_supervised"


UNKNOWN: list[tuple[dict[str, Any], str]] = [
    (
        {"instruction": "q", "input": "", "output": "a", "image": "a.png"},
        "instruction, input, output, image, as Alpaca's",
    ),
    ({"query": "q", "response": "a", "images": ["a.png"]}, "query, response, images, as ms-swift's"),
    ({"image": "a.png", "question": "q", "answer": "a"}, "the nearest format is pathvqa"),
    ({"question": "q", "answer": "a"}, "the nearest format is messages"),
    ({"prompt": "q", "completion": "a"}, "TRL's prompt and completion"),
    ({"instruction": "q", "inputs": "", "outputs": "a"}, "the nearest format is m3it"),
    ({"chosen": ["a"], "rejected": ["b"]}, "preferences"),
    ({"images": [], "texts": [{"user": "q", "assistant": "a"}]}, "the Cauldron's"),
    ({"text": "once"}, "plain text"),
    ({"what\never": 1}, "its keys are what ever;"),
    ({"whatever": 1}, "its keys are whatever; wanted are conversations"),
    ({"messages": [{"user": "q", "assistant": "a"}]}, "its keys are messages; wanted are"),
]


@pytest.mark.parametrize(("record", "told"), UNKNOWN)
def test_what_no_reader_knows_is_refused_in_one_line(record: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, record, record)
    line = str(caught.value)
    assert told in line and "train.jsonl" in line and "wanted are conversations" in line and "\n" not in line
    assert "the nearest format is " in line
    assert "data.sources.mine.format=" in line or "rewrite them so, for example {" in line
    for format in ("llava", "records", "messages"):
        fault = read(tmp_path, record, format=format)[0]
        assert isinstance(fault, BadRecord) and fault.reason == "not_a_conversation"


READ_AS_THEY_ARE: list[dict[str, Any]] = [
    {"image": {"bytes": RED, "path": None}, "question": "Colour?", "answer": "red"},
    {"id": "1", "image": RED, "question": "Colour?", "answer": "red"},
    {"instruction": "Colour?", "inputs": "", "outputs": "red", "image": [{"bytes": RED, "path": None}]},
]


@pytest.mark.parametrize("record", READ_AS_THEY_ARE)
def test_the_format_that_the_refusal_of_a_table_names_reads_it(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_parquet(tmp_path, [record])
    named = re.search(r"data\.sources\.mine\.format=(\S+) reads them as they are$", str(caught.value))
    assert named is not None
    source = Source("mine", "general", str(tmp_path / "train.parquet"), named[1])
    (entry,) = open_records(source, tmp_path / "cache").read(0, 1)
    assert isinstance(entry.content, Conversation) and len(entry.content.images) == 1


def test_no_format_is_named_that_would_not_read_the_records(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nearest format is pathvqa; rewrite them so, for example"):
        read(tmp_path, {"image": "", "question": "Colour?", "answer": "red"})


def test_the_example_of_a_refusal_is_read(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, json.loads(EXAMPLE))
    assert isinstance(entry, Conversation) and entry.images == ("FILE",)
