"""Pages of documents are named by paths and opened as images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.tiff_pages import split_page
from llava_moe.data.images.transform import open_image
from tests.data.conftest import noise


def write_scan(folder: Path) -> Path:
    noise(20, 14, 0).save(folder / "scan.tif", save_all=True, append_images=[noise(20, 14, 1), noise(24, 10, 2)])
    return folder


@pytest.mark.parametrize(
    ("ref", "file", "page"),
    [
        ("a/scan.tif.2", "a/scan.tif", 2),
        ("a/scan.TIFF.10", "a/scan.TIFF", 10),
        ("a/scan.tif", "a/scan.tif", None),
        ("a/scan.png.2", "a/scan.png.2", None),
        ("a.tif.2/b.jpg", "a.tif.2/b.jpg", None),
        ("a.tif.2.jpg", "a.tif.2.jpg", None),
        (".tif.x", ".tif.x", None),
    ],
)
def test_only_a_number_behind_a_tiff_is_a_page(ref: str, file: str, page: int | None) -> None:
    assert split_page(ref) == (file, page)


def test_a_path_with_a_page_opens_that_page(tmp_path: Path) -> None:
    write_scan(tmp_path)
    for page, size in enumerate([(20, 14), (20, 14), (24, 10)]):
        opened = open_image(f"scan.tif.{page}", str(tmp_path))
        assert np.array_equal(np.asarray(opened), np.asarray(noise(*size, page))), page
    assert np.array_equal(np.asarray(open_image("scan.tif", str(tmp_path))), np.asarray(noise(20, 14, 0)))


def test_a_page_that_is_not_there_is_one_clear_reason(tmp_path: Path) -> None:
    write_scan(tmp_path)
    for ref, reason in (("scan.tif.3", "image_unreadable"), ("other.tif.0", "image_missing")):
        with pytest.raises(BadRecord) as refused:
            open_image(ref, str(tmp_path))
        assert refused.value.reason == reason
    with pytest.raises(BadRecord, match="image_outside"):
        open_image("../scan.tif.0", str(tmp_path / "folder"))


def test_a_page_is_judged_by_its_own_size(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "scan.tif", save_all=True, append_images=[noise(400, 8, 1)])
    assert open_image("scan.tif.0", str(tmp_path), max_side=100).size == (8, 8)
    with pytest.raises(BadRecord, match="image_too_large"):
        open_image("scan.tif.1", str(tmp_path), max_side=100)
