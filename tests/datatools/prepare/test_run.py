"""Raw files become the same shards whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llava_moe.data.conversation import record_key
from llava_moe.data.readers.formats import FORMATS
from llava_moe.data.readers.shards import Manifest, read_manifest
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.datatools.prepare import chunks, run
from llava_moe.datatools.prepare.preparation import Choices, settle_preparation
from llava_moe.datatools.prepare.recipe import load_recipe
from llava_moe.datatools.prepare.run import prepare
from llava_moe.datatools.prepare.shard_maker import Made, ShardMaker
from llava_moe.datatools.prepare.staging import OutFolder
from llava_moe.datatools.prepare.tokens import TextTokenizer
from llava_moe.datatools.prepare.workers import WorkerFailedError, Workers
from llava_moe.errors import UserError
from tests.data.readers.raw import base64_text, save, turns, write_lines
from tests.datatools.prepare.own_data import contents, record, write_page, write_records

Prepare = Callable[..., Manifest]


class Silent:
    """Progress that nobody sees."""

    def __init__(self) -> None:
        self.num_bytes = self.num_records = self.num_made = 0
        self.total: int | None = None

    def begin(self, recipe: str, num_bytes: int | None, num_made: int) -> None:
        self.total, self.num_made = num_bytes, num_made

    def advance(self, num_bytes: int, num_records: int) -> None:
        self.num_bytes += num_bytes
        self.num_records += num_records


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Prepares 43 records of two files in chunks of ten."""
    monkeypatch.setattr(chunks, "ROWS_A_CHUNK", 10)
    monkeypatch.setattr(run, "SMALL_CHUNK", 0)
    if not (tmp_path / "dl").is_dir():
        write_records(tmp_path / "dl", 31)
        write_records(tmp_path / "dl", 12, "val.jsonl", start=31)
    page = write_page(tmp_path, parts='Part("train", "train.jsonl", 40), Part("val", "val.jsonl", None)')

    def run_it(
        out: Path, processes: int = 1, restart: bool = False, progress: Silent | None = None, **choices: Any
    ) -> Manifest:
        asked = Choices(**{"downloads": str(tmp_path / "dl"), **choices})
        preparation = settle_preparation(load_recipe(str(page)), asked)
        return prepare(preparation, out, processes, restart, progress or Silent())

    return run_it


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for shard in read_manifest(folder).shards for row in pq.read_table(folder / shard.file).to_pylist()]


