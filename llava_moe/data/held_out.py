"""Records kept out of training: split by image, never by question, over all sources at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llava_moe.data.records import Records, Source
from llava_moe.errors import UserError

if TYPE_CHECKING:
    from llava_moe.data.source_index import SourceIndex  # which loads torch


@dataclass(frozen=True)
class HeldOutSource:
    """A source of records that were not trained on: its description, its reader, and its usable records."""

    source: Source
    records: Records
    index: SourceIndex


class Shown(Protocol):
    """Which images each of n records shows; see ``SourceIndex``."""

    @property
    def keys(self) -> np.ndarray:
        """uint8 [n, 32], the record keys."""

    @property
    def num_images(self) -> np.ndarray:
        """Integers [n]."""

    @property
    def image_ids(self) -> np.ndarray:
        """uint64 [sum(num_images)], in the records' order."""


def split_held_out(
    sources: Sequence[Source], indexes: Sequence[SourceIndex], share: float
) -> tuple[tuple[SourceIndex, ...], tuple[SourceIndex, ...]]:
    """The indexes to train on and those held out; every usable record is in one of them.

    Images that a record shows together, and images that records share, whatever their sources, hang together; each
    such group falls on one side as a whole. A group is held out if a hash of the smallest of its image identities lies
    below ``share`` of all hashes: neither the seed nor the other records of the mixture play a part, so a source
    that is added moves only groups that it ties together. A record without image is a group by its record key.

    Args:
        share: of the groups, in expectation; in [0, 1). 0 holds nothing out.

    Raises:
        UserError: nothing was held out, or a source would have nothing left to train on.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be at least 0 and below 1, got {share}")
    groups = image_groups(indexes)
    is_held = [lies_below(group, share) for group in groups]
    if share and not any(held.any() for held in is_held):
        num_groups = len(np.unique(np.concatenate(groups)))
        raise UserError(f"data.held_out={share:g} holds out none of {num_groups} images: raise it")
    for source, held in zip(sources, is_held, strict=True):
        if held.all() and len(held):
            raise UserError(
                f"data.held_out={share:g} leaves nothing of source {source.name!r} to train on: its {len(held)} "
                "records share their images; lower it or hold other data out"
            )
    pairs = list(zip(indexes, is_held, strict=True))
    return tuple(take(index, ~held) for index, held in pairs), tuple(take(index, held) for index, held in pairs)


def take(index: SourceIndex, is_taken: np.ndarray) -> SourceIndex:
    """The usable records of an index where ``is_taken`` (bool [n]); the counts of the whole source stay."""
    is_taken_image = np.repeat(is_taken, index.num_images)
    return replace(
        index,
        rows=index.rows[is_taken],
        lengths=index.lengths[is_taken],
        supervised=index.supervised[is_taken],
        num_images=index.num_images[is_taken],
        keys=index.keys[is_taken],
        image_ids=index.image_ids[is_taken_image],
        image_tokens=None if index.image_tokens is None else index.image_tokens[is_taken],
        image_sizes=None if index.image_sizes is None else index.image_sizes[is_taken_image],
    )


def lies_below(groups: np.ndarray, share: float) -> np.ndarray:
    """Whether each group (uint64 [n]) is among the ``share`` that is held out; bool [n]."""
    return np.asarray(_mixed(groups) < np.uint64(min(int(share * 2.0**64), 2**64 - 1)))


def least_share(groups: np.ndarray, num_records: int) -> float:
    """The share above which so many of these records are held out; 1 and more of none where they are fewer.

    Args:
        groups: of each record, as of :func:`image_groups`: uint64 [n].
    """
    hashes = np.sort(_mixed(groups))
    return float(hashes[num_records - 1]) / 2.0**64 if num_records <= len(hashes) else 1.0


def image_groups(indexes: Sequence[Shown]) -> list[np.ndarray]:
    """The group of each record, uint64 [n] a source: the smallest identity among the images that hang together.

    Connected components of the graph whose nodes are images and whose edges are records that show several, by
    propagation of the smallest label with path halving: a few passes over arrays, no loop over records.
    """
    num_images = np.concatenate([index.num_images for index in indexes]).astype(np.int64)
    ids = np.concatenate([index.image_ids for index in indexes])
    assert len(ids) == num_images.sum()
    first = np.cumsum(num_images) - num_images
    groups = np.concatenate([np.ascontiguousarray(index.keys[:, :8]).view(np.uint64).ravel() for index in indexes])
    groups[num_images == 1] = ids[first[num_images == 1]]
    several = np.flatnonzero(num_images > 1)
    if len(several):
        is_joint = np.repeat(num_images > 1, num_images)
        known, node = np.unique(ids[is_joint], return_inverse=True)
        smallest = known[_components(node, num_images[several], len(known))]
        ends = np.cumsum(num_images[several])
        groups[several] = smallest[node[ends - num_images[several]]]
        # Records of one image hang on groups that other records tie together.
        alone = np.flatnonzero(num_images == 1)
        place = np.minimum(np.searchsorted(known, groups[alone]), len(known) - 1)
        is_known = known[place] == groups[alone]
        groups[alone[is_known]] = smallest[place[is_known]]
    return np.split(groups, np.cumsum([len(index.num_images) for index in indexes])[:-1])


def _components(node: np.ndarray, sizes: np.ndarray, num_nodes: int) -> np.ndarray:
    """For each node the smallest node of its component; ``node`` lists the records' nodes, ``sizes`` how many each."""
    starts = np.cumsum(sizes) - sizes
    label = np.arange(num_nodes)
    while True:
        least = np.repeat(np.minimum.reduceat(label[node], starts), sizes)
        before = label.copy()
        # The root that a node hangs on takes the label too, so that long chains close in few passes.
        np.minimum.at(label, before[node], least)
        np.minimum.at(label, node, least)
        label = label[label]
        if np.array_equal(label, before):
            return label


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: identities may be anything, their hashes are spread evenly."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
