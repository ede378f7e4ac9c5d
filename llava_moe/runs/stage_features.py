"""``model.cache_features``: a stage's image features, computed once before its first step and read in every step."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import transformers
from rich.console import Console

from llava_moe.assemble import Assembled
from llava_moe.data.batch import Batch
from llava_moe.data.features.disk import (
    DiskFeatures,
    open_disk_features,
    refuse_full_disk,
    remove_remains,
    unusable,
)
from llava_moe.data.features.fill import Filled, fill
from llava_moe.data.features.image_scan import ImageScan, Wanted
from llava_moe.data.features.memory import MemoryFeatures, refused
from llava_moe.data.features.shape import FeatureShape
from llava_moe.data.features.store import FeatureStore
from llava_moe.data.features.table import FeatureTable
from llava_moe.data.features.wanted import everyones, num_image_uses, wanted_records
from llava_moe.data.readers.waited_lock import waited_lock
from llava_moe.data.stream import StepStream
from llava_moe.errors import UserError
from llava_moe.model import BaseFacts, Family
from llava_moe.model.fingerprint import tower_fingerprint
from llava_moe.run_config import RunConfig
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.free_memory import free_memory
from llava_moe.runs.processes import Processes
from llava_moe.terminal.fitted_bar import FittedBar, passing
from llava_moe.train.objective import Objective
from llava_moe.train.state import RunState

VERSION = 1
"""Raised whenever features of the same image would come out otherwise."""
_SHARE_OF_FREE = 0.9


@dataclass(frozen=True)
class StageFeatures:
    """Features that are kept, and which of them each record has."""

    store: FeatureStore
    table: FeatureTable
    family: Family

    def feed(self, stream: StepStream) -> StepStream:
        """The same steps, with slots in the place of pixels."""
        return replace(stream, features=self.table)

    def read_in(self, objective: Objective) -> Objective:
        """The same objective, whose model is given what the slots hold."""

        def inputs_of(batch: Batch) -> Mapping[str, Any]:
            inputs = objective.inputs_of(batch)
            if not batch.image_slots:
                return inputs
            features_ITW = self.store.read(batch.image_slots)
            return {**inputs, **self.family.feature_inputs(features_ITW.to(batch.input_ids.device))}

        return replace(objective, inputs_of=inputs_of)


def cache_of(config: RunConfig) -> str:
    """``off``, ``memory`` or ``disk``; a run that an earlier release made lacks the key."""
    told: object = config.model.cache_features
    # YAML reads an unquoted off as false.
    return "off" if told is False else str(told)


def check_features(config: RunConfig) -> None:
    """Refuse features kept of a tower that trains, before anything is built.

    Raises:
        UserError: naming both settings.
    """
    rate = config.stage.learning_rates.get("vision_tower")
    if cache_of(config) != "off" and rate is not None:
        raise UserError(
            f"model.cache_features={cache_of(config)}: the vision tower trains (stage.learning_rates.vision_tower="
            f"{rate:g}), so the features of an image change with every step: take model.cache_features=off, or freeze "
            "the tower"
        )


def open_features(
    config: RunConfig,
    assembled: Assembled,
    stream: StepStream,
    processes: Processes,
    num_steps: int,
    state: RunState,
    console: Console,
) -> StageFeatures | None:
    """Compute what the rest of a run will read of images; None where ``model.cache_features=off``.

    To be called before an engine takes the model apart.

    Raises:
        UserError: the tower changes, the features fit neither memory nor disk, or the cache cannot be written.
    """
    kind = cache_of(config)
    if kind == "off":
        return None
    family = assembled.base.family
    family.refuse_changing_tower(assembled.model)
    for part in (family.parts.tower, family.parts.projector):
        assembled.model.get_submodule(part).to(processes.device)
    job = _Job(config, assembled, stream, processes, num_steps - state.step, state, console)
    started = time.monotonic()
    store, filled = job.in_memory() if kind == "memory" else job.on_disk()
    family.accept_features(assembled.model)
    _tell(console, filled, store, num_image_uses(stream, job.num_steps), time.monotonic() - started)
    return StageFeatures(store, filled.table, family)


def shape_of(assembled: Assembled) -> FeatureShape:
    """The features that the projector of this model reads of an image; raises as :func:`feature_shape` does."""
    base, model = assembled.base, assembled.model
    return feature_shape(base, model.dtype, base.family.num_dropped_in_front(model))


def feature_shape(base: BaseFacts, dtype: torch.dtype, num_dropped: int = 0) -> FeatureShape:
    """The features that the projector of a base model reads of an image.

    Raises:
        UserError: images of its family have features of more than one shape.
    """
    if not isinstance(base.num_image_tokens, int):
        raise UserError(
            f"model.cache_features: images take unequal numbers of tokens in a model of the family {base.family.name}, "
            "and only features of one shape are kept: take model.cache_features=off"
        )
    return FeatureShape(base.num_image_tokens, base.feature_width, dtype, num_dropped)


@dataclass(frozen=True)
class _Job:
    """What it takes to compute the features of a stage."""

    config: RunConfig
    assembled: Assembled
    stream: StepStream
    processes: Processes
    num_steps: int
    state: RunState
    console: Console

    def wanted(self, stream: StepStream) -> Wanted:
        return wanted_records(stream, self.num_steps, self.state.epoch, self.state.epoch_step)

    def in_memory(self) -> tuple[FeatureStore, Filled]:
        shape, wanted = shape_of(self.assembled), self.wanted(self.stream)
        num_sharing = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if self.processes.world > 1 else 1
        room = int(_SHARE_OF_FREE * free_memory()) // num_sharing
        if wanted.num_different * shape.num_bytes > room:
            raise refused(wanted.num_different, shape, room)
        store = MemoryFeatures(shape, room)
        return store, self.fill(store, wanted)

    def on_disk(self) -> tuple[FeatureStore, Filled]:
        """Ranks share out what all of them want; then each finds what its own rows want."""
        folder = cache_folder() / "features" / self.name()
        with _writing(folder, self.processes):
            everyone = self.wanted(replace(self.stream, rank=0, world=1))
            store = self.open(folder, everyone)
            filled = self.fill(store, everyones(everyone, self.processes.rank, self.processes.world))
        if self.processes.world == 1:
            return store, filled
        store = self.open(folder, everyone)
        own = self.fill(store, self.wanted(self.stream))
        return store, replace(own, num_computed=filled.num_computed + own.num_computed)

    def open(self, folder: Path, wanted: Wanted) -> DiskFeatures:
        shape = shape_of(self.assembled)
        store, damaged = open_disk_features(folder, shape, writer=uuid4().hex[:16])
        for path, reason in damaged:
            told = f"  {path} is damaged ({reason}): what it held is computed again"
            self.console.print(told, style="yellow", highlight=False, markup=False, soft_wrap=True)
            if self.processes.rank == 0:
                path.unlink(missing_ok=True)
        refuse_full_disk(folder, max(0, wanted.num_different - store.num_kept), shape)
        return store

    def name(self) -> str:
        """A folder's name: what is computed by the same tower in the same way stands in the same folder."""
        encoder, model = self.assembled.encoder, self.assembled.model
        device = self.processes.device
        machine = platform.machine() + torch.backends.cpu.get_cpu_capability()
        if device.type == "cuda":
            machine = torch.cuda.get_device_name(device)
        mean_and_std = encoder.transform.normalization
        software = (torch.__version__, transformers.__version__, machine)
        digest = sha256(repr((VERSION, str(model.dtype), mean_and_std, software)).encode()).hexdigest()[:16]
        return f"{tower_fingerprint(model)}-{digest}"

    def fill(self, store: FeatureStore, wanted: Wanted) -> Filled:
        stream, encoder = self.stream, self.assembled.encoder
        looks = ImageScan(stream.mixture.sources, stream.records, encoder, wanted, store)
        with passing(FittedBar("  features of images", len(wanted)), self.console) as bar:
            return fill(looks, store, self.compute, stream.num_workers, stream.null_image, bar.tell)

    def compute(self, pixels_3HW: np.ndarray) -> torch.Tensor:
        model, transform = self.assembled.model, self.assembled.encoder.transform
        pixels_13HW = torch.from_numpy(pixels_3HW)[None].to(self.processes.device)
        inputs = transform.model_inputs(pixels_13HW, (), model.dtype)
        return self.assembled.base.family.features_of(model, inputs).cpu()


@contextmanager
def _writing(folder: Path, processes: Processes) -> Iterator[None]:
    """All ranks write while the first holds the folder's lock; other runs wait for it."""
    if processes.rank > 0:
        processes.wait()
        yield
        processes.wait()
        return
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(waited_lock(folder / "writing"))
            remove_remains(folder)
        except OSError as error:
            raise unusable(folder, error) from error
        processes.wait()
        yield
        processes.wait()


def _tell(console: Console, filled: Filled, store: FeatureStore, num_uses: int, seconds: float) -> None:
    size = filled.num_images * store.shape.num_bytes / 1e6
    where = f"in {store.folder}" if isinstance(store, DiskFeatures) else "in memory"
    console.print(
        f"  features of {filled.num_images:,} images {where} ({size:,.1f} MB); {filled.num_computed:,} computed in "
        f"{seconds:.0f} s; the vision tower would run about {num_uses:,} times in the steps to come, and rests",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
