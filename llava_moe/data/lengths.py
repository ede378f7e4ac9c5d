"""The index of a source: which records are usable and how long each is, made once and kept beside the data."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from llava_moe.data.conversation import BadRecord, Conversation, record_key
from llava_moe.data.encode import IGNORED, Encoder
from llava_moe.data.quarantine import Quarantined
from llava_moe.data.readers.store import slug
from llava_moe.data.source import Entry, Records, Source, check_image_root
from llava_moe.data.template import Rendered
from llava_moe.errors import UserError

VERSION = 1
"""Raised whenever the index of the same records would come out otherwise."""

CHUNK = 512
"""Records read and tokenised at once: memory stays flat whatever the source's size."""


@dataclass(frozen=True)
class SourceIndex:
    """What planning needs to know of a source; n usable records.

    Attributes:
        rows: int64 [n], record numbers for ``Records``.
        lengths: int32 [n], tokens with images expanded, after any cut.
        supervised: int32 [n], tokens that carry a loss.
        num_images: int16 [n].
        keys: uint8 [n, 32], the record keys (SHA-256), so that every rank knows the keys of a whole step.
        num_records: records in the source, bad ones included.
        num_cut: records cut at a turn to fit.
        bad: records left out, with reasons; those dropped for their length are among them.
    """

    rows: np.ndarray
    lengths: np.ndarray
    supervised: np.ndarray
    num_images: np.ndarray
    keys: np.ndarray
    num_records: int
    num_cut: int
    bad: tuple[Quarantined, ...]


def index_source(
    source: Source,
    records: Records,
    encoder: Encoder,
    cache: str | Path,
    progress: Callable[[int, int], None] | None = None,
) -> SourceIndex:
    """The index of a source, from the cache where nothing that decides it has changed.

    No image is opened, but for a look whether a few are there at all.

    Args:
        progress: called with (records done, records in all) while the index is made.

    Raises:
        UserError: no record is usable, none of the probed images is there, or the cache cannot be written.
    """
    check_image_root(source, records)
    path = Path(cache) / f"index-{slug(source.name)}-{_key(source, records, encoder)[:24]}.npz"
    index = _load(path)
    if index is None:
        index = _build(source, records, encoder, progress)
        _save(index, path)
    if not len(index.rows):
        reasons = {entry.reason: entry.detail for entry in reversed(index.bad)}
        told = "; ".join(f"{reason}: {detail}" for reason, detail in list(reasons.items())[:3])
        raise UserError(
            f"data source {source.name!r}: none of {index.num_records} records is usable ({told}); mend them, or raise "
            "train.max_length where they are too long"
        )
    return index


def _key(source: Source, records: Records, encoder: Encoder) -> str:
    backend = encoder.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    facts = (
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
    return sha256(repr(facts).encode()).hexdigest()


class _Columns:
    """The index while it grows: arrays of a chunk each, never a Python object a record."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.sizes: list[np.ndarray] = []
        self.keys: list[np.ndarray] = []
        self.bad: list[Quarantined] = []
        self.num_cut = 0

    def freeze(self, num_records: int) -> SourceIndex:
        sizes = np.concatenate([np.empty((0, 3), dtype=np.int64), *self.sizes])
        return SourceIndex(
            rows=np.concatenate([np.empty(0, dtype=np.int64), *self.rows]),
            lengths=sizes[:, 0].astype(np.int32),
            supervised=sizes[:, 1].astype(np.int32),
            num_images=sizes[:, 2].astype(np.int16),
            keys=np.concatenate([np.empty((0, 32), dtype=np.uint8), *self.keys]),
            num_records=num_records,
            num_cut=self.num_cut,
            bad=tuple(sorted(self.bad, key=lambda entry: entry.index)),
        )


def _build(
    source: Source, records: Records, encoder: Encoder, progress: Callable[[int, int], None] | None
) -> SourceIndex:
    columns = _Columns()
    total = len(records)
    for start in range(0, total, CHUNK):
        stop = min(start + CHUNK, total)
        _index_chunk(source, records.read(start, stop), start, encoder, columns)
        if progress is not None:
            progress(stop, total)
    return columns.freeze(total)


def _index_chunk(source: Source, entries: list[Entry], start: int, encoder: Encoder, columns: _Columns) -> None:
    found: list[tuple[int, Entry, Conversation, Rendered]] = []
    for row, entry in enumerate(entries, start):
        try:
            if isinstance(entry.content, BadRecord):
                raise entry.content
            found.append((row, entry, entry.content, encoder.template.render(entry.content)))
        except BadRecord as fault:
            columns.bad.append(_quarantined(source, entry, fault))
    rows, sizes, keys = [], [], []
    encodings = encoder.encode_texts([rendered for *_, rendered in found])
    for (row, entry, conversation, rendered), encoding in zip(found, encodings, strict=True):
        try:
            text = encoder.finish(rendered, encoding)
        except BadRecord as fault:
            columns.bad.append(_quarantined(source, entry, fault))
            continue
        rows.append(row)
        sizes.append((len(text.input_ids), int((text.labels != IGNORED).sum()), text.num_images))
        keys.append(bytes.fromhex(record_key(conversation)))
        columns.num_cut += text.was_cut
    if rows:
        columns.rows.append(np.asarray(rows, dtype=np.int64))
        columns.sizes.append(np.asarray(sizes, dtype=np.int64))
        columns.keys.append(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32))


def _quarantined(source: Source, entry: Entry, fault: BadRecord) -> Quarantined:
    return Quarantined(source.name, source.domain, entry.number, entry.id, fault.reason, fault.detail)


def _save(index: SourceIndex, path: Path) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    bad = json.dumps([asdict(entry) for entry in index.bad]).encode()
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
                    counts=np.asarray([index.num_records, index.num_cut], dtype=np.int64),
                    bad=np.frombuffer(bad, dtype=np.uint8),
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
        with np.load(path, allow_pickle=False) as arrays:
            num_records, num_cut = arrays["counts"].tolist()
            return SourceIndex(
                rows=arrays["rows"],
                lengths=arrays["lengths"],
                supervised=arrays["supervised"],
                num_images=arrays["num_images"],
                keys=arrays["keys"],
                num_records=num_records,
                num_cut=num_cut,
                bad=tuple(Quarantined(**entry) for entry in json.loads(arrays["bad"].tobytes())),
            )
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError):
        # Damaged on disk: it is made anew from the records.
        return None
    except OSError as error:
        raise UserError(
            f"cache {path}: cannot be read ({error.strerror}); set LLAVA_MOE_CACHE to another folder"
        ) from error
