"""The wide linear: y = W x + s * B M(x) A x, the one equation of which every adapter here is a case.

Shape suffixes: B rows, T tokens, N = B * T, D in, O out, K experts, R bank width of A (the ranks of all experts
together), W bank width of B (R, but where experts share one A).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_moe.adapters.core.memory_efficient import Activation, ExpertGroups, SeededDropout, read, read_beside, write

CORES = ("lean", "autograd")


class Gate(Protocol):
    """M(x): says which reading of a bank feeds which writing. It decides, then mixes by what it decided.

    An ``nn.Module`` becomes the bank's submodule ``gate`` and its parameters the adapter's. Parameters, the bank's
    included, are read in the decision only: there they are whole under ZeRO-3.
    """

    def __call__(self, x_BTD: Tensor, z_BTR: Tensor, bank: WideLinear) -> tuple[Tensor, ...]:
        """Decide. ``x_BTD`` is the linear's input, ``z_BTR`` = A x; the tensors returned are handed to :meth:`mix`."""
        ...

    def mix(self, z_BTR: Tensor, *decision: Tensor) -> Tensor:
        """M(x) z, [..., W] in z's dtype, from the arguments alone: it is computed again in the backward pass."""
        ...


class GatedActivation:
    """The gated product h = activation(g) * u that a linear is about to be called with."""

    def __init__(self, activation: Activation, gate_BTF: Tensor, up_BTF: Tensor, h_BTF: Tensor) -> None:
        self.parts = activation, gate_BTF, up_BTF
        self._identity = _identity_of(h_BTF)

    def parts_of(self, x_BTD: Tensor) -> tuple[Activation, Tensor, Tensor] | None:
        """(activation, g, u) where ``x_BTD`` still is that product: not where a hook has put another in its place."""
        return self.parts if _identity_of(x_BTD) == self._identity else None


def _identity_of(tensor: Tensor) -> tuple[int, int, torch.Size]:
    # Not the object: engines hand on a view, which shares the memory and counts its changes with it.
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version, tensor.shape


