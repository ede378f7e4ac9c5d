"""Whether the weights that a run stands on are still those that it was trained on, by what its folder recorded.

A run keeps what it trained; its base, and what ``init_from`` gave it, lie elsewhere and are found by name. Under that
name other weights may lie by now, or in the folder that a command is called from: of the same shapes they would load
without a word. ``environment.json`` therefore holds a fingerprint of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import nn

from llava_moe.embedded_base import EmbeddedBase, checked_version, parts_of, read_version, say
from llava_moe.errors import UserError
from llava_moe.files.our_files import read_object
from llava_moe.model.architecture import Architecture
from llava_moe.model.build import build_base
from llava_moe.model.fingerprint import base_fingerprint, layers_fingerprint, projector_fingerprint

RECORD = "environment.json"
_SHAPE = {
    **{"base_model?": str, "base_layers?": str, "start?": {str: str}},
    "embedded_base?": {"version": int, "fingerprint": str, "parts": {str: str}},
    **{"llava_moe?": (str, NoneType), "commit?": (str, NoneType)},
}
PARTS = {"projector": "projector.safetensors", "base": "model/base.safetensors"}
"""What a start gives to a model, and the file by which a checkpoint replaces it."""


def fingerprint_start(model: nn.Module) -> dict[str, str]:
    """Fingerprints of a bare model's projector and base parts as ``init_from`` left them; none of a float16 model."""
    if next(model.parameters()).dtype == torch.float16:
        return {}  # it rounds otherwise than bfloat16
    return {"projector": projector_fingerprint(model), "base": layers_fingerprint(model)}


@dataclass(frozen=True)
class BaseWeights:
    """What the weights of an opened base are known by.

    Attributes:
        dtype: the precision that it was opened in.
        whole: :func:`~llava_moe.model.fingerprint.base_fingerprint`; "" where no weights were opened. The rows of new
            tokens are the mean of the others, which rounds otherwise in another precision: it is compared in one alone.
        layers: :func:`~llava_moe.model.fingerprint.layers_fingerprint`, the same in fp32 and bf16; "" in float16.
        embedded: the version of the embedded base whose ``parts`` it is made of; None where it is made of none, or
            no weights were opened.
    """

    architecture: Architecture
    dtype: torch.dtype
    whole: str = ""
    layers: str = ""
    parts: tuple[str, ...] = ()
    embedded: EmbeddedBase | None = None

    @classmethod
    def of(cls, model: nn.Module, architecture: Architecture, dtype: torch.dtype) -> BaseWeights:
        """Of a model as its base was opened.

        Raises:
            UserError: the files of the embedded base are not those of its version.
        """
        parts = parts_of(architecture)
        layers = "" if dtype == torch.float16 else layers_fingerprint(model)
        version = checked_version(parts) if parts else None
        return cls(architecture, dtype, base_fingerprint(model), layers, parts, version)

    def record(self) -> dict[str, Any]:
        """What ``environment.json`` holds of it."""
        told: dict[str, Any] = {"base_model": self.whole}
        if self.layers:
            told["base_layers"] = self.layers
        return told | record_embedded(self.architecture, self.embedded)

    def __str__(self) -> str:
        return f"weights {self.whole[:8]}" if self.embedded is None else str(self.embedded)


def record_embedded(architecture: Architecture, embedded: EmbeddedBase | None) -> dict[str, Any]:
    """What ``environment.json`` holds of the embedded base that an architecture is made of."""
    if embedded is None:
        return {}
    parts = {part: embedded.parts[part] for part in parts_of(architecture)}
    return {"embedded_base": {"version": embedded.version, "fingerprint": embedded.fingerprint, "parts": parts}}


def refuse_other_embedded(run: Path, architecture: Architecture) -> None:
    """Refuse a run that recorded another version of the embedded base than is here: no weights are opened.

    Earlier releases recorded no version. Weights that are an earlier version's are known all the same.

    Args:
        architecture: what the run is opened on.

    Raises:
        UserError: naming both, or the record is damaged.
    """
    if parts := parts_of(architecture):
        _refuse_other_version(run, _recorded(run), read_version(), parts)


def _refuse_other_version(run: Path, told: Mapping[str, Any], here: EmbeddedBase, parts: Sequence[str]) -> None:
    before, named = told.get("embedded_base"), here.named(told.get("base_model", ""))
    if before:
        named, theirs = say(before["version"], before["fingerprint"]), before["parts"]
        is_other = any(theirs[part] != here.parts.get(part) for part in parts if part in theirs)
    else:
        is_other = named not in (None, str(here))
    if is_other:
        raise UserError(_other_embedded(run, str(named), here, told))


