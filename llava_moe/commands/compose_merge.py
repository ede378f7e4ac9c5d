"""Compositions that need no training, as runs' folders; and candidates scored one after the other on one base."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from llava_moe.adapters import Mole, NoAdapter, drop_experts, load_adapter
from llava_moe.adapters.formats.native_format import read_settings
from llava_moe.adapters.methods.mole_experts import adapter_folder
from llava_moe.assemble import (
    Assembled,
    load_lineage,
    model_spec_of,
    new_model,
    read_config,
    refuse_strange_base,
    restore,
)
from llava_moe.commands.export_data import open_held_out
from llava_moe.compose.base_parts import common_start
from llava_moe.compose.expert_bases import refuse_other_bases
from llava_moe.compose.pick import Candidate, Picked
from llava_moe.compose.static_merge import METHODS, StaticMerge, merge
from llava_moe.config.hydra_compose import as_yaml
from llava_moe.config.settings import mixture_of
from llava_moe.errors import UserError
from llava_moe.export.held_out import domain_loss
from llava_moe.files.atomic_write import replace_file
from llava_moe.files.checkpoints import MARKER, last_checkpoint, newest_checkpoint
from llava_moe.model.adapter_record import record_of_adapter
from llava_moe.model.recorded_weights import fingerprint_start
from llava_moe.run_config import RunConfig
from llava_moe.runs.console import say_notes
from llava_moe.runs.environment import describe_environment, fingerprint_files
from llava_moe.text.structured_text import parse_json
from llava_moe.train.folder import ENVIRONMENT, FINISHED, FolderLock, claim_configuration
from llava_moe.train.state import RunState

STEP = "step-000000"


def write_merge(choices: Mapping[str, Any], plain: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Merge the experts and write a run's folder with its one checkpoint; a finished one is left as it is.

    Raises:
        UserError: the folder holds another run, PEFT is missing, or the merge cannot be made.
    """
    how = merge_of(choices, plain)
    told = asdict(how)
    if how.layers is None:
        del told["layers"]  # as in the folders of merges made before layers= was there
    with _untrained_run(folder, {"experts": list(choices["experts"]), **told}, console) as run:
        if run is None:
            return
        assembled = open_bare(RunConfig.of(plain))
        say_notes(console, (*assembled.notes, *refuse_other_bases(choices["experts"], assembled)))
        lora = merge(assembled.model, choices["experts"], how, run.adapter)
        adapter = {"_target_": "llava_moe.adapters.Lora", **asdict(lora)}
        run.finish(plain, adapter, assembled)
    experts = " + ".join(choices["experts"])
    where = "" if how.layers is None else f", in layers {', '.join(map(str, how.layers))} alone"
    console.print(f"merged {experts} by {how.method}: a LoRA of rank {lora.r}{where}", highlight=False, markup=False)


