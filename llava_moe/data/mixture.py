"""Sources into epochs: which records an epoch takes and in which order, decided by numbers alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llava_moe.data.lengths import SourceIndex
from llava_moe.data.source import Source
from llava_moe.errors import UserError

_ORDER = 0
_DRAW = 1


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

    Within an epoch, a source gives whole passes and one draw without replacement for the rest. The rests of
    successive epochs do not overlap until the source is used up. The order is one shuffle over everything, so all
    is decided by (seed, epoch) and by the sources' names, not their order.

    Attributes:
        max_bad_share: the largest share of bad records a source may have.
    """

    sources: tuple[Source, ...]
    seed: int = 0
    epoch_samples: int | None = None
    weights: Literal["samples", "tokens", "temperature"] = "samples"
    temperature: float = 1.0
    max_bad_share: float = 0.01

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
        if self.epoch_samples is not None and not any(source.weight for source in self.sources):
            raise UserError("data: with epoch_samples at least one source needs a weight above 0")

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in order of first appearance; a domain's number is its place here."""
        return tuple(dict.fromkeys(source.domain for source in self.sources))

    def counts(self, indexes: Sequence[SourceIndex]) -> tuple[int, ...]:
        """Samples that each source gives an epoch: the same in every epoch.

        Raises:
            UserError: the caps together are below ``epoch_samples``, or the epoch is empty.
        """
        if len(indexes) != len(self.sources):
            raise ValueError(f"{len(indexes)} indexes for {len(self.sources)} sources")
        sizes = [len(index.rows) for index in indexes]
        caps = [source.cap for source in self.sources]
        if self.epoch_samples is None:
            wanted = [round(source.repeats * size) for source, size in zip(self.sources, sizes, strict=True)]
            counts = [want if cap is None else min(cap, want) for want, cap in zip(wanted, caps, strict=True)]
        else:
            counts = _share_out(self.epoch_samples, self._shares(indexes), caps)
        if not sum(counts):
            raise UserError("data: the epoch holds no sample; check repeats, cap and the sources' records")
        return tuple(counts)

    def plan(self, indexes: Sequence[SourceIndex], epoch: int) -> EpochPlan:
        """The samples of epoch ``epoch`` (from 0) in order."""
        counts = self.counts(indexes)
        entries = [
            self._draw(source.name, len(index.rows), count, epoch)
            for source, index, count in zip(self.sources, indexes, counts, strict=True)
        ]
        by_name = sorted(range(len(entries)), key=lambda place: self.sources[place].name)
        order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(sum(counts))
        entry = np.concatenate([entries[place] for place in by_name])[order]
        source = np.concatenate([np.full(counts[place], place, dtype=np.int16) for place in by_name])[order]
        rows, lengths, images = np.empty_like(entry), np.empty(len(entry), np.int32), np.empty(len(entry), np.int16)
        for place, index in enumerate(indexes):
            mine = source == place
            rows[mine] = index.rows[entry[mine]]
            lengths[mine] = index.lengths[entry[mine]]
            images[mine] = index.num_images[entry[mine]]
        return EpochPlan(source, entry, rows, lengths, images)

    def _shares(self, indexes: Sequence[SourceIndex]) -> list[float]:
        shares = []
        for source, index in zip(self.sources, indexes, strict=True):
            size = len(index.rows)
            share = source.weight if size else 0.0
            if share and self.weights == "tokens":
                share /= float(index.lengths.mean())
            elif share and self.weights == "temperature":
                share *= size ** (1.0 / self.temperature)
            shares.append(share)
        return shares

    def _draw(self, name: str, size: int, count: int, epoch: int) -> np.ndarray:
        """``count`` places of ``size``: whole passes, and a rest that successive epochs take from disjoint blocks."""
        if not count:
            return np.empty(0, dtype=np.int64)
        passes, rest = divmod(count, size)
        parts = [np.tile(np.arange(size), passes)]
        if rest:
            blocks = size // rest
            lap, block = divmod(epoch, blocks)
            # The name enters by CRC, so that adding a source leaves what the others give as it is.
            shuffled = np.random.default_rng([self.seed, _DRAW, lap, zlib.crc32(name.encode())]).permutation(size)
            parts.append(shuffled[block * rest : (block + 1) * rest])
        return np.concatenate(parts).astype(np.int64)


def _share_out(total: int, shares: Sequence[float], caps: Sequence[int | None]) -> list[int]:
    """``total`` in proportion to ``shares``, nobody above its cap, what caps withhold shared among the others."""
    counts = [0] * len(shares)
    open_places = [place for place, share in enumerate(shares) if share > 0]
    left = total
    while open_places and left:
        given = _largest_remainders(left, [shares[place] for place in open_places])
        full = [place for place, count in zip(open_places, given, strict=True) if count > _room(caps[place], total)]
        if not full:
            for place, count in zip(open_places, given, strict=True):
                counts[place] = count
            return counts
        for place in full:
            counts[place] = _room(caps[place], total)
            left -= counts[place]
        open_places = [place for place in open_places if place not in full]
    if left:
        raise UserError(
            f"data.epoch_samples={total}: the sources' caps allow {total - left}; raise a cap or lower epoch_samples"
        )
    return counts


def _room(cap: int | None, total: int) -> int:
    return total if cap is None else cap


def _largest_remainders(total: int, shares: Sequence[float]) -> list[int]:
    exact = np.asarray(shares, dtype=np.float64) / np.sum(shares) * total
    counts = np.floor(exact).astype(int)
    order = sorted(range(len(shares)), key=lambda place: (counts[place] - exact[place], place))
    for place in order[: total - int(counts.sum())]:
        counts[place] += 1
    return counts.tolist()
