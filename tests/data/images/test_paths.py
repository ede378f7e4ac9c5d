"""Links into a hub cache's blobs are followed; links that lead elsewhere are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.paths import find_image
from llava_moe.data.images.transform import open_image


def hub_cache(folder: Path, name: str = "datasets--me--toy") -> Path:
    """A repository as the hub's client lays it out; returns its folder."""
    repository = folder / name
    snapshot = repository / "snapshots" / "abc"
    (snapshot / "img").mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, link in enumerate((snapshot / "a.png", snapshot / "img" / "b.png")):
        blob = repository / "blobs" / f"{number:040d}"
        Image.new("RGB", (4 + number, 3)).save(blob, "PNG")
        up = "../" * (2 + len(link.relative_to(snapshot).parts) - 1)
        link.symlink_to(f"{up}blobs/{blob.name}")
    return repository


@pytest.mark.parametrize("kind", ["models", "datasets", "spaces"])
@pytest.mark.parametrize(
    ("root", "ref"),
    [
        ("snapshots/abc", "a.png"),
        ("snapshots/abc", "img/b.png"),
        ("snapshots/abc/img", "b.png"),
        ("snapshots", "abc/a.png"),
        (".", "snapshots/abc/a.png"),
        ("..", "{name}/snapshots/abc/img/b.png"),
    ],
)
def test_a_link_into_the_blobs_of_its_own_repository_is_read(tmp_path: Path, kind: str, root: str, ref: str) -> None:
    repository = hub_cache(tmp_path, f"{kind}--me--toy")
    opened = open_image(ref.format(name=repository.name), str(repository / root))
    assert opened.size in ((4, 3), (5, 3))


def test_a_linked_folder_may_be_a_snapshot(tmp_path: Path) -> None:
    repository = hub_cache(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "toy").symlink_to(repository / "snapshots" / "abc")
    assert open_image("toy/a.png", str(tmp_path / "data")).size == (4, 3)
    assert open_image("a.png", str(tmp_path / "data" / "toy")).size == (4, 3)


def refused(ref: str, root: Path) -> bool:
    with pytest.raises(BadRecord) as caught:
        find_image(ref, str(root))
    return caught.value.reason == "image_outside"


def test_a_link_that_leaves_the_repository_stays_refused(tmp_path: Path) -> None:
    repository, other = hub_cache(tmp_path), hub_cache(tmp_path, "datasets--you--toy")
    snapshot = repository / "snapshots" / "abc"
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 3)).save(secret)
    (snapshot / "out.png").symlink_to(secret)
    (snapshot / "other.png").symlink_to(next((other / "blobs").iterdir()))
    (snapshot / "beside.png").symlink_to(repository / "refs.png")
    Image.new("RGB", (4, 3)).save(repository / "refs.png")
    (repository / "blobs" / "link").symlink_to(secret)
    (snapshot / "through.png").symlink_to("../../blobs/link")
    assert all(refused(name, snapshot) for name in ("out.png", "other.png", "beside.png", "through.png"))
    assert refused("../../blobs/" + "0" * 40, snapshot)


def test_a_folder_that_only_looks_like_a_cache_is_none(tmp_path: Path) -> None:
    for name in ("store", "datasets-me-toy", "datasets--"):
        repository = hub_cache(tmp_path, name)
        assert refused("a.png", repository / "snapshots" / "abc")


def test_a_link_from_elsewhere_into_a_cache_stays_refused(tmp_path: Path) -> None:
    repository = hub_cache(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").symlink_to(repository / "blobs" / ("0" * 40))
    assert refused("a.png", tmp_path / "data")


def test_a_cache_copied_without_its_blobs_is_told(tmp_path: Path) -> None:
    repository = hub_cache(tmp_path)
    (repository / "blobs" / ("0" * 40)).unlink()
    with pytest.raises(BadRecord, match=r"image_missing: .*a\.png: it is a link to \.\./\.\./blobs/0+, which is not"):
        find_image("a.png", str(repository / "snapshots" / "abc"))
