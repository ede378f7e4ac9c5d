"""What experts in PEFT folders stand on, the projector they carry and the base beside them, as a run to start from.

A composition has one base. Where the experts' is not the model at hand, what differs is written as a run without an
adapter, named by its content, from which the composition starts as it would from a run of ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llava_moe.adapters import NoAdapter
from llava_moe.assemble import (
    Assembled,
    load_lineage,
    model_spec_of,
    new_model,
    refuse_strange_base,
)
from llava_moe.compose.base_parts import run_of
from llava_moe.compose.expert_bases import ExpertBase, expert_base_of
from llava_moe.config.hydra_compose import as_yaml
from llava_moe.errors import UserError
from llava_moe.files.atomic_write import replace_file
from llava_moe.files.checkpoints import MARKER, newest_checkpoint
from llava_moe.files.full_disk import is_full
from llava_moe.model.recorded_weights import RECORD
from llava_moe.run_config import RunConfig
from llava_moe.train.folder import FINISHED, claim_configuration
from llava_moe.train.state import RunState

STEP = "step-000000"


def start_of_folders(experts: Sequence[str], plain: Mapping[str, Any], start: Path | None, place: Path) -> Path | None:
    """The run to start from so that experts in PEFT folders stand on what they were trained on.

    Args:
        plain: the composition's configuration.
        start: the run that holds the trained base parts of experts that are runs of ours.
        place: where a run is written, if one must be.

    Returns:
        ``start`` where the model at hand is already what the folders tell of.

    Raises:
        UserError: the experts stand on bases that differ, or on one that does not fit the model.
    """
    grounds = [
        ground for expert in experts if run_of(expert) is None and (ground := expert_base_of(expert)) is not None
    ]
    if not grounds:
        return start
    model_spec = replace(model_spec_of(RunConfig.of(plain)), adapter=NoAdapter(), init_from=None)
    assembled = new_model(model_spec, torch.device("cpu"))
    if start is not None:
        refuse_strange_base(start, assembled.weights, is_start=True)
        load_lineage(assembled.model, newest_checkpoint(start))
    parts = _differing(assembled, grounds)
    if parts and (run := next((expert for expert in experts if run_of(expert) is not None), None)):
        raise _refused(run, grounds[0].expert, next(iter(parts)), assembled)
    return _write(parts, plain, [ground.expert for ground in grounds], place, assembled) if parts else start


def _differing(assembled: Assembled, grounds: Sequence[ExpertBase]) -> dict[str, Tensor]:
    """The tensors of the experts' one base that are not the model's own.

    Raises:
        UserError: two experts differ in one, or it does not fit the model.
    """
    parts = {}
    for name, own in assembled.model.named_parameters():
        found = [(ground.expert, ground.tensor(name, assembled.base.family)) for ground in grounds]
        told = [(expert, tensor) for expert, tensor in found if tensor is not None]
        for expert, tensor in told:
            if tensor.shape != own.shape:
                raise UserError(
                    f"experts: {expert} stands on a base whose {name} is {tuple(tensor.shape)}, this model's is "
                    f"{tuple(own.shape)}: give the model= that it was trained on"
                )
            if not _same(tensor, told[0][1]):
                raise _refused(told[0][0], expert, name, assembled)
        if told and not _same(told[0][1], own):
            parts[name] = told[0][1].clone()
    return parts


def _same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are one up to the rounding of the coarser."""
    dtype = left.dtype if left.element_size() < right.element_size() else right.dtype
    return torch.equal(left.to(dtype), right.detach().to(dtype))


def _refused(first: str, other: str, name: str, assembled: Assembled) -> UserError:
    what = "projectors" if assembled.base.family.parts.is_projectors(name) else f"base parts ({name})"
    return UserError(
        f"experts: {first} and {other} were trained with {what} of their own, and a composition has one: name the run "
        "whose parts to take with init_from=, or train the experts from one run with the projector frozen"
    )


def _write(
    parts: Mapping[str, Tensor], plain: Mapping[str, Any], experts: Sequence[str], place: Path, assembled: Assembled
) -> Path:
    """Write base parts as a run without an adapter; one with the same parts is taken as it is."""
    digest = hashlib.sha256()
    for name, tensor in parts.items():
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    run = place.absolute() / f"base-of-experts-{digest.hexdigest()[:8]}"
    if (run / FINISHED).is_file():
        return run
    partial = run.with_name(f".{run.name}.{os.getpid()}.partial")
    try:
        step = partial / "checkpoints" / STEP
        (step / "model").mkdir(parents=True)
        is_projectors = assembled.base.family.parts.is_projectors
        base = {name: tensor.contiguous() for name, tensor in parts.items() if not is_projectors(name)}
        projector = {name: tensor.contiguous() for name, tensor in parts.items() if is_projectors(name)}
        if projector:
            save_file(projector, step / "projector.safetensors")
        if base:
            save_file(base, step / "model" / "base.safetensors")
        RunState().write(step / "state.json")
        (step / MARKER).write_text("")
        replace_file(partial / "checkpoints" / "last", STEP + "\n")
        settings = {"adapter": {"_target_": "llava_moe.adapters.NoAdapter"}, "init_from": None}
        config = {**plain, **settings, "composition": {"base_of": list(experts)}}
        claim_configuration(partial, config, as_yaml(config))
        replace_file(partial / RECORD, json.dumps(assembled.weights.record(), indent=1))
        replace_file(partial / FINISHED, json.dumps(asdict(RunState()) | {"seconds": 0.0}, indent=1))
        partial.rename(run)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if (run / FINISHED).is_file():  # another rank was quicker
            return run
        if isinstance(error, OSError | RuntimeError | SafetensorError) and is_full(error):
            raise UserError(f"{run}: the disk is full; free space and run the same command again") from error
        raise
    return run
