"""Every recipe page holds what a recipe promises, and reads a download laid out as its source lays it out."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from llava_moe.cli import run
from llava_moe.data.conversation import BadRecord, Conversation, Turn, check_images, settle_turns
from llava_moe.data.images.transform import open_image
from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.row import Row
from llava_moe.datatools.check.fault_kinds import KINDS
from llava_moe.datatools.prepare.recipe import load_recipe, recipe_names, recipes_folder
from llava_moe.datatools.prepare.subsample import Draw
from tests.data.readers.raw import WRITERS, Raw, write_raw

NAMES = recipe_names()


def test_every_page_has_a_download_in_the_tests_and_the_papers_sets_are_all_there() -> None:
    assert set(NAMES) == set(WRITERS)
    formats = {load_recipe(name).format for name in NAMES}
    assert formats == {"llava", "m3it", "m3it80", "ureader", "pathvqa"} <= set(FORMATS)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_where_its_data_comes_from_and_under_which_licence(name: str) -> None:
    path = recipes_folder() / f"{name}.py"
    recipe, told = load_recipe(name), ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert recipe.name == name
    for heading in ("Source: ", "Licence: ", "Mapping: ", "Traps: "):
        assert heading in told, heading
    assert recipe.source in told
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 110
    assert recipe.format in FORMATS and recipe.domain in {"captions", "general", "documents", "medical"}
    assert len(recipe.title) <= 100 and "\n" not in recipe.title
    assert any(line.startswith(("hf download ", "wget ")) for line in recipe.get)
    assert len({part.find for part in recipe.parts if part.split == "train"}) >= 1
    assert "train" in recipe.splits
    # A count nobody publishes is said to be one.
    assert recipe.expected("train") is not None or any("count" in note for note in recipe.notes)
    assert recipe.address is None or recipe.address.endswith(recipe.source)
    assert recipe.images is None or recipe.address is None
    assert len({repair.name for repair in recipe.repairs}) == len(recipe.repairs)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_a_page_agree_with_what_it_tells(name: str) -> None:
    recipe = load_recipe(name)
    told = (recipes_folder() / f"{name}.py").read_text(encoding="utf-8")
    numbers = {int(number.replace(",", "")) for number in re.findall(r"\d{1,3}(?:,\d{3})+", told + recipe.title)}
    for part in recipe.parts:
        if part.expected is not None and part.split == "train":
            assert part.expected in numbers, part


def rows_of(name: str, raw: Raw) -> dict[str, list[Row]]:
    """The rows of a download by the parts of its recipe, as ``data prepare`` goes through them."""
    recipe = load_recipe(name)
    reader = FORMATS[recipe.format]
    rows: dict[str, list[Row]] = {}
    for part in recipe.parts:
        files = [f for f in reader.find(str(raw.folder / part.find)) if f.split in (None, part.split)]
        records = [record for file in files for record in reader.records(file)]
        rows.setdefault(part.split, []).extend(row_of(reader, record, at) for at, record in enumerate(records))
    return rows


def fault_of(row: Row, root: str | None) -> str | None:
    """What keeps a row from being trained on; None where nothing does."""
    try:
        if row["fault"] is not None:
            raise BadRecord(row["fault"], row["detail"])
        images = tuple(image["path"] if image["bytes"] is None else image["bytes"] for image in row["images"])
        said = settle_turns(tuple(Turn(turn["role"], turn["text"]) for turn in row["turns"]))
        check_images(Conversation(row["id"], images, said, "source", "domain", row["task"]))
        for image in images:
            open_image(image, root)
    except BadRecord as fault:
        return fault.reason
    return None


@pytest.mark.parametrize("name", NAMES)
def test_a_download_as_its_source_writes_it_comes_through(name: str, tmp_path: Path) -> None:
    raw, recipe = write_raw(name, tmp_path / "raw"), load_recipe(name)
    rows = rows_of(name, raw)
    assert {split: len(there) for split, there in rows.items()} == raw.records
    root = None if recipe.images is None else str(raw.folder / recipe.images)
    faults = [(row, fault) for row in rows["train"] if (fault := fault_of(row, root)) is not None]
    assert Counter(fault for _, fault in faults) == raw.faults
    for row, fault in faults:
        path = row["images"][0]["path"] if row["images"] else None
        # What is wrong with the download is among the known repairs, which say what to do.
        assert path is None or recipe.repair(path, fault) is not None, (path, fault)


def test_known_faults_are_told_from_news() -> None:
    mix = load_recipe("llava_mix665k")
    known = {
        ("ocr_vqa/images/0439.jpg", "image_by_stem"): "ocr-vqa-suffix",
        ("ocr_vqa/images/0439.jpg", "image_extension"): "ocr-vqa-suffix",
        ("ocr_vqa/images/0439.jpg", "image_missing"): "ocr-vqa-gone",
        ("ocr_vqa/images/1437717772.jpg", "image_unreadable"): "ocr-vqa-corrupt",
        ("vg/VG_100K_2/3.jpg", "image_empty"): "vg-empty",
        ("vg/VG_100K/3.jpg", "image_empty"): "vg-empty",
        ("coco/train2017/3.jpg", "image_missing"): None,
        ("ocr_vqa/images/0439.jpg", "image_outside"): None,
    }
    for (path, fault), name in known.items():
        repair = mix.repair(path, fault)
        assert (repair.name if repair else None) == name, (path, fault)
    swapped = load_recipe("sharegpt4v_ft").repair("web-celebrity/images/Choi_Min-sik.jpg", "image_missing")
    assert swapped is not None and swapped.name == "choi-min-sik"


def test_every_reason_of_a_repair_is_one_that_data_check_gives() -> None:
    for name in NAMES:
        for repair in load_recipe(name).repairs:
            assert set(repair.reasons) <= set(KINDS), (name, repair.name)


def test_a_draw_leaves_sets_of_m3it_out_by_their_name(tmp_path: Path) -> None:
    folder = write_raw("m3it", tmp_path / "raw").folder / "data"
    reader, draw = FORMATS["m3it"], Draw("task", leave_out=("docvqa", "coco"))
    records = [record for file in reader.find(str(folder)) for record in reader.records(file)]
    drawing = draw.start(draw.count(records))
    kept = Counter(record["task"] for record in records if drawing.keep(record))
    assert kept == {"snli-ve": 1, "mmchat": 1, "nlvr": 4, "shapes": 2, "vqa-v2": 2}


def test_vision_flans_draw_is_the_papers() -> None:
    recipe = load_recipe("vision_flan_187")
    assert recipe.draw is not None
    assert (recipe.draw.max_per_task, recipe.draw.expected, recipe.draw.key) == (1000, 182_167, "task_name")
    assert recipe.expected("train") == 1_664_261


def test_every_page_stands_in_the_readme() -> None:
    listed = (Path(__file__).resolve().parents[2] / "data_recipes" / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        expected = load_recipe(name).expected("train")
        assert re.search(rf"\| `{name}` \| [^|]+ \| {'-' if expected is None else f'{expected:,}'} \|", listed), name


def test_recipes_are_listed_with_their_titles(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "recipe"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown for name in NAMES) and "19,654 training questions" in shown
