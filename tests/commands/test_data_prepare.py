"""``llava-moe data prepare`` as people run it: to the end, stopped on the way, and pointed at the wrong things."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from llava_moe.cli import run
from llava_moe.datatools.prepare import chunks
from llava_moe.datatools.prepare import run as preparing
from tests.data.readers.raw import WRITERS, save, turns, write_lines, write_raw
from tests.datatools.prepare.own_data import contents, manifest, record, write_page, write_records

Refused = Callable[..., str]
SMALL_CHUNKS = """
import sys
from llava_moe.cli import main
from llava_moe.datatools.prepare import chunks, run
if __name__ == "__main__":
    chunks.ROWS_A_CHUNK, run.SMALL_CHUNK = 100, 0
    main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Prepare forty records of one's own, into ``data/own``."""
    write_records(tmp_path / "dl", 40)
    write_page(tmp_path)
    return ["data", "prepare", "recipe=own.py", "downloads=dl", "num_processes=1"]


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond this: what a full disk is to the one who writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_table_the_difference_and_the_next_command_are_printed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_page(Path(), parts='Part("train", "train.jsonl", 50)')
    assert run([*words, "model=demo"]) == 0
    told = capsys.readouterr().out
    for line in (
        "own: 1 shard",
        "40 raw records, 50 were published: 10 (20.00%) fewer; the download is not whole",
        "note: its count is an assumption",
        "tokens: of the turns' text, by embedded:language_model",
        "licence: CC0",
        "Next:\n  llava-moe data check path=data/own\n",
    ):
        assert line in told
    tokens = manifest(Path("data/own"))["counts"]["train"]["tokens"]
    assert tokens["count"] == 40 and tokens["total"] > 400
    assert f"{tokens['total']:,}" in told


def test_a_log_file_is_told_how_far_it_is(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(Path("dl/train.jsonl"), [record(3 * place + 2) for place in range(600)])
    monkeypatch.setattr("llava_moe.commands.prepare_progress.SECONDS_A_LINE", -1)
    assert run(words) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.endswith("GB read")]
    assert told[0].startswith("  256 records, 0.00") and told[-1].startswith("  600 records")


def test_where_there_are_several_splits_the_next_command_names_train(capsys: pytest.CaptureFixture[str]) -> None:
    write_raw("pathvqa", Path("dl"))
    assert run(["data", "prepare", "recipe=pathvqa", "downloads=dl", "out=my data"]) == 0
    told = capsys.readouterr().out
    assert "llava-moe data check 'path=my data/pathvqa' data.sources.mine.split=train\n" in told
    assert "'data.root=my data'" in told


def test_every_recipe_is_prepared_as_its_source_writes_it(tmp_path: Path) -> None:
    raws = {name: write_raw(name, tmp_path / "dl" / name) for name in WRITERS}
    assert run(["data", "prepare", f"recipe=[{','.join(raws)}]", "downloads=dl", "probe_images=true"]) == 0
    for name, raw in raws.items():
        told = manifest(tmp_path / "data" / name)
        assert {split: counts["raw_records"] for split, counts in told["counts"].items()} == raw.records
        train = told["counts"]["train"]
        faults = {**train["rejected"], **train["pictures"]["faults"]}
        assert {reason: faults.get(reason) for reason in raw.faults} == raw.faults
        assert train["drawn"] == (raw.records["train"] if name == "vision_flan_187" else None)
        for split, counts in told["counts"].items():
            shards = [shard for shard in told["shards"] if shard["split"] == split]
            assert sum(shard["num_records"] for shard in shards) == counts["records"]
            assert counts["records"] + sum(counts["rejected"].values()) == raw.records[split]


def test_what_was_prepared_can_be_trained_on(words: list[str], tiny_words: list[str]) -> None:
    assert run(words) == 0
    own = [word for word in tiny_words if not word.startswith(("path=", "images=", "train.max_steps="))]
    assert run(["train", *own, "path=data/own", "train.max_steps=2", "out=run"]) == 0
    logged = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert [step["step"] for step in logged] == [1, 2]


