"""A mixture checked: each image once, sources as a whole, what the stages read differently, whatever the processes."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.data.encode import IGNORED, EncodedText, Encoder
from llava_moe.data.readers.shards import SHARD_SCHEMA, Manifest, Shard, write_manifest
from llava_moe.datatools.check import scan as scanning
from llava_moe.datatools.check.eval_sets import open_asked
from llava_moe.datatools.check.findings import quarantine_list
from llava_moe.datatools.check.pictures import look_at
from llava_moe.datatools.check.run_check import Checked, check_mix
from llava_moe.errors import UserError
from tests.datatools.check.conftest import MakeView, say
from tests.datatools.check.seeded import encoded, noise


def counts(checked: Checked, view: int = 0) -> dict[str, int]:
    return {kind: count for kind, count in checked.findings[view].counts.items() if count}


def listed(checked: Checked) -> list[tuple[str, int, str]]:
    return [(entry.source, entry.index, entry.reason) for entry in quarantine_list(checked.findings)[0]]


def troubles(checked: Checked) -> list[tuple[str, str]]:
    return [(trouble.label, trouble.kind) for trouble in checked.troubles]


def test_a_clean_source_has_nothing(make_view: MakeView, pictures: list[str]) -> None:
    records = [say(name, f"<image> What is in {name}?", f"noise {name}") for name in pictures]
    checked = check_mix([make_view([*records, say(None, "Who?", "Me")])])
    assert counts(checked) == {} and not checked.troubles and not listed(checked)
    assert (checked.num_records, checked.num_images, checked.num_distinct, checked.num_opened) == (7, 6, 6, 6)


def test_every_image_is_opened_once(make_view: MakeView, pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[str] = Counter()

    def counted(ref: str | bytes, *rest: Any) -> Any:
        opened[str(ref)] += 1
        return look_at(ref, *rest)

    monkeypatch.setattr(scanning, "look_at", counted)
    records = [say(name, f"<image> {turn}?", f"{turn}") for turn in range(3) for name in pictures]
    views = [make_view(records, "one"), make_view(records[::-1], "two"), make_view(records, "three", stage="other")]
    check_mix(views)
    assert opened == dict.fromkeys(pictures, 1)


def test_processes_change_nothing(make_view: MakeView, pictures: list[str]) -> None:
    records = [say(name, f"<image> {turn}?", f"{turn}") for turn in range(200) for name in pictures]
    records[7] = say("gone.png", "<image> where?", "gone")
    records[900] = records[3]
    records[901] = {"id": 901}
    views = [make_view(records, "one"), make_view(records[:100], "two")]
    alone, together = check_mix(views), check_mix(views, num_processes=2)
    for one, other in zip(alone.findings, together.findings, strict=True):
        assert (one.faults, one.counts, dict(one.shown)) == (other.faults, other.counts, dict(other.shown))
    assert quarantine_list(alone.findings) == quarantine_list(together.findings)


def test_the_first_stage_wants_one_caption_and_the_list_spares_what_the_second_takes(
    make_view: MakeView, pictures: list[str]
) -> None:
    records = [
        say(pictures[0], "<image> What?", "noise"),
        say(pictures[1], "<image> What?", "noise", "And?", "more"),
        say("gone.png", "<image> Where?", "gone"),
    ]
    views = [
        make_view(records, "mine (1)", "1", kind="plain", name="mine"),
        make_view(records, "mine (2)", "2", name="mine"),
    ]
    checked = check_mix(views)
    assert counts(checked, 0)["not_plain"] == 1 and "not_plain" not in counts(checked, 1)
    assert listed(checked) == [("mine", 2, "image_missing")]


def test_a_record_that_one_stage_drops_for_its_length_is_listed_for_the_other(
    make_view: MakeView, pictures: list[str]
) -> None:
    records = [say(pictures[0], "<image> What?", "noise"), say("gone.png", "<image> Where?", "gone " * 30)]
    views = [
        make_view(records, "mine (1)", "1", name="mine"),
        make_view(records, "mine (2)", "2", name="mine", max_length=30),
    ]
    checked = check_mix(views)
    assert counts(checked, 1) == {"too_long": 1} and listed(checked) == [("mine", 1, "image_missing")]


def test_a_name_of_two_files_is_on_no_list(make_view: MakeView, pictures: list[str]) -> None:
    records = [say(pictures[0], "<image> What?", "noise"), say("gone.png", "<image> Where?", "gone")]
    views = [make_view(records, "1", "1", name="mine"), make_view(records[:1], "2", "2", name="mine", file="b")]
    entries, ambiguous = quarantine_list(check_mix(views).findings)
    assert entries == [] and ambiguous == ["mine"]


def test_a_wrong_image_folder_is_one_fault_and_invents_no_copies(make_view: MakeView, tmp_path: Path) -> None:
    records = [say(f"{number}.png", "<image> What?", "noise") for number in range(40)]
    view = make_view(records, images=tmp_path / "elsewhere")
    checked = check_mix([view])
    assert troubles(checked) == [("mine", "image_root")] and str(tmp_path / "elsewhere") in checked.troubles[0].detail
    assert counts(checked) == {"same_text": 40} and checked.num_opened == 0 and not listed(checked)


def test_a_sample_opens_so_many_images_and_the_seed_decides_which(make_view: MakeView, pictures: list[str]) -> None:
    records = [say(name, "<image> What?", "noise") for name in pictures] + [say("gone.png", "<image> What?", "gone")]
    view = make_view(records)
    found = set()
    for seed in range(8):
        checked = check_mix([view], num_images=3, seed=seed)
        assert checked.num_opened == 3 and counts(checked).get("duplicate", 0) == 0
        found.add(len(listed(checked)))
    assert found == {0, 1}
    assert check_mix([view], num_images=0).num_opened == 0 and listed(check_mix([view], num_images=99)) != []


def test_copies_that_are_meant_stay(make_view: MakeView, pictures: list[str]) -> None:
    records = [say(pictures[0], "<image> What?", "noise")] * 3 + [say(pictures[1], "<image> Who?", "noise")]
    checked = check_mix([make_view(records, repeats_on_purpose=True)])
    assert counts(checked)["meant_duplicate"] == 2 and not listed(checked)
    checked = check_mix([make_view(records)])
    assert counts(checked)["duplicate"] == 2
    assert listed(checked) == [("mine", 1, "duplicate"), ("mine", 2, "duplicate")]


def test_the_order_of_images_and_a_changed_word_make_another_record(make_view: MakeView, pictures: list[str]) -> None:
    one, two = pictures[:2]
    records = [
        say([one, two], "<image><image> Same?", "no"),
        say([two, one], "<image><image> Same?", "no"),
        say([one, two], "<image><image> Same?", "No"),
        say([one], "<image> Same?", "no"),
    ]
    assert "duplicate" not in counts(check_mix([make_view(records)]))


def test_a_record_that_teaches_nothing_is_a_fault(
    make_view: MakeView, pictures: list[str], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Encoder):
        def finish(self, *arguments: Any) -> EncodedText:
            text = super().finish(*arguments)
            return replace(text, labels=np.full_like(text.labels, IGNORED))

    view = make_view([say(pictures[0], "<image> What?", "noise"), say(pictures[1], "<image> Who?", "it")])
    silent = Silent(**{name: getattr(view.encoder, name) for name in encoder.__dataclass_fields__})
    checked = check_mix([replace(view, encoder=silent)])
    assert counts(checked) == {"nothing_supervised": 2} and ("mine", "nothing_usable") in troubles(checked)


def prepared(folder: Path, rows: Sequence[tuple[str, bytes]], counts: dict[str, Any] | None = None) -> Path:
    """A prepared folder of one split, two shards."""
    folder.mkdir()
    shards = []
    for number, part in enumerate((rows[:2], rows[2:])):
        table = [
            {
                "id": f"{number} {place}",
                "images": [{"bytes": image, "sha256": sha256(image).hexdigest(), "width": 40, "height": 30}],
                "conversations": [{"role": "user", "text": f"<image>\n{text}"}, {"role": "assistant", "text": "noise"}],
                "split": "train",
            }
            for place, (text, image) in enumerate(part)
        ]
        path = folder / f"train-{number:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(table, schema=SHARD_SCHEMA), path)
        content = path.read_bytes()
        shards.append(Shard(path.name, "train", len(table), len(content), sha256(content).hexdigest()))
    write_manifest(folder, Manifest("mine", None, tuple(shards), {} if counts is None else {"train": counts}))
    return folder


def test_a_prepared_folder_is_read_in_place_and_its_images_are_opened(make_view: MakeView, tmp_path: Path) -> None:
    good, other, broken = encoded(noise(1)), encoded(noise(2)), encoded(noise(3), "JPEG")[:-400]
    folder = prepared(tmp_path / "set", [("a?", good), ("b?", good), ("c?", broken), ("d?", other), ("a?", good)])
    checked = check_mix([make_view(folder)])
    assert (checked.num_images, checked.num_distinct) == (5, 3) and not checked.troubles
    assert listed(checked) == [("mine", 2, "image_unreadable"), ("mine", 4, "duplicate")]


def test_a_shard_of_other_content_and_counts_that_do_not_add_up_are_told(make_view: MakeView, tmp_path: Path) -> None:
    rows = [(f"{number}?", encoded(noise(number))) for number in range(4)]
    folder = prepared(tmp_path / "set", rows, {"records": 4, "rejected": {"image_count": 3, "no_turns": 1}})
    view = make_view(folder)
    assert troubles(check_mix([view], expected={"mine": 8})) == [("mine", "rejected_by_prepare")]
    checked = check_mix([view], expected={"mine": 10})
    assert troubles(checked) == [("mine", "count_differs"), ("mine", "rejected_by_prepare")]
    assert "2 fewer" in checked.troubles[0].detail and "image_count 3" in checked.troubles[1].detail
    shard = folder / "train-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[content.index(b"3?")] ^= 1
    shard.write_bytes(content)
    assert troubles(check_mix([view], expected={"mine": 8})) == [
        ("mine", "rejected_by_prepare"),
        ("mine", "shard_changed"),
    ]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["counts"]["train"]["records"] = 5
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert ("mine", "count_differs") in troubles(check_mix([make_view(folder)]))


def test_known_faults_explain_what_is_wrong_with_an_image(make_view: MakeView, pictures: list[str]) -> None:
    class Gone:
        name, fault, remedy, expected = "gone", "can no longer be downloaded", "leave it out", 355

    records = [say(pictures[0], "<image> What?", "noise")]
    records += [say(f"ocr/{number}.jpg", f"<image> {number}?", "gone") for number in range(3)]
    checked = check_mix(
        [make_view(records)],
        known={"mine": lambda image, kind: Gone() if image[:4] == "ocr/" and kind == "image_missing" else None},
    )
    (met,) = checked.repairs.values()
    assert (met.count, met.repair.name, met.example) == (3, "gone", "ocr/0.jpg")


def test_questions_of_a_prepared_set_leak_by_their_stored_images(make_view: MakeView, tmp_path: Path) -> None:
    shown = [encoded(noise(number)) for number in range(3)]
    folder = prepared(tmp_path / "asked", [("How many?", shown[0]), ("Why?", shown[1]), ("Who?", shown[2])])
    for number in range(4):
        noise(number).save(tmp_path / f"{number}.bmp")
    records = [
        say("0.bmp", "<image>\nHow many??", "two"),
        say("1.bmp", "<image> How many?", "two"),
        say("2.bmp", "<image> Say something.", "two", "Who?", "me"),
        say("3.bmp", "<image> Why?", "so"),
    ]
    asked = open_asked(str(folder), None, tmp_path / "cache", 0)
    checked = check_mix([make_view(records)], [asked])
    assert counts(checked) == {"leak": 2, "leak_image": 1}
    assert listed(checked) == [("mine", 0, "leak"), ("mine", 2, "leak")]
    # Questions without an answer can be asked, though not trained on.
    bare = [{key: value for key, value in one.items()} | {"conversations": one["conversations"][:1]} for one in records]
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    asked = open_asked(str(tmp_path / "bare.json"), None, tmp_path / "cache", 0)
    assert counts(check_mix([make_view(records)], [asked])) == {"leak": 4}


def test_an_instruction_that_both_sides_give_is_no_question(make_view: MakeView, tmp_path: Path) -> None:
    instruction = "Give a short answer to the question."
    words = ["cups", "dogs", "cars", "hats", "birds"]
    asked = []
    for number, word in enumerate(words):
        noise(number).save(tmp_path / f"{number}.png")
        asked.append(say(f"{number}.png", f"<image>\n{instruction}\nHow many {word}?"))
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    records = [
        say("0.png", f"<image>\n{instruction}\nWhat weather?", "rain"),
        say("1.png", "<image>\nLook closely.\nHow many dogs?", "two"),
        say("2.png", f"How many cars?\n{instruction}<image>", "one"),
        say("3.png", "<image> What?", "noise", "how many hats", "none"),
    ]
    checked = check_mix([make_view(records)], [open_asked(str(tmp_path / "asked.json"), None, tmp_path / "cache", 0)])
    assert [row for _, row, _ in listed(checked)] == [1, 2, 3] and counts(checked)["leak_image"] == 1


def test_the_embedded_benchmark_is_an_evaluation_set(tmp_path: Path) -> None:
    asked = open_asked("demo", None, tmp_path, 0)
    assert len(asked.items) > 1000 and len(asked.pictures) < len(asked.items)


def test_images_of_an_evaluation_set_that_do_not_open_are_told(
    make_view: MakeView, pictures: list[str], tmp_path: Path
) -> None:
    view = make_view([say(pictures[0], "<image> What?", "noise")])
    asked = [say(pictures[1], "<image> Who?"), say("gone.png", "<image> Why?")]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    (line,) = check_mix([view], [open_asked(str(tmp_path / "asked.json"), None, tmp_path / "cache", 0)]).unseen
    assert "1 of its 2 images do not open (no file" in line
    with pytest.raises(UserError, match=r"2 of its 2 images do not open .* give the folder .* as against_images="):
        elsewhere = open_asked(str(tmp_path / "asked.json"), str(tmp_path / "elsewhere"), tmp_path / "cache", 0)
        check_mix([view], [elsewhere])


def test_an_evaluation_set_that_is_none_is_refused(make_view: MakeView, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such evaluation set and no such file; the sets are "):
        open_asked("textvqa_vla", None, tmp_path, 0)
    (tmp_path / "text.json").write_text(json.dumps([say(None, "Who?", "me")]))
    with pytest.raises(UserError, match="holds no question about an image"):
        open_asked(str(tmp_path / "text.json"), None, tmp_path, 0)


def test_records_of_other_system_texts_or_marks_of_loss_are_no_duplicates(
    make_view: MakeView, pictures: list[str]
) -> None:
    plain = say(pictures[0], "<image> One?", "1", "Two?", "2")
    first, second = ([*plain["conversations"]] for _ in range(2))
    first[1] = first[1] | {"loss": False}
    second[3] = second[3] | {"loss": False}
    marked, other = plain | {"conversations": first}, plain | {"conversations": second}
    kept = [plain, plain | {"system": "Be brief."}, plain | {"system": "Be long."}, marked, other]
    checked = check_mix([make_view([*kept, plain | {"system": "Be long."}, other, plain | {"system_prompt": " "}])])
    assert listed(checked) == [("mine", number, "duplicate") for number in (5, 6, 7)]
    assert checked.findings[0].counts["end_token"] == 0
    ended = check_mix([make_view([*kept, plain | {"system": "Stop</s>"}], "ended")])
    assert ended.findings[0].counts["end_token"] == 1


def test_a_folder_of_images_that_no_record_uses_is_a_fault_of_the_source(make_view: MakeView) -> None:
    missed = say(None, "Which colour?", "red", image_path="red.png")
    checked = check_mix([make_view([missed, say(None, "Who?", "me")])])
    assert [trouble.kind for trouble in checked.troubles] == ["no_images"]
    assert "the key image_path" in checked.troubles[0].detail and "leave images= out" in checked.troubles[0].detail


def test_a_view_without_a_usable_record_says_so(make_view: MakeView) -> None:
    checked = check_mix([make_view([{"id": 1}, say(None, "Who?", " ")])])
    assert troubles(checked) == [("mine", "nothing_usable")] and len(listed(checked)) == 2
    detail = checked.troubles[0].detail
    assert "not_a_conversation 1 (its keys are id; wanted are" in detail and "empty_answer 1 (" in detail


def test_what_leaves_all_records_out_is_told_with_what_to_do_and_without_notes(
    make_view: MakeView, pictures: list[str]
) -> None:
    checked = check_mix([make_view([say(picture, "Who?", "me") for picture in pictures])])
    (trouble,) = checked.troubles
    assert trouble.detail.startswith(f"image_count {len(pictures)} (")
    assert "write one <image> for each" in trouble.detail
    assert "same_text" not in trouble.detail


def test_a_worker_that_dies_is_one_line(
    make_view: MakeView, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "look_at", lambda *_: os._exit(9))
    for number in range(6, 80):
        shutil.copy(tmp_path / pictures[0], tmp_path / f"{number}.png")
    records = [say(f"{number}.png", f"<image> {number}?", "noise") for number in range(80)]
    with pytest.raises(UserError, match="num_processes"):
        check_mix([make_view(records, "many")], num_processes=2)
