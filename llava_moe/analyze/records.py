"""Held-out records by domain or by task, drawn by seed: what every instrument measures on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llava_moe.data.batch import Batch, collate
from llava_moe.data.conversation import BadRecord
from llava_moe.data.encode import Encoder, Example
from llava_moe.data.held_out import HeldOutSource
from llava_moe.data.images.inputs import PositionIds
from llava_moe.errors import UserError

By = Literal["domain", "task"]
_CHUNK = 1024


@dataclass(frozen=True)
class Group:
    """The drawn records of one domain or task, encoded.

    Attributes:
        num_there: usable held-out records that the draw was made from.
        num_unread: drawn records left out because an image could not be read.
    """

    name: str
    examples: tuple[Example, ...]
    num_there: int
    num_unread: int


@dataclass(frozen=True)
class HeldOutRecords:
    """Groups in the order of the run's domains, or of the tasks' names.

    Attributes:
        by: what the groups are.
        told: which records these are, in words.
        num_without_task: records that name no task and so are in no group.
        too_small: tasks left out because they have too few records, with how many they have.
        position_ids: of the encoder that made the examples.
    """

    by: By
    told: str
    groups: tuple[Group, ...]
    pad_token_id: int
    num_without_task: int = 0
    too_small: tuple[tuple[str, int], ...] = ()
    position_ids: PositionIds | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The groups' names in order."""
        return tuple(group.name for group in self.groups)

    @property
    def examples(self) -> tuple[Example, ...]:
        """All drawn records, group by group."""
        return tuple(example for group in self.groups for example in group.examples)

    @property
    def group_of(self) -> np.ndarray:
        """int64 [n], the group of each of :attr:`examples`."""
        return np.repeat(np.arange(len(self.groups)), [len(group.examples) for group in self.groups])

    def row(self, places: Sequence[int]) -> Batch:
        """Some of :attr:`examples` end to end, as training packs them."""
        examples = self.examples
        chosen = [examples[place] for place in places]
        return collate(chosen, range(len(chosen)), None, self.pad_token_id, position_ids=self.position_ids)

    def rows(self, places: Sequence[int], tokens_per_row: int) -> list[tuple[int, ...]]:
        """The places dealt to rows of at most so many tokens, in order; a longer record has a row of its own."""
        examples = self.examples
        rows: list[list[int]] = []
        room = 0
        for place in places:
            length = len(examples[place].input_ids)
            if not rows or length > room:
                rows.append([])
                room = tokens_per_row
            rows[-1].append(place)
            room -= length
        return [tuple(row) for row in rows]


def draw_records(
    sources: Sequence[HeldOutSource],
    encoder: Encoder,
    *,
    by: By,
    told: str,
    samples: int,
    seed: int,
    fewest: int,
    progress: Callable[[int, int], None] | None = None,
) -> HeldOutRecords:
    """Draw ``samples`` records of each domain or task, all where it has fewer, and encode them.

    A group's draw depends on its name, its records and the seed alone: other groups play no part. A record whose image
    cannot be read is left out and the next of the draw takes its place.

    Args:
        told: which records these are, in words.
        samples: of each group; 0 takes all.
        fewest: least that a group must have; tasks with fewer are left out, a domain with fewer is refused.
        progress: called with (records encoded, records in all).

    Raises:
        UserError: fewer than two groups, or a domain with fewer records than ``fewest``.
    """
    members, num_without_task = _members(sources, by)
    _refuse_few_groups(members, by, told)
    wanted = {name: len(places) if not samples else min(samples, len(places)) for name, places in members.items()}
    groups: list[Group] = []
    too_small: list[tuple[str, int]] = []
    for name, places in members.items():
        examples: list[Example] = []
        num_unread, num_before = 0, sum(len(group.examples) for group in groups)
        for place, row in _shuffled(name, places, seed):
            if len(examples) == wanted[name]:
                break
            one = sources[place]
            try:
                content, images = one.records[row], one.records.image_root
                examples.append(encoder.encode(content, images, len(groups), one.source.value_range))
            except BadRecord:
                num_unread += 1
                continue
            if progress is not None:
                progress(num_before + len(examples), sum(wanted.values()))
        if len(examples) < fewest and by == "domain":
            raise UserError(f"domain {name} {_too_few(len(examples), fewest, told)}")
        if len(examples) < fewest:
            too_small.append((name, len(examples)))
        else:
            groups.append(Group(name, tuple(examples), len(places), num_unread))
    if len(groups) < 2:
        name, num_there = too_small[0]
        raise UserError(f"of the tasks fewer than two have enough: {name} {_too_few(num_there, fewest, told)}")
    return HeldOutRecords(
        by, told, tuple(groups), encoder.pad_token_id, num_without_task, tuple(too_small), encoder.position_ids
    )


def _too_few(num_there: int, fewest: int, told: str) -> str:
    return (
        f"has {num_there} held-out records ({told}), and {fewest} are needed: hold out more (data.held_out=), or name "
        "a larger split="
    )


def _members(sources: Sequence[HeldOutSource], by: By) -> tuple[dict[str, list[tuple[int, int]]], int]:
    """Group name -> (source number, row) of its records; and how many records are in no group."""
    members: dict[str, list[tuple[int, int]]] = {}
    num_without_task = 0
    for place, one in enumerate(sources):
        rows = one.index.rows.tolist()
        if by == "domain":
            members.setdefault(one.source.domain, []).extend((place, row) for row in rows)
            continue
        for row, task in zip(rows, _tasks(one), strict=True):
            if task is None:
                num_without_task += 1
            else:
                members.setdefault(task, []).append((place, row))
    return (members if by == "domain" else dict(sorted(members.items()))), num_without_task


def _tasks(one: HeldOutSource) -> Iterator[str | None]:
    """The task of each usable record of a source, images untouched."""
    rows = one.index.rows
    start, entries = 0, one.records.read(0, 0)
    for row in rows.tolist():
        while row >= start + len(entries):
            start += len(entries)
            entries = one.records.read(start, start + _CHUNK)
        content = entries[row - start].content
        yield None if isinstance(content, BadRecord) else content.task


def _shuffled(name: str, places: Sequence[tuple[int, int]], seed: int) -> Iterator[tuple[int, int]]:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return (places[at] for at in generator.permutation(len(places)).tolist())


def _refuse_few_groups(members: dict[str, list[tuple[int, int]]], by: By, told: str) -> None:
    if len(members) >= 2:
        return
    if not members:
        raise UserError(f"no held-out record names a task ({told}): give by=domain")
    other = "task" if by == "domain" else "domain"
    raise UserError(
        f"{by} {next(iter(members))} is the only one of the run's held-out records ({told}), and two are needed: give "
        f"by={other}, or a run of several {by}s"
    )
