"""A stage's data, opened: sources, records, indexes, and the account of what was left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from rich.console import Console

from llava_moe.config.settings import mixture_of
from llava_moe.data.conversation import BadRecord
from llava_moe.data.encode import Encoder
from llava_moe.data.held_out import split_held_out
from llava_moe.data.images.paths import find_image
from llava_moe.data.mixture import Mixture
from llava_moe.data.quarantine import Quarantine, Quarantined
from llava_moe.data.quarantine_filter import leave_out, read_list
from llava_moe.data.records import Records
from llava_moe.data.source import open_records
from llava_moe.data.source_index import SourceIndex, index_source
from llava_moe.errors import UserError
from llava_moe.files.our_files import read_object
from llava_moe.run_config import RunConfig
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.processes import Processes
from llava_moe.terminal.console import VisibleConsole
from llava_moe.terminal.fitted_bar import FittedBar, passing
from llava_moe.train.folder import ENVIRONMENT

# So many records' image files tell whether a folder holds the images that a run began with.
NUM_IMAGES_KNOWN = 32


@dataclass(frozen=True)
class OpenData:
    """A mixture with its sources opened and indexed.

    Attributes:
        indexes: what is trained on: without the records that ``data.quarantine`` lists and the images held out.
        held_out: what ``data.held_out`` keeps out of training.
        accepted: the records that ``data.quarantine`` lists.
    """

    mixture: Mixture
    records: tuple[Records, ...]
    indexes: tuple[SourceIndex, ...]
    held_out: tuple[SourceIndex, ...]
    accepted: tuple[Quarantined, ...]


def open_data(
    config: RunConfig, encoder: Encoder, processes: Processes, console: Console, says: bool = True
) -> OpenData:
    """Open and index every source of the mixture, the first process before the others, which then find the cache.

    Args:
        says: whether to print what was read; bars pass by in any case.
    """
    lines = console if says else VisibleConsole(quiet=True)
    mixture, cache = mixture_of(config), cache_folder()
    # A run that an earlier release made lacks the key.
    list_path = config.data.quarantine
    listed = () if list_path is None else read_list(Path(list_path))
    if processes.rank > 0:
        processes.wait()
    opened = []
    for source in mixture.sources:
        # The first time, raw files are converted: minutes for gigabytes.
        with console.status(f"  opening {source.name}: {source.path}"):
            opened.append(open_records(source, cache))
    records = tuple(opened)
    indexes = []
    for source, content in zip(mixture.sources, records, strict=True):
        with passing(FittedBar(f"  reading {source.name}", len(content)), console) as bar:
            index = index_source(source, content, encoder, cache, bar.tell)
        indexes.append(index)
        left_out = f", {len(index.bad)} left out" if index.bad else ""
        cut = f", {index.num_cut} cut" if index.num_cut else ""
        lines.print(
            f"  {source.name} ({source.domain}): {len(index.rows):,} records{left_out}{cut}, "
            f"{index.lengths.mean():.0f} tokens on average",
            highlight=False,
            markup=False,
        )
        if content.unread is not None:
            lines.print(f"  {content.unread}", highlight=False, markup=False, soft_wrap=True)
    if processes.rank == 0:
        processes.wait()
    kept, accepted = tuple(indexes), tuple[Quarantined, ...]()
    if list_path is not None:
        kept, accepted = leave_out(mixture.sources, records, kept, listed, Path(list_path))
        lines.print(f"  {len(accepted):,} records left out by {list_path}", highlight=False, markup=False)
        if listed and not accepted:
            named = ", ".join(sorted({entry.source for entry in listed}))
            lines.print(f"  none of its {len(listed):,} records is read here: they are of {named}", markup=False)
    kept, held_out = split_held_out(mixture.sources, kept, mixture.held_out)
    if mixture.held_out:
        num_held = sum(len(index.rows) for index in held_out)
        lines.print(f"  {num_held:,} records held out of training, by image", highlight=False, markup=False)
    return OpenData(mixture, records, kept, held_out, accepted)


def open_quarantine(folder: Path, data: OpenData, encoder: Encoder, is_fresh: bool) -> Quarantine:
    """The account of a run's bad records, with those that the index found.

    A run that begins again (``is_fresh``) begins its account again: the records of an earlier try may have been fixed.

    Raises:
        UserError: more than ``max_bad_share`` of a source is bad.
    """
    quarantine = Quarantine(
        folder / "quarantine.jsonl",
        {source.name: index.num_records for source, index in zip(data.mixture.sources, data.indexes, strict=True)},
        data.mixture.max_bad_share,
        data.accepted,
    )
    if is_fresh:
        quarantine.keep_only(lambda _: False)
    elif quarantine.is_over():
        quarantine.keep_only(partial(_is_still_bad, data, encoder))
    quarantine.add(data.accepted)
    quarantine.add(entry for index in data.indexes for entry in index.bad)
    return quarantine


def _is_still_bad(data: OpenData, encoder: Encoder, entry: Quarantined) -> bool:
    for source, records in zip(data.mixture.sources, data.records, strict=True):
        if source.name == entry.source and (row := records.find(entry.index)) is not None:
            try:
                encoder.encode(records[row], records.image_root, 0, source.value_range)
            except BadRecord:
                return True
    return False


def fingerprint_samples(data: OpenData) -> dict[str, str]:
    """Source -> 24 hex digits over the keys of the records it trains on, in order.

    Nothing else decides what a step holds: not where a file lies, when it was written, or in which format.
    """
    found = {}
    for source, index in zip(data.mixture.sources, data.indexes, strict=True):
        digest = sha256(f"{len(index.rows)} ".encode() + np.ascontiguousarray(index.keys).tobytes())
        digest.update(np.ascontiguousarray(index.lengths).tobytes())
        found[source.name] = digest.hexdigest()[:24]
    return found


def fingerprint_images(data: OpenData) -> dict[str, str]:
    """Source -> 24 hex digits over the bytes of a few image files, spread evenly over the records that have one.

    Images inside records, and those of prepared shards, count in their record's key. Of a file the key has the path.
    """
    found = {}
    for source, records, index in zip(data.mixture.sources, data.records, data.indexes, strict=True):
        digest = sha256()
        with_images = index.rows[index.num_images > 0]
        places = np.unique(np.linspace(0, len(with_images) - 1, min(NUM_IMAGES_KNOWN, len(with_images))).astype(int))
        for row in with_images[places].tolist():
            digest.update(_file_bytes(records, row))
        found[source.name] = digest.hexdigest()[:24]
    return found


def _file_bytes(records: Records, row: int) -> bytes:
    """The hash of a record's image files; one that is not there counts as none."""
    digest = sha256()
    content = records.read(row, row + 1)[0].content
    for ref in () if isinstance(content, BadRecord) else content.images:
        if isinstance(ref, str):
            try:
                digest.update(sha256(find_image(ref, records.image_root).read_bytes()).digest())
            except (BadRecord, OSError):
                digest.update(b"missing")
    return digest.digest()


