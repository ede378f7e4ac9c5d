"""A run's folder turned back into a model: as it is by now, as it started, or its base alone."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from llava_moe.adapters import NoAdapter, load_adapter
from llava_moe.assemble.ancestry import lineage, load_lineage
from llava_moe.assemble.assembled import Assembled
from llava_moe.assemble.base_checks import refuse_strange_base
from llava_moe.assemble.build import new_model
from llava_moe.assemble.spec import ModelSpec, model_spec_of, read_config
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import newest_checkpoint, stage_folders
from llava_moe.files.our_files import read_object
from llava_moe.model import Architecture
from llava_moe.model.adapter_record import refuse_other_adapter
from llava_moe.model.recorded_weights import RECORD, refuse_other_embedded, refuse_other_start
from llava_moe.text.shell_words import as_place, shell


def restore(run: str | Path, device: torch.device | None = None, dtype: str | None = None) -> Assembled:
    """Build the model of a run and load its newest checkpoint; in eval mode, on ``device``.

    Args:
        run: a run's folder, an experiment's folder (last stage) or one checkpoint.
        dtype: overrides the precision that the run trained in.
    """
    checkpoint = newest_checkpoint(Path(run))
    owner = checkpoint.parent.parent
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model_spec = model_spec_of(read_config(owner))
    bare = _own_base(owner, replace(model_spec, init_from=None, dtype=dtype or model_spec.dtype), device)
    load_lineage(bare.model, checkpoint)
    if not isinstance(model_spec.adapter, NoAdapter):
        bare = with_adapter(bare, checkpoint / "adapter")
    # transformers' own wrapper of .to() is typed for a model class of its own.
    nn.Module.to(bare.model, device).eval()
    return bare


def with_adapter(bare: Assembled, folder: Path) -> Assembled:
    """A run's base with the adapter of one of its checkpoints on it.

    Raises:
        UserError: the adapter's folder is damaged, or was trained on another base.
    """
    refuse_other_adapter(folder, bare.weights)
    return replace(bare, attached=load_adapter(bare.model, folder), has_adapter=True)


def new_start(checkpoint: Path, model_spec: ModelSpec, device: torch.device) -> Assembled:
    """The model as it was before the first step of the run that a checkpoint is of; in eval mode, on ``device``.

    Args:
        model_spec: of that run. Its ``init_from`` is found from any folder, and where both runs were moved.

    Raises:
        UserError: what it was started from is not there, or holds another projector or other base parts by now.
    """
    run, chain = checkpoint.parent.parent, lineage(checkpoint)
    refuse_other_embedded(run, model_spec.architecture)
    assembled = new_model(replace(model_spec, init_from=str(chain[1]) if len(chain) > 1 else None), device)
    notes = refuse_strange_base(run, assembled.weights)
    if len(chain) > 1:
        # No checkpoint of its own replaces any part.
        refuse_other_start(run / "checkpoints" / "start", chain[1], assembled.start)
    nn.Module.to(assembled.model, device).eval()
    return replace(assembled, notes=notes)


def restore_base(run: str | Path, device: torch.device | None = None) -> Assembled:
    """The base of a run as it was before any training, asked as the run is; in eval mode, on ``device``.

    Its projector is one that has learned nothing.

    Raises:
        UserError: the base is not there, or is another than the run was trained on.
    """
    owner = newest_checkpoint(Path(run)).parent.parent
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bare = _own_base(owner, model_spec_of(read_config(owner)), device)
    nn.Module.to(bare.model, device).eval()
    return bare


def _own_base(owner: Path, model_spec: ModelSpec, device: torch.device) -> Assembled:
    """:func:`new_base`, refused where it is another than the run was trained on."""
    refuse_other_embedded(owner, model_spec.architecture)
    bare = new_base(owner, model_spec, device)
    return replace(bare, notes=refuse_strange_base(owner, bare.weights))


def new_base(run: Path, model_spec: ModelSpec, device: torch.device) -> Assembled:
    """The base that a run's specification names, as it was before any training.

    Raises:
        UserError: it is not there; with the command that tells the run where it lies by now.
    """
    try:
        return new_model(replace(model_spec, adapter=NoAdapter(), init_from=None), device)
    except UserError as error:
        gone = _keys_of_what_is_gone(model_spec.architecture)
        command = read_object(run / RECORD, "put it back").get("command") if (run / RECORD).is_file() else None
        if not gone or not isinstance(command, str):
            raise
        root = run.parent if run in stage_folders(run.parent) else run
        said = tuple(f"{key}=" for key in (*gone, "out"))
        words = [word for word in shlex.split(command) if not word.lstrip("+").startswith(said)]
        told = shell(*words, *(f"{key}=FOLDER" for key in gone), f"out={as_place(root)}")
        raise UserError(f"{error}; where it lies elsewhere by now, tell the run: {told}") from error


def _keys_of_what_is_gone(architecture: Architecture) -> list[str]:
    """The settings that name a base's folders, where no such folder is there."""
    keys = {"path": "model.path", "vision_tower": "model.architecture.vision_tower"}
    keys["language_model"] = "model.architecture.language_model"
    places = {key: getattr(architecture, name, None) for name, key in keys.items()}
    return [
        key
        for key, place in places.items()
        if place is not None and not place.startswith("embedded:") and not Path(place).expanduser().exists()
    ]
