"""Records of every accepted shape, and of most broken ones, read from files on disk."""

from __future__ import annotations

import base64
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.data.conversation import BadRecord, Conversation, Turn
from llava_moe.data.records import Source
from llava_moe.data.source import ArrowRecords, check_has_images, check_image_root, open_records
from llava_moe.errors import UserError

WriteJson = Callable[..., Path]
Open = Callable[..., ArrowRecords]


@pytest.fixture
def open_path(tmp_path: Path) -> Open:
    def open_it(path: Path, **more: Any) -> ArrowRecords:
        records = open_records(Source("mine", "general", str(path), **more), tmp_path / "cache")
        assert isinstance(records, ArrowRecords)
        return records

    return open_it


def said(question: str = "what ?", answer: str = "a cat") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def reason(records: ArrowRecords, index: int) -> str:
    with pytest.raises(BadRecord) as caught:
        records[index]
    return caught.value.reason


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_llavas_records_are_read_as_they_are(name: str, write_json: WriteJson, open_path: Open) -> None:
    many = [
        {"id": "000033", "image": "coco/1.jpg", "conversations": said("<image>\nwhat ?")},
        {"id": 33, "image": ["a.jpg", "b.jpg"], "conversations": said("<image>\n<image>\nsame ?"), "task_name": "nlvr"},
        {"id": "t", "model": "", "conversations": said()},
        {"id": "n", "image": None, "conversations": said()},
        {"id": "med", "image": "m.jpg", "conversatons": said("is it ?\n<image>", "no"), "domain": {"xray": True}},
        {"image": "e.jpg", "task_name": None, "task": "vqa",
         "conversations": [{"from": "user", "value": "<image>"}, {"from": "user", "value": "what ?"},
                                             {"from": "assistant", "value": 12.5}]},
        {"id": "000033", "conversations": [{"from": "gpt", "value": "hi"}, *said()]},
        {"id": None, "conversations": [{"role": "user", "text": "what ?"}, {"role": "assistant", "text": "so"}]},
    ]  # fmt: skip
    records = open_path(write_json(many, name), format="llava" if name == "a.jsonl" else "auto")
    assert len(records) == 8
    assert records[0] == Conversation(
        "000033", ("coco/1.jpg",), (Turn("user", "<image>\nwhat ?"), Turn("assistant", "a cat")), "mine", "general"
    )
    assert (records[1].id, records[1].images, records[1].task) == ("33", ("a.jpg", "b.jpg"), "nlvr")
    assert records[2].images == records[3].images == ()
    assert records[4].turns == (Turn("user", "is it ?\n<image>"), Turn("assistant", "no"))
    assert records[5].turns == (Turn("user", "<image>\nwhat ?"), Turn("assistant", "12.5")) and records[5].id == "5"
    assert (records[4].task, records[5].task) == ("xray", "vqa")
    assert records[6].turns == records[2].turns and records[6].id == records[0].id
    assert records[7].turns == (Turn("user", "what ?"), Turn("assistant", "so")) and records[7].id == "7"


@pytest.mark.parametrize("first", [{"id": "bad"}, {"id": "bad", "conversations": []}, "not a record"])
def test_the_format_is_known_even_where_the_first_record_is_bad(
    first: Any, write_json: WriteJson, open_path: Open
) -> None:
    records = open_path(write_json([first, {"id": "good", "conversations": said()}], "a.json"))
    assert reason(records, 0) in ("not_a_conversation", "no_turns")
    assert records[1].turns == (Turn("user", "what ?"), Turn("assistant", "a cat"))


