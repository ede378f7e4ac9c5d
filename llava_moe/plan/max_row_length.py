"""What fits a device: the longest rows that do, and the nearest change that makes a run fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from llava_moe.plan.dummy_rows import NullImage, Row, RowPacking
from llava_moe.plan.steps import Steps
from llava_moe.plan.trace import Blueprint, Traced, trace
from llava_moe.plan.zero_partition import Memory, Parallel, spread
from llava_moe.train.choose_engine import fits_on_each, state_bytes

# Bytes of a token's id, label, position and domain on the device.
TOKEN_BYTES = 32
# Of two kinds of row the second is traced too where it may take this much more than the first.
NOTABLE = 1.005
TRIES = 4
# A search ends where what fits fills this much of the room; a guess aims at so much of what is left.
CLOSE = 0.97
TIGHT = 0.99


@dataclass(frozen=True)
class RowLengthChoice:
    """What may be changed to make a run fit; the result of training does not depend on it."""

    tokens_per_row: int
    activation_checkpointing: bool
    parallel: Parallel

    def words_since(self, asked: RowLengthChoice) -> list[str]:
        """What to add to the command line that asked for another choice."""
        words = []
        if self.tokens_per_row != asked.tokens_per_row:
            words.append(f"train.tokens_per_micro_batch={self.tokens_per_row}")
        if self.activation_checkpointing != asked.activation_checkpointing:
            words.append("train.activation_checkpointing=true")
        if self.parallel.name != asked.parallel.name:
            words.append(f"parallel={self.parallel.name}")
        if self.parallel.num_devices != asked.parallel.num_devices:
            words.append(f"num_devices={self.parallel.num_devices}")
        return words


@dataclass(frozen=True)
class MemoryNeed:
    """What a choice needs on each device, and the rows that it was found on."""

    choice: RowLengthChoice
    memory: Memory
    seating: RowPacking
    row: Row
    traced: Traced


Traces = dict[tuple[str, Row, bool], Traced]
"""What was traced: by what was built, the row, and whether it is one of many."""


@dataclass
class RowTracer:
    """Traces rows, each once.

    Attributes:
        entry_bytes: of one image's pixels, or of one of its tiles', as the step's inputs hold them.
        null_image: what rows without images get under DeepSpeed.
        told: called with what is being traced.
        traces: what was traced already; benches of one process may share it.
    """

    blueprint: Blueprint
    steps: Steps
    entry_bytes: int
    null_image: NullImage
    told: Callable[[str], None] = lambda _: None
    traces: Traces = field(default_factory=dict)
    _seatings: dict[tuple[int, int, NullImage | None], RowPacking] = field(default_factory=dict, repr=False)
    _standing: dict[bool, Traced] = field(default_factory=dict, repr=False)

    def least(self, choice: RowLengthChoice) -> int:
        """Bytes that a choice takes whatever its rows, by what was traced so far; 0 where nothing of its kind was."""
        traced = self._standing.get(choice.parallel.stage is not None)
        if traced is None:
            return 0
        bare = replace(traced, gradients=0, activations=0, logits=0, temporary=0)
        return spread(bare, choice.parallel, inputs=0).total

    def settled(self, choice: RowLengthChoice, room: int) -> RowLengthChoice:
        """The choice with the engine that training would take: see :mod:`llava_moe.train.choose_engine`."""
        if not choice.parallel.may_divide:
            return choice
        traced = self.need(choice).traced
        state = state_bytes(traced.total_trained, min(traced.trained_dtypes))
        is_whole = fits_on_each(state, room - traced.base - traced.adapter)
        parallel = replace(choice.parallel, may_divide=False, stage=None if is_whole else 2)
        return replace(choice, parallel=parallel)

    def need(self, choice: RowLengthChoice) -> MemoryNeed:
        """Trace the dearest row of a choice."""
        is_sharded = choice.parallel.stage is not None
        seats = (choice.tokens_per_row, choice.parallel.num_devices, self.null_image if is_sharded else None)
        if seats not in self._seatings:
            self._seatings[seats] = self.steps.seat(*seats)
        seating = self._seatings[seats]
        row = seating.rows[0]
        traced = self._trace(row, choice, seating)
        if len(seating.rows) > 1 and _may_be_dearer(seating.rows[1], row, traced):
            other = self._trace(seating.rows[1], choice, seating)
            row, traced = (seating.rows[1], other) if other.peak > traced.peak else (row, traced)
        inputs = seating.most_tokens * TOKEN_BYTES + seating.most_entries * self.entry_bytes
        return MemoryNeed(choice, spread(traced, choice.parallel, inputs), seating, row, traced)

    def trace_row(self, need: MemoryNeed, parallel: Parallel) -> Traced:
        """The row of ``need``, shared in another way."""
        return self._trace(need.row, replace(need.choice, parallel=parallel), need.seating)

    def _trace(self, row: Row, choice: RowLengthChoice, seating: RowPacking) -> Traced:
        is_one_of_many = seating.rows_per_rank[2] > 1
        blueprint = replace(
            self.blueprint,
            activation_checkpointing=choice.activation_checkpointing,
            is_sharded=choice.parallel.stage is not None,
        )
        key = (repr(blueprint), row, is_one_of_many)  # an adapter may hold lists, which are no part of a key
        if key not in self.traces:
            self.told(f"tracing a row of {row.num_tokens:,} tokens")
            self.traces[key] = trace(blueprint, row, is_one_of_many)
        self._standing[blueprint.is_sharded] = self.traces[key]
        return self.traces[key]


def _may_be_dearer(other: Row, row: Row, traced: Traced) -> bool:
    """Whether a row of more supervised but fewer tokens may take more, by what each took in a row that was traced."""
    by_token = (traced.activations + traced.temporary) / row.num_tokens
    # Logits in the model's dtype and in fp32, log-probabilities and their gradient.
    by_supervised = traced.vocabulary * (2 * 4 + 2 * traced.number_bytes)
    score = {one: one.num_tokens * by_token + one.num_supervised * by_supervised for one in (other, row)}
    return score[other] > NOTABLE * score[row] - traced.temporary / 2


def longest_rows(
    bench: RowTracer, choice: RowLengthChoice, room: int, traced: Mapping[int, int], grain: int
) -> int | None:
    """The most tokens of a row with which the choice fits ``room`` bytes, a multiple of ``grain``; None: not even the
    longest sample does.

    Rows cannot be longer than what a device has in a whole step. What lies beyond or between traced lengths is guessed
    by straight lines; what is returned was traced.

    Args:
        traced: tokens of a row -> bytes, of what was traced before.
    """
    if bench.least(choice) > room:
        return None
    known = dict(traced)

    def fits(tokens: int) -> bool:
        if tokens not in known:
            known[tokens] = bench.need(replace(choice, tokens_per_row=tokens)).memory.total
        return known[tokens] <= room

    lowest = -(-bench.steps.longest // grain) * grain
    share = bench.steps.seat(lowest, choice.parallel.num_devices, None).most_tokens
    highest = max(lowest, -(-share // grain) * grain)
    fitting = [tokens for tokens in known if fits(tokens) and lowest <= tokens]
    if not fitting and not fits(lowest):
        return None
    below = max(fitting, default=lowest)
    beyond = [tokens for tokens in known if not fits(tokens) and tokens > below]
    if below >= highest or (not beyond and _guess(known, highest) <= room and fits(highest)):
        return highest
    above = min([*beyond, highest])
    for _ in range(TRIES):
        if above - below <= grain or known[below] > CLOSE * room:
            break
        sizes = known if above in known else known | {above: _guess(known, above)}
        slope = (sizes[above] - sizes[below]) / (above - below)
        guess = below + int(TIGHT * (room - known[below]) / max(slope, 1.0)) // grain * grain
        guess = min(max(guess, below + grain), above - grain)
        below, above = (guess, above) if fits(guess) else (below, guess)
    return below


def _guess(known: Mapping[int, int], tokens: int) -> float:
    """Bytes at a length beyond all that was traced, along the line through the two longest."""
    longest, second = sorted(known)[-1], sorted(known)[-2] if len(known) > 1 else 0
    slope = (known[longest] - known.get(second, 0)) / max(1, longest - second)
    return known[longest] + slope * (tokens - longest)


def nearest_fit(
    bench: RowTracer, asked: RowLengthChoice, room: Callable[[Parallel], int], grain: int
) -> MemoryNeed | None:
    """The first change that fits, each really traced, in the order of what it costs.

    Shorter rows, recomputed activations, ZeRO-2 and ZeRO-3 on the same devices, weights and optimizer in the machine's
    memory, more devices; each with shorter rows and recomputation where it needs them. Nothing is traced where weights
    and optimizer alone do not fit.

    Args:
        room: bytes that tensors may take on each device.
    """
    lowest = -(-bench.steps.longest // grain) * grain
    for parallel in _parallels(asked.parallel):
        for checkpointing in dict.fromkeys((asked.activation_checkpointing, True)):
            choice = replace(asked, activation_checkpointing=checkpointing, parallel=parallel)
            if bench.least(choice) > room(parallel):
                continue
            if choice != asked and (need := bench.need(choice)).memory.total <= room(parallel):
                return need
            if lowest < asked.tokens_per_row:
                need = bench.need(replace(choice, tokens_per_row=lowest))
                if need.memory.total <= room(parallel):
                    known = {lowest: need.memory.total}
                    longest = longest_rows(bench, choice, room(parallel), known, grain)
                    longest = min(longest or lowest, asked.tokens_per_row)
                    return bench.need(replace(choice, tokens_per_row=longest))
    return None


def _parallels(asked: Parallel) -> Iterator[Parallel]:
    yield asked
    stage = -1 if asked.stage is None else asked.stage
    num_devices = asked.num_devices
    if num_devices > 1:
        for wanted in (2, 3):
            if stage < wanted:
                yield Parallel(num_devices, wanted, bucket=asked.bucket)
    if not asked.offload_parameters:
        yield Parallel(num_devices, 3, offload_optimizer=True, offload_parameters=True, bucket=asked.bucket)
    while num_devices < 64:
        num_devices = 2 * num_devices
        for wanted in (2, 3):
            if stage <= wanted:
                yield Parallel(num_devices, wanted, bucket=asked.bucket)
