"""Sources into epochs: which records an epoch takes and in which order, decided by numbers alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llava_moe.data.largest_remainder import Phase, largest_remainders, share_out
from llava_moe.data.records import Source
from llava_moe.data.source_index import SourceIndex
from llava_moe.errors import UserError

_ORDER = 0
_DRAW = 1
_PASS = 2


@dataclass(frozen=True)
class EpochPlan:
    """The samples of an epoch in order; n samples.

    Attributes:
        source: int16 [n], place of the source in the mixture.
        entry: int64 [n], place of the record in its source's index.
        row: int64 [n], record number for ``Records``.
        length: int32 [n], tokens.
        num_images: int16 [n].
    """

    source: np.ndarray
    entry: np.ndarray
    row: np.ndarray
    length: np.ndarray
    num_images: np.ndarray

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Mixture:
    """Sources and how much of each an epoch takes. With N_i the usable records of source i:

    Without ``epoch_samples``: ``n_i = min(cap_i, round(repeats_i * N_i))``; weights play no part.
    With ``epoch_samples``: the n_i sum to it exactly (largest remainders), in proportion to

    - ``samples``: ``weight_i``;
    - ``tokens``: ``weight_i / mean length_i``, so that tokens are in proportion to ``weight_i``;
    - ``temperature``: ``weight_i * N_i ** (1 / temperature)`` (1: by size; large: evenly).

    ``cap_i`` still bounds n_i, and what it withholds goes to the other sources; ``repeats`` plays no part.

    With ``phases`` the epoch is a sequence of stretches of ``share * epoch_samples`` samples (largest remainders), each
    shared out as above with weights of its own. Caps hold over the epoch; an earlier phase has the first call on them.

    Within an epoch, a source gives whole passes and one draw without replacement for the rest, in this order across
    the phases: no record comes again before all have come. The rests of successive epochs do not overlap until the
    source is used up. The order is one shuffle over everything, or over each phase, so all is decided by (seed,
    epoch) and by the sources' names, not their order.

    Attributes:
        max_bad_share: the largest share of bad records a source may have.
        held_out: the share of images kept out of training; see ``held_out.split_held_out``, which is applied to the
            indexes before they come here.
    """

    sources: tuple[Source, ...]
    seed: int = 0
    epoch_samples: int | None = None
    weights: Literal["samples", "tokens", "temperature"] = "samples"
    temperature: float = 1.0
    max_bad_share: float = 0.01
    held_out: float = 0.0
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise UserError("data: the mixture has no source; name at least one")
        if len(set(names)) != len(names):
            raise UserError(f"data: source names must differ, got {', '.join(names)}")
        if self.weights not in ("samples", "tokens", "temperature"):
            raise UserError(f"data.weights={self.weights!r}: use samples, tokens or temperature")
        if self.temperature <= 0 or (self.epoch_samples is not None and self.epoch_samples < 1):
            raise UserError("data: temperature and epoch_samples must be above 0")
        if not 0 <= self.held_out < 1:
            raise UserError(f"data.held_out={self.held_out}: give a number of at least 0 and below 1")
        if self.phases:
            self._check_phases()
        elif self.epoch_samples is not None and not any(source.weight for source in self.sources):
            raise UserError("data: with epoch_samples at least one source needs a weight above 0")

    def _check_phases(self) -> None:
        if self.epoch_samples is None:
            raise UserError("data.phases are shares of an epoch of a fixed size: give data.epoch_samples=NUMBER")
        total = sum(phase.share for phase in self.phases)
        if min(phase.share for phase in self.phases) <= 0 or abs(total - 1) > 1e-6:
            raise UserError(f"data.phases: their shares must be above 0 and sum to 1, and sum to {total:g}")
        for number, phase in enumerate(self.phases):
            phase.source_weights(self.sources, f"data.phases[{number}]")

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in order of first appearance; a domain's number is its place here."""
        return tuple(dict.fromkeys(source.domain for source in self.sources))

    def counts(self, indexes: Sequence[SourceIndex]) -> tuple[int, ...]:
        """Samples that each source gives an epoch: the same in every epoch.

        Raises:
            UserError: the caps together are below ``epoch_samples``, or the epoch is empty.
        """
        return tuple(map(sum, zip(*self.phase_counts(indexes), strict=True)))

    def phase_counts(self, indexes: Sequence[SourceIndex]) -> tuple[tuple[int, ...], ...]:
        """Samples that each source gives in each phase, [phases][sources]; without ``phases`` the epoch is one.

        Raises:
            UserError: as :meth:`counts`.
        """
        if len(indexes) != len(self.sources):
            raise ValueError(f"{len(indexes)} indexes for {len(self.sources)} sources")
        if self.epoch_samples is not None:
            return self._share_out(indexes, self.epoch_samples)
        counts = []
        for source, index in zip(self.sources, indexes, strict=True):
            wanted = round(source.repeats * len(index.rows))
            counts.append(wanted if source.cap is None else min(source.cap, wanted))
        if not sum(counts):
            raise UserError("data: the epoch holds no sample; check repeats, cap and the sources' records")
        return (tuple(counts),)

    def plan(self, indexes: Sequence[SourceIndex], epoch: int) -> EpochPlan:
        """The samples of epoch ``epoch`` (from 0) in order."""
        counts = np.asarray(self.phase_counts(indexes))
        by_name = self._by_name()
        drawn = [self._draw(place, len(indexes[place].rows), counts[:, place], epoch) for place in by_name]
        sources, entries = [], []
        for phase, given in enumerate(counts[:, by_name]):
            order = np.random.default_rng([self.seed, _ORDER, epoch, phase]).permutation(int(given.sum()))
            sources.append(np.repeat(np.asarray(by_name, dtype=np.int16), given)[order])
            entries.append(np.concatenate([parts[phase] for parts in drawn])[order])
        source, entry = np.concatenate(sources), np.concatenate(entries)
        rows, lengths, images = np.empty_like(entry), np.empty(len(entry), np.int32), np.empty(len(entry), np.int16)
        for place, index in enumerate(indexes):
            mine = source == place
            rows[mine] = index.rows[entry[mine]]
            lengths[mine] = index.lengths[entry[mine]]
            images[mine] = index.num_images[entry[mine]]
        return EpochPlan(source, entry, rows, lengths, images)

    def _by_name(self) -> list[int]:
        """Places of the sources in the order of their names: what is drawn depends on no other order."""
        return sorted(range(len(self.sources)), key=lambda place: self.sources[place].name)

    def _share_out(self, indexes: Sequence[SourceIndex], epoch_samples: int) -> tuple[tuple[int, ...], ...]:
        """[phases][sources], summing to ``epoch_samples``."""
        by_name = self._by_name()
        left = [source.cap for source in self.sources]
        sizes = largest_remainders(epoch_samples, [phase.share for phase in self.phases] or [1.0])
        given = []
        for number, size in enumerate(sizes):
            where = f"data.phases[{number}]: samples" if self.phases else "data.epoch_samples"
            shares = self._shares(indexes, number)
            counts = [0] * len(self.sources)
            if size:
                some = share_out(size, [shares[place] for place in by_name], [left[place] for place in by_name], where)
                for place, count in zip(by_name, some, strict=True):
                    counts[place] = count
            left = [cap if cap is None else cap - count for cap, count in zip(left, counts, strict=True)]
            given.append(tuple(counts))
        return tuple(given)

    def _shares(self, indexes: Sequence[SourceIndex], phase: int) -> list[float]:
        weights: Sequence[float] = [source.weight for source in self.sources]
        if self.phases:
            weights = self.phases[phase].source_weights(self.sources, f"data.phases[{phase}]")
        shares = []
        for weight, index in zip(weights, indexes, strict=True):
            size = len(index.rows)
            share = weight if size else 0.0
            if share and self.weights == "tokens":
                share /= float(index.lengths.mean())
            elif share and self.weights == "temperature":
                share *= size ** (1.0 / self.temperature)
            shares.append(share)
        return shares

    def _draw(self, place: int, size: int, counts: np.ndarray, epoch: int) -> list[np.ndarray]:
        """The places, of ``size``, that a source gives in each phase: whole passes, then a rest.

        Successive epochs take the rest from disjoint blocks of one shuffle.
        """
        # The name enters by CRC, so that adding a source leaves what the others give as it is.
        name = zlib.crc32(self.sources[place].name.encode())
        total = int(counts.sum())
        passes, rest = divmod(total, size) if total else (0, 0)
        parts = [np.arange(size) for _ in range(passes)]
        if len(counts) > 1:
            # A phase takes part of a pass: not the records that happen to stand first.
            parts = [
                np.random.default_rng([self.seed, _PASS, epoch, number, name]).permutation(size)
                for number in range(passes)
            ]
        if rest:
            blocks = size // rest
            lap, block = divmod(epoch, blocks)
            shuffled = np.random.default_rng([self.seed, _DRAW, lap, name]).permutation(size)
            parts.append(shuffled[block * rest : (block + 1) * rest])
        drawn = np.concatenate([np.empty(0, dtype=np.int64), *parts])
        return np.split(drawn, np.cumsum(counts)[:-1])