def write_masked(choices: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Write a composition's run again without the experts that ``mask`` leaves out, gates as they were learned.

    Raises:
        UserError: the run is no composition, the mask does not fit it, or the folder holds another run.
    """
    source = newest_checkpoint(Path(choices["run"]))
    composition = {"run": str(choices["run"]), "checkpoint": source.name, "mask": list(choices["mask"])}
    with _untrained_run(folder, composition, console) as run:
        if run is None:
            return
        assembled = restore(source)
        say_notes(console, assembled.notes)
        if not isinstance(assembled.attached.config, Mole):
            raise UserError(f"run={choices['run']}: its adapter is no composition, so there is nothing to mask")
        masked = drop_experts(assembled.attached, choices["mask"])
        masked.save(run.adapter)
        before = read_config(source.parent.parent).plain
        start = common_start([str(source)])
        settings = read_settings(run.adapter)
        kept = [one["name"] for one in settings["experts"]]
        adapter = {**before["adapter"], "experts": settings["experts"], "mask": None}
        run.finish({**before, "init_from": None if start is None else str(start)}, adapter, assembled)
    console.print(f"kept {', '.join(kept)} of {choices['run']}", highlight=False, markup=False)


@dataclass(frozen=True)
class UntrainedRun:
    """A run's folder whose one checkpoint is made without training.

    Attributes:
        adapter: the checkpoint's adapter folder, while it is being written.
        composition: what the run is made of, for its configuration.
    """

    folder: Path
    adapter: Path
    composition: Mapping[str, Any]

    def finish(self, plain: Mapping[str, Any], adapter: Mapping[str, Any], assembled: Assembled) -> None:
        """Publish the checkpoint whose adapter was written, with all that other commands read of a run."""
        settings = {"adapter": dict(adapter), "composition": dict(self.composition)}
        config = {**plain, **parse_json(json.dumps(settings))}
        claim_configuration(self.folder, config, as_yaml(config))
        partial = self.adapter.parent
        record_of_adapter(self.adapter, assembled.weights)
        RunState().write(partial / "state.json")
        (partial / MARKER).write_text("")
        partial.rename(self.folder / "checkpoints" / STEP)
        replace_file(self.folder / "checkpoints" / "last", STEP + "\n")
        environment = describe_environment(fingerprint_files(mixture_of(RunConfig.of(plain))), assembled)
        replace_file(self.folder / ENVIRONMENT, json.dumps(environment, indent=1))
        replace_file(self.folder / FINISHED, json.dumps(asdict(RunState()) | {"seconds": 0.0}, indent=1))


@contextmanager
def _untrained_run(folder: Path, composition: Mapping[str, Any], console: Console) -> Iterator[UntrainedRun | None]:
    """Hold a folder to write such a run; None where the same one stands there already."""
    with FolderLock(folder):
        config = read_config(folder).plain if (folder / FINISHED).is_file() else {}
        if config.get("composition") == parse_json(json.dumps(composition)):
            console.print(f"{folder} was written before: nothing was done", highlight=False, markup=False)
            yield None
            return
        if last_checkpoint(folder) is not None or (folder / "log.jsonl").exists():
            raise UserError(f"{folder} holds another run: choose another folder with out=")
        partial = folder / "checkpoints" / f".{STEP}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield UntrainedRun(folder, partial / "adapter", composition)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def merge_of(choices: Mapping[str, Any], plain: Mapping[str, Any]) -> StaticMerge:
    """The merge that the settings describe."""
    weights = None if choices["weights"] is None else tuple(choices["weights"])
    layers = None if choices["layers"] is None else tuple(choices["layers"])
    return StaticMerge(choices["method"], weights, choices["density"], choices["rank"], plain["seed"], layers)


def open_bare(config: RunConfig) -> Assembled:
    """The base with its trained parts and no adapter, in eval mode."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assembled = new_model(replace(model_spec_of(config), adapter=NoAdapter(), init_from=None), device)
    if config.init_from is not None:
        start = newest_checkpoint(Path(config.init_from))
        notes = refuse_strange_base(start.parent.parent, assembled.weights, is_start=True)
        load_lineage(assembled.model, start)
        assembled = replace(assembled, start=fingerprint_start(assembled.model), notes=notes)
    nn.Module.to(assembled.model, device).eval()
    return assembled


def pick_best(choices: Mapping[str, Any], plain: Mapping[str, Any], run: Path) -> Picked:
    """Score each expert alone, each merge and, where its gates were trained, MoLE: all on one base and one draw.

    Raises:
        UserError: a record or an adapter cannot be read.
    """
    config = RunConfig.of(plain)
    assembled = open_bare(config)
    held_out = open_held_out(config, assembled, choices["split"], choices["limit"], plain["seed"])
    candidates = []
    with tempfile.TemporaryDirectory() as place:
        for name, folder, kept in _candidates(choices, plain, run, assembled.model, Path(place)):
            attached = load_adapter(assembled.model, folder)
            nn.Module.to(assembled.model, next(assembled.model.parameters()).device).eval()
            losses = {domain: domain_loss(assembled, rows) for domain, rows in held_out.rows.items()}
            attached.detach()
            candidates.append(Candidate(name, kept, losses))
    return Picked(tuple(candidates), (f"split {choices['split']}", *held_out.notes))


def _candidates(
    choices: Mapping[str, Any], plain: Mapping[str, Any], run: Path, model: nn.Module, place: Path
) -> Iterator[tuple[str, Path, str | None]]:
    """Name, adapter's folder and, where it stays, the place of each candidate."""
    for expert in choices["experts"]:
        yield f"{Path(expert).name} alone", adapter_folder(Path(expert)), expert
    for method in METHODS:
        is_own = method == choices["method"]
        how = replace(merge_of({**choices, "method": METHODS[0]}, plain), method=method)
        if not is_own:
            merge(model, choices["experts"], how, place / method)
        yield method, newest_checkpoint(run) / "adapter" if is_own else place / method, str(run) if is_own else None
    if choices["method"] == "mole":
        yield "mole", newest_checkpoint(run) / "adapter", str(run)
