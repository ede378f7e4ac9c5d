"""MoLE (arXiv 2404.13628): LoRAs trained apart, frozen, and learned gates that weigh them for each example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from llava_moe.adapters.core.attached import Attached, attach
from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.formats.native_format import write_folder
from llava_moe.adapters.methods.mole_balance import MeanWeightBalance
from llava_moe.adapters.methods.mole_exact import ExactUnit
from llava_moe.adapters.methods.mole_experts import Expert, ExpertBank, ReadExpert, as_expert, read_experts
from llava_moe.adapters.methods.mole_gate import ExpertGate, FollowGate, GatePreHook, OwnGate
from llava_moe.adapters.methods.mole_units import GRANULARITIES, Unit, units_of, whole_units_of
from llava_moe.errors import UserError

GATE = "expert_gate"


@dataclass(frozen=True)
class Mole:
    """y = W x + sum_i G_i * s_i * B_i A_i x, the A_i, B_i trained apart and frozen, G a softmax over them per example.

    G is decided from what the experts would write, as :class:`~llava_moe.adapters.methods.mole_gate.ExpertGate` says;
    only its weights and its temperature train. Experts may differ in rank, scale and targets: a gate weighs those that
    have a part in its unit. With one expert there are no gates, and the adapter is that LoRA to the last bit.

    The paper's E_i holds the residual stream, which its eq. 13 then adds twice; here experts enter as what they add.

    Attributes:
        experts: folders of LoRAs (PEFT's, or of runs); or, in an adapter's own file, descriptions of experts whose
            tensors lie beside it.
        granularity: what has a gate of its own: ``matrix`` each linear, ``layer`` each attention and each MLP,
            ``block`` each decoder layer, ``network`` the whole; see
            :func:`~llava_moe.adapters.methods.mole_units.units_of`.
        temperature: tau at the start; its logarithm is learned.
        balance_coef: weight of :class:`~llava_moe.adapters.methods.mole_balance.MeanWeightBalance` in the objective;
            the paper's alpha.
        mask: 1 or 0 for each expert; one of 0 is left out, of the bank and of the gates' input, and the others'
            weights sum to 1. ``None``: all serve.
        exact: run a unit once for each expert and weigh what comes out, in place of weighing inside its linears; see
            :class:`~llava_moe.adapters.methods.mole_exact.ExactUnit`. A ``matrix`` is exact as it is.

    Raises:
        UserError: a value is out of range.
    """

    method: ClassVar[str] = "mole"
    decides_per_example: ClassVar[bool] = True

    experts: Sequence[str | Expert]
    granularity: str = "matrix"
    temperature: float = 1.0
    balance_coef: float = 0.5
    mask: Sequence[int] | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        entries = [self.experts] if isinstance(self.experts, str) else list(self.experts)
        object.__setattr__(self, "experts", tuple(as_expert(entry) for entry in entries))
        if not self.experts:
            raise UserError("experts is empty: name folders of LoRAs, such as experts=[runs/a,runs/b]")
        if len({isinstance(expert, str) for expert in self.experts}) > 1:
            raise UserError("experts mixes folders and descriptions: give one or the other")
        names = [expert.name for expert in self.experts if isinstance(expert, Expert)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"experts has {twice[0]!r} twice, and tensors go by it: write the adapter again")
        if self.granularity not in GRANULARITIES:
            raise UserError(f"granularity={self.granularity!r} must be one of {', '.join(GRANULARITIES)}")
        if not self.temperature > 0:
            raise UserError(f"temperature={self.temperature} must be above 0")
        if not self.balance_coef >= 0:
            raise UserError(f"balance_coef={self.balance_coef} must not be negative")
        if self.mask is not None:
            mask = tuple(int(bit) for bit in self.mask)
            if len(mask) != len(self.experts) or not set(mask) <= {0, 1} or not any(mask):
                wanted = f"{len(self.experts)} numbers 0 or 1, at least one of them 1"
                raise UserError(f"mask={list(self.mask)} must be {wanted}, for as many experts")
            object.__setattr__(self, "mask", mask)

    def build(self, target_model: TargetModel, segments: Segments) -> Injection:
        """Frozen banks on all linears that an expert adapts, and a gate on every unit where there is a choice."""
        read = self._read(target_model)
        all_experts = [one.expert for one in read]
        _refuse_strangers(all_experts)
        banks = {}
        for name, base in target_model.linears.items():
            here = [one for one in read if target_model.short(name) in one.expert.targets]
            if here:
                banks[name] = ExpertBank(base, [one.expert for one in here], all_experts)
                if all(one.tensors for one in here):
                    banks[name].fill(_tensors_of(here, target_model.short(name)))
        injection = Injection(dict(banks))
        divide = whole_units_of if self.exact else units_of
        for unit in divide(target_model, list(banks), self.granularity):
            self._set_gate(unit, banks, target_model, segments, injection)
        has_gates = any(bank.gate is not None for bank in banks.values())
        if not has_gates or not self.balance_coef:
            return injection
        return replace(injection, load_balance=MeanWeightBalance(), load_balance_coef=self.balance_coef)

    def _read(self, target_model: TargetModel) -> list[ReadExpert]:
        """The experts that are not masked; those from folders with their tensors."""
        folders = [place for place in self.experts if isinstance(place, str)]
        read = read_experts(folders, target_model) or [
            ReadExpert(one, {}) for one in self.experts if isinstance(one, Expert)
        ]
        there = {target_model.short(name) for name in target_model.linears}
        for one in read:
            if strange := sorted(set(one.expert.targets) - there):
                raise UserError(f"experts: {one.expert.name} adapts {strange[0]}, which this model does not have")
        mask = self.mask or [1] * len(read)
        return [one for one, bit in zip(read, mask, strict=True) if bit]

    def _set_gate(
        self,
        unit: Unit,
        banks: Mapping[str, ExpertBank],
        target_model: TargetModel,
        segments: Segments,
        injection: Injection,
    ) -> None:
        """Make the unit's gate, unless only one expert has a part in it."""
        inside = [banks[name] for name in unit.linears]
        names = [expert.name for expert in inside[0].all_experts]
        present = [name for name in names if any(bank.has(name) for bank in inside)]
        if len(present) == 1:
            return
        readers = [banks[name] for name in unit.readers]
        widths = {name: sum(bank.out_features for bank in readers if bank.has(name)) for name in present}
        if not readers:  # the unit is run as a whole and writes to the residual stream
            widths = dict.fromkeys(present, target_model.hidden_size)
        weight = inside[0].base.weight
        is_matrix = unit.linears == (unit.owner,)
        spans_layers = self.granularity == "network" and not is_matrix
        gate = ExpertGate(segments, names, widths, self.temperature, weight.dtype, weight.device, spans_layers)
        for bank in inside:
            bank.gate = OwnGate(gate) if is_matrix else FollowGate(gate)
        if is_matrix:
            inside[0].expert_gate = gate
            return
        injection.modules[f"{unit.owner}.{GATE}" if unit.owner else GATE] = gate
        if unit.reads is None:
            injection.forwards[unit.owner] = ExactUnit(gate, target_model.model.get_submodule(unit.owner))
        else:
            injection.pre_hooks[unit.reads] = GatePreHook(gate, readers)

    def write(self, folder: Path, target_model: TargetModel, tensors: Mapping[str, Tensor]) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``, which need none of the experts' folders."""
        settings = asdict(replace(self, experts=_experts_on(target_model.model), mask=None))
        write_folder(folder, target_model, self.method, settings, tensors)


def mask_experts(attached: Attached, mask: Sequence[int]) -> Attached:
    """Silence experts without training: G'_i = m_i G_i / sum_j m_j G_j (paper, section 3.3, second inference mode).

    Gates go on reading what the masked would write, as they learned to. Where one expert is left its weight is 1: all
    others are taken off (:func:`drop_experts`), and the model is that LoRA to the last bit. What is saved afterwards
    does not hold the mask.

    Args:
        attached: of no use afterwards, where one expert is left.
        mask: 1 or 0 for each expert.

    Returns:
        The handle on the masked model.

    Raises:
        UserError: the mask is not one.
        ValueError: another method is attached.
    """
    config, model = attached.config, attached.model
    if not isinstance(config, Mole):
        raise ValueError(f"{type(config).__name__} has no experts to mask")
    experts = _experts_on(model)
    replace(config, experts=experts, mask=tuple(mask))  # refuses what is no mask
    if sum(mask) == 1:
        return drop_experts(attached, mask)
    kept = frozenset(expert.name for expert, bit in zip(experts, mask, strict=True) if bit)
    for module in model.modules():
        if isinstance(module, ExpertGate | ExpertBank):
            module.kept = kept
    if isinstance(balance := attached.load_balance, MeanWeightBalance):
        balance.is_masked_N = None if all(mask) else tuple(not bit for bit in mask)
    return attached


def drop_experts(attached: Attached, mask: Sequence[int]) -> Attached:
    """Take experts off a model that MoLE is on, without training; the weights of those that stay sum to 1.

    What a gate learned of the others goes with them: their part of its input, and of its output; with more than one
    left, weights are therefore others than :func:`mask_experts` gives. Saving what is returned drops them for good; the
    folder that was loaded holds them still.

    Args:
        attached: of no use afterwards.
        mask: 1 or 0 for each expert.

    Returns:
        The handle that takes its place.

    Raises:
        UserError: the mask is not one, or the experts that stay are read by other linears than all were.
        ValueError: another method is attached.
    """
    config, model = attached.config, attached.model
    if not isinstance(config, Mole):
        raise ValueError(f"{type(config).__name__} has no experts to mask")
    described = replace(config, experts=_experts_on(model), mask=tuple(mask))
    staying = [one for one, bit in zip(described.experts, described.mask or (), strict=True) if bit]
    kept = {one.name for one in staying if isinstance(one, Expert)}
    tensors = {name: tensor.clone() for name, tensor in attached.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, ExpertGate):
            key = f"{attached.short(name)}.weight"
            tensors[key] = _without(tensors[key], module.widths, kept)
    attached.detach()
    masked = attach(model, replace(described, experts=tuple(staying), mask=None), attached.core)
    shapes = {name: tensor.shape for name, tensor in masked.state_dict().items()}
    moved = sorted(name for name, shape in shapes.items() if name not in tensors or tensors[name].shape != shape)
    if moved:
        masked.detach()
        raise UserError(f"mask={list(mask)}: {moved[0]} would read other linears than it learned from: compose again")
    masked.load_state_dict({name: tensors[name] for name in shapes})
    return masked


def _without(e_XK: Tensor, widths: Mapping[str, int], kept: set[str]) -> Tensor:
    """e without the rows that read what is not kept, and the columns that weigh it."""
    parts = dict(zip(widths, e_XK.split(list(widths.values())), strict=True))
    columns = [column for column, name in enumerate(widths) if name in kept]
    rows = [parts[name][:, columns] for name in widths if name in kept]
    return torch.cat(rows) if rows else e_XK[:0, :0]


def _experts_on(model: nn.Module) -> tuple[Expert, ...]:
    """The experts of the banks on a model."""
    return next(module.all_experts for module in model.modules() if isinstance(module, ExpertBank))


def _tensors_of(here: Sequence[ReadExpert], linear: str) -> dict[str, Tensor]:
    """The tensors of one linear's experts, by their names in its bank."""
    return {
        f"experts.{one.expert.name}.{side}.weight": one.tensors[f"{linear}.{side}.weight"]
        for one in here
        for side in ("lora_A", "lora_B")
    }


def _refuse_strangers(experts: Sequence[Expert]) -> None:
    """Refuse an expert that shares no linear with another: no gate would ever weigh it."""
    for expert in experts:
        others = {target for other in experts if other is not expert for target in other.targets}
        if len(experts) > 1 and not others & set(expert.targets):
            raise UserError(
                f"experts: {expert.name} ({expert.origin}) shares no target with the others, so there is "
                "nothing to weigh: compose LoRAs that adapt the same linears"
            )
