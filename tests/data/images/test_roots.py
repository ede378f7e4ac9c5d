"""The folder of images is found where it lies: beside the records, above them, in folders of usual and other names."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_moe.data.images.roots import guess_image_root, look_in

PATHS = [f"set/{number}.png" for number in range(40)]


def pictures(folder: Path, paths: list[str] = PATHS) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")


@pytest.mark.parametrize(
    "place", [".", "..", "images", "../images", "odd name", "../odd name", "odd/images", "a/b/c/d"]
)
def test_the_folder_is_found(place: str, tmp_path: Path) -> None:
    near = tmp_path / "data" / "records"
    near.mkdir(parents=True)
    pictures(near / place)
    root = guess_image_root(PATHS, near)
    assert root.folder is not None and (near / place).samefile(root.folder)
    assert (root.num_found, root.num_sought, root.missing) == (40, 40, "")


def test_the_folder_with_most_of_them_is_taken_and_the_first_that_is_not_there_is_named(tmp_path: Path) -> None:
    pictures(tmp_path / "images", PATHS[:4])
    pictures(tmp_path / "zoo", PATHS[1:])
    root = guess_image_root(PATHS, tmp_path)
    assert (root.folder, root.num_found) == (str(tmp_path / "zoo"), 39)
    assert root.missing == f"no file {tmp_path / 'zoo' / PATHS[0]}"


def test_whole_paths_need_no_folder(tmp_path: Path) -> None:
    pictures(tmp_path)
    root = guess_image_root([str(tmp_path / path) for path in PATHS], tmp_path / "elsewhere")
    assert (root.folder, root.num_found) == (None, 40)


def test_what_lies_nowhere_near_is_not_found(tmp_path: Path) -> None:
    pictures(tmp_path / "near" / "other", ["x/0.png"])
    for paths in (PATHS, ["../../etc/passwd"], ["https://example.org/0.png"], ["a" * 300], []):
        assert guess_image_root(paths, tmp_path / "near").num_found == 0
    assert look_in(str(tmp_path), PATHS).num_found == 0
