"""Each raw format is read as its source writes it, from folders, globs and addresses, in constant memory."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_moe.data.auto_format import reading_formats
from llava_moe.data.conversation import BadRecord, Turn, settle_turns
from llava_moe.data.images.transform import open_image
from llava_moe.data.readers.files import find_raw, unreachable
from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.m3it import copies_among, embedded_images
from llava_moe.data.readers.reader import RawFile
from llava_moe.data.readers.row import Row
from llava_moe.data.readers.tree import date_of, files_below, split_of
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.errors import UserError
from tests.data.readers.raw import (
    INSTRUCTIONS,
    base64_text,
    encoded,
    older_row,
    rephrased_row,
    save,
    write_lines,
    write_raw,
)

# One format makes its records by itself and reads no file; of another a path says more than a file.
FILE_FORMATS = sorted(set(FORMATS) - {"conflict", "part"})


def rows_of(kind: str, path: Path | str, split: str | None = None) -> list[Row]:
    reader = FORMATS[kind]
    records = [
        record for file in reader.find(str(path)) if split in (None, file.split) for record in reader.records(file)
    ]
    return [row_of(reader, record, number) for number, record in enumerate(records)]


def texts(row: Row) -> list[str]:
    return [turn.text for turn in settle_turns([Turn(turn["role"], turn["text"]) for turn in row["turns"]])]


def below(folder: Path, files: list[RawFile]) -> dict[str, tuple[str | None, str | None]]:
    return {str(Path(file.path).relative_to(folder)): (file.split, file.label) for file in files}


def test_m3it_reads_every_record_once_whatever_its_file_is_called(tmp_path: Path) -> None:
    folder = write_raw("m3it", tmp_path / "raw").folder / "data"
    files = FORMATS["m3it"].find(str(folder))
    assert below(folder, files) == {
        "captioning/coco/test.jsonl": ("test", "coco"),
        "captioning/coco/train.jsonl": ("train", "coco"),
        "captioning/coco/val.jsonl": ("val", "coco"),
        "classification/snli-ve/esnlive_train.jsonl": ("train", "snli-ve"),
        "generation/mmchat/validation.jsonl": ("val", "mmchat"),
        "reasoning/nlvr/train.jsonl": ("train", "nlvr"),
        # The dated copy is left out beside its original; without one the latest date is read.
        "vqa/docvqa/train_2023-10-08.jsonl": ("train", "docvqa"),
        "vqa/shapes/train.large.jsonl": ("train", "shapes"),
        "vqa/vqa-v2/train.jsonl": ("train", "vqa-v2"),
    }
    assert all(Path(file.beside[0]) == Path(file.path).parent / "instructions.json" for file in files)


def test_m3it_reads_a_dated_copy_that_is_asked_for_by_name(tmp_path: Path) -> None:
    folder = write_raw("m3it", tmp_path / "raw").folder / "data"
    (file,) = FORMATS["m3it"].find(str(folder / "vqa" / "vqa-v2" / "train_2023-10-08.jsonl"))
    assert (file.split, file.label) == ("train", "vqa-v2")
    found = FORMATS["m3it"].find(str(folder / "*" / "*" / "train*.jsonl"))
    assert len(found) == 5 and not any("vqa-v2/train_" in file.path for file in found)


def test_m3it_draws_instructions_in_record_order_with_its_seed_and_nothing_else_moves_them(tmp_path: Path) -> None:
    save(tmp_path / "instructions.json", json.dumps(INSTRUCTIONS).encode())
    mixed = [older_row(0), rephrased_row(1), older_row(2), older_row(3) | {"instruction": "Keep me."}, older_row(4)]
    write_lines(tmp_path / "train.jsonl", mixed)
    draw = random.Random(1234)
    drawn = [draw.choice(INSTRUCTIONS) for _ in range(3)]
    expected = [drawn[0], "Look closely.", drawn[1], "Keep me.", drawn[2]]
    for _ in range(2):
        rows = rows_of("m3it", tmp_path / "train.jsonl")
        assert [texts(row)[0].split("\n")[1] for row in rows] == expected
    # The row is made from the record alone: in any order, in any process.
    reader = FORMATS["m3it"]
    records = list(reader.records(reader.find(str(tmp_path / "train.jsonl"))[0]))
    assert [reader.row(record, number) for number, record in reversed(list(enumerate(records)))][::-1] == rows


def test_other_instructions_make_other_records_of_the_same_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "coco" / "train.jsonl", [older_row(0)])
    source = Source("a", "b", str(tmp_path / "coco"), "m3it")
    for told in ("Say it.", "Write it."):
        save(tmp_path / "coco" / "instructions.json", json.dumps([told]).encode())
        assert told in open_records(source, tmp_path / "cache")[0].turns[0].text


def test_m3it_makes_one_question_of_instruction_and_inputs_behind_its_images(tmp_path: Path) -> None:
    folder = write_raw("m3it", tmp_path / "raw").folder / "data"
    rows = rows_of("m3it", folder / "reasoning")
    question, answer = texts(rows[0])
    first, second, instruction, inputs = question.split("\n")
    assert (first, second, inputs, answer) == ("<image>", "<image>", "How many cups?", "white")
    assert instruction in INSTRUCTIONS and rows[0]["task"] == "nlvr"
    assert [row["fault"] for row in rows] == [None, None, None, "image_unreadable"]
    assert [image["bytes"] for row in rows[:3] for image in row["images"]] == [
        encoded(seed, "PNG") for seed in (400, 401, 410, 430)
    ]
    (captioned, *_) = rows_of("m3it", folder / "captioning" / "coco" / "train.jsonl")
    assert texts(captioned)[0].split("\n")[1] in INSTRUCTIONS and texts(captioned)[0].count("\n") == 1
    rephrased, mixed = rows_of("m3it", folder / "vqa" / "docvqa")
    assert texts(rephrased) == ["<image>\nLook closely.\nCup 210?", "It is the cup number 210."]
    assert rephrased["task"] == mixed["task"] == "docvqa"


def test_m3it_without_instructions_says_which_record_needs_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "coco" / "train.jsonl", [rephrased_row(0), older_row(1)])
    with pytest.raises(UserError, match=r"train.jsonl, record 1: has no instruction, and no instructions.json"):
        rows_of("m3it", tmp_path)
    for content in ("{}", "[]", "[1]", "[", '{"instructions": []}'):
        save(tmp_path / "coco" / "instructions.json", content.encode())
        with pytest.raises(UserError, match=r"instructions.json: (no list of instructions|not valid JSON).*again"):
            rows_of("m3it", tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"outputs": None}, "not_a_conversation"),
        ({"image_base64_str": [""]}, "image_unreadable"),
        ({"image_base64_str": ["%%%%"]}, "image_unreadable"),
        ({"inputs": {"text": "?"}}, "not_a_conversation"),
        ({"image_base64_str": None}, None),
        ({"image_base64_str": []}, None),
        ({"inputs": None}, None),
    ],
)
def test_m3it_names_what_is_wrong_with_a_record(change: dict[str, Any], fault: str | None) -> None:
    record = older_row(0) | {"instruction": "Say."} | change
    assert row_of(FORMATS["m3it"], record, 3)["fault"] == fault


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=300), urlsafe=st.booleans(), padded=st.booleans(), width=st.integers(1, 80)
)
def test_m3its_base64_gives_its_bytes_back_in_either_alphabet_with_breaks_and_without_padding(
    content: bytes, urlsafe: bool, padded: bool, width: int
) -> None:
    text = (base64.urlsafe_b64encode if urlsafe else base64.b64encode)(content).decode()
    text = text if padded else text.rstrip("=")
    broken = "\n".join(text[at : at + width] for at in range(0, len(text), width))
    for written in (text, broken, f"data:image/png;base64,{text}"):
        assert embedded_images({"image_base64_str": [written]}) == [{"path": None, "bytes": content}]


NAMES = ["train.jsonl", "train_2023-10-08.jsonl", "train_2023-09-01.jsonl", "a_train.jsonl", "val.jsonl"]
NAMES += ["validation_2023-10-08.jsonl", "train.small.jsonl", "train.large.jsonl", "records.jsonl", "extra.jsonl"]


@settings(max_examples=100, deadline=None)
@given(names=st.sets(st.sampled_from(NAMES), min_size=1), folders=st.sets(st.sampled_from("ab"), min_size=1))
def test_m3its_copies_leave_each_split_of_a_folder_its_original(names: set[str], folders: set[str]) -> None:
    paths = [f"{folder}/{name}" for folder in sorted(folders) for name in sorted(names)]
    copies = copies_among(paths)
    for folder in folders:
        kept = {name for name in names if f"{folder}/{name}" not in copies}
        assert {split_of(name) for name in kept} == {split_of(name) for name in names}
        for split in ("train", "val"):
            there, left = ({name for name in group if split_of(name) == split} for group in (names, kept))
            undated = {name for name in there if date_of(name) is None}
            largest = {"train.small.jsonl"} if "train.large.jsonl" in undated else set()
            assert left == (undated - largest if undated else {max(there)} if there else set())
        assert {name for name in names if split_of(name) is None} <= kept


def test_m3its_parquet_conversion_is_read_too(tmp_path: Path) -> None:
    image = {"bytes": encoded(5), "path": None}
    table = pa.Table.from_pylist([{"instruction": "Say.", "inputs": "", "outputs": "a cat", "image": image}])
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    (row,) = rows_of("m3it", tmp_path, "train")
    assert texts(row) == ["<image>\nSay.", "a cat"] and row["images"][0]["bytes"] == encoded(5)


def test_m3it80_joins_translations_with_the_images_of_their_originals(tmp_path: Path) -> None:
    folder = write_raw("m3it80", tmp_path / "raw", 3).folder
    files = below(folder, FORMATS["m3it80"].find(str(folder)))
    assert len(files) == 6
    assert files["data/vqa-v2/vqa-v2_val_deu_Latn.jsonl"] == ("val", "vqa-v2-deu_Latn")
    rows = rows_of("m3it80", folder / "data" / "*" / "*_zho_Hans.jsonl", "test")
    assert [row["task"] for row in rows] == ["winoground-zho_Hans"] * 3
    assert texts(rows[1]) == ["<image>\n<image>\nSay.\n有几个杯子", "zho_Hans 1"]
    assert [image["bytes"] for image in rows[1]["images"]] == [encoded(1, "PNG"), encoded(2, "PNG")]


def test_m3it80_takes_a_rephrased_original_for_its_images_alone(tmp_path: Path) -> None:
    write_lines(tmp_path / "val_500.jsonl", [rephrased_row(7)])
    write_lines(tmp_path / "vqa_val_deu_Latn.jsonl", [{"instruction": "Sag es.", "inputs": "Wo?", "outputs": "hier"}])
    (row,) = rows_of("m3it80", tmp_path)
    assert texts(row) == ["<image>\nSag es.\nWo?", "hier"] and row["images"][0]["bytes"] == encoded(7, "PNG")


@pytest.mark.parametrize("shorter", ["vqa-v2_val_deu_Latn.jsonl", "val_500.jsonl"])
def test_m3it80_stops_where_one_file_of_a_pair_ends_first(shorter: str, tmp_path: Path) -> None:
    folder = write_raw("m3it80", tmp_path / "raw", 3).folder / "data" / "vqa-v2"
    lines = (folder / shorter).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / shorter).write_text("".join(lines[:2]), encoding="utf-8")
    with pytest.raises(UserError, match=f"{shorter}: ends at row 2"):
        rows_of("m3it80", folder / "vqa-v2_val_deu_Latn.jsonl")


def test_m3it80_without_its_originals_names_the_file_it_needs(tmp_path: Path) -> None:
    folder = write_raw("m3it80", tmp_path / "raw", 3).folder / "data" / "vqa-v2"
    (folder / "val_500.jsonl").unlink()
    with pytest.raises(UserError, match=r"its images stand in val_500\.jsonl"):
        FORMATS["m3it80"].find(str(folder))


def test_ureader_trains_on_both_files_and_keeps_its_tests_apart(tmp_path: Path) -> None:
    folder = write_raw("ureader", tmp_path / "raw").folder
    assert below(folder, FORMATS["ureader"].find(str(folder / "ureader_json"))) == {
        "ureader_json/test_DocVQA.jsonl": ("test", "DocVQA"),
        "ureader_json/test_TabFact.jsonl": ("test", "TabFact"),
        "ureader_json/train.jsonl": ("train", None),
        "ureader_json/val.jsonl": ("train", None),
    }


def test_ureader_reads_a_file_of_ones_own_name_that_is_asked_for(tmp_path: Path) -> None:
    folder = write_raw("ureader", tmp_path / "raw", 2).folder / "ureader_json"
    (folder / "train.jsonl").rename(folder / "mine.jsonl")
    assert FORMATS["ureader"].find(str(folder / "mine.jsonl")) == [RawFile(str(folder / "mine.jsonl"))]
    assert len(FORMATS["ureader"].find(str(folder))) == 3


def test_ureaders_two_user_turns_are_one_question_and_none_is_an_answer(tmp_path: Path) -> None:
    folder = write_raw("ureader", tmp_path / "raw", 2).folder
    rows = rows_of("ureader", folder / "ureader_json" / "train.jsonl")
    assert texts(rows[0]) == ["<image>\nWhat is the total of invoice 0?", "$0.50"]
    assert texts(rows[2]) == ["<image>\nWhat is the value for the post town?", "None"]
    assert [row["task"] for row in rows] == ["qa", "qa", "qa", "nli", "qa", "cap"]
    root = str(folder / "ureader_images")
    opened = [open_image(image["bytes"] or image["path"], root) for row in rows for image in row["images"]]
    assert len(opened) == 6 and all(image.mode == "RGB" for image in opened)
    assert opened[5].tobytes() == Image.open(io.BytesIO(encoded(62, "PNG"))).tobytes()


def test_pathvqa_is_open_or_closed_by_its_answer_and_its_images_of_any_mode_open(tmp_path: Path) -> None:
    folder = write_raw("pathvqa", tmp_path / "raw").folder
    assert [file.split for file in FORMATS["pathvqa"].find(str(folder))] == ["test", "train", "train", "val"]
    rows = rows_of("pathvqa", folder / "data", "train")
    assert len(rows) == 12
    assert [row["task"] for row in rows[:4]] == ["open", "closed", "open", "closed"]
    assert texts(rows[3]) == ["<image>\ndoes this image show a gland?", "Yes"]
    assert {open_image(row["images"][0]["bytes"]).size for row in rows} == {(28, 20)}


def test_a_pathvqa_row_without_an_image_or_an_answer_is_named() -> None:
    row = {"image": {"bytes": encoded(1), "path": None}, "question": "what?", "answer": "a cell"}
    assert row_of(FORMATS["pathvqa"], row, 0)["fault"] is None
    assert row_of(FORMATS["pathvqa"], row | {"image": None}, 0)["fault"] == "image_missing"
    assert row_of(FORMATS["pathvqa"], row | {"answer": None}, 0)["fault"] == "not_a_conversation"


def test_llava_records_keep_their_oddities(tmp_path: Path) -> None:
    mix = rows_of("llava", write_raw("llava_mix665k", tmp_path / "mix", 2).folder / "llava_v1_5_mix665k.json")
    assert [row["id"] for row in mix[:6]] == ["000000000000", "000000000000", "7", "7", "Xq1_0", "Xq1_5"]
    assert mix[4]["images"] == [] and texts(mix[4])[0] == "Write a limerick."
    assert texts(mix[5]) == ["Who are you?", "A program."]
    pretrain = rows_of("llava", write_raw("llava_pretrain", tmp_path / "pre", 2).folder / "blip_laion_cc_sbu_558k.json")
    assert texts(pretrain[1])[0] == "Render a clear summary.\n<image>"
    flan = rows_of("llava", write_raw("vision_flan", tmp_path / "flan").folder / "annotation_191-task_1k.json")
    assert "[Options]" in texts(flan[0])[0] and flan[0]["task"] == "PACS+dog_image_category_classification"


def test_llava_meds_misspelt_key_and_its_flags_are_read(tmp_path: Path) -> None:
    folder = write_raw("llava_med_alignment", tmp_path / "raw").folder
    rows = rows_of("llava", folder / "llava_med_alignment_500k.json")
    assert [row["fault"] for row in rows] == [None] * 9
    assert [row["task"] for row in rows[:3]] == ["mri", "ct_scan", "mri"]
    assert texts(rows[0])[0] == "Describe the given image in detail.\n<image>"
    both = rows_of("llava", write_raw("llava_med_instruct", tmp_path / "instruct").folder)
    assert {len(texts(row)) for row in both} == {4} and {row["task"] for row in both} == {"histology"}


@pytest.mark.parametrize(
    ("kind", "looked_for"),
    [
        ("m3it", "data/captioning/coco/train.jsonl"),
        ("m3it80", "vqa-v2_val_deu_Latn.jsonl"),
        ("ureader", "ureader_json/train.jsonl"),
        ("pathvqa", "data/train-00000-of-00001.parquet"),
    ],
)
def test_a_wrong_folder_names_the_file_that_was_looked_for_and_how_to_get_it(
    kind: str, looked_for: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for path in (str(tmp_path), str(tmp_path / "nowhere"), str(tmp_path / "*.jsonl"), "memory://nowhere"):
        with pytest.raises(UserError) as refused:
            FORMATS[kind].find(path)
        line = str(refused.value)
        assert path in line and looked_for in line and "\n" not in line
        assert "hf download" in line or "unpacked" in line


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("pathvqa", {"image": "a.png", "question": "what?", "answer": "a cell"}),
        ("m3it", {"instruction": "Say.", "inputs": "what?", "image_base64_str": [base64_text(0)], "outputs": "a cell"}),
        (
            "ureader",
            {
                "image": ["a.png"],
                "conversations": [{"from": "user", "value": "<image>"}, {"from": "assistant", "value": "a cell"}],
            },
        ),
    ],
)
@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.ndjson.gz"])
def test_rows_of_ones_own_with_a_published_sets_keys_are_read_from_their_folder_as_from_the_file(
    kind: str, record: dict[str, Any], name: str, tmp_path: Path
) -> None:
    text = json.dumps(record) + "\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    (tmp_path / "a.png").write_bytes(encoded(0))
    (alone,) = rows_of(kind, path)
    assert alone["fault"] is None
    for folder in (str(tmp_path), f"file://{tmp_path}", f"{tmp_path}/data.*"):
        assert rows_of(kind, folder) == [alone]
    assert kind in reading_formats(str(tmp_path))
    assert reading_formats(str(tmp_path)) == reading_formats(str(path))


def test_the_split_of_a_pathvqa_file_is_also_told_by_its_folder(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "part.jsonl").write_text('{"image": "a.png", "question": "q", "answer": "a"}\n')
    assert [file.split for file in FORMATS["pathvqa"].find(str(tmp_path))] == ["train", "val"]


def test_an_address_of_an_unknown_kind_says_so() -> None:
    for kind in FILE_FORMATS:
        with pytest.raises(UserError, match=r"nosuch://data: cannot be reached"):
            FORMATS[kind].find("nosuch://data")


@pytest.mark.parametrize("recipe", ["m3it", "m3it80", "ureader", "pathvqa"])
def test_an_address_gives_the_rows_that_the_folder_gives(recipe: str, tmp_path: Path) -> None:
    folder = write_raw(recipe, tmp_path / "raw").folder
    memory = fsspec.filesystem("memory")
    for file in folder.rglob("*"):
        if file.is_file() and "images" not in str(file.relative_to(folder)):
            memory.pipe(f"/{recipe}/{file.relative_to(folder)}", file.read_bytes())
    local = rows_of(recipe, folder)
    assert local and rows_of(recipe, f"memory://{recipe}") == local
    assert rows_of(recipe, f"file://{folder}") == local
    assert rows_of(recipe, f"memory://{recipe}/**") == local


def test_hidden_files_and_a_macs_litter_are_no_data(tmp_path: Path) -> None:
    for name in ("a.json", "._a.json", "__MACOSX/a.json", ".cache/b.json", "sub/c.json"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text("[]")
    place = str(tmp_path / "set")
    assert find_raw(place) == [f"{place}/a.json"]
    assert find_raw(f"{place}/*/*.json") == [f"{place}/sub/c.json"]
    assert files_below(place, (".json",)) == files_below(f"{place}/**/*.json", (".json",))
    assert files_below(place, (".json",)) == [f"{place}/a.json", f"{place}/sub/c.json"]
    assert files_below(f"file://{place}", (".json",)) == [f"file://{place}/a.json", f"file://{place}/sub/c.json"]
    assert find_raw(f"file://{place}") == [f"file://{place}/a.json"]
    assert find_raw(f"{place}/.cache") == [f"{place}/.cache/b.json"]


def test_a_web_address_without_its_packages_says_what_to_install() -> None:
    line = str(unreachable("https://x.org/a.json", ImportError('HTTPFileSystem requires "requests" and "aiohttp"')))
    assert line.endswith(": pip install aiohttp requests") and "network" not in line


def test_folders_that_are_links_are_entered(tmp_path: Path) -> None:
    folder = write_raw("pathvqa", tmp_path / "raw").folder
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "data").symlink_to(folder / "data", target_is_directory=True)
    assert len(FORMATS["pathvqa"].find(str(tmp_path / "here"))) == 4


@pytest.mark.parametrize("kind", ["m3it", "pathvqa"])
def test_a_large_file_is_read_with_little_memory(kind: str, tmp_path: Path) -> None:
    padding = "x" * 50_000
    if kind == "m3it":
        path = tmp_path / "train.jsonl"
        record = {"instruction": "Say.", "inputs": padding, "image_base64_str": [base64_text(0)], "outputs": "a"}
        write_lines(path, [record] * 600)
    else:
        path = tmp_path / "train-0.parquet"
        row = {"image": {"bytes": encoded(0), "path": None}, "question": padding, "answer": "no"}
        with pq.ParquetWriter(path, pa.Table.from_pylist([row]).schema, compression="none") as writer:
            for number in range(6):
                rows = [row | {"question": f"{number} {at} {padding}"} for at in range(100)]
                writer.write_table(pa.Table.from_pylist(rows))
    assert path.stat().st_size > 30_000_000
    reader = FORMATS[kind]
    tracemalloc.start()
    count = sum(1 for _ in reader.records(reader.find(str(path))[0]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 600 and peak < 12_000_000


def test_a_record_that_is_no_object_is_a_fault_of_that_record(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", ["text", 3, None, [], older_row(0) | {"instruction": "Say."}])
    for kind in ("m3it", "ureader"):
        rows = rows_of(kind, tmp_path)
        assert [row["fault"] for row in rows[:4]] == ["not_a_conversation"] * 4
    with pytest.raises(BadRecord):
        FORMATS["ureader"].row({"conversations": "no"}, 0)


class LineDownError(Exception):
    """As network libraries have them: of no kind that Python knows."""


class CutOff(MemoryFileSystem):
    """A host that answers for a while."""

    protocol = "cutoff"
    is_down = False

    def find(self, path: str, *rest: Any, **named: Any) -> Any:
        if CutOff.is_down:
            raise LineDownError("the line is down\nand more")
        return super().find(path, *rest, **named)

    ls = isdir = isfile = exists = find

    def _open(self, path: str, *rest: Any, **named: Any) -> Any:
        raise LineDownError("the line is down")


@pytest.mark.parametrize("kind", FILE_FORMATS)
def test_an_address_that_stops_answering_is_the_users_to_fix(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("cutoff", CutOff, clobber=True)
    monkeypatch.setattr(CutOff, "is_down", True)
    reader = FORMATS[kind]
    with pytest.raises(UserError) as refused:
        reader.find("cutoff://data")
    assert "cutoff://data: cannot be reached (the line is down); check the address" in str(refused.value)
    beside = ("cutoff://data/val_500.jsonl",)
    for name in ("train.jsonl", "train.parquet"):
        with pytest.raises(UserError, match="cannot be reached"):
            list(reader.records(RawFile(f"cutoff://data/{name}", "train", beside)))


@pytest.mark.parametrize(("kind", "name"), [("m3it", "captioning/coco/train.jsonl"), ("ureader", "train.jsonl")])
def test_compressed_files_are_read_as_the_plain_ones(kind: str, name: str, tmp_path: Path) -> None:
    write_raw(kind, tmp_path)
    (plain,) = [path for path in tmp_path.rglob("*.jsonl") if str(path).endswith(name)]
    expected = rows_of(kind, tmp_path)
    packed = plain.with_name(f"{plain.name}.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(UserError, match=r"are both there: move one of them away"):
        rows_of(kind, tmp_path)
    plain.unlink()
    assert rows_of(kind, tmp_path) == expected


def test_a_faulty_original_takes_its_translation_with_it(tmp_path: Path) -> None:
    write_raw("m3it80", tmp_path)
    (original,) = tmp_path.glob("data/vqa-v2/train_500.jsonl")
    lines = original.read_text().splitlines()
    lines[0] = '{"a": 1, "a": 2, ' + lines[0][1:]
    original.write_text("\n".join(lines) + "\n")
    rows = rows_of("m3it80", tmp_path / "data/vqa-v2", "train")
    assert {row["fault"] for row in rows} == {None, "doubled_key"} and not rows[0]["turns"]