def test_bad_records_are_refused_one_by_one_with_a_reason(write_json: WriteJson, open_path: Open) -> None:
    bad: dict[str, list[Any]] = {
        "image_count": [
            {"id": 0, "image": "a.jpg", "conversations": said()},
            {"id": 1, "conversations": said("<image>\nwhat ?")},
            {"id": 2, "image": "a.jpg", "conversations": said("<image> <image>")},
            {"id": 3, "image": "a.jpg", "conversations": said("what ?", "<image>")},
        ],
        "empty_answer": [
            {"id": 4, "conversations": said("what ?", " \n")},
        ],
        "role_order": [
            {"id": 6, "conversations": [*said(), *said()[1:]]},
            {"id": 7, "conversations": said()[:1]},
            {"id": 8, "conversations": [*said(), {"from": "system", "value": "be kind"}, *said()]},
        ],
        "no_turns": [{"id": 9, "conversations": []}, {"id": 10, "conversations": said()[1:]}],
        "not_a_conversation": [
            {"id": 11},
            {"id": 12, "conversations": "what ?"},
            {"id": 13, "conversations": [{"from": "human"}]},
            {"id": 14, "conversations": ["what ?", "a cat"]},
            {"id": 15, "image": {"url": 3}, "conversations": said("<image>")},
            {"id": 16, "image": [None], "conversations": said("<image>")},
            {"id": 5, "conversations": [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": None}]},
            {"id": 17, "conversations": said("what ?", ["a"])},  # type: ignore[arg-type]
            "not an object",
            ["nor this"],
        ],
        "unreadable_text": [{"id": 20, "conversations": said("what \ud83d ?")}],
        "image_unreadable": [{"id": 21, "image": "data:image/png;base64,%%%", "conversations": said("<image>")}],
    }
    good = {"id": 99, "conversations": said()}
    expected = [name for name, some in bad.items() for _ in some]
    records = open_path(write_json([good, *(one for some in bad.values() for one in some), good]))
    assert len(records) == len(expected) + 2
    assert [reason(records, index) for index in range(1, len(expected) + 1)] == expected
    assert records[0] == records[len(expected) + 1]
    entries = records.read(0, 999)
    assert [entry.number for entry in entries] == list(range(len(records)))
    assert [entry.id for entry in entries[:3]] == ["99", "0", "1"]
    assert all("\n" not in str(entry.content) for entry in entries if isinstance(entry.content, BadRecord))


def test_images_may_be_base64_in_any_dress(write_json: WriteJson, open_path: Open, image_folder: Path) -> None:
    content = (image_folder / "3.jpg").read_bytes()
    plain = base64.b64encode(content).decode()
    wrapped = "\n".join(plain[at : at + 76] for at in range(0, len(plain), 76))
    dresses = [
        plain,
        wrapped,
        plain.rstrip("="),
        base64.urlsafe_b64encode(content).decode(),
        f"data:image/jpeg;base64,{plain}",
    ]
    path_like = "train/" + "a" * 90
    many = [
        {"id": n, "image": image, "conversations": said("<image>")} for n, image in enumerate([*dresses, path_like])
    ]
    records = open_path(write_json(many))
    assert [records[n].images for n in range(5)] == [(content,)] * 5
    assert records[5].images == (path_like,)


def test_a_folder_of_images_that_no_usable_record_uses_stops_unless_it_is_a_split_held_out(
    write_json: WriteJson, open_path: Open
) -> None:
    def check(many: list[Any], split: str | None = None, images: str | None = "images") -> None:
        records = open_path(write_json(many, f"{len(many)}{split}.json"), images=images, split=split)
        check_has_images(records.source, records)

    text = [{"id": number, "conversations": said(), "split": "train"} for number in range(40)]
    shown = {"id": "a", "image": "a.jpg", "conversations": said("<image>")}
    missed = {"id": "b", "img": "a.jpg", "conversations": said()}
    check([*text, shown])
    check([*text, {**shown, "conversations": said("<image><image>")}])
    check(text, images=None)
    check([*text, text[0] | {"split": "val"}], "val")
    check([missed, {"id": "c", "conversations": []}])
    with pytest.raises(UserError, match="images=images is given, and none of its 40 records has an image that is read"):
        check(text)
    with pytest.raises(UserError, match="none of its 40 records has an image"):
        check([*text, shown | {"split": "val"}], "train")
    with pytest.raises(UserError, match=r"none of its 42 records .*unread_media: the key img holds 'a.jpg'"):
        check([*text, missed, missed])


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [turn for q, a in pairs for turn in ({"role": "user", "text": q}, {"role": "assistant", "text": a})]


def demo_table(image_folder: Path) -> pa.Table:
    """Rows as the embedded demo has them."""
    rows = [
        {
            "id": f"r{n}",
            "images": [(image_folder / f"{n}.jpg").read_bytes()],
            "conversations": turns(("what is this ?", "a cat"), ("what colour ?", "red")),
            "caption": f"a picture of {n} cats" if n != 4 else "  ",
            "kinds": ["object", "colour"],
            "closed": [False, False],
            "source": "pets",
            "domain": "general",
            "task": "vqa",
            "split": ["train", "val", "test"][n % 3],
            "licence": "CC0-1.0",
        }
        for n in range(9)
    ]
    turn = pa.struct([("role", pa.string()), ("text", pa.string())])
    schema = pa.schema(
        [
            ("id", pa.string()), ("images", pa.list_(pa.binary())), ("conversations", pa.list_(turn)),
            ("caption", pa.string()), ("kinds", pa.list_(pa.string())), ("closed", pa.list_(pa.bool_())),
            ("source", pa.string()), ("domain", pa.string()), ("task", pa.string()), ("split", pa.string()),
            ("licence", pa.string()),
        ]
    )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)


def test_parquet_records_choose_a_split_and_put_the_image_first(
    tmp_path: Path, open_path: Open, image_folder: Path
) -> None:
    pq.write_table(demo_table(image_folder), tmp_path / "demo.parquet")
    whole = open_path(tmp_path / "demo.parquet", split="all")
    assert len(whole) == 9
    val = open_path(tmp_path / "demo.parquet", split="val")
    assert [val[n].id for n in range(len(val))] == ["r1", "r4", "r7"] and val.number(1) == 4
    assert [entry.number for entry in val.read(1, 3)] == [4, 7]
    assert val[0].images == ((image_folder / "1.jpg").read_bytes(),) and val[0].task == "vqa"
    assert val[0].turns == tuple(
        Turn(*pair)
        for pair in [
            ("user", "<image>\nwhat is this ?"),
            ("assistant", "a cat"),
            ("user", "what colour ?"),
            ("assistant", "red"),
        ]
    )
    with pytest.raises(UserError, match=r'no record of split \'tset\'.*\["test", "train", "val"\]'):
        open_path(tmp_path / "demo.parquet", split="tset")


def test_captions_become_an_image_and_its_caption(tmp_path: Path, open_path: Open, image_folder: Path) -> None:
    pq.write_table(demo_table(image_folder), tmp_path / "demo.parquet")
    records = open_path(tmp_path / "demo.parquet", text="caption", split="all")
    assert records[3].turns == (Turn("user", "<image>"), Turn("assistant", "a picture of 3 cats"))
    assert reason(records, 4) == "empty_answer"


def test_a_caption_without_turns_says_what_reads_it(write_json: WriteJson, open_path: Open) -> None:
    records = open_path(write_json([{"image": "a.png", "caption": "a square"}]))
    (entry,) = records.read(0, 1)
    assert isinstance(entry.content, BadRecord) and "text: caption" in entry.content.detail


def test_records_take_images_in_every_form(
    tmp_path: Path, write_json: WriteJson, open_path: Open, image_folder: Path
) -> None:
    content = (image_folder / "3.jpg").read_bytes()
    structs = [
        {"id": 1, "images": [{"bytes": content, "path": None}, {"bytes": None, "path": "b.jpg"}],
         "conversations": turns(("alike ?", "no"))},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(structs), tmp_path / "structs.parquet")
    assert open_path(tmp_path / "structs.parquet")[0].images == (content, "b.jpg")
    assert open_path(tmp_path / "structs.parquet")[0].turns[0].text == "<image>\n<image>\nalike ?"
    lines = [
        {
            "id": 1,
            "images": ["a.jpg", base64.b64encode(content).decode()],
            "conversations": turns(("<image> <image>", "no")),
        },
        {"id": 2, "images": [], "conversations": turns(("what ?", "so"))},
        {"id": 3, "conversations": turns(("what ?", "so"))},
        {"id": 4, "images": ["a.jpg", "b.jpg"], "conversations": turns(("<image>", "so"))},
        {"id": 5, "images": ["a.jpg"], "caption": "a cat"},
    ]
    records = open_path(write_json(lines, "lines.jsonl"))
    assert records[0].images == ("a.jpg", content) and records[0].turns[0].text == "<image> <image>"
    assert records[1].images == records[2].images == ()
    assert reason(records, 3) == "image_count"
    assert reason(records, 4) == "no_turns", "a caption is read where the source says text=caption"
    assert open_path(write_json(lines, "lines.jsonl"), text="caption")[4].turns[1].text == "a cat"


def test_a_folder_or_a_glob_is_read_file_by_file_in_order(tmp_path: Path, open_path: Open) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for shard in range(3):
        table = pa.Table.from_pylist(
            [{"id": f"{shard}-{n}", "conversations": turns(("what ?", "so"))} for n in range(4)]
        )
        pq.write_table(table, shards / f"{shard}.parquet")
    (shards / "README.md").write_text("no data")
    for records in (open_path(shards), open_path(shards / "*.parquet")):
        assert [records[n].id for n in range(len(records))] == [f"{s}-{n}" for s in range(3) for n in range(4)]


def test_json_is_converted_once_and_again_when_it_changes(
    write_json: WriteJson, open_path: Open, tmp_path: Path
) -> None:
    path = write_json([{"id": 1, "conversations": said()}])
    kept = open_path(path).path
    written = kept.stat().st_mtime_ns
    assert open_path(path).path == kept and kept.stat().st_mtime_ns == written
    write_json([{"id": 2, "conversations": said()}])
    os.utime(path, ns=(1, 1))
    again = open_path(path)
    assert again.path != kept and again[0].id == "2"
    assert not list((tmp_path / "cache").glob("*.part"))


def test_records_cross_process_borders_without_their_rows(write_json: WriteJson, open_path: Open) -> None:
    records = open_path(write_json([{"id": n, "conversations": said()} for n in range(2000)]))
    assert records[1999].id == "1999"
    frozen = pickle.dumps(records)
    assert len(frozen) < 2000
    assert pickle.loads(frozen)[7] == records[7]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no records"),
        ("   \n", "holds no records"),
        ("[]", "holds no records"),
        ('[{"id": 1, "conversations": [{"from": "hum', "line 1: the file ends inside a record"),
        ('[\n{"id": 1,\n "conversations": []}', "line 3: the file ends inside a record"),
        ('[\n{"id": 1}\n{"id": 2}]', "line 3: not valid JSON (Expecting ',' or ']' behind a record)"),
        ('{"id": 1}\n{"id": 2]\n{"id": 3, "conversations": []}', "line 2: not valid JSON"),
        ('{"id": 1}\n{"id": 2', "line 2: the file ends inside a record"),
        ("<html>404: not found and nothing here</html>", "line 1: not valid JSON"),
        ('[{"id": 1}] and more', "line 1: not valid JSON (Extra data"),
    ],
)
def test_a_broken_json_file_is_one_clear_line(tmp_path: Path, open_path: Open, content: str, words: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    for form in ("auto", "llava"):
        with pytest.raises(UserError) as caught:
            open_path(tmp_path / "bad.json", format=form)
        assert words in str(caught.value) and "bad.json" in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_number_that_python_refuses_to_read_keeps_its_digits(tmp_path: Path, open_path: Open) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"id": ' + "7" * 5000 + "}\n")
    assert [entry.id for entry in open_path(tmp_path / "a.jsonl").read(0, 2)] == ["1", "7" * 5000]


def test_the_line_of_a_fault_is_right_far_into_a_long_file(tmp_path: Path, open_path: Open) -> None:
    lines = [json.dumps({"id": n, "conversations": said("what ? " * 40)}) for n in range(12_000)]
    lines[11_000] = lines[11_000].replace('"from"', "from", 1)
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="line 11001: not valid JSON"):
        open_path(tmp_path / "long.jsonl")