def refuse_other_base(run: Path, trained_in: torch.dtype, here: BaseWeights, *, is_start: bool = False) -> str | None:
    """Refuse a base that is another than the one that a run was trained on.

    Args:
        trained_in: the precision that the run was trained in.
        is_start: the run is what another is started from, on a base that is named by the other.

    Returns:
        A line to tell where the run recorded nothing of its base, which is an embedded one: it may be another version.

    Raises:
        UserError: it is another, or the record is damaged.
    """
    told = _recorded(run)
    if here.embedded is not None:
        _refuse_other_version(run, told, here.embedded, here.parts)
    before, now = _comparable(told, trained_in, here)
    if before != now:
        raise UserError(_other_base(run, before, now, told, here, is_start))
    # Where nothing was recorded there is nothing to hold it against.
    if here.embedded is None or before or told.get("embedded_base"):
        return None
    return f"{run} recorded nothing of its base: whether it was trained on {here}, which is here, cannot be told"


def _comparable(told: Mapping[str, Any], trained_in: torch.dtype, here: BaseWeights) -> tuple[str, str]:
    """The fingerprint that a run recorded, and the one here that it can be held against; none where there is none."""
    whole, layers = told.get("base_model", ""), told.get("base_layers", "")
    if whole and trained_in == here.dtype:
        return whole, here.whole
    if layers and here.layers:
        return layers, here.layers
    if whole and here.embedded is not None:
        # It is small: opened once more as the run had it.
        return whole, base_fingerprint(build_base(here.architecture, trained_in).model)
    return "", ""


def _other_base(run: Path, before: str, now: str, told: Mapping[str, Any], here: BaseWeights, is_start: bool) -> str:
    if here.embedded is not None:
        named = here.embedded.named(before) or f"a base whose version it did not record (weights {before[:8]})"
        return _other_embedded(run, named, here.embedded, told)
    if is_start:
        return (
            f"{run} was trained on another base (weights {before[:8]}) than the one it would be opened on (weights "
            f"{now[:8]}): give the model= that it was trained on, or train it again on this one"
        )
    return (
        f"{run}: its base (model.architecture of its config.yaml) holds other weights than those it was trained on "
        f"({now[:8]} there, {before[:8]} then): put that base back, or train again"
    )


def _other_embedded(run: Path, named: str, here: EmbeddedBase, told: Mapping[str, Any]) -> str:
    release, commit = told.get("llava_moe"), told.get("commit")
    facts = ", ".join([*([release] if release else []), *([f"commit {commit[:9]}"] if commit else [])])
    return (
        f"{run} was trained on {named}, and this llava-moe has {here}: train again (out=FOLDER), or install the "
        f"llava-moe release whose base it was{f' (it was trained with {facts})' if facts else ''}"
    )


def refuse_unlike_bases(one: Path, other: Path, *, is_one_precision: bool) -> None:
    """Refuse two runs that recorded bases that differ; no weights are opened.

    Args:
        is_one_precision: both were trained in the same.

    Raises:
        UserError: naming both, or a record is damaged.
    """
    first, second = _recorded(one), _recorded(other)
    kinds = ["base_layers", *(["base_model"] if is_one_precision else [])]
    pairs = [(first[kind], second[kind]) for kind in kinds if first.get(kind) and second.get(kind)]
    if pairs and pairs[0][0] != pairs[0][1]:
        theirs = [_in_words(told, weights) for told, weights in zip((first, second), pairs[0], strict=True)]
        raise UserError(f"{one} was trained on {theirs[0]} and {other} on {theirs[1]}: give runs of one base")


def _in_words(told: Mapping[str, Any], weights: str) -> str:
    """A recorded base, with its version if it has one."""
    embedded = told.get("embedded_base")
    return f"weights {weights[:8]}" if not embedded else say(embedded["version"], embedded["fingerprint"])


def refuse_other_start(checkpoint: Path, found: Path, now: Mapping[str, str]) -> None:
    """Refuse what ``init_from`` leads to where it is not what a run was started from.

    Parts that the run's own checkpoint holds do not count: they are replaced.

    Args:
        checkpoint: of the run.
        found: the checkpoint that its ``init_from`` leads to.
        now: :func:`fingerprint_start` of what that gives.

    Raises:
        UserError: it is another, or the record is damaged.
    """
    run = checkpoint.parent.parent
    before: Mapping[str, str] = _recorded(run).get("start") or {}
    for part in now:
        if before.get(part, now[part]) != now[part] and not (checkpoint / PARTS[part]).is_file():
            raise UserError(
                f"{run} was started from another {part} than {found} holds: call the command from the folder where it "
                "was trained, or put the run that init_from names back beside it"
            )


def refuse_changed_start(checkpoint: Path, start: Mapping[str, str]) -> None:
    """Refuse to resume a run where what ``init_from`` gives is not what it was started from.

    Args:
        checkpoint: of the run, whose own parts do not count: they are replaced.
        start: fingerprints of what was given now.

    Raises:
        UserError: it is another, or the record is damaged.
    """
    run = checkpoint.parent.parent
    before: Mapping[str, str] = _recorded(run).get("start") or {}
    for part, now in start.items():
        if before.get(part, now) != now and not (checkpoint / PARTS[part]).is_file():
            raise UserError(
                f"{run} was started from another {part} than init_from holds by now: put that run back as it was, or "
                "choose another folder with out="
            )


def _recorded(run: Path) -> dict[str, Any]:
    path = run / RECORD
    if not path.is_file():
        return {}
    return read_object(path, "put it back, or delete it to go without", _SHAPE)