def test_finished_it_prints_its_table_again_and_reads_nothing(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 0
    before, first = contents(Path("data")), capsys.readouterr().out
    monkeypatch.setattr(preparing, "cut_file", None)
    assert run(words) == 0
    again = capsys.readouterr().out
    assert contents(Path("data")) == before
    assert "data/own was finished before: nothing was read" in again
    assert [line for line in first.splitlines() if line not in again] == []
    # Downloads may go once they are prepared.
    shutil.rmtree("dl")
    assert run(words) == 0
    assert "its raw files were not looked at: downloads=dl: no such folder" in capsys.readouterr().out


def test_changed_raw_files_are_told_and_prepared_anew_only_where_asked(
    words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "ROWS_A_CHUNK", 15)
    assert run(words) == 0
    before = contents(Path("data"))
    assert {"own/train-00002.parquet", "own/manifest.json"} <= before.keys()
    raw = Path("dl/train.jsonl")
    raw.write_text("".join(raw.read_text().splitlines(keepends=True)[:20]))
    line = refused(*words)
    assert "was prepared from something else: raw file train.jsonl has changed" in line and "restart=true" in line
    assert contents(Path("data")) == before
    assert run([*words, "restart=true"]) == 0
    assert "own/train-00002.parquet" not in contents(Path("data"))
    assert manifest(Path("data/own"))["counts"]["train"]["records"] == 20


def test_another_recipe_or_choice_than_was_begun_is_refused(
    words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "ROWS_A_CHUNK", 15)
        with largest_file(2_000):
            refused(*words)
        line = refused(*words, "probe_images=true")
        assert "begun with something else: probe_images was False, is True" in line and "restart=true" in line
        write_page(Path(), parts='Part("train", "train.jsonl", 41)')
        assert "recipe fingerprint was" in refused(*words)
        write_page(Path())
        raw = Path("dl/train.jsonl")
        raw.write_text(raw.read_text() + json.dumps(record(40)) + "\n")
        assert "raw file train.jsonl has changed" in refused(*words)
        assert run([*words, "restart=true"]) == 0
    assert manifest(Path("data/own"))["counts"]["train"]["records"] == 41


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_told_and_what_stands_is_kept(
    processes: int, words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "ROWS_A_CHUNK", 20)
    monkeypatch.setattr(preparing, "SMALL_CHUNK", 0)
    lines = Path("dl/train.jsonl").read_text().splitlines(keepends=True)
    big = record(2, conversations=turns("What?", os.urandom(50_000).hex()))
    Path("dl/train.jsonl").write_text("".join(lines[:20]) + json.dumps(big))
    words = [*words[:-1], f"num_processes={processes}"]
    assert run([*words, "out=whole"]) == 0
    small, large = (Path("whole/own", f"train-0000{place}.parquet").stat().st_size for place in (0, 1))
    with largest_file((small + large) // 2):
        assert "the disk is full: free space and run the same command again" in refused(*words)
    state = Path("data/own/.preparing")
    # With two workers the second chunk may fail before the first is done.
    num_made = len(list(state.rglob("*.made.json")))
    assert num_made == 1 or (num_made == 0 and processes == 2)
    assert not list(state.rglob("*.part"))
    assert run(words) == 0
    assert contents(Path("data")) == contents(Path("whole"))


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, in chunks of a hundred records."""
    return subprocess.Popen(
        [sys.executable, "-c", SMALL_CHUNKS, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[bytes], num_made: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(Path("data/own").rglob("*.made.json"))) < num_made:
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.005)


def group(leader: int) -> list[int]:
    """Processes that are left of a process group."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, members = place.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(members) == leader and state != "Z":
            found.append(int(place.parent.name))
    return found


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_stopped_by_a_signal_it_goes_on_to_the_same_bytes_and_leaves_no_process(
    number: int, status: int, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(Path("dl/train.jsonl"), [record(3 * place + 2) for place in range(6_000)])
    process = start([*words[:-1], "num_processes=2"])
    wait_for(process, 3)
    # As a terminal's Ctrl-C does: to the whole group. A batch system's kill may reach the first process alone.
    os.kill(process.pid, number) if number == signal.SIGKILL else os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors.decode()
    if status > 0:
        assert b"run the same command again to go on" in errors and b"Traceback" not in errors
    deadline = time.monotonic() + 30
    while group(process.pid):
        assert time.monotonic() < deadline, group(process.pid)
        time.sleep(0.01)
    assert not Path("data/own/manifest.json").exists()
    stands = {path.name: path.stat().st_mtime_ns for path in Path("data/own").rglob("*.made.json")}
    assert 3 <= len(stands) < 60
    monkeypatch.setattr(chunks, "ROWS_A_CHUNK", 100)
    going_on = run(words)
    assert going_on == 0
    assert run([*words, "out=whole"]) == 0
    assert contents(Path("data")) == contents(Path("whole"))


def test_two_at_once_in_one_folder_are_refused(words: list[str], refused: Refused) -> None:
    Path("data/own").mkdir(parents=True)
    with FileLock("data/own/.lock"):
        assert "data/own is being prepared by another process" in refused(*words)
    assert run(words) == 0


def test_a_preparation_that_is_not_finished_is_neither_trained_on_nor_checked(
    words: list[str], tiny_words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "ROWS_A_CHUNK", 15)
        with largest_file(2_000):
            refused(*words)
    own = [word for word in tiny_words if not word.startswith(("path=", "images="))]
    for command in (["train"], ["data", "check"]):
        assert "its preparation is not finished; run llava-moe data prepare again" in refused(
            *command, *own, "path=data/own"
        )


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "train-00000.parquet").unlink(), "in the manifest and not there"),
        (lambda folder: os.truncate(folder / "train-00000.parquet", 100), "100 bytes, the manifest says"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not a manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"shards": 3}'), "not a manifest"),
    ],
)
def test_a_manifest_that_does_not_match_its_shards_is_told(
    damage: Callable[[Path], object], told: str, words: list[str], tiny_words: list[str], refused: Refused
) -> None:
    assert run(words) == 0
    damage(Path("data/own"))
    own = [word for word in tiny_words if not word.startswith(("path=", "images="))]
    for line in (refused(*words), refused("train", *own, "path=data/own")):
        assert told in line and "data prepare again with restart=true" in line
    assert run([*words, "restart=true"]) == 0
    assert manifest(Path("data/own"))["counts"]["train"]["records"] == 40