def test_records_longer_than_a_stretch_of_the_file_are_read_whole(tmp_path: Path, open_path: Open) -> None:
    long = 'what 🙂 \\ " \n ' * 300_000
    many = [{"id": n, "conversations": said(long[: 1000 + n * 1_100_000])} for n in range(4)]
    for name, text in (("a.json", json.dumps(many)), ("b.jsonl", "\n".join(json.dumps(one) for one in many))):
        (tmp_path / name).write_text(text)
        records = open_path(tmp_path / name)
        assert [records[n].turns[0].text for n in range(4)] == [long[: 1000 + n * 1_100_000] for n in range(4)]


def test_unreadable_files_are_one_clear_line(tmp_path: Path, open_path: Open, image_folder: Path) -> None:
    (tmp_path / "latin.json").write_bytes('[{"id": "é"}]'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.json: not UTF-8"):
        open_path(tmp_path / "latin.json")
    with pytest.raises(UserError, match=r"data source 'mine': no file .*absent\.json; check path"):
        open_path(tmp_path / "absent.json")
    with pytest.raises(UserError, match=r"no \.parquet, \.json or \.jsonl file in"):
        open_path(image_folder)
    pq.write_table(demo_table(image_folder), tmp_path / "cut.parquet")
    content = (tmp_path / "cut.parquet").read_bytes()
    for broken in (content[: len(content) // 2], b"", b"PAR1"):
        (tmp_path / "cut.parquet").write_bytes(broken)
        with pytest.raises(UserError, match=r"cut\.parquet: not a readable Parquet file") as caught:
            open_path(tmp_path / "cut.parquet")
        assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_one_clear_line(write_json: WriteJson, tmp_path: Path) -> None:
    path = write_json([{"id": 1, "conversations": said()}])
    (tmp_path / "taken").write_text("a file where the cache folder should be")
    with pytest.raises(UserError, match="taken: cannot be written"):
        open_records(Source("mine", "general", str(path)), tmp_path / "taken")


def test_a_wrong_image_folder_is_said_before_training(
    write_json: WriteJson, open_path: Open, image_folder: Path
) -> None:
    many = [{"id": n, "image": f"{n}.jpg", "conversations": said("<image>")} for n in range(12)]
    records = open_path(write_json(many), images=str(image_folder))
    check_image_root(records.source, records)
    (image_folder / "5.jpg").unlink()
    check_image_root(records.source, records)
    wrong = open_path(write_json(many), images=str(image_folder / "elsewhere"))
    with pytest.raises(UserError, match=r"none of the 12 .*elsewhere/0\.jpg.*check images=.*: 11 of them are in"):
        check_image_root(wrong.source, wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"format": "csv"}, "unknown format 'csv'"),
        ({"text": "title"}, "text='title'"),
        ({"repeats": 0.0}, "repeats and cap must be above 0"),
        ({"cap": 0}, "repeats and cap must be above 0"),
        ({"weight": -1.0}, "weight at least 0"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Source("mine", "general", "a.json", **words)
