"""Tables and folders of pictures, which no reader takes: what ``init`` says of them."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from llava_moe.data.images.paths import PICTURES
from llava_moe.data.readers.files import holds_records
from llava_moe.data.readers.shapes import EXAMPLE
from llava_moe.data.readers.tables import DIALECTS, records_of_table

_MOST_ENTRIES = 100_000


def table_remedy(domain: str, path: str) -> str | None:
    """What to do with a table, or with a folder of pictures and perhaps a table; None for anything else."""
    place = Path(path).expanduser()
    if place.suffix.lower() in DIALECTS and place.is_file():
        return f"{domain}: {path} is a table, which is not read; {records_of_table(place, domain)}"
    if not place.is_dir():
        return None
    names = [entry.name for entry in islice(os.scandir(place), _MOST_ENTRIES)]
    tables = sorted(name for name in names if Path(name).suffix.lower() in DIALECTS)
    num_pictures = sum(name.lower().endswith(PICTURES) for name in names)
    if any(map(holds_records, names)) or not (tables or num_pictures):
        return None
    if tables:
        what = f"is a folder of {num_pictures:,} pictures and {tables[0]}" if num_pictures else f"holds {tables[0]}"
        return f"{domain}: {path} {what}, which is not read; {records_of_table(place / tables[0], domain)}"
    return (
        f"{domain}: {path} is a folder of {num_pictures:,} pictures without questions and answers: write a file of "
        f"JSON Lines beside them, a line each such as {EXAMPLE}"
    )