class WideLinear(nn.Module):
    """A linear with a bank of low-rank experts laid side by side: y = W x + s * B M(x) A x.

    A [R, D] reads and B [O, W] writes; expert k owns a span of rows of A and a span of columns of B. M(x) is the
    gate's; no gate is the identity, which is LoRA (arXiv 2106.09685). A starts Kaiming-uniform with a = sqrt(5), B at
    zero, as in PEFT (``peft/tuners/lora/layer.py``) and in forwchen/LLaVA-MoLE (``moe.py``), so a fresh bank changes
    nothing. Both are made in the base weight's dtype, whatever the dtype the same seed gives the same start.

    Two cores compute it. ``autograd`` is plain PyTorch and the reference; with one expert it is PEFT's arithmetic,
    dropout's random numbers included. ``lean``, the default, computes the same values and gradients, keeps less for the
    backward pass (:mod:`~llava_moe.adapters.core.memory_efficient`), and reads linears with one input in one product
    (:class:`SharedInputLinears`); it serves training outside autocast, anything else goes the plain way.

    Dropout is one mask per input that all experts read, after which only A sees it. The released LLaVA-MoLE draws a
    mask per expert; a token that visits one expert cannot tell the difference. At ``dropout=0`` there is no dropout
    layer.

    Args:
        base: the linear to widen; it becomes the submodule ``base``. Whoever owns it stops its training.
        ranks: columns of B of each named expert, in order. ``{"": r}`` is a bank without named experts.
        scale: s.
        gate: M(x); ``None`` is the identity.
        dropout: probability with which an element of A's input is zeroed in training.
        read_ranks: rows of A of each named reader where they are not the experts' own, as with one A for all.
    """

    def __init__(
        self,
        base: nn.Linear,
        ranks: Mapping[str, int],
        scale: float,
        gate: Gate | None = None,
        dropout: float = 0.0,
        read_ranks: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.ranks, self.read_ranks = dict(ranks), dict(ranks if read_ranks is None else read_ranks)
        self.scale, self.gate, self.core = scale, gate, "lean"
        self.siblings = SharedInputLinears([self])
        self.source: GatedActivation | None = None
        self.runs: ExpertGroups | None = None
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None
        weight = base.weight
        # The numbers of a quantised weight say nothing: bitsandbytes' 4-bit linears name what they compute in.
        computes_in = getattr(base, "compute_dtype", None) or torch.get_default_dtype()
        dtype = weight.dtype if weight.is_floating_point() else computes_in
        start = torch.empty(sum(self.read_ranks.values()), base.in_features, device=weight.device)
        # fan_in is D for the wide matrix as for each expert's slice, so one call draws every expert as PEFT would.
        nn.init.kaiming_uniform_(start, a=math.sqrt(5))
        self.lora_A = nn.Parameter(start.to(dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, self.width, dtype=dtype, device=weight.device))
        self.train(base.training)

    @property
    def width(self) -> int:
        """W, the sum of the ranks."""
        return sum(self.ranks.values())

    @property
    def weight(self) -> Tensor:
        """The base weight, for code that asks a linear for its dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base bias."""
        return self.base.bias

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return y [..., O] in the base linear's output dtype; ``x_BTD`` may have any leading dimensions."""
        source = None if self.source is None else self.source.parts_of(x_BTD)
        is_lean = self.core == "lean" and torch.is_grad_enabled()
        is_lean = is_lean and not torch.is_autocast_enabled(x_BTD.device.type)
        if is_lean or self.runs is not None:
            z_NR, y_NO = self.siblings.read(self, x_BTD, source)
        else:
            z_NR, y_NO = self._read_plainly(x_BTD), None
        if y_NO is None:
            # Two dimensions in, so that the base linear's result is no view and can take the sum in place below.
            y_NO = self.base(x_BTD.reshape(-1, x_BTD.shape[-1]))
        z_BTR = z_NR.view(*x_BTD.shape[:-1], z_NR.shape[-1])
        decision = () if self.gate is None else self.gate(x_BTD, z_BTR, self)
        can_take_sum = z_NR.dtype == y_NO.dtype == self.lora_B.dtype and not y_NO._is_view()
        if self.runs is not None or (is_lean and can_take_sum and self.gate is not None):
            assert self.gate is not None
            if can_take_sum:
                y_NO = write(y_NO, z_BTR, self.lora_B, self.scale, self.gate.mix, decision, self.runs)
            else:
                nothing_NO = torch.zeros_like(y_NO, dtype=self.lora_B.dtype)
                delta_NO = write(nothing_NO, z_BTR, self.lora_B, self.scale, self.gate.mix, decision, self.runs)
                y_NO = y_NO + delta_NO.to(y_NO.dtype)
        else:
            u_BTW = z_BTR if self.gate is None else self.gate.mix(z_BTR, *decision)
            y_NO = self._write_plainly(y_NO, u_BTW.reshape(-1, u_BTW.shape[-1]))
        return y_NO.view(*x_BTD.shape[:-1], y_NO.shape[-1])

    def _read_plainly(self, x_BTD: Tensor) -> Tensor:
        a_BTD = x_BTD if self.dropout is None else self.dropout(x_BTD)
        if not torch.is_autocast_enabled(a_BTD.device.type):
            a_BTD = a_BTD.to(self.lora_A.dtype)
        return F.linear(a_BTD, self.lora_A).reshape(-1, self.lora_A.shape[0])

    def _write_plainly(self, y_NO: Tensor, u_NW: Tensor) -> Tensor:
        if u_NW.dtype != y_NO.dtype:
            return y_NO + (self.scale * F.linear(u_NW, self.lora_B)).to(y_NO.dtype)
        if y_NO._is_view() or y_NO.dtype != self.lora_B.dtype:
            # ZeRO-3 hands module outputs on as views that nobody may write to; autocast casts for addmm, not addmm_.
            return torch.addmm(y_NO, u_NW, self.lora_B.t(), alpha=self.scale)
        # addmm rounds once and keeps no [N, O] product, in place no second y; the scale rides in it for nothing.
        return y_NO.addmm_(u_NW, self.lora_B.t(), alpha=self.scale)

    def base_is_plain(self) -> bool:
        """Whether ``base`` is a dense frozen linear whose weight may be read here, without a call of the module."""
        base, weight = self.base, self.base.weight
        is_whole = bool(weight.numel()) and not hasattr(weight, "ds_id")
        hooks = (base._forward_hooks, base._forward_pre_hooks, base._backward_hooks, base._backward_pre_hooks)
        is_bare = type(base) is nn.Linear and not any(hooks) and "forward" not in vars(base)
        return is_whole and is_bare and not any(parameter.requires_grad for parameter in base.parameters())

    def extra_repr(self) -> str:
        """Show the bank beside the base in ``print(model)``."""
        return f"ranks={self.ranks}, scale={self.scale}"

    def expert_shapes(self) -> dict[str, tuple[int, int]]:
        """Shape of each tensor of :meth:`split`, known without touching a (possibly partitioned) parameter."""
        shapes = {_tensor_name(reader, "lora_A"): (rank, self.in_features) for reader, rank in self.read_ranks.items()}
        return shapes | {_tensor_name(name, "lora_B"): (self.out_features, rank) for name, rank in self.ranks.items()}

    def split(self, lora_A_RD: Tensor, lora_B_OW: Tensor) -> dict[str, Tensor]:
        """Cut a wide pair into one named pair per expert: ``experts.1.lora_A.weight`` [r, D], ``...lora_B.weight``."""
        rows = zip(self.read_ranks, lora_A_RD.split(list(self.read_ranks.values()), 0), strict=True)
        columns = zip(self.ranks, lora_B_OW.split(list(self.ranks.values()), 1), strict=True)
        parts = {_tensor_name(reader, "lora_A"): a_rD for reader, a_rD in rows}
        return parts | {_tensor_name(expert, "lora_B"): b_Or for expert, b_Or in columns}

    def join(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`split`."""
        lora_A_RD = torch.cat([parts[_tensor_name(reader, "lora_A")] for reader in self.read_ranks], 0)
        lora_B_OW = torch.cat([parts[_tensor_name(expert, "lora_B")] for expert in self.ranks], 1)
        return lora_A_RD, lora_B_OW


class SharedInputLinears:
    """Wide linears that are called with one input, such as q, k and v: the first one asked reads it for all.

    One product with all rows of their A's replaces one each, and one dropout mask serves them; gates of one kind decide
    together, too (:meth:`decide`). The parameters stay apart. What was read waits for the others while the block that
    they belong to runs (:meth:`open`, :meth:`close`), and is handed out once to each; a linear that is called alone
    reads for itself.
    """

    def __init__(self, members: Sequence[WideLinear]) -> None:
        self._members = list(members)
        self._is_open = False
        self._input: weakref.ref[Tensor] | None = None
        self._waiting: dict[int, Tensor] = {}
        self._decided_on: weakref.ref[Tensor] | None = None
        self._decisions: dict[int, Any] = {}

    def watch(self, block: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        """Read together while ``block`` runs; returns the handles that stop it."""
        # Called in any case: after an exception nothing may wait for the next call.
        closing = block.register_forward_hook(self.close, always_call=True)
        return [block.register_forward_pre_hook(self.open), closing]

    def open(self, *_: object) -> None:
        """The block begins to run."""
        self._is_open = True

    def close(self, *_: object) -> None:
        """The block has run: whatever still waits is of no use."""
        self._is_open, self._input, self._waiting = False, None, {}
        self._decided_on, self._decisions = None, {}

    def decide(
        self, member: WideLinear, x_BTD: Tensor, decide: Callable[[Sequence[WideLinear]], Mapping[WideLinear, Any]]
    ) -> Any:
        """What the gate of ``member`` decides for the input ``x_BTD``: the first one asked decides for all.

        Args:
            decide: decides for ``member``, the first of those that it is given, and for what else of them it can.
        """
        if self._decided_on is not None and self._decided_on() is x_BTD and id(member) in self._decisions:
            return self._decisions.pop(id(member))
        others = [other for other in self._present(member) if other is not member]
        decisions = {id(one): decision for one, decision in decide([member, *others]).items()}
        own = decisions.pop(id(member))
        self._decided_on, self._decisions = weakref.ref(x_BTD), decisions
        return own

    def read(
        self, member: WideLinear, x_BTD: Tensor, source: tuple[Activation, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """z [N, R] of ``member`` for the input ``x_BTD``; with it W x + b [N, O] where that was computed alongside."""
        if self._input is not None and self._input() is x_BTD and id(member) in self._waiting:
            return self._waiting.pop(id(member)), None
        readers = self._present(member)
        p = member.dropout.p if member.dropout is not None and member.training else 0.0
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        if source is not None:
            source = (source[0], source[1].reshape(x_ND.shape), source[2].reshape(x_ND.shape))
        banks = [reader.lora_A for reader in readers]
        if member.base_is_plain() and x_ND.dtype == member.base.weight.dtype:
            z_NR, y_NO = read_beside(x_ND, member.base, banks, SeededDropout.draw(p), member.runs, source)
        else:
            z_NR, y_NO = read(x_ND, banks, SeededDropout.draw(p), member.runs, source), None
        num_parts = 1 if member.runs is None else len(member.runs.sizes)
        parts = z_NR.split([bank.shape[0] // num_parts for bank in banks], -1)
        waiting = {id(reader): z_nR for reader, z_nR in zip(readers, parts, strict=True)}
        z_NR = waiting.pop(id(member))
        if waiting:
            self._waiting, self._input = waiting, weakref.ref(x_BTD)
        return z_NR, y_NO

    def _present(self, member: WideLinear) -> list[WideLinear]:
        """Those that read alike and whose A is here: under ZeRO-3 that of a module that is not running is not."""
        is_apart = any(hasattr(other.lora_A, "ds_id") or not other.lora_A.numel() for other in self._members)
        if is_apart or not self._is_open:
            return [member]
        alike = (member.lora_A.dtype, member.in_features, member.runs)
        return [other for other in self._members if (other.lora_A.dtype, other.in_features, other.runs) == alike]

    def __getstate__(self) -> dict[str, object]:
        # What waits hangs on an autograd graph, which neither deepcopy nor pickle can take along.
        nothing: dict[str, object] = {
            "_is_open": False,
            "_input": None,
            "_waiting": {},
            "_decided_on": None,
            "_decisions": {},
        }
        return {"_members": self._members, **nothing}


def _tensor_name(expert: str, side: str) -> str:
    return f"{expert}.{side}.weight" if expert else f"{side}.weight"
