"""The raw files of a recipe, found or asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llava_moe.datatools.prepare.preparation import (
    Choices,
    Preparation,
    differences,
    recipe_fingerprint,
    settle_preparation,
)
from llava_moe.datatools.prepare.recipe import load_recipe
from llava_moe.errors import UserError
from tests.data.readers.raw import save, write_raw
from tests.datatools.prepare.own_data import write_page, write_records


def settle(page: Path, **choices: Any) -> Preparation:
    return settle_preparation(load_recipe(str(page)), Choices(**choices))


def test_the_files_are_those_of_the_recipe_under_the_downloads(tmp_path: Path) -> None:
    write_raw("pathvqa", tmp_path / "dl")
    found = settle_preparation(load_recipe("pathvqa"), Choices(str(tmp_path / "dl")))
    assert [(file.split, file.name.partition("-0")[0]) for file in found.files] == [
        *[("train", "data/train")] * 2,
        ("val", "data/validation"),
        ("test", "data/test"),
    ]
    assert found.images is None and found.splits == ("train", "val", "test")
    only = settle_preparation(load_recipe("pathvqa"), Choices(str(tmp_path / "dl"), splits=("val",)))
    assert [file.split for file in only.files] == ["val"]


def test_only_splits_whose_files_are_there_are_offered_instead(tmp_path: Path) -> None:
    parts = 'Part("train", "a.jsonl", 1), Part("val", "b.jsonl", 1), Part("test", "c.jsonl", 1)'
    page = write_page(tmp_path, parts=parts)
    (tmp_path / "dl").mkdir()
    with pytest.raises(UserError, match=r"no file .*a\.jsonl") as nothing:
        settle(page, downloads=str(tmp_path / "dl"))
    assert "splits=" not in str(nothing.value)
    save(tmp_path / "dl" / "c.jsonl", b"{}\n")
    with pytest.raises(UserError, match=r"no file .*a\.jsonl.*to do without it: splits=\[test\]$"):
        settle(page, downloads=str(tmp_path / "dl"))


def test_a_folder_of_the_recipes_name_is_taken_for_the_downloads(tmp_path: Path) -> None:
    write_records(tmp_path / "dl" / "own", 2)
    assert settle(write_page(tmp_path), downloads=str(tmp_path / "dl")).base == str(tmp_path / "dl" / "own")


def test_parts_with_image_folders_of_their_own_get_one_root_that_holds_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / "dl" / f"{name}.jsonl", b"{}\n")
    parts = 'Part("train", "a.jsonl", 1, images="sets/a/images"), Part("val", "b.jsonl", 1)'
    found = settle(write_page(tmp_path, parts=parts, images="sets/b"), downloads=str(tmp_path / "dl"))
    assert found.images == str(tmp_path / "dl" / "sets")
    assert [file.prefix for file in found.files] == ["a/images", "b"]
    (tmp_path / "mine").mkdir()
    chosen = settle(
        write_page(tmp_path, parts=parts, images="sets/b"),
        downloads=str(tmp_path / "dl"),
        images=str(tmp_path / "mine"),
    )
    assert chosen.images == str(tmp_path / "mine") and {file.prefix for file in chosen.files} == {""}


@pytest.mark.parametrize("touch", ["longer", "alike", "later"])
def test_a_raw_file_whose_content_changed_is_told_from_the_one_before(touch: str, tmp_path: Path) -> None:
    write_records(tmp_path / "dl", 3)
    page, raw = write_page(tmp_path), tmp_path / "dl" / "train.jsonl"
    before = settle(page, downloads=str(tmp_path / "dl")).facts()
    assert list(differences(before, settle(page, downloads=str(tmp_path / "dl")).facts())) == []
    if touch == "longer":
        raw.write_text(raw.read_text() + "{}\n")
    elif touch == "alike":
        stamp = raw.stat()
        raw.write_text(raw.read_text().replace("a", "b"))
        os.utime(raw, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    else:
        os.utime(raw, ns=(5, 5))
    told = list(differences(before, settle(page, downloads=str(tmp_path / "dl")).facts()))
    assert len(told) == (touch != "later")
    assert all(one.startswith("raw file train.jsonl has changed") for one in told)


def test_files_read_beside_count_as_the_raw_file(tmp_path: Path) -> None:
    write_raw("m3it", tmp_path / "dl")
    choices = Choices(str(tmp_path / "dl"), splits=("train",))
    before = settle_preparation(load_recipe("m3it"), choices).facts()
    (tmp_path / "dl/data/captioning/coco/instructions.json").write_text('["Other."]')
    told = list(differences(before, settle_preparation(load_recipe("m3it"), choices).facts()))
    assert len(told) == 1 and "captioning/coco/train.jsonl has changed" in told[0]


def test_words_for_people_may_be_mended_and_what_decides_the_records_may_not(tmp_path: Path) -> None:
    one = load_recipe(str(write_page(tmp_path / "1", address="file:///a")))
    two = load_recipe(str(write_page(tmp_path / "2", images="pictures")))
    assert recipe_fingerprint(one) == recipe_fingerprint(load_recipe(str(write_page(tmp_path / "3"))))
    assert recipe_fingerprint(one) != recipe_fingerprint(two)


def test_differences_name_what_differs() -> None:
    before = {"a": 1, "raw file x": "3 bytes of 1", "raw file y": "4 bytes of 1", "b": None}
    now = {"a": 2, "raw file x": "3 bytes of 2", "raw file z": "5 bytes of 1", "b": None}
    assert list(differences(before, now)) == [
        "raw file x has changed (3 bytes of 1 then, 3 bytes of 2 now)",
        "raw file y is gone",
        "raw file z is new",
        "a was 1, is 2",
    ]


@pytest.mark.parametrize(
    ("lay", "choices", "told"),
    [
        ("", {}, r"downloads=\S+dl: no such folder; fetch own into it: fetch own here"),
        ("train.json", {}, r"no file \S+train.jsonl.*to get it: fetch own here"),
        ("train.jsonl", {"splits": ("val",)}, r"recipe own has train"),
        ("train.jsonl", {"downloads": None}, r"no address to be read from: fetch it first \(fetch own here\)"),
        ("train.jsonl", {"images": "nowhere"}, r"images=nowhere: no such folder"),
    ],
)
def test_what_is_not_there_is_named(lay: str, choices: dict[str, object], told: str, tmp_path: Path) -> None:
    if lay:
        save(tmp_path / "dl" / lay, b"{}\n")
    with pytest.raises(UserError, match=told):
        settle(write_page(tmp_path), **{"downloads": str(tmp_path / "dl"), **choices})


def test_images_that_cannot_be_streamed_are_asked_for(tmp_path: Path) -> None:
    write_records(tmp_path / "dl", 2)
    page = write_page(tmp_path, address=(tmp_path / "dl").as_uri())
    with pytest.raises(UserError, match=r"cannot be streamed: fetch them \(fetch own here\) and add images=FOLDER"):
        settle(page, downloads=None)
    found = settle(page, downloads=None, images=str(tmp_path / "dl" / "images"))
    assert [file.name for file in found.files] == ["train.jsonl"] and found.files[0].num_bytes is not None
