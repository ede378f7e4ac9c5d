"""Writing the product: one Parquet file per domain."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from tools.demo_assets.images.item import DOMAINS, Item

SCHEMA = pyarrow.schema(
    {
        "id": pyarrow.string(),
        "images": pyarrow.list_(pyarrow.binary()),
        "conversations": pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "text": pyarrow.string()})),
        "caption": pyarrow.string(),
        "kinds": pyarrow.list_(pyarrow.string()),
        "closed": pyarrow.list_(pyarrow.bool_()),
        "source": pyarrow.string(),
        "domain": pyarrow.string(),
        "task": pyarrow.string(),
        "split": pyarrow.string(),
        "licence": pyarrow.string(),
    }
)
JPEG_QUALITY = 88


def encode_image(item: Item) -> bytes:
    """PNG for small grey pictures, lossless WebP for drawn ones, JPEG for the rest."""
    buffer = io.BytesIO()
    if item.lossless and max(item.image.size) <= 32:
        item.image.save(buffer, "PNG", optimize=True)
    elif item.lossless:
        item.image.save(buffer, "WEBP", lossless=True, quality=80, method=4)
    else:
        item.image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def _row(item: Item, content: bytes) -> dict:
    conversations = []
    for pair in item.pairs:
        conversations += [{"role": "user", "text": pair.question}, {"role": "assistant", "text": pair.answer}]
    return {
        "id": item.id,
        "images": [content],
        "conversations": conversations,
        "caption": item.caption,
        "kinds": [pair.kind for pair in item.pairs],
        "closed": [pair.closed for pair in item.pairs],
        "source": item.source,
        "domain": item.domain,
        "task": item.task,
        "split": item.split,
        "licence": item.licence,
    }


def write_parquet(items: Sequence[Item], encoded: Sequence[bytes], folder: Path) -> None:
    """Write `{domain}.parquet` with the items in order of their id."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(
        (_row(item, content) for item, content in zip(items, encoded, strict=True)), key=lambda row: row["id"]
    )
    for domain in DOMAINS:
        table = pyarrow.Table.from_pylist([row for row in rows if row["domain"] == domain], SCHEMA)
        pyarrow.parquet.write_table(table, folder / f"{domain}.parquet", compression="zstd", row_group_size=500)
