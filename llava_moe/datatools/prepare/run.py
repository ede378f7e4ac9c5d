"""From raw files to a prepared folder: cut, hand out, keep, publish."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from llava_moe.data.readers.formats import FORMATS
from llava_moe.data.readers.shards import Manifest
from llava_moe.datatools.prepare.chunks import Chunk, FileEnd, PartFile, cut_file
from llava_moe.datatools.prepare.manifest import manifest_of
from llava_moe.datatools.prepare.preparation import Preparation
from llava_moe.datatools.prepare.shard_maker import Made, Order, ShardMaker
from llava_moe.datatools.prepare.staging import BEGUN, OutFolder, refuse_difference
from llava_moe.datatools.prepare.subsample import Draw, Drawing
from llava_moe.datatools.prepare.workers import Workers

SMALL_CHUNK = 256 << 10
"""A chunk of fewer bytes is made here: a worker process takes a second to start."""


class Progress(Protocol):
    """Is told how far a preparation is."""

    def begin(self, recipe: str, num_bytes: int | None, num_made: int) -> None:
        """The raw files' size, None where it is not known, and the chunks done before."""

    def advance(self, num_bytes: int, num_records: int) -> None:
        """So much more was read."""


def prepare(preparation: Preparation, folder: Path, num_processes: int, restart: bool, progress: Progress) -> Manifest:
    """Make the prepared folder, or finish the one that was begun; a finished one is left as it is.

    The result depends on the raw files and the choices alone: the same bytes with any number of processes, stopped and
    gone on with or not. One process: all is done in this one.

    Raises:
        UserError: a raw file cannot be read, the folder holds another preparation, or no record is left.
    """
    with OutFolder(folder, preparation.facts()) as out:
        if restart:
            out.clear()
        manifest = out.finished()
        if manifest is not None:
            _refuse_other(out, manifest, preparation)
            out.tidy()
            return manifest
        out.begin()
        made, ends = out.made(), out.ends()
        progress.begin(preparation.recipe.name, _size(preparation.files), len(made))
        work = _Cutting(preparation, made, ends, progress)
        order = _order(preparation, out)
        # Closed here, not when it is forgotten: an exception would keep the workers alive as long as its traceback.
        with closing(_make(order, work.chunks(), num_processes)) as results:
            for done in results:
                out.keep(done)
                if isinstance(done, FileEnd):
                    ends[done.file] = done
                else:
                    made[done.number] = done
        manifest = manifest_of(preparation, made, ends, out.shards(made))
        out.publish(made, manifest)
    return manifest


def _refuse_other(out: OutFolder, manifest: Manifest, preparation: Preparation) -> None:
    before, now = dict(manifest.about.get(BEGUN) or {}), dict(out.facts)
    if not preparation.choices.tokenizer_was_asked_for:
        before["tokenizer"] = now["tokenizer"]
    refuse_difference(out.folder, "it was prepared from something else", before, now)


def _size(files: tuple[PartFile, ...]) -> int | None:
    sizes = [file.num_bytes for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _order(preparation: Preparation, out: OutFolder) -> Order:
    recipe, choices = preparation.recipe, preparation.choices
    return Order(
        staging=str(out.staging),
        format=recipe.format,
        source=recipe.name,
        domain=recipe.domain,
        images=preparation.images,
        tokenizer=choices.tokenizer,
        probe_images=choices.probe_images,
    )


class _Cutting:
    """The chunks of all raw files that are still to be made."""

    def __init__(
        self, preparation: Preparation, made: Mapping[int, Made], ends: Mapping[int, FileEnd], progress: Progress
    ) -> None:
        self.preparation = preparation
        self.reader = FORMATS[preparation.recipe.format]
        self.made = set(made)
        self.ends = dict(ends)
        self.progress = progress

    def chunks(self) -> Iterator[Chunk | FileEnd]:
        """In order; a file whose chunks are all made is not read again."""
        drawings: dict[int, Drawing] = {}
        offsets: dict[str, int] = {}
        first_chunk = 0
        for number, file in enumerate(self.preparation.files):
            offset = offsets.get(file.split, 0)
            drawing = self._drawing(file, drawings)
            end = self.ends.get(number)
            if drawing is None and end is not None and self._is_made(first_chunk, end):
                self.progress.advance(file.num_bytes or 0, end.num_records)
            else:
                meter = _Meter(self.progress, file.num_bytes or 0)
                for cut in cut_file(self.reader, file, number, first_chunk, offset, drawing, meter.advance):
                    if isinstance(cut, FileEnd):
                        end = cut
                        meter.end()
                        yield cut
                    elif cut.number not in self.made:
                        yield cut
            assert end is not None
            first_chunk += end.num_chunks
            offsets[file.split] = offset + end.num_records

    def _is_made(self, first_chunk: int, end: FileEnd) -> bool:
        return self.made.issuperset(range(first_chunk, first_chunk + end.num_chunks))

    def _drawing(self, file: PartFile, drawings: dict[int, Drawing]) -> Drawing | None:
        draw = self.preparation.recipe.draw
        if draw is None:
            return None
        if file.part not in drawings:
            drawings[file.part] = draw.start(self._count(draw, file.part))
        return drawings[file.part]

    def _count(self, draw: Draw, part: int) -> Mapping[str, int]:
        def records() -> Iterator[Any]:
            for file in self.preparation.files:
                if file.part == part:
                    yield from self.reader.records(file.raw)

        return draw.count(records())


class _Meter:
    """Progress in bytes of a raw file, of which the size of its pickled records is an estimate."""

    def __init__(self, progress: Progress, num_bytes: int) -> None:
        self.progress = progress
        self.left = num_bytes

    def advance(self, num_bytes: int, num_records: int) -> None:
        """So much was read, as far as can be told."""
        step = min(self.left, num_bytes)
        self.left -= step
        self.progress.advance(step, num_records)

    def end(self) -> None:
        """The whole file was read."""
        self.advance(self.left, 0)


def _make(order: Order, chunks: Iterator[Chunk | FileEnd], num_processes: int) -> Generator[Made | FileEnd, None, None]:
    """What becomes of the chunks, in whatever order they are done; the ends of files as they come."""
    maker = ShardMaker(order)
    with Workers(order, num_processes) as workers:
        for item in chunks:
            if isinstance(item, FileEnd):
                yield item
            elif num_processes == 1 or item.num_bytes < SMALL_CHUNK:
                yield maker.make(item)
            else:
                yield from workers.give(item)
        yield from workers.finish()