def test_system_texts_and_marks_of_loss_train_from_the_shards_as_from_the_raw_file(tmp_path: Path) -> None:
    said = [("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in said]
    unlearnt = [messages[0], messages[1] | {"weight": 0}, *messages[2:]]
    system = {"role": "system", "content": "Be brief."}
    image = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Colour?"}]}
    told: list[dict[str, Any]] = [
        {"id": "same", "messages": messages},
        {"id": "same", "messages": unlearnt},
        {"id": "same", "messages": [system, *messages]},
        {"id": "same", "messages": messages, "system": "Be long."},
        {"id": "same", "messages": [system, *unlearnt]},
        {"id": "shown", "messages": [image, messages[1]], "images": [base64_text(1)]},
        {"id": "bad", "messages": messages, "video": "clip.mp4"},
        {"id": "bad", "messages": [*messages[:1], messages[1] | {"loss": 0.5}]},
    ]
    write_lines(tmp_path / "dl" / "train.jsonl", told)
    page = write_page(tmp_path, format="messages", images=None, parts='Part("train", "train.jsonl", 8)')
    preparation = settle_preparation(load_recipe(str(page)), Choices(downloads=str(tmp_path / "dl")))
    manifest = prepare(preparation, tmp_path / "out", 1, False, Silent())
    assert manifest.counts["train"]["rejected"] == {"unread_media": 1, "loss_flag": 1}
    paths = (tmp_path / "dl" / "train.jsonl", tmp_path / "out", tmp_path / "out" / manifest.shards[0].file)
    raw, prepared, shard = (open_records(Source("own", "general", str(path)), tmp_path / "cache") for path in paths)
    assert (len(raw), len(prepared), len(shard)) == (8, 6, 6)
    assert [raw[number] for number in range(6)] == [prepared[number] for number in range(6)]
    keys = [record_key(raw[number]) for number in range(6)]
    assert keys == [record_key(prepared[number]) for number in range(6)] and len(set(keys)) == 6
    assert keys == [record_key(shard[number]) for number in range(6)]


def test_every_record_is_in_the_shards_in_order_with_its_images_and_source(own: Prepare, tmp_path: Path) -> None:
    told = own(tmp_path / "out")
    assert [shard.file for shard in told.shards] == [
        *(f"train-0000{number}.parquet" for number in range(4)),
        *("val-00000.parquet", "val-00001.parquet"),
    ]
    assert [shard.num_records for shard in told.shards] == [10, 10, 10, 1, 10, 2]
    found = rows(tmp_path / "out")
    for number, row in enumerate(found):
        raw = record(number)
        expected = FORMATS["llava"].row(raw, number)
        turns = [(turn["role"], turn["text"], turn["is_supervised"]) for turn in row["conversations"]]
        assert row["id"] == raw["id"] and row["system"] is None
        assert turns == [(turn["role"], turn["text"], None) for turn in expected["turns"]]
        assert (row["source"], row["domain"], row["task"]) == ("own", "general", raw["task_name"])
        assert row["split"] == ("train" if number < 31 else "val")
        pictures = [(image["path"], image["bytes"]) for image in row["images"]]
        assert pictures == [(image["path"], image["bytes"]) for image in expected["images"]]
        for image in row["images"]:
            is_stored = image["bytes"] is not None
            assert (image["width"], image["height"]) == ((28, 20) if is_stored else (None, None))
            assert (image["sha256"] is not None) == is_stored
    assert len(found) == 43 and told.images == str(tmp_path / "dl" / "images")
    counts = told.counts["train"]
    assert {
        name: counts[name] for name in ("raw_records", "records", "with_images", "text_only", "images", "turns")
    } == {**{"raw_records": 31, "records": 31, "with_images": 21, "text_only": 10, "images": 21, "turns": 62}}
    assert counts["tasks"] == {"task0": 16, "task1": 15} and counts["tokens"] is None
    assert counts["expected"] == 40 and counts["difference"].startswith("31 raw records, 40 were published: 9 (22.50%)")
    assert counts["pictures"]["formats"] == {"JPEG": 11, "PNG": 10} and told.counts["val"]["difference"] is None


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_writes_the_same_bytes(own: Prepare, tmp_path: Path, processes: int) -> None:
    own(tmp_path / "one")
    own(tmp_path / "more", processes)
    assert contents(tmp_path / "one") == contents(tmp_path / "more")


@pytest.mark.parametrize("num_done", [0, 1, 4, 7])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes_and_keeps_what_stands(
    own: Prepare, tmp_path: Path, num_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path / "whole")
    keep, make = OutFolder.keep, ShardMaker.make
    kept: list[object] = []
    remade: list[int] = []

    def keep_some(self: OutFolder, done: Any) -> None:
        if len(kept) == num_done:
            raise KeyboardInterrupt
        kept.append(done)
        keep(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(OutFolder, "keep", keep_some)
        with pytest.raises(KeyboardInterrupt):
            own(tmp_path / "out")
    with pytest.raises(UserError, match="not finished; run llava-moe data prepare again"):
        read_manifest(tmp_path / "out")

    def make_and_count(self: ShardMaker, chunk: Any) -> Made:
        remade.append(chunk.number)
        return make(self, chunk)

    monkeypatch.setattr(ShardMaker, "make", make_and_count)
    progress = Silent()
    own(tmp_path / "out", progress=progress)
    stood = {done.number for done in kept if isinstance(done, Made)}
    assert sorted(remade) == sorted(set(range(6)) - stood) and progress.num_made == len(stood)
    assert progress.num_records == 43 and progress.num_bytes == progress.total
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("what", ["_join_rejected", "tidy"])
def test_stopped_while_it_is_published_it_finishes(
    own: Prepare, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path / "whole")

    def stop(self: OutFolder, *_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OutFolder, what, stop)
        with pytest.raises(KeyboardInterrupt):
            own(tmp_path / "out")
    own(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_that_was_lost_or_cut_is_made_again(
    own: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(OutFolder, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            own(tmp_path / "out")
    lost, cut = sorted((tmp_path / "out").rglob("*.parquet"))[:2]
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    own(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_no_record_is_rejected_with_its_place_and_what_training_judges_stays(tmp_path: Path) -> None:
    raw = [
        {"id": "good", "conversations": turns("a", "b")},
        ["no", "object"],
        {"id": "no turns"},
        {"id": "half \ud800", "conversations": turns("a \ud800", "b")},
        {"id": "broken", "image": "data:image/png;base64,%%%", "conversations": turns("<image>", "b")},
        {"id": "roles", "conversations": turns("a", "b") + turns("c", first="gpt")},
        {"id": "places", "conversations": turns("<image>\n<image>", "b"), "image": "gone.jpg"},
        {"id": "odd \udcff id", "conversations": turns("a", "b")},
    ]
    write_lines(tmp_path / "dl" / "a.jsonl", [])
    (tmp_path / "dl" / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in raw))
    page = write_page(tmp_path, parts='Part("train", "a.jsonl", 8)')
    preparation = settle_preparation(load_recipe(str(page)), Choices(str(tmp_path / "dl")))
    told = prepare(preparation, tmp_path / "out", 1, False, Silent())
    assert [row["id"] for row in rows(tmp_path / "out")] == ["good", "roles", "places"]
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(one["file"], one["number"], one["id"], one["reason"]) for one in rejected] == [
        ("a.jsonl", 1, "1", "not_a_conversation"),
        ("a.jsonl", 2, "no turns", "not_a_conversation"),
        ("a.jsonl", 3, "half ?", "unreadable_text"),
        ("a.jsonl", 4, "broken", "image_unreadable"),
        ("a.jsonl", 7, "odd ? id", "unreadable_text"),
    ]
    assert all(one["detail"] for one in rejected)
    assert told.counts["train"]["rejected"] == {"image_unreadable": 1, "not_a_conversation": 2, "unreadable_text": 2}
    assert told.counts["train"]["pictures"]["faults"] == {"image_missing": 1}


def test_records_that_say_they_are_of_another_split_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "dl" / "x", b"")
    raw = [{"id": n, "conversations": turns("a", "b"), "split": ("train", "test", None)[n % 3]} for n in range(9)]
    write_lines(tmp_path / "dl" / "a.jsonl", raw)
    page = write_page(tmp_path, parts='Part("test", "a.jsonl", 6)', images=None)
    preparation = settle_preparation(load_recipe(str(page)), Choices(str(tmp_path / "dl")))
    counts = prepare(preparation, tmp_path / "out", 1, False, Silent()).counts["test"]
    assert (counts["records"], counts["other_split"], counts["raw_records"], counts["difference"]) == (6, 3, 6, None)


def test_a_draw_takes_what_it_says_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "ROWS_A_CHUNK", 4)
    write_records(tmp_path / "dl", 31)
    page = write_page(tmp_path, draw='Draw(key="task_name", max_per_task=7, seed=3, expected=15)')
    preparation = settle_preparation(load_recipe(str(page)), Choices(str(tmp_path / "dl")))
    told = prepare(preparation, tmp_path / "whole", 1, False, Silent()).counts["train"]
    assert (told["raw_records"], told["drawn"], told["records"]) == (31, 14, 14)
    assert told["tasks"] == {"task0": 7, "task1": 7} and "14 records drawn, 15 are known" in told["draw_difference"]
    keep = OutFolder.keep

    def keep_two(self: OutFolder, done: Made) -> None:
        if done.number == 2:
            raise KeyboardInterrupt
        keep(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(OutFolder, "keep", keep_two)
        with pytest.raises(KeyboardInterrupt):
            prepare(preparation, tmp_path / "out", 1, False, Silent())
    prepare(preparation, tmp_path / "out", 1, False, Silent())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_row_groups_are_small(tmp_path: Path) -> None:
    write_lines(tmp_path / "dl/train.jsonl", [{"id": n, "conversations": turns("a", "b")} for n in range(300)])
    preparation = settle_preparation(load_recipe(str(write_page(tmp_path))), Choices(str(tmp_path / "dl")))
    prepare(preparation, tmp_path / "out", 1, False, Silent())
    metadata = pq.ParquetFile(tmp_path / "out/train-00000.parquet").metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [128, 128, 44]


def test_tokens_are_counted_by_the_tokenizer_asked_for(own: Prepare, tmp_path: Path, tokenizer_folder: Path) -> None:
    tokenizer = TextTokenizer("small", json.dumps(json.loads((tokenizer_folder / "tokenizer.json").read_text())))
    told = own(tmp_path / "out", tokenizer=tokenizer)
    expected = [tokenizer.count([[turn["text"] for turn in row["conversations"]]])[0] for row in rows(tmp_path / "out")]
    counts = told.counts["train"]["tokens"]
    assert (counts["count"], counts["total"], counts["max"]) == (31, sum(expected[:31]), max(expected[:31]))
    assert told.about["tokenizer"] == {"name": "small", "fingerprint": tokenizer.fingerprint}


def test_all_image_headers_are_read_where_asked(own: Prepare, tmp_path: Path) -> None:
    for number in (3, 30):
        (tmp_path / "dl" / "images" / f"{number}.jpg").unlink()
    (tmp_path / "dl" / "images" / "6.jpg").write_bytes(b"no image")
    counts = own(tmp_path / "out", probe_images=True).counts["train"]["pictures"]
    assert counts["faults"] == {"image_missing": 2, "image_unreadable": 1} and counts["looked_at"] == 21
    sizes = {row["id"]: (row["images"][0]["width"], row["images"][0]["height"]) for row in rows(tmp_path / "out")[:7:3]}
    assert sizes == {"r0": (28, 20), "r3": (None, None), "r6": (None, None)}


def test_a_worker_that_is_killed_is_told_and_nothing_is_lost(
    own: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path / "whole")
    give = Workers.give

    def kill_and_give(self: Workers, chunk: Any) -> Any:
        if chunk.number == 3:
            os.kill(self._workers[0].process.pid or 0, signal.SIGKILL)
            self._workers[0].process.join()
        yield from give(self, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(Workers, "give", kill_and_give)
        with pytest.raises(UserError, match=r"killed by signal 9.*lower num_processes= and run the same command again"):
            own(tmp_path / "out", 2)
    own(tmp_path / "out", 2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_fault_of_ours_in_a_worker_comes_with_its_traceback(own: Prepare, tmp_path: Path) -> None:
    with pytest.raises(WorkerFailedError, match=r"(?s)Traceback.*shard_maker.py"):
        own(tmp_path / "out", 2, tokenizer=TextTokenizer("broken", "no tokenizer"))
