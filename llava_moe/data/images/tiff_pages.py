"""Pages of documents as image paths: ``scans/form.tif.2`` is page 2, counted from 0, of ``scans/form.tif``.

UReader's records name pages so (``ImageIO`` in xgpt3_dataset.py of UReader).
"""

from __future__ import annotations

import re

_PAGE = re.compile(r"(?P<file>.*\.tiff?)\.(?P<page>\d{1,6})", re.IGNORECASE | re.DOTALL)


def split_page(ref: str) -> tuple[str, int | None]:
    """An image path as its file's path and the number of the page; the path itself and None where it names none."""
    found = _PAGE.fullmatch(ref)
    return (found["file"], int(found["page"])) if found else (ref, None)
