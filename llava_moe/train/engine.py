"""The engine protocol: what the loop asks of one process or of many, and the engine of one process.

Gradients of several ``backward`` calls add up; ``step`` clips, updates and clears them. Every loss handed to
``backward`` is already divided by the global batch's counts, so ranks *sum*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from llava_moe.train.buckets import bucketed
from llava_moe.train.optimizer import OptimizerSettings, ParameterGroup, build_optimizer
from llava_moe.train.whole_state import MASTER, WholeStateReader, write_states

NUM_CAST_TOGETHER = 1 << 25
"""Half-precision gradients that have copies in fp32 at a time, while they are added: 128 MiB."""


class Engine(Protocol):
    """What the loop needs of a model that is spread over processes."""

    rank: int
    world: int
    device: torch.device
    module: nn.Module
    can_skip: bool

    def forward(self, **inputs: Any) -> Any:
        """Run the model; with several ranks all must call it the same number of times."""
        ...

    def backward(self, loss: torch.Tensor, is_last: bool) -> None:
        """Add the gradients of ``loss``, a share of the global objective; ``is_last`` marks the step's last one."""
        ...

    def step(self, learning_rates: Sequence[float]) -> float:
        """Clip, update with one rate per parameter group, clear; return the norm of the global gradient.

        Where ``can_skip``, a gradient that is not finite updates nothing.
        """
        ...

    def skip(self) -> None:
        """Clear the gradients of this step without an update (only where ``can_skip``)."""
        ...

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over ranks."""
        ...

    def gather(self, value: object) -> list[Any]:
        """Collect one picklable object of each rank, in rank order, on every rank."""
        ...

    def states(self) -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
        """Master and optimizer state of each trained parameter by name, whole, as any engine goes on from them.

        All ranks must go through it; on rank 0 it gives all parameters, whose tensors hold until the next one is asked.
        """
        ...

    def load(self, folder: Path) -> None:
        """Read the files of what any engine's :meth:`states` gave; all ranks call it."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...


class LocalEngine:
    """One process, one device. Half-precision parameters have fp32 masters that the optimizer updates."""

    rank = 0
    world = 1
    can_skip = True

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[ParameterGroup],
        settings: OptimizerSettings,
        device: torch.device,
    ) -> None:
        self.module = module.to(device)
        self.device = device
        self.gradient_clipping = settings.gradient_clipping
        self.live: dict[str, nn.Parameter] = {name: p for group in groups for name, p in group.parameters.items()}
        self.masters: dict[str, torch.Tensor] = {
            name: p if p.dtype == torch.float32 else p.detach().float().requires_grad_()
            for name, p in self.live.items()
        }
        self.optimizer = build_optimizer(groups, self.masters, settings, fused=device.type == "cuda")

    def forward(self, **inputs: Any) -> Any:
        """Run the model."""
        return self.module(**inputs)

    def backward(self, loss: torch.Tensor, is_last: bool) -> None:
        """Add the gradients of ``loss`` to the masters', in fp32; none where nothing that trains was reached."""
        if not loss.requires_grad:
            # A row of text while the projector alone trains.
            return
        loss.backward()
        pairs = self._halves_and_masters()
        masters = {id(half): master for half, master in pairs}
        for halves in bucketed((half for half, _ in pairs if half.grad is not None), NUM_CAST_TOGETHER):
            _add_gradients(halves, [masters[id(half)] for half in halves])

    def _halves_and_masters(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        pairs = [(parameter, self.masters[name]) for name, parameter in self.live.items()]
        return [(half, master) for half, master in pairs if half is not master]

    def step(self, learning_rates: Sequence[float]) -> float:
        """Clip, update the masters with one rate per parameter group, copy them to the parameters, clear.

        The whole gradient g is scaled by min(1, c / (|g| + 1e-6)), with c = ``gradient_clipping`` (0: not at all). One
        that is not finite updates nothing.

        Returns:
            |g|, the L2 norm over all trained parameters before clipping.
        """
        for group, rate in zip(self.optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = rate
        limit = self.gradient_clipping if self.gradient_clipping > 0 else float("inf")
        norm = float(nn.utils.clip_grad_norm_(list(self.masters.values()), limit))
        # The loop counts one that is not finite as left out: one update with it would make every weight NaN.
        if math.isfinite(norm):
            self.optimizer.step()
            if pairs := self._halves_and_masters():
                with torch.no_grad():
                    torch._foreach_copy_([half for half, _ in pairs], [master for _, master in pairs])
        self.skip()
        return norm

    def skip(self) -> None:
        """Clear the gradients of this step without an update."""
        self.optimizer.zero_grad(set_to_none=True)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The same tensor: there is one rank."""
        return values

    def gather(self, value: object) -> list[Any]:
        """The value alone: there is one rank."""
        return [value]

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """Copies of the fp32 masters by name, on the CPU."""
        return {name: master.detach().to("cpu", copy=True) for name, master in self.masters.items()}

    def states(self) -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
        """Masters and AdamW's state by name: the tensors themselves, which the next step changes."""
        for name, master in self.masters.items():
            state = {key: torch.as_tensor(value) for key, value in self.optimizer.state.get(master, {}).items()}
            yield name, {MASTER: master.detach(), **state}

    def save(self, folder: Path) -> None:
        """Write masters and AdamW's state (:mod:`llava_moe.train.whole_state`)."""
        write_states(folder, self.states())

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote into masters, parameters and optimizer.

        Raises:
            OSError: there is no such file, or it is no regular one.
            SafetensorError: it is damaged.
            ValueError: it lacks a parameter's state, or holds one of another shape or one that is not finite.
        """
        reader = WholeStateReader(folder)
        reader.check({name: master.shape for name, master in self.masters.items()})
        with torch.no_grad():
            for name, master in self.masters.items():
                state = reader.read(name)
                master.copy_(state.pop(MASTER))
                self.live[name].copy_(master)
                # AdamW keeps its step count on the CPU unless it is fused.
                self.optimizer.state[master] = {
                    kind: value if kind == "step" and self.device.type == "cpu" else value.to(self.device)
                    for kind, value in state.items()
                }

    def barrier(self) -> None:
        """Go on: there is one rank."""
        return None


def _add_gradients(halves: Sequence[torch.Tensor], masters: Sequence[torch.Tensor]) -> None:
    """Move gradients to the masters', in fp32: a sum of many half-precision gradients loses the small ones."""
    gradients = [torch.empty_like(master, requires_grad=False) for master in masters]
    torch._foreach_copy_(gradients, [half.grad for half in halves if half.grad is not None])
    standing = [(one.grad, gradient) for one, gradient in zip(masters, gradients, strict=True) if one.grad is not None]
    if standing:
        torch._foreach_add_([total for total, _ in standing], [gradient for _, gradient in standing])
    for half, master, gradient in zip(halves, masters, gradients, strict=True):
        half.grad, master.grad = None, gradient if master.grad is None else master.grad
