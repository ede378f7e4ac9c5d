"""A merge as a run's folder, and candidates opened one after the other on one base to be scored."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from llava_moe.adapters import NoAdapter, load_adapter
from llava_moe.adapters.experts import adapter_folder
from llava_moe.assemble import Assembled, load_lineage, new_model, newest_checkpoint, recipe_of
from llava_moe.commands.compose_config import as_yaml
from llava_moe.commands.environment import describe_environment
from llava_moe.commands.export_data import open_held_out
from llava_moe.compose.pick import Candidate, Picked
from llava_moe.compose.static_merge import METHODS, StaticMerge, merge
from llava_moe.errors import UserError
from llava_moe.export.held_out import domain_loss
from llava_moe.train.checkpoint import MARKER, last_checkpoint, write_atomically
from llava_moe.train.folder import FINISHED, FolderLock, claim_configuration
from llava_moe.train.state import RunState

STEP = "step-000000"


def write_merge(choices: Mapping[str, Any], plain: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Merge the experts and write a run's folder with its one checkpoint; a finished one is left as it is.

    Raises:
        UserError: the folder holds another run, PEFT is missing, or the merge cannot be made.
    """
    how = merge_of(choices, plain)
    composition = {"experts": list(choices["experts"]), **asdict(how)}
    # What a merge does not use, such as the gates' learning rate, is no difference between two of them.
    config = {**plain, "adapter": {}, "composition": json.loads(json.dumps(composition))}
    with FolderLock(folder):
        if (folder / FINISHED).is_file() and _composition(folder) == config["composition"]:
            console.print(f"{folder} was merged before: nothing was done", highlight=False, markup=False)
            return
        if last_checkpoint(folder) is not None or (folder / "log.jsonl").exists():
            raise UserError(f"{folder} holds another run: choose another folder with out=")
        assembled = open_bare(plain)
        partial = folder / "checkpoints" / f".{STEP}.partial"
        (partial / "adapter").mkdir(parents=True, exist_ok=True)
        lora = merge(assembled.model, choices["experts"], how, partial / "adapter")
        RunState().write(partial / "state.json")
        config["adapter"] = {"_target_": "llava_moe.adapters.Lora", **json.loads(json.dumps(asdict(lora)))}
        claim_configuration(folder, config, as_yaml(config))
        (partial / MARKER).write_text("")
        partial.rename(folder / "checkpoints" / STEP)
        write_atomically(folder / "checkpoints" / "last", STEP + "\n")
        environment = describe_environment(plain, assembled.model)
        write_atomically(folder / "environment.json", json.dumps(environment, indent=1))
        write_atomically(folder / FINISHED, json.dumps(asdict(RunState()) | {"seconds": 0.0}, indent=1))
    experts = " + ".join(choices["experts"])
    console.print(f"merged {experts} by {how.method}: a LoRA of rank {lora.r}", highlight=False, markup=False)


def _composition(folder: Path) -> Any:
    digest = folder / ".config.json"
    flat = json.loads(digest.read_text(encoding="utf-8")) if digest.is_file() else {}
    return {key.removeprefix("composition."): value for key, value in flat.items() if key.startswith("composition.")}


def merge_of(choices: Mapping[str, Any], plain: Mapping[str, Any]) -> StaticMerge:
    """The merge that the settings describe."""
    weights = None if choices["weights"] is None else tuple(choices["weights"])
    return StaticMerge(choices["method"], weights, choices["density"], choices["rank"], plain["seed"])


def open_bare(plain: Mapping[str, Any]) -> Assembled:
    """The base with its trained parts and no adapter, in eval mode."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assembled = new_model(replace(recipe_of(plain), adapter=NoAdapter(), init_from=None), device)
    if plain["init_from"] is not None:
        load_lineage(assembled.model, newest_checkpoint(Path(plain["init_from"])))
    nn.Module.to(assembled.model, device).eval()
    return assembled


def pick_best(choices: Mapping[str, Any], plain: Mapping[str, Any], run: Path) -> Picked:
    """Score each expert alone, each merge and, where its gates were trained, MoLE: all on one base and one draw.

    Raises:
        UserError: a record or an adapter cannot be read.
    """
    assembled = open_bare(plain)
    held_out = open_held_out(plain, assembled, choices["split"], choices["limit"], plain["seed"])
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
