"""The bank's arithmetic as autograd functions that keep little: what is cheap to compute again is not kept.

Gradients, with h = A x, u = M(h), y = W x + s B u and dy given: dB = s dy^T u, du = s dy B, dh by M's own rule,
dA = dh^T x, dx = dy W + dh A. Kept for backward are x, h and the gate's decision; u, dropout's mask, casts of x and,
for a linear behind a gated activation, that activation are computed again, by the operations of the forward pass.

Whatever is kept goes through ``save_for_backward``, so that activation checkpointing and saved-tensor hooks see it. The
frozen base keeps nothing of its input; a dense one is computed beside the reading, any other (quantised, partitioned,
hooked) is called as the module it is.

Shape suffixes: B rows, T tokens, N = B * T, D in, O out, F feed-forward, R bank width (reading), W (writing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]
Mix = Callable[..., Tensor]


@dataclass(frozen=True)
class SeededDropout:
    """One dropout mask, named by a seed: bernoulli(1 - p) / (1 - p) from a generator of its own.

    Drawn again from the seed in backward, it costs no memory. :meth:`draw` takes the seed from torch's global CPU
    generator, which checkpointing restores and a run's checkpoint keeps.
    """

    seed: int
    p: float

    @classmethod
    def draw(cls, p: float) -> SeededDropout | None:
        """A mask from the global generator; ``None`` at p = 0."""
        return cls(int(torch.randint(2**62, ())), p) if p > 0 else None

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` with a share p of its elements zeroed and the rest scaled by 1 / (1 - p)."""
        generator = torch.Generator(x.device).manual_seed(self.seed)
        # The factor is a Python number: as a bf16 tensor it would be rounded, 0.2 % off at p = 0.05.
        return torch.empty_like(x).bernoulli_(1 - self.p, generator=generator).mul_(x).mul_(1 / (1 - self.p))


@dataclass(frozen=True)
class ExpertGroups:
    """Tokens in the order of their experts: ``sizes[k]`` rows for expert k."""

    sizes: tuple[int, ...]


def activate(gate_NF: Tensor, up_NF: Tensor, activation: Activation) -> Tensor:
    """h = activation(g) * u, keeping g and u alone; the product rule runs on activation(g) computed again."""
    return _Activate.apply(activation, gate_NF, up_NF)


def read(
    x_ND: Tensor,
    readers: Sequence[Tensor],
    dropping: SeededDropout | None = None,
    runs: ExpertGroups | None = None,
    source: tuple[Activation, Tensor, Tensor] | None = None,
) -> Tensor:
    """z = x [A_1; A_2; ...]^T in one product, in the dtype of the readers; keeps ``x_ND`` as it came.

    Args:
        readers: A's [R_i, D] that read one input. With ``runs``, the rows of each are cut evenly into experts and a
            token meets its own expert's alone: z has sum(R_i) / K columns.
        dropping: applied to ``x_ND`` before all readers.
        source: (activation, g, u) of which ``x_ND`` is the gated product: they are kept in its place.
    """
    return _apply_read(x_ND, readers, dropping, runs, source, None)[0]


