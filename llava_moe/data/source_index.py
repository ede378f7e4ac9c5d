"""The index of a source: which records are usable and how long each is, made once and kept beside the data."""

from __future__ import annotations

import gc
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch.utils.data import Dataset

from llava_moe.data.batch_lengths import measure
from llava_moe.data.conversation import BadRecord, Conversation, image_identity, record_key
from llava_moe.data.encode import Encoder
from llava_moe.data.images.inputs import ImageSize
from llava_moe.data.ordered_prefetch import num_cores, prefetch_in_order
from llava_moe.data.quarantine import TOO_LONG, Quarantined
from llava_moe.data.readers.store import slug
from llava_moe.data.records import Entry, Records, Source
from llava_moe.data.source import check_has_images, check_image_root
from llava_moe.data.template import Rendered
from llava_moe.errors import UserError
from llava_moe.text.structured_text import parse_json

VERSION = 4
"""Raised whenever the index of the same records would come out otherwise."""

CHUNK = 1024
"""Records read and tokenised at once: memory stays flat whatever the source's size."""
RECORDS_WORTH_A_PROCESS = 10_000
"""Starting a process pays from about so many records on."""


@dataclass(frozen=True)
class SourceIndex:
    """What planning needs to know of a source; n usable records.

    Attributes:
        rows: int64 [n], record numbers for ``Records``.
        lengths: int32 [n], tokens with images expanded, after any cut.
        supervised: int32 [n], tokens that carry a loss.
        num_images: int16 [n].
        keys: uint8 [n, 32], the record keys (SHA-256), so that every rank knows the keys of a whole step.
        image_ids: uint64 [sum(num_images)], in the records' order: which images are one and the same, by path as
            written or by content (see ``image_identity``).
        num_records: records in the source, bad ones included.
        num_cut: records cut at a turn to fit.
        bad: records left out, with reasons; those dropped for their length are among them.
        image_tokens: int32 [n], those of the lengths that are places of images; None where every image takes as many.
        image_sizes: int32 [sum(num_images), 2], widths and heights in the order of ``image_ids``; None as before.
    """

    rows: np.ndarray
    lengths: np.ndarray
    supervised: np.ndarray
    num_images: np.ndarray
    keys: np.ndarray
    image_ids: np.ndarray
    num_records: int
    num_cut: int
    bad: tuple[Quarantined, ...]
    image_tokens: np.ndarray | None = None
    image_sizes: np.ndarray | None = None


def index_source(
    source: Source,
    records: Records,
    encoder: Encoder,
    cache: str | Path,
    progress: Callable[[int, int], None] | None = None,
    num_processes: int | None = None,
) -> SourceIndex:
    """The index of a source, from the cache where nothing that decides it has changed.

    No image is opened, but for a look whether a few are there at all; all are where their tokens depend on their sizes.

    Args:
        progress: called with (records done, records in all) while the index is made.
        num_processes: that read and tokenise; None: as many as there are cores, and this one alone for a small source.

    Raises:
        UserError: no record is usable, none has an image although a folder is given, none of the probed images is
            there, or the cache cannot be written.
    """
    check_has_images(source, records)
    check_image_root(source, records)
    path = Path(cache) / f"index-{slug(source.name)}-{_key(source, records, encoder)[:24]}.npz"
    index = _load(path)
    if index is None:
        index = _build(source, records, encoder, progress, num_processes)
        _save(index, path)
    if not len(index.rows):
        reasons = {entry.reason: entry.detail for entry in reversed(index.bad)}
        told = "; ".join(f"{reason}: {detail}" for reason, detail in list(reasons.items())[:3])
        raise UserError(
            f"data source {source.name!r}: none of {index.num_records} records is usable ({told}); fix them"
            + (", or raise train.max_length" if TOO_LONG in reasons else "")
        )
    return index


