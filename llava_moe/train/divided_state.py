"""What DeepSpeed divides over processes, put together and taken apart again, one parameter at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from llava_moe.errors import UserError
from llava_moe.train.collectives import own_device, sum_over_ranks
from llava_moe.train.safe_load import tensors_only
from llava_moe.train.whole_state import MASTER

MOMENTS = ("exp_avg", "exp_avg_sq")


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """The shape of a whole parameter, which ZeRO-3 leaves empty."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


class DividedState:
    """Masters and AdamW's state of an engine of DeepSpeed (ZeRO 1 to 3), by parameter.

    AdamW's state is made before the first step: DeepSpeed binds it to parameters once, behind that step, and a part of
    the model that the step did not reach would never be bound. AdamW counts steps by flat tensor, which holds the
    parameters of a group: where a file tells them counts of their own, the group goes on with the largest.
    """

    def __init__(self, optimizer: Any) -> None:
        """Bind AdamW's state to the parameters.

        Args:
            optimizer: DeepSpeed's, around AdamW.
        """
        self._zero, self._adamw = optimizer, optimizer.optimizer
        self._flat_of: dict[int, torch.Tensor] = {}
        for parameters, flat in _flat_groups(optimizer):
            self._flat_of |= {id(one): flat for one in parameters}
            moments = {key: torch.zeros_like(flat, requires_grad=False) for key in MOMENTS}
            self._adamw.state[flat] = {"step": torch.zeros(()), **moments}
        self.bind()

    def bind(self) -> None:
        """Let the parameters know AdamW's tensors, after others took their place."""
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def master(self, parameter: nn.Parameter) -> torch.Tensor:
        """The whole fp32 value; all ranks must call it."""
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(parameter).reshape(shape_of(parameter))

    def read(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """Master and AdamW's state, whole; the master alone where no step reached it. All ranks must call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state = {MASTER: self.master(parameter)}
        step = self._adamw.state[self._flat_of[id(parameter)]]["step"]
        if float(step) == 0:
            return state
        for key in MOMENTS:
            state[key] = safe_get_full_optimizer_state(parameter, key).reshape(shape_of(parameter))
        return state | {"step": step.clone()}

    def write(self, parameter: nn.Parameter, state: Mapping[str, torch.Tensor]) -> None:
        """Take what :meth:`read` gave, wherever; all ranks must call it."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        step = self._adamw.state[self._flat_of[id(parameter)]]["step"]
        if "step" in state:
            step.copy_(torch.maximum(step, state["step"].to(step)))
        if hasattr(parameter, "ds_tensor"):
            _write_divided(parameter, state)
            return
        safe_set_full_fp32_param(parameter, state[MASTER])
        parameter.data.copy_(state[MASTER])
        for key in MOMENTS:
            if key in state:
                safe_set_full_optimizer_state(parameter, state[key], key)


class UndividedState:
    """The same of ZeRO 0 in fp32, where AdamW holds the parameters themselves."""

    def __init__(self, adamw: torch.optim.Optimizer) -> None:
        self._adamw = adamw

    def bind(self) -> None:
        """Nothing is bound."""

    def master(self, parameter: nn.Parameter) -> torch.Tensor:
        """The parameter's own value."""
        return parameter.detach()

    def read(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """Master and AdamW's state; the master alone where no step reached it."""
        return {MASTER: parameter.detach(), **self._adamw.state.get(parameter, {})}

    def write(self, parameter: nn.Parameter, state: Mapping[str, torch.Tensor]) -> None:
        """Take what :meth:`read` gave, wherever."""
        parameter.copy_(state[MASTER])
        self._adamw.state[parameter] = {
            # AdamW keeps its step count on the CPU.
            kind: value if kind == "step" else value.to(parameter.device)
            for kind, value in state.items()
            if kind != MASTER
        }


def _flat_groups(optimizer: Any) -> Iterator[tuple[list[nn.Parameter], torch.Tensor]]:
    """Parameters, and the flat fp32 tensor that this rank holds of them: DeepSpeed has a name for it by stage."""
    for groups, flats in (
        ("bit16_groups", "single_partition_of_fp32_groups"),
        ("bf16_groups", "fp32_groups_flat_partition"),
        ("fp16_groups", "fp32_partitioned_groups_flat"),
    ):
        if hasattr(optimizer, flats):
            yield from zip(getattr(optimizer, groups), getattr(optimizer, flats), strict=True)
            return
    raise TypeError(f"{type(optimizer).__name__} of DeepSpeed holds no flat masters that are known here")


def _write_divided(parameter: nn.Parameter, state: Mapping[str, torch.Tensor]) -> None:
    """Give this rank its part of a parameter of ZeRO-3, whose parts are of one length, the last one filled up."""
    import deepspeed
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    rank, length = dist.get_rank(), parameter.ds_tensor.numel()  # type: ignore[attr-defined]

    def part_of(whole: torch.Tensor) -> torch.Tensor:
        padded = whole.new_zeros(length * dist.get_world_size())
        padded[: whole.numel()] = whole.reshape(-1)
        return padded[rank * length : (rank + 1) * length]

    safe_set_local_fp32_param(parameter, part_of(state[MASTER]))
    for key in MOMENTS:
        if key in state:
            safe_set_local_optimizer_state(parameter, part_of(state[key]), key)
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        if rank == 0:
            parameter.data.copy_(state[MASTER])


class UnreachedGroups:
    """Groups of parameters that no sample of a step reaches keep weights, moments and their count of steps.

    DeepSpeed hands AdamW zeros for them, which would move them by their momentum: in a step without any image, the
    projector. One process gives them no gradient at all. Two differences are left: a step without any supervised token
    has zeros in one process, too, and moves; and here the rule holds for a group, there for each parameter.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._withheld: list[tuple[torch.Tensor, torch.Tensor]] = []
        optimizer.register_step_pre_hook(self._withhold)
        optimizer.register_step_post_hook(self._give_back)

    def _withhold(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        groups = [[one for one in group["params"] if one.grad is not None] for group in optimizer.param_groups]
        reached = [float(any(bool(one.grad.any()) for one in group)) for group in groups]
        anywhere = sum_over_ranks(torch.tensor(reached, device=own_device())).tolist()
        for group, count in zip(groups, anywhere, strict=True):
            for one in group if count == 0 else ():
                # DeepSpeed owns the gradient: with an offloaded optimizer it is used again in the next step.
                self._withheld.append((one, one.grad))
                one.grad = None

    def _give_back(self, *_: object) -> None:
        for one, gradient in self._withheld:
            one.grad = gradient
        self._withheld = []


def load_own_files(engine: Any, folder: Path, tag: str) -> None:
    """Read DeepSpeed's own files, one for each process, as earlier run folders hold them; all ranks call it.

    Raises:
        UserError: they were written by another number of processes or another stage, or hold more than tensors.
    """
    from deepspeed.runtime.zero.utils import ZeRORuntimeException

    world = dist.get_world_size()
    written = len(list(folder.glob("random-rank*.safetensors")))
    if written != world or not (folder / tag).is_dir():
        raise UserError(
            f"{folder} was not written by {world} processes with DeepSpeed {tag}: resume with the number "
            f"of processes ({written}) and the parallel= that wrote it"
        )
    try:
        with tensors_only(folder, _written_classes()):
            path, _ = engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False)
    except ZeRORuntimeException as error:
        raise UserError(f"{folder}: {str(error).splitlines()[0]}") from error
    if path is None:
        raise UserError(f"{folder} holds no DeepSpeed state")


def _written_classes() -> list[Any]:
    """Classes that DeepSpeed writes into its checkpoints beside tensors: they hold numbers alone."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