def read_beside(
    x_ND: Tensor,
    base: nn.Linear,
    readers: Sequence[Tensor],
    dropping: SeededDropout | None = None,
    runs: ExpertGroups | None = None,
    source: tuple[Activation, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`read`, and y = W x + b of a frozen dense ``base`` with it: (z, y).

    Their gradients of x then meet in one place, dx = dy W + dz A, without a second [N, D] tensor.
    """
    z_NR, *y = _apply_read(x_ND, readers, dropping, runs, source, base)
    return z_NR, y[0]


def _apply_read(
    x_ND: Tensor,
    readers: Sequence[Tensor],
    dropping: SeededDropout | None,
    runs: ExpertGroups | None,
    source: tuple[Activation, Tensor, Tensor] | None,
    base: nn.Linear | None,
) -> tuple[Tensor, ...]:
    activation, kept = (None, (x_ND,)) if source is None else (source[0], source[1:])
    frozen = () if base is None else (base.weight, *(() if base.bias is None else (base.bias,)))
    return _Read.apply(_Reading(dropping, runs, activation, len(kept), len(frozen)), x_ND, *kept, *frozen, *readers)


def write(
    y_NO: Tensor,
    z_BTR: Tensor,
    writer_OW: Tensor,
    scale: float,
    mix: Mix,
    decision: Sequence[Tensor],
    runs: ExpertGroups | None = None,
) -> Tensor:
    """y += s B mix(z, *decision), in place; keeps z and the decision, not what they are mixed to.

    Args:
        mix: pure; called again in backward.
        runs: as in :func:`read`; the columns of B are cut evenly into experts.
    """
    return _Write.apply(_Writing(mix, scale, runs), y_NO, z_BTR, writer_OW, *decision)


@dataclass(frozen=True)
class _Reading:
    dropping: SeededDropout | None
    runs: ExpertGroups | None
    activation: Activation | None
    num_kept: int
    num_frozen: int

    def parts_of(self, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """What stands for the input, the base's weight and bias, the readers."""
        end = self.num_kept + self.num_frozen
        return tensors[: self.num_kept], tensors[self.num_kept : end], tensors[end:]

    def input_of(self, kept: Sequence[Tensor]) -> Tensor:
        return kept[0] if self.activation is None else self.activation(kept[0]) * kept[1]

    def banks_of(self, readers: Sequence[Tensor]) -> list[Tensor]:
        """What each run of tokens is multiplied with: all readers, or one expert's rows of each."""
        if self.runs is None:
            return [readers[0] if len(readers) == 1 else torch.cat(list(readers))]
        num_experts = len(self.runs.sizes)
        return [torch.cat(rows) for rows in zip(*(a.chunk(num_experts) for a in readers), strict=True)]

    def sizes_of(self, x_ND: Tensor) -> tuple[int, ...]:
        return (x_ND.shape[0],) if self.runs is None else self.runs.sizes


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: _Reading, x_ND: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.spec, ctx.dtype = spec, x_ND.dtype
        # The input is for the gradients of the readers alone: frozen ones (MoLE's experts) keep nothing of it.
        ctx.num_kept = spec.num_kept if any(ctx.needs_input_grad[2 + spec.num_kept + spec.num_frozen :]) else 0
        ctx.save_for_backward(*tensors[spec.num_kept - ctx.num_kept :])
        _, frozen, readers = spec.parts_of(tensors)
        banks, sizes = spec.banks_of(readers), spec.sizes_of(x_ND)
        read_ND = (x_ND if spec.dropping is None else spec.dropping(x_ND)).to(banks[0].dtype)
        z_NR = _joined([F.linear(x_nD, a_RD) for x_nD, a_RD in zip(read_ND.split(sizes), banks, strict=True)])
        return (z_NR, F.linear(x_ND, *frozen)) if frozen else (z_NR,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz_NR: Tensor, *dy: Tensor) -> tuple[Any, ...]:
        spec: _Reading = ctx.spec
        saved = ctx.saved_tensors  # once: checkpointing hands each tensor out a single time
        kept, frozen, readers = replace(spec, num_kept=ctx.num_kept).parts_of(saved)
        banks, sizes = spec.banks_of(readers), spec.sizes_of(dz_NR)
        dx_ND = None
        if ctx.needs_input_grad[1]:
            dx_ND = _Read.gradient_of_input(spec, dz_NR, banks, dy[0] @ frozen[0] if frozen else None, ctx.dtype)
        silent = (None,) * (spec.num_kept + spec.num_frozen)
        if not ctx.num_kept:
            return (None, dx_ND, *silent, *[None] * len(readers))
        x_ND = spec.input_of(kept)
        x_ND = (x_ND if spec.dropping is None else spec.dropping(x_ND)).to(banks[0].dtype)
        dbanks = [dz_nR.t() @ x_nD for dz_nR, x_nD in zip(dz_NR.split(sizes), x_ND.split(sizes), strict=True)]
        widths = [a_RD.shape[0] // len(sizes) for a_RD in readers]
        per_reader = zip(*(dbank.split(widths) for dbank in dbanks), strict=True)
        return (None, dx_ND, *silent, *[_joined(list(parts)) for parts in per_reader])

    @staticmethod
    def gradient_of_input(
        spec: _Reading, dz_NR: Tensor, banks: Sequence[Tensor], dx_ND: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """dz A, added in place to the base's ``dx_ND`` where nothing stands between them."""
        sizes = spec.sizes_of(dz_NR)
        blocks = list(zip(dz_NR.split(sizes), banks, strict=True))
        if dx_ND is not None and spec.dropping is None and dx_ND.dtype == dz_NR.dtype:
            for dx_nD, (dz_nR, a_RD) in zip(dx_ND.split(sizes), blocks, strict=True):
                dx_nD.addmm_(dz_nR, a_RD)
            return dx_ND
        through_ND = _joined([dz_nR @ a_RD for dz_nR, a_RD in blocks]).to(dtype)
        through_ND = through_ND if spec.dropping is None else spec.dropping(through_ND)
        return through_ND if dx_ND is None else dx_ND.add_(through_ND)


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activation: Activation, gate_NF: Tensor, up_NF: Tensor) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(gate_NF, up_NF)
        return activation(gate_NF) * up_NF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_NF: Tensor) -> tuple[Any, ...]:
        gate_NF, up_NF = ctx.saved_tensors
        with torch.enable_grad():
            gate_NF = gate_NF.detach().requires_grad_()
            active_NF = ctx.activation(gate_NF)
        (dgate_NF,) = torch.autograd.grad(active_NF, gate_NF, dh_NF * up_NF)
        return None, dgate_NF, dh_NF * active_NF.detach()


@dataclass(frozen=True)
class _Writing:
    mix: Mix
    scale: float
    runs: ExpertGroups | None

    def blocks_of(self, tensor_NX: Tensor) -> tuple[Tensor, ...]:
        return tensor_NX.split((tensor_NX.shape[0],) if self.runs is None else self.runs.sizes)

    def banks_of(self, writer_OW: Tensor) -> tuple[Tensor, ...]:
        return (writer_OW,) if self.runs is None else writer_OW.chunk(len(self.runs.sizes), 1)


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: _Writing, y_NO: Tensor, z_BTR: Tensor, writer_OW: Tensor, *decision: Tensor) -> Tensor:
        ctx.spec = spec
        ctx.save_for_backward(z_BTR, writer_OW, *decision)
        ctx.mark_dirty(y_NO)
        u_NW = spec.mix(z_BTR, *decision).flatten(0, -2)
        for y_nO, u_nW, b_OW in zip(spec.blocks_of(y_NO), spec.blocks_of(u_NW), spec.banks_of(writer_OW), strict=True):
            # addmm rounds once and keeps no [N, O] product; the scale rides in it for nothing.
            y_nO.addmm_(u_nW, b_OW.t(), alpha=spec.scale)
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Any, ...]:
        spec: _Writing = ctx.spec
        z_BTR, writer_OW, *decision = ctx.saved_tensors
        needs = (ctx.needs_input_grad[2], *ctx.needs_input_grad[4:])
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_(need) for t, need in zip((z_BTR, *decision), needs, strict=True)]
            u_NW = spec.mix(*inputs).flatten(0, -2)
        blocks, banks = spec.blocks_of(dy_NO), spec.banks_of(writer_OW)
        dwriter_OW = None
        if ctx.needs_input_grad[3]:
            columns = [dy_nO.t() @ u_nW for dy_nO, u_nW in zip(blocks, spec.blocks_of(u_NW.detach()), strict=True)]
            dwriter_OW = _joined(columns, 1).mul_(spec.scale)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found: list[Tensor] = []
        if wanted:
            du_NW = _joined([dy_nO @ b_OW for dy_nO, b_OW in zip(blocks, banks, strict=True)]).mul_(spec.scale)
            found = list(torch.autograd.grad(u_NW, wanted, du_NW))
        dz_BTR, *ddecision = [found.pop(0) if tensor.requires_grad else None for tensor in inputs]
        return None, dy_NO, dz_BTR, dwriter_OW, *ddecision


def _joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