def _key(source: Source, records: Records, encoder: Encoder) -> str:
    backend = encoder.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    facts: tuple[object, ...] = (
        VERSION,
        source.name,
        source.domain,
        records.fingerprint,
        sha256(backend.to_str().encode()).hexdigest(),
        encoder.tokenizer.bos_token_id,
        encoder.template,
        encoder.image_token_id,
        encoder.num_image_tokens,
        encoder.max_length,
        encoder.over_length,
    )
    if not encoder.has_equal_images:
        # The sizes of images count too, and with them which files they are and whether they are turned upright.
        facts = (*facts, "with sizes", encoder.reading, source.value_range, records.image_root)
    return sha256(repr(facts).encode()).hexdigest()


@dataclass(frozen=True)
class _Part:
    """The index of a stretch of records: arrays, never a Python object a record."""

    rows: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    image_ids: np.ndarray
    bad: tuple[Quarantined, ...]
    num_cut: int
    image_tokens: np.ndarray
    image_sizes: np.ndarray


def _build(
    source: Source,
    records: Records,
    encoder: Encoder,
    progress: Callable[[int, int], None] | None,
    num_processes: int | None,
) -> SourceIndex:
    total = len(records)
    if num_processes is None:
        num_processes = min(num_cores(), total // RECORDS_WORTH_A_PROCESS)
    parts: list[_Part] = []
    chunks = range(-(-total // CHUNK))
    workers = 0 if num_processes < 2 else num_processes
    with closing(prefetch_in_order(_Chunks(source, records, encoder), chunks, workers)) as found:
        for part in found:
            parts.append(part)
            if progress is not None:
                progress(min(len(parts) * CHUNK, total), total)
    sizes = np.concatenate([np.empty((0, 3), dtype=np.int64), *(part.sizes for part in parts)])
    return SourceIndex(
        rows=np.concatenate([np.empty(0, dtype=np.int64), *(part.rows for part in parts)]),
        lengths=sizes[:, 0].astype(np.int32),
        supervised=sizes[:, 1].astype(np.int32),
        num_images=sizes[:, 2].astype(np.int16),
        keys=np.concatenate([np.empty((0, 32), dtype=np.uint8), *(part.keys for part in parts)]),
        image_ids=np.concatenate([np.empty(0, dtype=np.uint64), *(part.image_ids for part in parts)]),
        num_records=total,
        num_cut=sum(part.num_cut for part in parts),
        bad=tuple(sorted((entry for part in parts for entry in part.bad), key=lambda entry: entry.index)),
        image_tokens=None
        if encoder.has_equal_images
        else np.concatenate([np.empty(0, dtype=np.int32), *(part.image_tokens for part in parts)]),
        image_sizes=None
        if encoder.has_equal_images
        else np.concatenate([np.empty((0, 2), dtype=np.int32), *(part.image_sizes for part in parts)]),
    )


@contextmanager
def _without_collections() -> Iterator[None]:
    """A chunk is a great many small objects and no circle among them: looking for circles took a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Chunks(Dataset[_Part]):
    """Chunk number to its part of the index."""

    def __init__(self, source: Source, records: Records, encoder: Encoder) -> None:
        self.source, self.records, self.encoder = source, records, encoder

    def __getitem__(self, chunk: int) -> _Part:
        with _without_collections():
            return self._index(chunk * CHUNK)

    def _index(self, start: int) -> _Part:
        bad: list[Quarantined] = []
        found: list[tuple[int, Entry, Conversation, Rendered]] = []
        image_sizes: list[tuple[ImageSize, ...]] = []
        for row, entry in enumerate(self.records.read(start, start + CHUNK), start):
            try:
                if isinstance(entry.content, BadRecord):
                    raise entry.content
                rendered = self.encoder.template.render(entry.content)
                image_sizes.append(self._image_sizes(row))
                found.append((row, entry, entry.content, rendered))
            except BadRecord as fault:
                bad.append(_quarantined(self.source, entry, fault))
        rows, sizes, keys, image_ids, image_tokens, num_cut = [], [], [], [], [], 0
        kept_sizes: list[ImageSize] = []
        measured = measure(self.encoder, [rendered for *_, rendered in found], image_sizes)
        for (row, entry, conversation, _), size, seen in zip(found, measured, image_sizes, strict=True):
            if isinstance(size, BadRecord):
                bad.append(_quarantined(self.source, entry, size))
                continue
            rows.append(row)
            sizes.append((size.length, size.supervised, size.num_images))
            keys.append(bytes.fromhex(record_key(conversation)))
            image_ids += [image_identity(ref) for ref in conversation.images[: size.num_images]]
            if not self.encoder.has_equal_images:
                image_tokens.append(int(self.encoder.tokens_of_images(size.num_images, seen).sum()))
                kept_sizes += seen[: size.num_images]
            num_cut += size.was_cut
        return _Part(
            rows=np.asarray(rows, dtype=np.int64),
            sizes=np.asarray(sizes, dtype=np.int64).reshape(-1, 3),
            keys=np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32),
            image_ids=np.asarray(image_ids, dtype=np.uint64),
            bad=tuple(bad),
            num_cut=num_cut,
            image_tokens=np.asarray(image_tokens, dtype=np.int32),
            image_sizes=np.asarray(kept_sizes, dtype=np.int32).reshape(-1, 2),
        )

    def _image_sizes(self, row: int) -> tuple[ImageSize, ...]:
        encoder = self.encoder
        if encoder.has_equal_images:
            return ()
        # The record itself: what was read here may be what is known of images that lie in shards.
        return encoder.image_sizes(self.records[row], self.records.image_root, self.source.value_range)


def _quarantined(source: Source, entry: Entry, fault: BadRecord) -> Quarantined:
    return Quarantined(source.name, source.domain, entry.number, entry.id, fault.reason, fault.detail)


def _save(index: SourceIndex, path: Path) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    bad = json.dumps([asdict(entry) for entry in index.bad]).encode()
    # An index of images that all take as many tokens has no such columns, as before there were any.
    columns = {"image_tokens": index.image_tokens, "image_sizes": index.image_sizes}
    more: dict[str, Any] = {name: column for name, column in columns.items() if column is not None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as file:
                np.savez(
                    file,
                    rows=index.rows,
                    lengths=index.lengths,
                    supervised=index.supervised,
                    num_images=index.num_images,
                    keys=index.keys,
                    image_ids=index.image_ids,
                    counts=np.asarray([index.num_records, index.num_cut], dtype=np.int64),
                    bad=np.frombuffer(bad, dtype=np.uint8),
                    **more,
                )
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cache {path.parent}: cannot be written ({error.strerror}); set LLAVA_MOE_CACHE to another folder"
        ) from error


def _load(path: Path) -> SourceIndex | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return _parse(file)
    except OSError as error:
        raise UserError(
            f"cache {path}: cannot be read ({error.strerror}); set LLAVA_MOE_CACHE to another folder"
        ) from error


def _parse(file: BinaryIO) -> SourceIndex | None:
    """The index that a file holds; None where it was damaged, and so is made again from the records."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            num_records, num_cut = arrays["counts"].tolist()
            return SourceIndex(
                rows=arrays["rows"],
                lengths=arrays["lengths"],
                supervised=arrays["supervised"],
                num_images=arrays["num_images"],
                keys=arrays["keys"],
                image_ids=arrays["image_ids"],
                num_records=num_records,
                num_cut=num_cut,
                bad=tuple(Quarantined(**entry) for entry in parse_json(arrays["bad"].tobytes())),
                image_tokens=arrays.get("image_tokens"),
                image_sizes=arrays.get("image_sizes"),
            )
    # What damage leads to: a sum that is not the data's, a place before the file (OSError), a flag that asks for a
    # password or for another way of packing (RuntimeError).
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError, OSError, RuntimeError):
        return None