def test_raw_files_are_streamed_from_their_address(words: list[str]) -> None:
    assert run(words) == 0
    write_page(Path(), address=Path("dl").resolve().as_uri())
    streamed = [*words[:3], "num_processes=1", "from=hub", "images=dl/images", "out=streamed"]
    assert run(streamed) == 0
    for name in ("train-00000.parquet",):
        assert Path("data/own", name).read_bytes() == Path("streamed/own", name).read_bytes()
    told = manifest(Path("streamed/own"))
    assert told["raw"][0]["file"] == "train.jsonl" and told["raw"][0]["records"] == 40
    assert told["raw"][0]["bytes"] == Path("dl/train.jsonl").stat().st_size


@pytest.mark.parametrize("name", ["m3it", "pathvqa"])
def test_published_sets_stream_to_the_same_shards_as_from_a_folder(name: str) -> None:
    write_raw(name, Path("dl"))
    page = f"""
from dataclasses import replace
from llava_moe.datatools.prepare.recipe import load_recipe

RECIPE = replace(load_recipe("{name}"), address="{Path("dl").resolve().as_uri()}")
"""
    Path("page.py").write_text(page)
    for words in (["downloads=dl", "out=folder"], ["from=hub", "out=streamed"]):
        assert run(["data", "prepare", "recipe=page.py", *words]) == 0
    folder, streamed = contents(Path("folder")), contents(Path("streamed"))
    assert folder.keys() == streamed.keys() and any(file.endswith(".parquet") for file in folder)
    assert [file for file in folder if folder[file] != streamed[file]] == [f"{name}/manifest.json"]


def test_a_recipe_pointed_at_the_wrong_folder_says_what_it_looked_for_and_how_to_get_it(refused: Refused) -> None:
    Path("wrong").mkdir()
    save(Path("wrong/other.json"), b"[]")
    for name, looked_for in (
        ("llava_mix665k", "llava_v1_5_mix665k.json"),
        ("m3it", "data/captioning/coco/train.jsonl"),
        ("ureader", "ureader_json"),
        ("pathvqa", "wrong/data"),
    ):
        line = refused("data", "prepare", f"recipe={name}", "downloads=wrong")
        assert looked_for in line and "to get it: hf download" in line
    assert not Path("data").exists()


