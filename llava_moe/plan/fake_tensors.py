"""Running real code on tensors without content: what a step allocates and computes, known before a weight is read.

Weights and pixels are fake tensors (``torch._subclasses.FakeTensorMode``): shapes, dtypes, storages, views and autograd
are torch's own, values there are none. What is known stays real (token ids, labels, positions, lengths), so that code
that counts, indexes or decides by it runs as it stands. An operation that has a fake tensor among its arguments gives
fake tensors; a Python number asked of one is 1, which is finite and not zero.

Every operation passes here with its inputs and outputs, whoever calls it: modules, hooks, custom autograd functions,
recomputation under activation checkpointing, the optimizer. ``torch.distributed._tools.mem_tracker`` follows storages
in the same way, but asks for fake tensors throughout, which packing by known lengths cannot be.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
LARGE = 1 << 22


class FakeTensorTrace(TorchDispatchMode):
    """Follows what is allocated and computed while it is entered.

    Fake tensors stand on the CPU: operations on them and on real ones may then meet. What a CUDA device allocates for
    the same operations is the same, up to the rounding of its allocator.

    Args:
        vocabulary: storages whose tensors have rows of this many numbers are counted apart, as logits.

    Attributes:
        live: bytes of all storages that stand now; ``logits``: those of them that hold logits.
        peak: the most that stood since :meth:`mark`; ``logits_at_peak``: logits among them.
        flops: floating-point operations of matrix products, convolutions and attention so far.
        work: (floating-point operations, bytes read and written) of each operation so far.
    """

    def __init__(self, vocabulary: int = -1) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.vocabulary = vocabulary
        self.live = self.logits = self.peak = self.logits_at_peak = 0
        self.work: list[tuple[int, int]] = []
        self._known: dict[int, weakref.ref[Any]] = {}

    def mark(self) -> None:
        """Begin to look for the peak, and to list work, from here."""
        self.peak, self.logits_at_peak, self.work = self.live, self.logits, []

    @property
    def flops(self) -> int:
        return sum(flops for flops, _ in self.work)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(leaf, FakeTensor) for leaf in inputs) and not _spreads(inputs):
            out = func(*args, **kwargs)
        elif func is aten._local_scalar_dense.default:
            return torch.ones((), dtype=args[0].dtype).item()
        elif func is aten.bincount.default:
            return _evenly(args[0].numel(), args[2] if len(args) > 2 else kwargs.get("minlength", 0))
        else:
            # Not under `with self.fake`: to enter it for each operation takes a seventh of a trace.
            out = self.fake.dispatch(func, types, _spelt_out(func, args), kwargs)
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in outputs:
            self.see(tensor)
        if outputs and not func.is_view and func not in UNTOUCHED:
            count = FLOPS.get(func._overloadpacket)
            flops = 0 if count is None else count(*args, **kwargs, out_val=out)
            self.work.append((flops, sum(tensor.nbytes for tensor in [*inputs, *outputs])))
        return out

    def see(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once, for as long as it stands."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        size = storage.nbytes()
        logits = size if tensor.ndim and tensor.shape[-1] == self.vocabulary else 0
        self.live, self.logits = self.live + size, self.logits + logits
        if self.live > self.peak:
            self.peak, self.logits_at_peak = self.live, self.logits

        def gone(_: Any) -> None:
            del self._known[address]
            self.live, self.logits = self.live - size, self.logits - logits

        self._known[address] = weakref.ref(storage, gone)


def _spreads(tensors: Sequence[Tensor]) -> bool:
    """Whether known tensors of unlike shapes meet in a large one, as a mask of all pairs: only its size is of use."""
    if len(tensors) < 2 or tensors[0].shape == tensors[1].shape:
        return False
    try:
        return torch.broadcast_shapes(*(tensor.shape for tensor in tensors)).numel() > LARGE
    except RuntimeError:
        return False


def _evenly(total: int, parts: int) -> Tensor:
    """Counts of what a router that nobody knows yet sends where."""
    return torch.tensor([total // parts + (number < total % parts) for number in range(parts)])


def _spelt_out(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments in which masks that are known are lists of places: how many those are is then known too."""
    if func not in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        return args
    places: list[Any] = []
    for index in args[1]:
        if isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            places += index.nonzero(as_tuple=True)
        else:
            places.append(index)
    return (args[0], places, *args[2:])


def _in_place_product(y: Tensor, left: Tensor, right: Tensor, **_: Any) -> int:
    return 2 * left.shape[0] * left.shape[1] * right.shape[1]


def _attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, is_causal: bool = False, **_: Any) -> int:
    """Two products of queries with keys and values; half of the pairs where attention is causal."""
    return 4 * q.numel() * k.shape[-2] // (2 if is_causal else 1)


def _attention_backward(
    upstream: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Any, sums: Any, dropout: float, is_causal: bool, **_: Any
) -> int:
    """Five products: the scores again, and the gradients of values, probabilities, queries and keys."""
    return 10 * q.numel() * k.shape[-2] // (2 if is_causal else 1)


# Operations that allocate and touch nothing.
UNTOUCHED = (aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default)

# The counters of torch, and what they do not know.
FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten.addmm_: _in_place_product,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
