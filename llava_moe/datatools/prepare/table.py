"""A manifest for the terminal: the account as a table, and the lines that a table cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from llava_moe.data.readers.shards import Manifest
from llava_moe.datatools.prepare.staging import REJECTED


def account_table(manifest: Manifest) -> Table:
    """One column a split."""
    num_shards = len(manifest.shards)
    table = Table(title=f"{manifest.recipe}: {num_shards} shard{'s' * (num_shards != 1)}", title_justify="left")
    table.add_column("", overflow="fold")
    for split in manifest.counts:
        table.add_column(split, justify="right", overflow="fold")
    columns = [dict(_cells(counts)) for counts in manifest.counts.values()]
    for name in columns[0] if columns else ():
        table.add_row(name, *(column[name] for column in columns))
    return table


def _cells(counts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    expected, tokens = counts["expected"], counts["tokens"]
    yield "raw records", f"{counts['raw_records']:,}"
    yield "  published", "?" if expected is None else f"{expected:,}"
    yield "rejected", f"{sum(counts['rejected'].values()):,}"
    for name in ("records", "with_images", "text_only", "images", "turns"):
        yield ("  " if name in ("with_images", "text_only") else "") + name.replace("_", " "), f"{counts[name]:,}"
    is_counted = bool(tokens and tokens["count"])
    yield "tokens", f"{tokens['total']:,}" if is_counted else "not counted"
    if is_counted:
        yield "  a record", f"{tokens['mean']:,.1f}"
        yield "  at most", f"{tokens['max']:,}"


def account_lines(manifest: Manifest, folder: Path) -> Iterator[str]:
    """What a reader must know beside the table, a line each."""
    for split, counts in manifest.counts.items():
        for told in (counts["difference"], counts["draw_difference"]):
            if told is not None:
                yield f"{split}: {told}"
        if counts["other_split"]:
            yield f"{split}: {counts['other_split']:,} records of its files say they are of another split: passed over"
        if counts["rejected"]:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts["rejected"].items())
            yield f"{split}: rejected ({folder / REJECTED}): {reasons}"
        if counts["pictures"]["looked_at"]:
            yield f"{split}: {_images_line(counts['pictures'], manifest.images)}"
    tokenizer = manifest.about.get("tokenizer")
    if tokenizer is not None:
        yield f"tokens: of the turns' text, by {tokenizer['name']}; template and image places are not counted"
    if manifest.images is not None:
        yield f"image paths start from {manifest.images}"
    yield f"licence: {manifest.about.get('licence')}"
    for note in manifest.about.get("notes") or ():
        yield f"note: {note}"


def _images_line(pictures: Mapping[str, Any], root: str | None) -> str:
    looked_at, faults = pictures["looked_at"], pictures["faults"]
    formats = ", ".join(f"{name} {count:,}" for name, count in pictures["formats"].items())
    bad = sum(faults.values())
    parts = [f"{looked_at:,} of {pictures['stored'] + pictures['paths']:,} images looked at"]
    if bad == looked_at:
        told = ", ".join(f"{name} {count:,}" for name, count in faults.items())
        where = "" if root is None else f"; check that the images lie under {root}, or give images=FOLDER"
        return f"{parts[0]}: none can be read ({told}){where}"
    parts.append(formats)
    widths, heights = pictures["widths"], pictures["heights"]
    parts.append(f"{widths['mean']:.0f} x {heights['mean']:.0f} on average, {widths['max']} wide at most")
    if bad:
        parts.append(", ".join(f"{name} {count:,}" for name, count in faults.items()))
    return "; ".join(parts)
