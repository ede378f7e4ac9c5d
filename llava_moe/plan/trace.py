"""One optimizer step of the real model, traced without content: memory by part, and arithmetic.

What runs is training's own: the assembled model with its adapter, ``train.optimizer_step.take_step`` with its
cross-entropy and balance loss, autograd, the engine of one process with its fp32 masters, and AdamW. Under DeepSpeed
the model is traced with gradients that leave the device as soon as they are there; what DeepSpeed keeps instead is
``plan.spread``'s.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_moe.assemble import Assembled, ModelSpec, new_model_without_weights
from llava_moe.model import ParameterGroup, TrainableParts, prepare_stage, recompute_activations
from llava_moe.plan.dummy_rows import Row, hollow_batch
from llava_moe.plan.fake_tensors import FakeTensorTrace
from llava_moe.train.engine import LocalEngine
from llava_moe.train.objective import Objective
from llava_moe.train.optimizer import OptimizerSettings, build_optimizer
from llava_moe.train.optimizer_step import take_step

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Blueprint:
    """What it takes to build a stage for a trace.

    Attributes:
        objective_of: what the loop minimises, of an assembled model.
        num_domains: domains of the data.
        on_gpu: whether AdamW is fused, as it is there.
        is_sharded: whether DeepSpeed holds gradients, masters and optimizer.
    """

    model_spec: ModelSpec
    parts: TrainableParts
    optimizer: OptimizerSettings
    objective_of: Callable[[Assembled], Objective]
    num_domains: int
    activation_checkpointing: bool
    on_gpu: bool
    is_sharded: bool = False


@dataclass(frozen=True)
class Traced:
    """Bytes on one device for one row, and arithmetic.

    Attributes:
        base, adapter: weights and buffers.
        masters, optimizer: fp32 copies of half-precision parameters, and AdamW's state (0 where sharded).
        gradients: those that stand at the peak.
        activations: what the forward pass keeps for the backward pass, logits apart.
        logits: logits, their fp32 copy, log-probabilities and gradients at the peak.
        temporary: all else at the peak.
        peak: the most at once, in forward, backward or update.
        num_trained: numbers that train, by part of the model.
        largest_trained: numbers of the largest tensor that trains.
        trained_dtypes: bytes a number of what trains -> numbers.
        saved: bytes of a checkpoint's files.
        flops: floating-point operations of the row, forward and backward, recomputation included.
        work: (operations, bytes moved) of each operation.
        num_tokens: the row's tokens, as often as it is passed.
        vocabulary: numbers of a token's logits; ``number_bytes``: bytes of a number of the model.
    """

    base: int
    adapter: int
    masters: int
    optimizer: int
    gradients: int
    activations: int
    logits: int
    temporary: int
    peak: int
    num_parameters: int
    num_trained: Mapping[str, int]
    largest_trained: int
    trained_dtypes: Mapping[int, int]
    saved: Mapping[str, int]
    flops: int
    work: Sequence[tuple[int, int]]
    num_tokens: int
    vocabulary: int
    number_bytes: int

    @property
    def total_trained(self) -> int:
        return sum(self.num_trained.values())


@dataclass(frozen=True)
class _Step:
    """A step of one row, for the loop."""

    batches: tuple[Any, ...]
    epoch: int = 0
    index: int = 0
    keys: tuple[str, ...] = ()
    bad: tuple[Any, ...] = ()
    padding_share: float = 0.0


class _Watched:
    """An engine that notes how much stands between forward, backward and update."""

    rank, world, device, can_skip = 0, 1, CPU, True

    def __init__(self, engine: LocalEngine, hollow: FakeTensorTrace, releases_gradients: bool) -> None:
        self.engine, self.hollow, self.module = engine, hollow, engine.module
        self.kept = self.kept_logits = self.backward_peak = self.backward_logits = 0
        self.releases_gradients = releases_gradients
        if releases_gradients:
            for parameter in engine.live.values():
                parameter.register_post_accumulate_grad_hook(_release)

    def forward(self, **inputs: Any) -> Any:
        return self.engine.forward(**inputs)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self.kept, self.kept_logits = self.hollow.live, self.hollow.logits
        self.engine.backward(loss, is_last)

    def step(self, learning_rates: Sequence[float]) -> float:
        self.backward_peak, self.backward_logits = self.hollow.peak, self.hollow.logits_at_peak
        return 1.0 if self.releases_gradients else self.engine.step(learning_rates)

    def skip(self) -> None:
        self.engine.skip()

    def sum(self, values: Tensor) -> Tensor:
        return values

    def gather(self, value: object) -> list[Any]:
        return [value]

    def states(self) -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
        return iter(())

    def load(self, folder: Path) -> None:
        return None

    def barrier(self) -> None:
        return None


def _release(parameter: Tensor) -> None:
    parameter.grad = None


def trace(blueprint: Blueprint, row: Row, is_one_of_many: bool) -> Traced:
    """Build the stage without weights, take a step, and tell what it took.

    Args:
        is_one_of_many: whether the rank has other rows in the step, so that gradients stand already.
    """
    probe = FakeTensorTrace()
    with warnings.catch_warnings(), probe:
        warnings.simplefilter("ignore")
        with probe.fake:
            assembled = new_model_without_weights(blueprint.model_spec, CPU, place="cpu")
        hollow = FakeTensorTrace(assembled.model.lm_head.out_features)
    hollow.fake = probe.fake
    with warnings.catch_warnings(), hollow:
        warnings.simplefilter("ignore")
        return _trace(blueprint, assembled, row, is_one_of_many, hollow)


def _trace(
    blueprint: Blueprint, assembled: Assembled, row: Row, is_one_of_many: bool, hollow: FakeTensorTrace
) -> Traced:
    model, own = assembled.model, assembled.attached.named_parameters()
    adapter = _bytes_of(own.values(), hollow)
    base = _bytes_of([*model.parameters(), *model.buffers()], hollow)
    trainable = assembled.attached.trainable_parameters() if "adapter" in blueprint.parts.learning_rates else {}
    groups = prepare_stage(model, blueprint.parts, trainable, assembled.base.family)
    if blueprint.activation_checkpointing:
        recompute_activations(model)
    # It stands where it trains; torch would swap fake parameters one by one.
    vars(model)["to"] = lambda *_: model
    model.train()
    engine = LocalEngine(model, groups, blueprint.optimizer, CPU)
    if blueprint.is_sharded:
        engine.masters = dict(engine.live)
    if blueprint.is_sharded or blueprint.on_gpu:
        engine.optimizer = build_optimizer(groups, engine.masters, blueprint.optimizer, fused=True)
    masters = hollow.live - base - adapter
    rates = [group.learning_rate for group in groups]
    if not blueprint.is_sharded:
        _have_gradients(engine)
        engine.step(rates)
    optimizer = hollow.live - base - adapter - masters
    if is_one_of_many and not blueprint.is_sharded:
        _have_gradients(engine)
    before = hollow.live
    gradients = before - base - adapter - masters - optimizer
    objective = blueprint.objective_of(assembled)
    # A balance loss over the whole step has a pass of its own, which a step of one row does without.
    repeats = 2 if is_one_of_many and objective.balance_totals is not None else 1
    batches = tuple(hollow_batch(row, assembled.encoder, hollow.fake) for _ in range(repeats))
    watched = _Watched(engine, hollow, blueprint.is_sharded)
    hollow.mark()
    take_step(watched, objective, _Step(batches), rates, blueprint.num_domains)
    peak, logits = watched.backward_peak, watched.backward_logits
    kept = watched.kept - before - watched.kept_logits
    at_peak = peak - before - logits
    activations = min(kept, at_peak)
    if not (is_one_of_many or blueprint.is_sharded):
        gradients = min(sum(_size(master) for master in engine.masters.values()), at_peak - activations)
    return Traced(
        base=base,
        adapter=adapter,
        masters=masters,
        optimizer=optimizer,
        gradients=gradients,
        activations=activations,
        logits=logits,
        temporary=hollow.peak - base - adapter - masters - optimizer - gradients - activations - logits,
        peak=hollow.peak,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_trained={group.part: group.num_parameters for group in groups},
        largest_trained=max(p.numel() for group in groups for p in group.parameters.values()),
        trained_dtypes=_numbers_by_size(groups),
        saved=_saved(assembled, groups),
        flops=hollow.flops,
        work=tuple(hollow.work),
        num_tokens=row.num_tokens * repeats,
        vocabulary=hollow.vocabulary,
        number_bytes=model.dtype.itemsize,
    )


def _have_gradients(engine: LocalEngine) -> None:
    for master in engine.masters.values():
        master.grad = torch.zeros_like(master)


def _bytes_of(tensors: Any, hollow: FakeTensorTrace) -> int:
    before = hollow.live
    for tensor in tensors:
        hollow.see(tensor)
    return hollow.live - before


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _numbers_by_size(groups: Sequence[ParameterGroup]) -> dict[int, int]:
    numbers: dict[int, int] = {}
    for group in groups:
        for parameter in group.parameters.values():
            numbers[parameter.element_size()] = numbers.get(parameter.element_size(), 0) + parameter.numel()
    return numbers


def _saved(assembled: Assembled, groups: Sequence[ParameterGroup]) -> dict[str, int]:
    """Bytes of a checkpoint: weights as ``assemble.weights_writer`` writes them, and the engine's masters and moments.

    Trained tensors are written from fp32 masters; what an adapter keeps frozen goes along as it is.
    """
    own = {id(parameter) for parameter in assembled.attached.named_parameters().values()}
    trained = [parameter for group in groups for parameter in group.parameters.values()]
    among = {id(parameter) for parameter in trained}
    frozen = [p for p in assembled.attached.named_parameters().values() if id(p) not in among]
    fp32 = sum(parameter.numel() * 4 for parameter in trained)
    adapter = sum(p.numel() * 4 for p in trained if id(p) in own) if assembled.has_adapter else 0
    return {
        "adapter": adapter + (sum(map(_size, frozen)) if assembled.has_adapter else 0),
        "base parts": sum(p.numel() * 4 for p in trained if id(p) not in own),
        "optimizer": 3 * fp32,
    }