def test_nothing_is_begun_where_one_of_several_is_wrong(words: list[str], refused: Refused) -> None:
    line = refused(*words[:2], "recipe=[own.py,pathvqa]", "downloads=dl")
    assert "recipe pathvqa" in line and not Path("data").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["recipe=pathvq"], "no such recipe (did you mean pathvqa?)"),
        (["recipe=nowhere.py"], "recipe nowhere.py: no such file"),
        (["recipe=null"], "data prepare needs recipe=NAME"),
        (["recipe=[own.py,own.py]"], "own.py is there twice"),
        (["downloads=null"], "data prepare needs downloads=FOLDER; fetch own into it: fetch own here"),
        (["downloads=other"], "downloads=other: no such folder"),
        (["from=hub"], "from=hub reads no downloads"),
        (["from=hub", "downloads=null"], "recipe own has no address"),
        (["num_processes=0"], "num_processes=0: give a whole number of at least 1"),
        (["splits=[val]"], "recipe own has train"),
        (["splits=[dev]"], "splits=[dev]: recipe own has train: name one or more, or leave out splits="),
        (["splits=[]"], "splits=[]: recipe own has train"),
        (["splits=5"], "splits=5: give a list"),
        (["model.path=/nowhere"], "no such folder"),
        (["download=it's here"], "unknown key download (did you mean downloads?)"),
        (["probe_image=true"], "unknown key probe_image (did you mean probe_images?)"),
        (["out=dl/train.jsonl"], "train.jsonl is there already and is no folder"),
        (["out=/proc/none"], "cannot be written"),
    ],
)
def test_what_is_mistyped_is_told(more: list[str], told: str, words: list[str], refused: Refused) -> None:
    given = {word.partition("=")[0] for word in more}
    assert told in refused(*(word for word in words if word.partition("=")[0] not in given), *more)
    assert not Path("data").exists()


def test_a_folder_with_other_files_is_left_alone(words: list[str], refused: Refused) -> None:
    save(Path("data/own/notes.txt"), b"mine")
    assert "data/own holds other files, such as notes.txt" in refused(*words)
    assert [str(path) for path in Path("data").rglob("*") if path.is_file()] == ["data/own/notes.txt"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[]", "there are no records; fetch them again"),
        (b"", "holds no records"),
        (b'[{"id": 1}, 7]', "none of 2 records can be used (not_a_conversation 2)"),
    ],
)
def test_a_source_that_yields_nothing_is_told(content: bytes, told: str, words: list[str], refused: Refused) -> None:
    Path("dl/train.jsonl").write_bytes(content)
    assert told in refused(*words)
    assert not Path("data/own/manifest.json").exists()


def test_a_raw_file_that_was_cut_short_is_named_with_its_line(words: list[str], refused: Refused) -> None:
    lines = Path("dl/train.jsonl").read_text().splitlines(keepends=True)
    Path("dl/train.jsonl").write_text("".join(lines[:30]) + lines[30][:50])
    line = refused(*words)
    assert "dl/train.jsonl, line 31: the file ends inside a record" in line and "fetch it again" in line
    Path("dl/train.jsonl").write_text("".join(lines))
    assert run([*words, "restart=true"]) == 0
    assert manifest(Path("data/own"))["counts"]["train"]["records"] == 40


def test_without_a_tokenizer_at_hand_tokens_are_not_counted_and_that_is_said(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    assert run(words) == 0
    told = capsys.readouterr().out
    assert "tokens are not counted: the tokenizer of lmsys/vicuna-7b-v1.5 is not on this machine; model=NAME" in told
    assert manifest(Path("data/own"))["counts"]["train"]["tokens"] is None


def test_the_papers_tokenizer_counts_where_it_is_on_this_machine(
    words: list[str], tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def kept(repository: str, name: str) -> str:
        asked.append(repository)
        return str(tokenizer_folder / name)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", kept)
    monkeypatch.setattr("llava_moe.commands.data_prepare.USUAL_TOKENIZER", str(tokenizer_folder))
    assert run(words) == 0 and asked == [str(tokenizer_folder)]
    assert manifest(Path("data/own"))["about"]["tokenizer"]["name"] == str(tokenizer_folder)
    # Finished, it stays finished whichever tokenizer is at hand later; one asked for by name has to be the same.
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    assert run(words) == 0
    assert run([*words, "model=demo"]) == 2


def test_image_paths_that_are_not_there_are_told_with_their_folder(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(Path("dl/train.jsonl"), [record(3 * place) for place in range(4)])
    shutil.rmtree("dl/images")
    assert run(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "4 of 4 images looked at: none can be read (image_missing 4)" in told
    assert "dl/images, or give images=FOLDER" in told
