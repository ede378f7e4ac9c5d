"""Which linears one gate of MoLE weighs together, and which of them tell it what the experts would write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llava_moe.adapters.core.target_model import TargetModel

GRANULARITIES = ("matrix", "layer", "block", "network")
# Linears of an attention or MLP block that take the block's own input, in the decoders of transformers.
ATTENTION_READERS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv")
MLP_READERS = ("gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "dense_h_to_4h", "w1", "w3")


@dataclass(frozen=True)
class Unit:
    """Linears with one gate.

    Attributes:
        owner: the module that is the unit and gets the gate.
        reads: the module before which the gate decides; ``None`` where the unit is a linear, which asks for itself.
        readers: those of its linears that take the input of ``reads``.
        linears: all that follow the gate.
    """

    owner: str
    reads: str | None
    readers: tuple[str, ...]
    linears: tuple[str, ...]


def units_of(target_model: TargetModel, linears: Sequence[str], granularity: str) -> list[Unit]:
    """Divide adapted linears into units.

    ``matrix``: each is one. ``layer``: those of one attention, those of one MLP (what shares a parent module).
    ``block``: those of one decoder layer. ``network``: all. Units larger than a matrix read what takes the input of
    their first part: q, k and v, or gate and up. A linear that runs before, or in a unit where nothing adapted reads
    the input, is a unit of its own.
    """
    if granularity == "matrix":
        return [_alone(name) for name in linears]
    units: list[Unit] = []
    for owner, members in _grouped(target_model, linears, granularity).items():
        parts: dict[str, list[str]] = {}
        for name in members:
            parts.setdefault(name.rpartition(".")[0], []).append(name)
        reads = next((part for part, names in parts.items() if _readers(names)), None)
        early = []
        for part, names in parts.items():
            if part == reads:
                break
            early += names
        units += [_alone(name) for name in early]
        if reads is not None:
            followers = tuple(name for name in members if name not in early)
            units.append(Unit(owner, reads, _readers(parts[reads]), followers))
    return units


def whole_units_of(target_model: TargetModel, linears: Sequence[str], granularity: str) -> list[Unit]:
    """The same division where a unit is run as a whole, so that it does not matter which of its linears read."""
    if granularity == "matrix":
        return [_alone(name) for name in linears]
    return [
        Unit(owner, None, (), tuple(names)) for owner, names in _grouped(target_model, linears, granularity).items()
    ]


def _grouped(target_model: TargetModel, linears: Sequence[str], granularity: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in linears:
        groups.setdefault(_owner(target_model, name, granularity), []).append(name)
    return groups


def _owner(target_model: TargetModel, name: str, granularity: str) -> str:
    if granularity == "network":
        return target_model.language_model_name
    parent = name.rpartition(".")[0]
    return parent if granularity == "layer" else target_model.block_of(name) or parent


def _readers(names: Sequence[str]) -> tuple[str, ...]:
    for leaves in (ATTENTION_READERS, MLP_READERS):
        found = tuple(name for name in names if name.rpartition(".")[2] in leaves)
        if found:
            return found
    return ()


def _alone(name: str) -> Unit:
    return Unit(name, None, (name,), (name,))
