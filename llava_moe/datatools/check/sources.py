"""Faults of a source as a whole: its image folder, its count, and a prepared folder held against its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from llava_moe.data.shard_records import ShardRecords
from llava_moe.data.source import check_has_images, check_image_root
from llava_moe.datatools.check.scan import CheckJob
from llava_moe.datatools.check.stage_view import View
from llava_moe.errors import UserError
from llava_moe.files.regular_file import open_regular

BLOCK = 1 << 22


@dataclass(frozen=True)
class Trouble:
    """A kind that concerns a source as a whole."""

    label: str
    kind: str
    detail: str


@dataclass(frozen=True)
class ShardPlace:
    """One shard of a view's prepared folder."""

    view: int
    shard: int


def image_root_trouble(view: View) -> Trouble | None:
    """What training would say of the image folder before it begins."""
    for kind, check in (("no_images", check_has_images), ("image_root", check_image_root)):
        try:
            check(view.source, view.records)
        except UserError as error:
            return Trouble(view.label, kind, str(error))
    return None


def count_trouble(view: View, expected: int | None) -> Trouble | None:
    """Whether the source holds as many records as its manifest, and before the preparation as its recipe, says."""
    if isinstance(view.records, ShardRecords):
        told = [account.get("records") for account in _accounts(view)]
        if told and None not in told and (said := sum(int(count or 0) for count in told)) != len(view.records):
            return Trouble(view.label, "count_differs", f"{len(view.records):,} records, the manifest says {said:,}")
    found = len(view.records) + sum(rejected(view).values())
    if expected is None or found == expected:
        return None
    difference = f"{abs(found - expected):,} {'fewer' if found < expected else 'more'}"
    return Trouble(view.label, "count_differs", f"{found:,} records, published are {expected:,}: {difference}")


def split_trouble(view: View) -> Trouble | None:
    """The splits of a source that are not read for want of ``split=``."""
    line = view.records.unread
    return None if line is None else Trouble(view.label, "split_unread", line)


def rejected_trouble(view: View) -> Trouble | None:
    """What the preparation left out, by reason."""
    reasons = rejected(view)
    if not reasons:
        return None
    told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    return Trouble(view.label, "rejected_by_prepare", f"{sum(reasons.values()):,} raw records ({told})")


def rejected(view: View) -> Counter[str]:
    """Raw records of the view's splits that the preparation left out, by reason."""
    reasons: Counter[str] = Counter()
    for account in _accounts(view):
        reasons.update(account.get("rejected") or {})
    return reasons


def _accounts(view: View) -> list[Mapping[str, Any]]:
    """What the manifest says of the splits that the view reads."""
    if not isinstance(view.records, ShardRecords):
        return []
    counts = view.records.manifest.counts
    splits = dict.fromkeys(shard.split for shard in view.records.shards)
    return [counts[split] for split in splits if split is not None and split in counts]


def shard_places(views: tuple[View, ...]) -> list[ShardPlace]:
    """All shards of prepared folders, each once."""
    places: dict[tuple[Path, str], ShardPlace] = {}
    for number, view in enumerate(views):
        if isinstance(view.records, ShardRecords):
            for shard, one in enumerate(view.records.shards):
                places.setdefault((view.records.folder, one.file), ShardPlace(number, shard))
    return list(places.values())


def shard_trouble(job: CheckJob, place: ShardPlace) -> Trouble | None:
    """Whether a shard's SHA-256 is the manifest's."""
    view = job.views[place.view]
    assert isinstance(view.records, ShardRecords)
    shard = view.records.shards[place.shard]
    path, digest = view.records.folder / shard.file, sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() == shard.sha256:
        return None
    return Trouble(view.label, "shard_changed", f"{path}: SHA-256 {digest.hexdigest()[:12]}, not {shard.sha256[:12]}")
