"""Data that is missing, damaged or incomplete: one line that says what, where and what to do."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.errors import UserError
from llava_moe.eval.download import MOST_JSON
from llava_moe.eval.tasks import Places, benchmark_names, open_benchmark, reopen_benchmark
from tests.eval.tasks.published import LAYOUTS, MIXLORA, picture, write_json, write_lines, write_mixlora, write_parquet

Line = Callable[..., str]
PUBLISHED = sorted(set(benchmark_names()) - {"demo"})


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """The one line with which a place is refused."""

    def refused(name: str, place: Path | str, protocol: str = "llava_1_5") -> str:
        with pytest.raises(UserError) as caught:
            open_benchmark(name, protocol=protocol, places=Places(paths={name: str(place)}, cache=tmp_path / "cache"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_folder_that_is_missing_or_empty_says_how_to_get_the_data(name: str, tmp_path: Path, line: Line) -> None:
    found = line(name, tmp_path / "nothing")
    assert f"{tmp_path}/nothing does not exist" in found and f"benchmark_paths={{{name}: FOLDER}}" in found
    (tmp_path / "empty").mkdir()
    found = line(name, tmp_path / "empty")
    assert found.startswith(f"benchmark {name}: no ") and str(tmp_path / "empty") in found


def test_data_is_looked_for_below_the_root_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["textvqa"]["official"](tmp_path / "root" / "textvqa")
    assert open_benchmark("textvqa_ocr", places=Places(root=str(tmp_path / "root"))).facts.num_questions == 2
    monkeypatch.setenv("LLAVA_MOE_BENCHMARKS", str(tmp_path / "root"))
    assert open_benchmark("textvqa").facts.num_questions == 2
    monkeypatch.delenv("LLAVA_MOE_BENCHMARKS")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "root").rename(tmp_path / "data" / "benchmarks")
    assert open_benchmark("textvqa").facts.num_questions == 2


@pytest.mark.parametrize(
    ("name", "layout", "image"),
    [
        ("chartqa", "zip", "ChartQA Dataset/test/png/c3.png"),
        ("docvqa", "rrc", "spdocvqa_images/page_102.png"),
        ("pathvqa", "llava_med", "images/2.jpg"),
        ("textvqa", "official", "train_images/003a8ae2ef43b901.jpg"),
        ("vqav2", "official", "val2014/COCO_val2014_000000262148.jpg"),
        ("pope", "official", "val2014/COCO_val2014_000000310196.jpg"),
        ("mme", "official", "MME_Benchmark_release_version/OCR/0001.jpg"),
        ("vsr", "jsonl", "images/000000000001.jpg"),
        ("snli_ve", "jsonl", "flickr30k-images/1009434119.jpg"),
        ("scienceqa_img", "official", "images/test/12/image.png"),
        ("tiny_lvlm", "folders", "Visual_Commonsense/images/1.png"),
    ],
)
def test_missing_images_are_counted_and_the_first_is_named(
    name: str, layout: str, image: str, tmp_path: Path, line: Line
) -> None:
    place = LAYOUTS[name][layout](tmp_path / "data")
    (Path(place) / image).unlink()
    found = line(name, place)
    assert "1 of its images are missing" in found and str(place) in found
    assert Path(image).stem in found and "questions; " in found


def test_a_question_id_that_stands_twice_is_named(tmp_path: Path, line: Line) -> None:
    place = LAYOUTS["textvqa"]["official"](tmp_path)
    path = tmp_path / "TextVQA_0.5.1_val.json"
    rows = json.loads(path.read_text())["data"]
    write_json(path, {"data": [*rows, rows[0]]})
    assert "record 3: question id '34602' stands twice" in line("textvqa", place)


def test_a_record_that_lacks_a_column_is_named_with_what_it_has(tmp_path: Path, line: Line) -> None:
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [{"prompt": "x", "answer": "y", "image": picture(0)}])
    found = line("pathvqa", tmp_path)
    assert "test-00000-of-00001.parquet, record 1, has no question, only answer, image, prompt" in found


@pytest.mark.parametrize(
    ("name", "layout", "file", "old", "new"),
    [
        ("scienceqa_img", "official", "pid_splits.json", '"test"', '"tset"'),
        ("scienceqa_img", "official", "problems.json", '"answer": 1', '"answer": 9'),
        ("mmbench", "tsv", "mmbench_dev_20230712.tsv", "3000241\t", "no number\t"),
        ("textvqa", "official", "TextVQA_Rosetta_OCR_v0.2_val.json", '"ocr_tokens"', '"tokens"'),
        ("pathvqa", "llava_med", "test.json", '"value"', '"text"'),
    ],
)
def test_data_in_another_shape_is_one_line(
    name: str, layout: str, file: str, old: str, new: str, tmp_path: Path, line: Line
) -> None:
    place = LAYOUTS[name][layout](tmp_path / "data")
    path = Path(place) / file
    path.write_text(path.read_text().replace(old, new, 1))
    found = line(name, place)
    assert "is not as its source publishes it" in found and path.name in found


@pytest.mark.parametrize(
    ("name", "layout", "file", "old", "new", "said"),
    [
        ("pope", "official", "coco_pope_popular.json", '"text"', '"txt"', "record 1, has no text, only"),
        ("pope", "official", "coco_pope_popular.json", '"label": "no"', '"label": "maybe"', "record 2: its answer is"),
        ("pope", "official", "coco_pope_popular.json", '"question_id": 2', '"question_id": 1', "record 2: question id"),
        ("vsr", "jsonl", "test.jsonl", '"label": 0', '"label": {}', "record 2, label: text expected, got dict"),
        ("snli_ve", "jsonl", "snli_ve_test.jsonl", "contradiction", "no", "record 2: its answer is 'no'"),
        ("mmbench", "tsv", "mmbench_dev_20230712.tsv", "\tA\tobject", "\tE\tobject", "which is none of its choices"),
        ("mme", "official", "OCR/0001.txt", "Yes", "Maybe", "its answer is 'Maybe'"),
        ("scienceqa_img", "official", "problems.json", '"answer": 1', '"answer": -1', "-1 is not in range"),
        (
            "scienceqa_img",
            "official",
            "problems.json",
            '"choices": [',
            '"choices": [[],',
            "choices[0]: text expected, got list",
        ),
        ("docvqa", "rrc", "test_v1.0.json", '"questionId": 101', '"questionId": "x"', "its evaluation server"),
    ],
)
def test_every_record_is_judged_when_the_benchmark_is_opened(
    name: str, layout: str, file: str, old: str, new: str, said: str, tmp_path: Path, line: Line
) -> None:
    place = Path(LAYOUTS[name][layout](tmp_path / "data"))
    [path] = [found for found in place.rglob("*") if str(found).endswith(file)]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    found = line(name, path if name == "docvqa" else place)
    assert said in found and (path.name in found or name == "docvqa")


def test_a_picture_that_is_none_is_named_with_its_question(tmp_path: Path, line: Line) -> None:
    place = Path(LAYOUTS["vsr"]["jsonl"](tmp_path))
    image = place / "images" / "000000000001.jpg"
    for content, said in (
        (b"", "an empty file"),
        (b"<html>404</html>", "a web page"),
        (b"%!PS-Adobe-3.0", "PostScript"),
    ):
        image.write_bytes(content)
        found = line("vsr", place)
        assert "question test.jsonl#1: " in found and image.name in found and said in found


def test_nothing_but_regular_files_is_opened(tmp_path: Path, line: Line) -> None:
    for number, (name, layout, file) in enumerate(
        [
            ("vsr", "jsonl", "test.jsonl"),
            ("mmbench", "tsv", "*.tsv"),
            ("mnist", "idx", "**/t10k-labels*"),
            ("mme", "official", "**/OCR/*.txt"),
        ]
    ):
        place = Path(LAYOUTS[name][layout](tmp_path / str(number)))
        [path] = place.glob(file)
        for kind, make in {"a named pipe": os.mkfifo, "a device": lambda at: os.symlink("/dev/zero", at)}.items():
            path.unlink()
            make(path)
            assert f"it is {kind}, not a regular file" in line(name, place)
    image = tmp_path / "0" / "images" / "000000000001.jpg"
    os.unlink(tmp_path / "0" / "test.jsonl")
    place = Path(LAYOUTS["vsr"]["jsonl"](tmp_path / "0"))
    image.unlink()
    os.mkfifo(image)
    assert "images are missing" in line("vsr", place)


@pytest.mark.parametrize(
    ("name", "layout", "file"),
    [
        ("textvqa", "official", "TextVQA_0.5.1_val.json"),
        ("cifar10", "binary", "**/test_batch.bin"),
        ("vsr", "jsonl", "test.jsonl"),
    ],
)
def test_a_file_of_terabytes_or_one_that_gives_an_error_is_one_line(
    name: str, layout: str, file: str, tmp_path: Path, line: Line
) -> None:
    place = Path(LAYOUTS[name][layout](tmp_path))
    [path] = place.glob(file)
    path.unlink()
    with path.open("wb") as hollow:
        hollow.truncate(1 << 40)
    assert path.name in line(name, place)
    path.unlink()
    path.symlink_to("/proc/self/mem")
    assert path.name in line(name, place)


def test_a_line_of_tsv_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Line) -> None:
    place = Path(LAYOUTS["mmbench"]["tsv"](tmp_path))
    monkeypatch.setattr("llava_moe.eval.laid_out.LONGEST_LINE", 50)
    assert "has a line of more than 50 characters" in line("mmbench", place)


def test_a_damaged_json_line_is_named(tmp_path: Path, line: Line) -> None:
    place = LAYOUTS["vsr"]["jsonl"](tmp_path)
    path = tmp_path / "test.jsonl"
    path.write_text(path.read_text().replace('"label": 0', '"label": '))
    assert "test.jsonl, line 2: not valid JSON" in line("vsr", place)


def test_a_damaged_tsv_is_named_by_line(tmp_path: Path, line: Line) -> None:
    path = Path(LAYOUTS["mmbench"]["tsv"](tmp_path)) / "mmbench_dev_20230712.tsv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:3], rows[3].rpartition("\t")[0], *rows[4:]]))
    assert "mmbench_dev_20230712.tsv, line 4: 12 cells where the header has 13" in line("mmbench", tmp_path)
    path.write_text("\n".join([*rows[:3], rows[3] + "\tmore", *rows[4:]]))
    assert "line 4: 14 cells where the header has 13" in line("mmbench", tmp_path)
    path.write_text("\n".join([rows[0], rows[1] + "@@", *rows[2:]]))
    assert "line 2: the image is not base64" in line("mmbench", tmp_path)
    path.write_text("\n".join([rows[0], *rows[2:]]))
    assert "line 2: the image is '241', a row that does not stand before it" in line("mmbench", tmp_path)
    path.write_text("\n".join(rows))
    assert open_benchmark("mmbench", places=Places(paths={"mmbench": str(tmp_path)}, cache=tmp_path / "cache"))


def test_a_damaged_parquet_is_named_and_nothing_of_it_is_kept(tmp_path: Path, line: Line) -> None:
    place = LAYOUTS["pope"]["lmms_lab"](tmp_path / "data")
    [path] = (tmp_path / "data" / "data").glob("*.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a readable Parquet file" in line("pope", place)
    path.write_bytes(whole)
    places = Places(paths={"pope": str(place)}, cache=tmp_path / "cache")
    assert open_benchmark("pope", places=places).facts.num_questions == 6


def test_damaged_binaries_and_a_folder_of_pickles_are_refused(tmp_path: Path, line: Line) -> None:
    place = Path(LAYOUTS["cifar10"]["binary"](tmp_path / "cifar"))
    path = place / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert "are no whole number of images of 3,073" in line("cifar10", place)
    place = Path(LAYOUTS["mnist"]["idx"](tmp_path / "mnist"))
    path = place / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-40])
    assert "t10k-images-idx3-ubyte.gz: the compressed file ends too early" in line("mnist", place)
    (tmp_path / "python" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "python" / "cifar-10-batches-py" / "test_batch").write_bytes(b"\x80\x02")
    assert "pickles are never opened" in line("cifar10", tmp_path / "python")


def test_mixloras_ready_prompts_are_asked_under_no_other_protocol(tmp_path: Path, line: Line) -> None:
    assert "add protocol=mixlora" in line("vsr", write_mixlora("vsr", tmp_path))
    assert set(MIXLORA) <= set(PUBLISHED)


def test_a_training_split_beside_the_test_split_is_not_asked(tmp_path: Path) -> None:
    # A folder above that is named like a test split leads nobody astray.
    place = LAYOUTS["chartqa"]["lmms_lab"](tmp_path / "test-sets")
    benchmark = open_benchmark("chartqa", places=Places(paths={"chartqa": str(place)}, cache=tmp_path / "cache"))
    assert benchmark.facts.num_questions == 4


def test_ocr_tokens_that_are_missing_are_asked_for(tmp_path: Path, line: Line) -> None:
    place = LAYOUTS["textvqa_ocr"]["official"](tmp_path)
    (tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    assert "has no OCR tokens; put TextVQA_Rosetta_OCR" in line("textvqa_ocr", place)
    assert open_benchmark("textvqa", places=Places(paths={"textvqa": str(place)})).facts.num_questions == 2


def test_unknown_names_are_one_line_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"benchmarks: pathvga does not exist \(did you mean pathvqa\?\)"):
        open_benchmark("pathvga")
    with pytest.raises(UserError, match=r"benchmark_paths: chart_qa does not exist \(did you mean chartqa\?\)"):
        open_benchmark("demo", places=Places(paths={"chart_qa": "x"}))


def test_a_folder_at_an_address_is_read_as_a_folder_here(tmp_path: Path) -> None:
    place = LAYOUTS["mmbench"]["lmms_lab"](tmp_path / "data")
    here, there = (
        open_benchmark("mmbench_cn", places=Places(paths={"mmbench": where}, cache=tmp_path / "cache"))
        for where in (str(place), Path(place).as_uri())
    )
    assert [question.prompt for question in here.questions()] == [question.prompt for question in there.questions()]
    assert there.facts.place.startswith("file://")


def test_images_by_path_are_not_read_from_an_address(tmp_path: Path, line: Line) -> None:
    place = LAYOUTS["vsr"]["jsonl"](tmp_path)
    assert "names its images by path, which are not read from an address" in line("vsr", Path(place).as_uri())


def test_of_several_lists_of_questions_the_user_names_one(tmp_path: Path, line: Line) -> None:
    LAYOUTS["vsr"]["jsonl"](tmp_path / "vsr_random")
    place = LAYOUTS["vsr"]["jsonl"](tmp_path / "vsr_zeroshot")
    found = line("vsr", tmp_path)
    assert f"vsr_random/test.jsonl and {place}/test.jsonl both hold questions; name one" in found
    assert open_benchmark("vsr", places=Places(paths={"vsr": f"{place}/test.jsonl"})).facts.num_questions == 2


def test_a_changed_file_is_laid_out_anew_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    place = LAYOUTS["pope"]["lmms_lab"](tmp_path / "data")
    places = Places(paths={"pope": str(place)}, cache=tmp_path / "cache")
    first = open_benchmark("pope", places=places).questions()
    # Six rows of one picture: it is kept once.
    kept = [path for path in (tmp_path / "cache").rglob("images/*")]
    assert len(kept) == 1 and {question.images for question in first} == {(str(kept[0]),)}
    [index] = (tmp_path / "cache").rglob("rows.jsonl")
    before = index.stat().st_mtime_ns
    assert open_benchmark("pope", places=places).questions() == first
    assert index.stat().st_mtime_ns == before
    [path] = (tmp_path / "data" / "data").glob("*.parquet")
    path.unlink()
    write_parquet(
        path, [{"question_id": "1", "question": "New?", "answer": "no", "category": "random", "image": picture(7)}]
    )
    assert [question.prompt.split("\n")[0] for question in open_benchmark("pope", places=places).questions()] == [
        "New?"
    ]


def test_a_result_opens_its_benchmark_again_until_the_data_has_moved(tmp_path: Path) -> None:
    from llava_moe.eval.benchmark import BenchmarkResult

    place = LAYOUTS["pope"]["official"](tmp_path / "data")
    benchmark = open_benchmark("pope", 1, protocol="llava_mole", places=Places(paths={"pope": str(place)}))
    result = BenchmarkResult("pope", "abc", benchmark.columns, (), facts=benchmark.facts)
    again = reopen_benchmark(result)
    assert set(benchmark.questions()) < set(again.questions())
    Path(place).rename(tmp_path / "moved")
    with pytest.raises(UserError, match="does not exist"):
        reopen_benchmark(result)


def test_rows_of_a_json_that_are_no_objects_are_refused(tmp_path: Path, line: Line) -> None:
    write_lines(tmp_path / "test.jsonl", ["text"])
    assert "record 1, is no object" in line("vsr", tmp_path)


OUTSIDE = ["../../../secret.png", "val2014/../../../../secret.png", "{root}/secret.png", "link.png"]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("name", ["pope", "tiny_lvlm", "vsr"])
def test_an_image_path_that_leads_out_of_the_folder_is_refused(
    name: str, path: str, tmp_path: Path, line: Line
) -> None:
    layout = next(iter(LAYOUTS[name].values()))
    place = layout(tmp_path / "set")
    (tmp_path / "secret.png").write_bytes(picture(1))
    lists = [file for file in sorted((tmp_path / "set").rglob("*")) if file.suffix in (".json", ".jsonl")]
    for folder in {file.parent for file in lists} | {tmp_path / "set"}:
        (folder / "link.png").symlink_to(tmp_path / "secret.png")
    column = "image_path" if name == "tiny_lvlm" else "image"
    for file in lists:
        text = file.read_text()
        rows = json.loads(text) if text.startswith("[") else [json.loads(one) for one in text.splitlines()]
        for row in rows:
            row[column] = path.format(root=tmp_path)
        write_lines(file, rows)
    found = line(name, place)
    assert "out of the image folder" in found and ", record 1" in found


@pytest.mark.parametrize("path", ["../../secret.png", "{root}/secret.png", "link.png"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_parquet_file_names_no_image_outside_either(path: str, plain: bool, tmp_path: Path, line: Line) -> None:
    LAYOUTS["pope"]["lmms_lab"](tmp_path / "set")
    (tmp_path / "secret.png").write_bytes(picture(1))
    (file,) = (tmp_path / "set").rglob("*.parquet")
    (file.parent / "link.png").symlink_to(tmp_path / "secret.png")
    table, told = pq.read_table(file), path.format(root=tmp_path)
    cell = pa.array([told if plain else {"bytes": None, "path": told}] * len(table))
    pq.write_table(table.set_column(table.column_names.index("image"), "image", cell), file)
    assert "out of the image folder" in line("pope", tmp_path / "set")


def test_an_object_in_a_parquet_cell_is_not_taken_for_a_picture_that_was_laid_out(tmp_path: Path, line: Line) -> None:
    (tmp_path / "secret.png").write_bytes(picture(1))
    for name, column in (("pope", "image"), ("vqav2", "image")):
        LAYOUTS[name]["lmms_lab"](tmp_path / name)
        (file,) = (tmp_path / name).rglob("*.parquet")
        table = pq.read_table(file)
        cell = pa.array([{"image": str(tmp_path / "secret.png")}] * len(table))
        pq.write_table(table.set_column(table.column_names.index(column), column, cell), file)
        assert "is dict, not a path" in (found := line(name, tmp_path / name)) or "text expected, got dict" in found


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("NaN", "text expected, got nan"),
        ("true", "text expected, got"),
        ('"yes", "label": "no"', "'label' stands twice"),
    ],
)
def test_what_is_no_text_is_named_with_its_record(label: str, words: str, tmp_path: Path, line: Line) -> None:
    LAYOUTS["pope"]["official"](tmp_path / "set")
    file = sorted((tmp_path / "set").rglob("*.json"))[0]
    lines = file.read_text().splitlines()
    lines[1] = lines[1].replace('"label": "yes"', f'"label": {label}').replace('"label": "no"', f'"label": {label}', 1)
    file.write_text("\n".join(lines))
    found = line("pope", tmp_path / "set")
    assert words in found and ", record 2" in found and file.name in found


def test_a_reference_keeps_the_spelling_of_its_file(tmp_path: Path) -> None:
    LAYOUTS["textvqa"]["official"](tmp_path / "set")
    for file in (tmp_path / "set").rglob("*.json"):
        content = json.loads(file.read_text())
        for row in content.get("data", []):
            row["answers"] = ["SPELLED"]
        file.write_text(json.dumps(content).replace('"SPELLED"', "12.50"))
    places = Places(paths={"textvqa": str(tmp_path / "set")}, cache=tmp_path / "cache")
    assert {one.references for one in open_benchmark("textvqa", places=places).questions()} == {("12.50",)}


def test_a_hollow_file_is_not_read_to_its_end(tmp_path: Path, line: Line) -> None:
    place = tmp_path / "pope"
    LAYOUTS["pope"]["official"](place)
    for size in (MOST_JSON - 1, MOST_JSON * 6):
        with (place / "coco" / "coco_pope_random.json").open("wb") as file:
            file.truncate(size)
        tracemalloc.start()
        assert "coco_pope_random.json, line 1: not valid JSON" in line("pope", place)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50 << 20
