"""Counting a run's held-out records at one checkpoint: record by record, so that ranks change nothing.

Shape suffixes: N records, T tokens, U routers, G kinds of token, K experts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console

from llava_moe.adapters.core.load_balance import AnyRouting
from llava_moe.adapters.core.router import ExampleRouting, Routing
from llava_moe.analyze.atlas.counts import (
    KINDS,
    WHOLE,
    RecordRouting,
    Router,
    changed_parts,
    count_record,
    decides_by_record,
    kinds_of,
    num_experts_of,
)
from llava_moe.analyze.atlas.summary import Measured
from llava_moe.analyze.pieces import Pieces
from llava_moe.analyze.progress import Progress
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.assemble import Assembled
from llava_moe.errors import UserError
from llava_moe.eval.ranks import Ranks

_FIELDS = ("served_UGK", "doubt_UG", "kinds_T", "parts_UXK", "chosen_UT")


@dataclass(frozen=True)
class Routers:
    """What decides in a model.

    Attributes:
        routers: one for each of U.
        num_experts_U: how many experts each chooses from.
        kinds: the kinds of token that are told apart; ``record`` alone where records are decided on as a whole.
        are_weights: all experts serve, each by its weight.
        is_single: each token has one expert.
        seconds: what one record took.
    """

    routers: tuple[Router, ...]
    num_experts_U: np.ndarray
    kinds: tuple[str, ...]
    are_weights: bool
    is_single: bool
    seconds: float


def look(assembled: Assembled, records: HeldOutRecords) -> Routers:
    """Route the first record, twice, to see who decides and how long it takes."""
    routed(assembled, records, 0)  # the first pass of a process is slower than all others
    started = time.monotonic()
    routings = routed(assembled, records, 0)
    seconds = time.monotonic() - started
    return Routers(
        routers=tuple(Router.of(name) for name in routings),
        num_experts_U=num_experts_of(routings),
        kinds=(WHOLE,) if decides_by_record(routings) else KINDS,
        are_weights=any(isinstance(one, ExampleRouting) and one.chosen_SC is None for one in routings.values()),
        is_single=all(isinstance(one, Routing) for one in routings.values()),
        seconds=seconds,
    )


@torch.no_grad()
def routed(assembled: Assembled, records: HeldOutRecords, place: int) -> Mapping[str, AnyRouting]:
    """What the routers decide on one record alone, question and answer, by the answer that is on record."""
    batch = records.row([place]).to(next(assembled.model.parameters()).device)
    # A record may begin as the last one did, and would go on with its decision.
    assembled.attached.new_conversation()
    assembled.attached.mark_prompts(batch.labels)
    # Random routing must not depend on which process routes the record, or on the order.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(place)
        assembled.model(**assembled.inputs_of(batch), logits_to_keep=1)
    return assembled.attached.routings()


def num_piece_bytes(routers: Routers, records: HeldOutRecords) -> int:
    """What the pieces of one checkpoint take, their headers apart."""
    num_routers, most = len(routers.routers), int(routers.num_experts_U.max())
    num_bytes = 0
    for example in records.examples:
        num_tokens = len(example.input_ids)
        num_bytes += 8 * num_routers * len(routers.kinds) * (most + 1) + num_tokens
        decisions = 2 * num_tokens if routers.is_single else 4 * most * (1 if routers.kinds == (WHOLE,) else num_tokens)
        num_bytes += num_routers * decisions
    return num_bytes


def route_records(
    assembled: Assembled,
    records: HeldOutRecords,
    pieces: Pieces,
    ranks: Ranks,
    console: Console,
    title: str,
) -> None:
    """Route this rank's records and keep each as a piece; those that stand are left."""
    mine = ranks.share(range(len(records.examples)))
    missing = [place for place in mine if _read(pieces, place) is None]
    with Progress(console, title, len(mine)) as progress:
        progress.skip(len(mine) - len(missing))
        for place in missing:
            example = records.examples[place]
            kinds_T = kinds_of(example.input_ids, example.labels, assembled.encoder.image_token_id)
            found = count_record(routed(assembled, records, place), kinds_T)
            arrays = {name: getattr(found, name) for name in _FIELDS if getattr(found, name) is not None}
            pieces.put(_name(place), **arrays)
            progress.step()


def read_measured(pieces: Pieces, step: int, num_records: int, before: Pieces | None) -> Measured:
    """Put the pieces of all records together, in their order, and compare each with the checkpoint before.

    Raises:
        UserError: a piece that was written is not to be seen here.
    """
    served, doubt, changed = [], [], []
    for place in range(num_records):
        found = read_record(pieces, place)
        served.append(found.served_UGK)
        doubt.append(found.doubt_UG)
        if before is not None:
            changed.append(changed_parts(read_record(before, place), found))
    return Measured(step, np.stack(served), np.stack(doubt), np.stack(changed) if changed else None)


def read_record(pieces: Pieces, place: int) -> RecordRouting:
    """The piece of one record.

    Raises:
        UserError: it is not there, or damaged.
    """
    found = _read(pieces, place)
    if found is None:
        raise UserError(
            f"{pieces.folder} lacks {_name(place)}: several machines need one folder that all see; give it with out="
        )
    return found


def image_clusters(records: HeldOutRecords) -> np.ndarray:
    """int64 [N]: records of one number show the same pictures; a record without a picture stands alone."""
    found: dict[bytes, int] = {}
    clusters = []
    for place, example in enumerate(records.examples):
        pixels = hashlib.sha256(example.pixels.tobytes()).digest() if len(example.pixels) else f"{place}".encode()
        clusters.append(found.setdefault(pixels, len(found)))
    return np.array(clusters)


def _name(place: int) -> str:
    return f"record-{place:05d}"


def _read(pieces: Pieces, place: int) -> RecordRouting | None:
    arrays = pieces.get(_name(place))
    if arrays is None or not {"served_UGK", "doubt_UG", "kinds_T"} <= arrays.keys():
        return None
    return RecordRouting(**{name: arrays.get(name) for name in _FIELDS})  # type: ignore[arg-type]