def refuse_changed_data(folder: Path, data: OpenData, is_moved: bool = False) -> None:
    """Refuse to resume on records that are not those the run began with: its steps would hold other samples.

    Args:
        is_moved: they are looked for elsewhere than before, where image files of the same names may be others.

    Raises:
        UserError: naming the source and its path.
    """
    environment = folder / ENVIRONMENT
    if not environment.is_file():
        return
    shape = {"data": {str: str}, "images?": {str: str}}
    told = read_object(environment, "put it back, or choose another folder with out=", shape)
    before, now = told["data"], fingerprint_samples(data)
    images = told.get("images", {}) if is_moved else {}
    images_now = fingerprint_images(data) if images else {}
    for source in data.mixture.sources:
        name = source.name
        # A run that an earlier release began tells of the file's head and tail, in fewer digits.
        if len(before.get(name, "")) == len(now[name]) and before[name] != now[name]:
            raise UserError(
                f"data source {name!r}: {source.path} (or data.quarantine's list) has changed since the run in "
                f"{folder} began, so its steps would hold other samples: put it back, or choose another folder "
                "with out="
            )
        if images.get(name, "") != images_now.get(name, ""):
            raise UserError(
                f"data source {name!r}: the image files in {source.images or source.path} are others than those that "
                f"the run in {folder} began with: give their folder, or choose another folder for the run with out="
            )
