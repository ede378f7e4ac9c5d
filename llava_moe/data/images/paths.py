"""The file of an image path: under the image folder, and not led out of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.tiff_pages import split_page

_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".JPG", ".JPEG", ".PNG", ".GIF")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""How files of pictures end, in lower case."""
_HUB_REPOSITORY = re.compile(r"(models|datasets|spaces)--.+")


class StartFolder(str):
    """A folder that relative image paths start from and that bounds none: absolute ones and ``..`` lead where they say.

    It is the folder of the file that names a source, where nobody says which folder its images lie in.
    """


def find_image(ref: str, root: str | None) -> Path:
    """The file of an image path, or its neighbour of the same stem and another image suffix; of a page, its document.

    Where ``root`` is given, and is no :class:`StartFolder`, records cannot reach out of it: neither by ``..``, nor by
    an absolute path, nor by a file that is a link to one outside. Folders below the root may be links, since that is
    how people lay data sets out. In a hub's cache, where every file is a link into the ``blobs`` of its repository,
    those links are followed.

    Raises:
        BadRecord: ``image_missing``, ``image_outside``, ``image_address``.
    """
    if "://" in ref[:16]:
        raise BadRecord("image_address", f"{ref[:200]} is an address; fetch the image and give its path")
    try:
        path = Path(root or "", split_page(ref)[0]).expanduser()
        is_bound = root is not None and not isinstance(root, StartFolder)
        if root is not None and is_bound:
            # Trap: behind a linked folder the system takes .. for the parent of what is linked to.
            path = Path(os.path.normpath(path))
            _stay_inside(path, ref, root)
        found = _existing(path)
        if found is not None and root is not None and is_bound and found.is_symlink():
            _refuse_link_outside(found, ref, root)
    except (OSError, RuntimeError) as error:
        # A name longer than names may be (text that is no path), a folder closed to us, an unknown user in ~name.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadRecord("image_missing", f"no file {ref[:200]} ({reason})") from error
    if found is None:
        raise BadRecord("image_missing", f"no file {path}{_dangling(path)}")
    return found


def _existing(path: Path) -> Path | None:
    # Not whatever exists: a named pipe would be read forever. A folder is found, and is no image.
    if path.is_file() or path.is_dir():
        return path
    if path.suffix:
        for suffix in _SUFFIXES:
            if (neighbor := path.with_suffix(suffix)).is_file():
                return neighbor
    return None


def _dangling(path: Path) -> str:
    """What to say of a link to nothing, as a cache leaves it that was copied without its blobs."""
    return f": it is a link to {os.readlink(path)}, which is not there" if path.is_symlink() else ""


def _stay_inside(path: Path, ref: str, root: str) -> None:
    inside, base = os.path.abspath(path), os.path.abspath(Path(root).expanduser())
    if os.path.commonpath([inside, base]) != base:
        raise BadRecord("image_outside", f"{ref[:200]} leads out of the image folder {root}; give a path inside it")


def _refuse_link_outside(path: Path, ref: str, root: str) -> None:
    target, folder = path.resolve(), path.parent.resolve()
    bases = (Path(root).expanduser().resolve(), folder)
    if any(target.is_relative_to(base) for base in bases) or _is_blob_of(target, folder):
        return
    raise BadRecord(
        "image_outside", f"{ref[:200]} is a link to {target}, out of the image folder {root}; copy the file there"
    )


def _is_blob_of(target: Path, folder: Path) -> bool:
    """Whether a link's target is a blob of the hub's cache that the link itself lies in.

    A repository there is ``datasets--NAME``: its files are ``snapshots/REVISION/...``, links to ``blobs/HASH``.
    """
    repository = target.parent.parent
    return (
        target.parent.name == "blobs"
        and _HUB_REPOSITORY.fullmatch(repository.name) is not None
        and folder.is_relative_to(repository / "snapshots")
    )
