"""The folder of a preparation: what was begun there, which chunks are done, and how it all appears at the end.

``.preparing/begun.json`` says what was begun. A folder beside it, named after that, holds each chunk's shard, its
rejected records and its account; a chunk counts as done once its account is there. Nothing is called by its final name
before all chunks are done, and the manifest comes last.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from llava_moe.data.readers.shards import MANIFEST, PREPARING, Manifest, Shard, read_manifest, write_manifest
from llava_moe.datatools.prepare.chunks import FileEnd
from llava_moe.datatools.prepare.preparation import differences
from llava_moe.datatools.prepare.shard_file import PART
from llava_moe.datatools.prepare.shard_maker import Made, rejected_name, shard_name
from llava_moe.errors import FULL_DISK, UserError
from llava_moe.files.atomic_write import remove_halves, replace_file
from llava_moe.files.regular_file import read_regular
from llava_moe.text.structured_text import parse_json

REJECTED = "rejected.jsonl"
BEGUN = "begun"
LOCK = ".lock"
_OURS = re.compile(rf"(train|val|test)-\d{{5,}}\.parquet|\.?{re.escape(MANIFEST)}.*|{REJECTED}|{PREPARING}.*|{LOCK}")


class OutFolder:
    """A prepared folder, held against other preparations while it is entered.

    Attributes:
        folder: where the manifest will lie.
        facts: what decides the result, of the preparation at hand; see ``Preparation.facts``.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.facts = parse_json(json.dumps(facts))
        digest = sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()
        self.staging = folder / PREPARING / digest[:16]

    def __enter__(self) -> OutFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            foreign = sorted(path.name for path in self.folder.iterdir() if not _OURS.fullmatch(path.name))
            if foreign:
                raise UserError(
                    f"{self.folder} holds other files, such as {foreign[0]}: give another out=, or move them away"
                )
            self._lock = FileLock(self.folder / LOCK, timeout=0)
            self._lock.acquire()
        except Timeout as error:
            raise UserError(
                f"{self.folder} is being prepared by another process: wait for it, or give another out="
            ) from error
        except OSError as error:
            if error.errno in FULL_DISK:
                raise
            raise UserError(f"{self.folder}: cannot be written ({error.strerror}); give another out=") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.staging.is_dir():
            for part in self.staging.glob(f"*{PART}"):
                part.unlink(missing_ok=True)
        self._lock.release()

    def finished(self) -> Manifest | None:
        """The manifest, where the folder is finished.

        Raises:
            UserError: it does not match the shards, or is damaged.
        """
        return read_manifest(self.folder) if (self.folder / MANIFEST).is_file() else None

    def begin(self) -> None:
        """Make ready for the first chunk, or for the next.

        Raises:
            UserError: something else was begun here.
        """
        begun = self.folder / PREPARING / f"{BEGUN}.json"
        if begun.is_file():
            refuse_difference(self.folder, "its preparation was begun with something else", _read(begun), self.facts)
        self.staging.mkdir(parents=True, exist_ok=True)
        _write(begun, self.facts)
        for part in self.staging.glob(f"*{PART}"):
            part.unlink(missing_ok=True)
        for place in (self.folder, begun.parent, self.staging):
            remove_halves(place)

    def clear(self) -> None:
        """Remove what earlier preparations made here, the manifest first."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        for path in list(self.folder.iterdir()):
            if path.name.startswith(PREPARING):
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def keep(self, done: Made | FileEnd) -> None:
        """Note that a chunk is done, or that a raw file was read to its end."""
        if isinstance(done, FileEnd):
            _write(self.staging / f"{done.file:06d}.end.json", vars(done))
        else:
            _write(self.staging / f"{done.number:06d}.made.json", done.as_dict())

    def made(self) -> dict[int, Made]:
        """The chunks that are done, by number."""
        found = (Made.from_dict(_read(path)) for path in sorted(self.staging.glob("*.made.json")))
        everything = {made.number: made for made in found}
        names = dict(self._final_names(everything))
        return {number: made for number, made in everything.items() if self._stands(made, names.get(number))}

    def ends(self) -> dict[int, FileEnd]:
        """The raw files that were read to their ends, by number."""
        found = (FileEnd(**_read(path)) for path in sorted(self.staging.glob("*.end.json")))
        return {end.file: end for end in found}

    def shards(self, made: Mapping[int, Made]) -> tuple[Shard, ...]:
        """The shards of all chunks in order, by their final names."""
        return tuple(
            Shard(name, made[number].split, made[number].counts.records, made[number].num_bytes, made[number].sha256)
            for number, name in self._final_names(made)
        )

    def publish(self, made: Mapping[int, Made], manifest: Manifest) -> None:
        """Give the shards their final names, join the lists of rejected records, and write the manifest last."""
        for number, name in self._final_names(made):
            staged = self.staging / shard_name(number)
            if staged.is_file():
                os.replace(staged, self.folder / name)
        self._join_rejected(made)
        write_manifest(self.folder, manifest)
        self.tidy()

    def tidy(self) -> None:
        """Remove the state of a preparation that is finished."""
        state, gone = self.folder / PREPARING, self.folder / f"{PREPARING}-done"
        shutil.rmtree(gone, ignore_errors=True)
        if state.is_dir():
            # Renamed first: half of it removed would look like a preparation that is not finished.
            os.replace(state, gone)
            shutil.rmtree(gone)

    def _join_rejected(self, made: Mapping[int, Made]) -> None:
        lists = [self.staging / rejected_name(number) for number in sorted(made) if made[number].num_rejected]
        if not lists:
            return
        part = self.staging / f"{REJECTED}{PART}"
        with open(part, "wb") as joined:
            for path in lists:
                with open(path, "rb") as file:
                    shutil.copyfileobj(file, joined)
            joined.flush()
            os.fsync(joined.fileno())
        os.replace(part, self.folder / REJECTED)

    def _final_names(self, made: Mapping[int, Made]) -> Iterator[tuple[int, str]]:
        of_split: dict[str, int] = {}
        for number in sorted(made):
            if made[number].counts.records:
                split = made[number].split
                place = of_split.get(split, 0)
                of_split[split] = place + 1
                yield number, f"{split}-{place:05d}.parquet"

    def _stands(self, made: Made, final_name: str | None) -> bool:
        if made.num_rejected and not (self.staging / rejected_name(made.number)).is_file():
            return False
        if not made.counts.records:
            return True
        places = [self.staging / shard_name(made.number)]
        # Renamed only once all were done, so that a final name means the same chunk then as now.
        places += [self.folder / final_name] if final_name is not None else []
        return any(place.is_file() and place.stat().st_size == made.num_bytes for place in places)


def refuse_difference(folder: Path, what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on where the result would be another.

    Raises:
        UserError: the first differences.
    """
    found = list(differences(before, now))
    if found:
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"{folder}: {what}: {'; '.join(found[:3])}{more}. To make it again add restart=true, or give another out="
        )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(content))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_regular(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); run the same command again with restart=true") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged; run the same command again with restart=true")
    return content
