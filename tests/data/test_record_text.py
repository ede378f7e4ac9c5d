"""Text as the file spells it, and the records that hold none: quarantined one by one, the others read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.data.conversation import BadRecord
from llava_moe.data.readers.json_values import SpelledNumber, parse_spelled_json
from llava_moe.data.records import Source
from llava_moe.data.source import ArrowRecords, open_records
from llava_moe.errors import UserError

GOOD = '{"id": "good", "conversations": [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": "so"}]}'


def answered(value: str, more: str = "") -> str:
    """A line of JSON with a value as it is spelled."""
    turns = f'[{{"from": "human", "value": "q"}}, {{"from": "gpt", "value": {value}}}]'
    return f'{{"id": "x", {more}"conversations": {turns}}}'


def opened(path: Path, content: str | bytes, format_name: str = "auto") -> ArrowRecords:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    records = open_records(Source("mine", "general", str(path), format=format_name), path.parent / "cache")
    assert isinstance(records, ArrowRecords)
    return records


def reasons(records: ArrowRecords) -> list[str | None]:
    contents = [entry.content for entry in records.read(0, len(records))]
    return [content.reason if isinstance(content, BadRecord) else None for content in contents]


@pytest.mark.parametrize(
    "spelled",
    ["12.50", "1e3", "-0.0", "-0", "0.10", "1E+2", "123456789012345678901234567890", "7" * 5000, "1e999", "3"],
)
def test_a_number_keeps_the_spelling_of_its_file(tmp_path: Path, spelled: str) -> None:
    for name, text in (("a.jsonl", answered(spelled)), ("a.json", f"[{answered(spelled)}]")):
        assert opened(tmp_path / name, text)[0].turns[1].text == spelled


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_every_number_of_json_keeps_its_spelling(spelled: str) -> None:
    assert str(parse_spelled_json(f"[{spelled}]")[0]) == spelled


def test_a_spelled_number_is_a_number_and_crosses_process_borders() -> None:
    number = pickle.loads(pickle.dumps(SpelledNumber("12.50")))
    assert number == 12.5 and str(number) == f"{number}" == "12.50" and json.dumps(number) == "12.5"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "true", "false", "[1]", "{}", "null"])
def test_what_is_no_text_is_a_fault_of_its_record(tmp_path: Path, value: str) -> None:
    records = opened(tmp_path / "a.jsonl", "\n".join([GOOD, answered(value), GOOD]))
    assert reasons(records) == [None, "not_a_conversation", None]
    asked = GOOD.replace('"what ?"', value)
    assert reasons(opened(tmp_path / "b.jsonl", f"{asked}\n{GOOD}")) == ["not_a_conversation", None]
    for key in ("split", "task", "id", "caption"):
        told = reasons(
            opened(
                tmp_path / f"{key}.jsonl",
                answered('"so"', f'"{key}": {value}, ').replace('"id": "x", ', "") + f"\n{GOOD}",
            )
        )
        is_allowed = value == "null" or (key == "id" and value in ("[1]", "{}"))
        assert told == [None if is_allowed else "not_a_conversation", None], key


@pytest.mark.parametrize(
    "record",
    [
        answered('"a"', '"id": "y", '),
        answered('"a"').replace('"value": "q"', '"value": "q", "value": "r"'),
        answered('"a"', '"extra": {"deep": [{"k": 1, "k": 1}]}, '),
    ],
)
def test_a_key_that_stands_twice_is_a_fault_of_its_record(tmp_path: Path, record: str) -> None:
    for name, text in (("a.jsonl", f"{GOOD}\n{record}\n{GOOD}"), ("a.json", f"[{GOOD},{record},{GOOD}]")):
        records = opened(tmp_path / name, text)
        assert reasons(records) == [None, "doubled_key", None]


HALF = "\\ud83d"


@pytest.mark.parametrize(
    "more",
    [
        f'"split": "{HALF}", ',
        f'"split": "train", "task": "{HALF}", ',
        f'"image": "{HALF}.png", ',
        f'"{HALF}": 1, ',
        f'"unread": [{{"a": "x{HALF.upper().replace("U", "u", 1)}"}}], ',
    ],
)
def test_half_a_surrogate_anywhere_is_a_fault_of_its_record_and_the_others_are_read(tmp_path: Path, more: str) -> None:
    records = opened(tmp_path / "a.jsonl", "\n".join([GOOD] * 200 + [answered('"a"', more)]))
    assert reasons(records) == [None] * 200 + ["unreadable_text"]
    for text in (answered(f'"{HALF}"'), answered('"a"').replace('"x"', f'"{HALF}"')):
        assert reasons(opened(tmp_path / "b.jsonl", f"{text}\n{GOOD}")) == ["unreadable_text", None]
    assert opened(tmp_path / "c.jsonl", answered('"\\ud83d\\ude00"'))[0].turns[1].text == "\U0001f600"


def table(values: pa.Array) -> pa.Table:
    num = len(values)
    return pa.table({"question": ["q"] * num, "answer": values, "image": ["a.png"] * num})


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([0.1, 12.5, float("nan"), 3.0], pa.float32()), ["0.1", "12.5", None, "3.0"]),
        (pa.array([0.1, float("-inf"), 1e22], pa.float64()), ["0.1", None, "1e+22"]),
        (pa.array([Decimal("12.50"), Decimal("1000")], pa.decimal128(10, 2)), ["12.50", "1000.00"]),
        (pa.array([True, False]), [None, None]),
        (pa.array([2**62, -1]), [str(2**62), "-1"]),
    ],
)
def test_a_column_without_text_gets_the_shortest_decimal_or_is_a_fault(
    tmp_path: Path, values: pa.Array, texts: list[str | None]
) -> None:
    pq.write_table(table(values), tmp_path / "train.parquet")
    source = Source("mine", "medical", str(tmp_path / "train.parquet"), format="pathvqa")
    entries = open_records(source, tmp_path / "cache").read(0, 99)
    found = [None if isinstance(one.content, BadRecord) else one.content.turns[1].text for one in entries]
    assert found == texts


def test_text_of_a_column_that_is_no_utf8_is_a_fault_of_its_record(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, [None, *pa.array([b"ok", b"\xff\xfe"], pa.binary()).buffers()[1:]])
    pq.write_table(table(bad), tmp_path / "train.parquet")
    source = Source("mine", "medical", str(tmp_path / "train.parquet"), format="pathvqa")
    first, second = open_records(source, tmp_path / "cache").read(0, 2)
    assert not isinstance(first.content, BadRecord)
    assert isinstance(second.content, BadRecord) and second.content.reason == "unreadable_text"


Pack = Callable[[bytes], bytes]


def zstandard(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard)]
)
def test_compressed_json_is_read_and_a_cut_one_is_one_line(tmp_path: Path, ending: str, pack: Pack) -> None:
    lines = [json.dumps({**json.loads(GOOD), "id": str(number * 7919)}) for number in range(2000)]
    for name, text in ((f"a.jsonl{ending}", "\n".join(lines)), (f"b.json{ending}", f"[{','.join(lines)}]")):
        packed = pack(text.encode())
        assert [entry.id for entry in opened(tmp_path / name, packed).read(0, 2)] == ["0", "7919"]
        for kept in (len(packed) // 2, len(packed) - 1):
            with pytest.raises(UserError) as caught:
                opened(tmp_path / name, packed[:kept])
            assert name in str(caught.value) and "cut short" in str(caught.value) and "\n" not in str(caught.value)


def test_a_compressed_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    assert len(opened(tmp_path / "a.jsonl", gzip.compress(GOOD.encode()))) == 1
    assert len(opened(tmp_path / "b.jsonl.gz", GOOD)) == 1
    damaged = bytearray(gzip.compress(GOOD.encode() * 50))
    damaged[-6] ^= 1
    with pytest.raises(UserError, match=r"c\.jsonl\.gz: the compressed file is damaged"):
        opened(tmp_path / "c.jsonl.gz", bytes(damaged))


def test_a_file_beside_its_compressed_copy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    opened(tmp_path / "set" / "a.jsonl", GOOD)
    (tmp_path / "set" / "a.jsonl.gz").write_bytes(gzip.compress(GOOD.encode()))
    with pytest.raises(UserError, match=r"a\.jsonl and .*a\.jsonl\.gz are both there"):
        open_records(Source("mine", "general", str(tmp_path / "set")), tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train.csv", "CSV is not read; this makes records of it: python -c .* and then give .*train.jsonl$"),
        ("train.csv.gz", "CSV is not read: unpack it"),
        ("train.tsv", r"TSV is not read; none of its columns \(image,question,answer\) is known"),
        ("train.xlsx", "XLSX is not read: save the sheet as CSV"),
        ("train.zip", "ZIP is not read: unpack"),
        ("train.tar.gz", "TAR is not read: unpack"),
        ("train.parquet.gz", "PARQUET.GZ is not read.*gunzip"),
        ("train.pkl", "PKL is not read: a pickle can run programs"),
    ],
)
def test_a_file_of_a_kind_that_is_not_read_is_named_with_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match=words) as caught:
        opened(tmp_path / "set" / name, "image,question,answer\n")
    assert name in str(caught.value)
    with pytest.raises(UserError, match=words) as caught:
        open_records(Source("mine", "general", str(tmp_path / "set")), tmp_path / "cache")
    assert name in str(caught.value)


@pytest.mark.parametrize(("head", "words"), [(b"PK\x03\x04", "zip"), (b"PAR1", "Parquet"), (b"\x80\x04", "pickle")])
def test_another_kind_behind_the_name_of_json_is_told_by_its_first_bytes(
    tmp_path: Path, head: bytes, words: str
) -> None:
    with pytest.raises(UserError, match=rf"a\.json: is an? ?.*{words}|a\.json: is {words}"):
        opened(tmp_path / "a.json", head + b"\0" * 40)


def test_a_column_that_stands_twice_is_one_line(tmp_path: Path) -> None:
    one: Any = pa.array(["a"])
    pq.write_table(pa.Table.from_arrays([one, one], names=["answer", "answer"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: the column 'answer' stands twice"):
        open_records(Source("mine", "general", str(tmp_path / "a.parquet")), tmp_path / "cache")


@pytest.mark.parametrize("more", ['"id": "again", ', '"note": "\\ud83d", '])
def test_a_file_of_faulty_records_alone_is_told_its_format_and_they_are_named(tmp_path: Path, more: str) -> None:
    records = opened(tmp_path / "a.jsonl", answered('"so"', more))
    assert reasons(records) == ["doubled_key" if "again" in more else "unreadable_text"]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (answered("NaN"), "turns[1]: text expected, got nan"),
        (answered('"so"', '"system": false, '), "system: text expected, got bool"),
        (answered('"so"', '"task": true, '), "task: text expected, got bool"),
        (answered('"so"', '"split": [1], '), "split: text expected, got list"),
        (answered('"so"', '"image": 12.50, '), "an image is a path, bytes or base64 text, got float"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(tmp_path: Path, record: str, told: str) -> None:
    (entry,) = opened(tmp_path / "a.jsonl", record).read(0, 1)
    assert isinstance(entry.content, BadRecord) and entry.content.detail.startswith(told)
