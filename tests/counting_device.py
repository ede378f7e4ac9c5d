"""A device that counts: tensors that say they lie elsewhere, are computed on the CPU, and tell what it took.

A GPU's cost beside its arithmetic is how many kernels are started and how often the host waits for it. Neither can be
seen on CPU tensors, where host and device are one. Here the device is ``meta``: what lies on it are wrappers around
real CPU tensors, so values are right, and every operation on them, every copy and every read passes by.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten
# Operations that only allocate, or name another shape.
UNTOUCHED = {
    *(aten._unsafe_view.default, aten.detach.default, aten.alias.default),
    *(aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default),
}
# Operations of CUDA that wait for a value: how large their result is, or what the host asked for.
WAITING = {
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.is_nonzero.default),
    *(aten.bincount.default, aten.masked_select.default, aten._unique2.default, aten.unique_consecutive.default),
}
MASKED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class OnDevice(Tensor):
    """A tensor of the counting device: ``inner`` has its numbers."""

    # As torch's own subclasses do; its stubs know other types for both.
    inner: Tensor  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, real: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=DEVICE,
        )
        made.inner = real
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} outside of Counting")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"


@dataclass
class Counts:
    """What was done on the device.

    Attributes:
        operations: all that reached the device, views among them.
        kernels: operations that are neither views nor allocations; a ``foreach`` is one.
        waits: how often the host waited: values read, results whose size it must know, copies that block.
        by_name: kernels by operation; ``by_place``: waits by the innermost lines of the package.
    """

    operations: int = 0
    kernels: int = 0
    waits: int = 0
    by_name: Counter[str] = field(default_factory=Counter)
    by_place: Counter[str] = field(default_factory=Counter)


class _FromLists(TorchFunctionMode):
    """What torch moves unseen: tensors that are made of Python numbers, and lists that are made of tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        if func is Tensor.is_pinned:
            return True  # what a loader hands on; a tensor that is made in the step is not asked
        if func not in (torch.tensor, torch.as_tensor) or isinstance(args[0], Tensor) or asked is None:
            return func(*args, **kwargs)
        return func(*args, **kwargs | {"device": CPU}).to(asked)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Attention in one operation, as on a GPU; without a kernel of its own a device would compute it step by step."""
    attend = aten._scaled_dot_product_flash_attention_for_cpu
    found: Tensor = attend(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return found


STAND_INS: list[tuple[Any, str, Any]] = [
    # Not by a mode: a mode is off while a backward pass computes a layer again.
    (F, "scaled_dot_product_attention", _attend),
    # Autocast, which nothing here switches on, refuses to be asked about this device.
    (torch, "is_autocast_enabled", lambda *_: False),
    (torch, "autocast", lambda *_, **__: nullcontext()),
    # A GPU clips by foreach, as its kind of tensor and device allow.
    (clip_grad, "_has_foreach_support", lambda *_: True),
]


class Counting(TorchDispatchMode):
    """While it is entered, the counting device is there."""

    def __init__(self) -> None:
        super().__init__()
        self.counts, self._from_lists = Counts(), _FromLists()

    def __enter__(self) -> Counting:
        super().__enter__()
        self._from_lists.__enter__()
        self._before = [(owner, name, getattr(owner, name)) for owner, name, _ in STAND_INS]
        for owner, name, stand_in in STAND_INS:
            setattr(owner, name, stand_in)
        return self

    def __exit__(self, *raised: Any) -> None:
        for owner, name, function in self._before:
            setattr(owner, name, function)
        self._from_lists.__exit__(*raised)
        super().__exit__(*raised)

    def restart(self) -> Counts:
        """Count from zero; returns what was counted."""
        told, self.counts = self.counts, Counts()
        return told

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        asked = kwargs.get("device")
        was_here = any(isinstance(one, OnDevice) for one in given)
        stays = was_here if asked is None else torch.device(asked) == DEVICE
        if not was_here and not stays:
            return func(*args, **kwargs)
        if asked is not None:
            kwargs["device"] = CPU
        self._note(func, args, kwargs, given, was_here, stays)
        bare_args, bare_kwargs = tree_map(_bare, (args, kwargs))
        found = func(*bare_args, **bare_kwargs)
        return self._wrapped(args, found) if stays else found

    def _note(
        self, func: Any, args: Any, kwargs: Mapping[str, Any], given: Sequence[Tensor], was_here: bool, stays: bool
    ) -> None:
        is_copy = func in (aten._to_copy.default, aten.copy_.default)
        crosses = was_here != stays or len({isinstance(one, OnDevice) for one in given}) > 1
        blocks = is_copy and not (kwargs.get("non_blocking") or args[2:3] == (True,))
        is_masked = func in MASKED and any(one is not None and one.dtype == torch.bool for one in args[1])
        if (blocks and crosses) or func in WAITING or is_masked:
            self._wait()
        self.counts.operations += 1
        if not func.is_view and func not in UNTOUCHED and func is not aten._local_scalar_dense.default:
            self.counts.kernels += 1
            self.counts.by_name[str(func)] += 1

    def _wait(self) -> None:
        self.counts.waits += 1
        lines = [frame for frame in traceback.extract_stack() if "/llava_moe/" in frame.filename]
        place = f"{lines[-1].filename.split('/llava_moe/')[-1]}:{lines[-1].lineno}" if lines else "elsewhere"
        self.counts.by_place[place] += 1

    def _wrapped(self, args: Any, found: Any) -> Any:
        # What is written in place is the argument itself, and stays so.
        own = {id(one.inner): one for one in tree_leaves(args) if isinstance(one, OnDevice)}

        def wrap(leaf: Any) -> Any:
            return own[id(leaf)] if id(leaf) in own else OnDevice(leaf) if isinstance(leaf, Tensor) else leaf

        return tree_map(wrap, found)


def _bare(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, OnDevice) else leaf


def move(module: nn.Module) -> None:
    """Put a module's parameters and buffers on the counting device, in place."""
    moved: dict[int, Tensor] = {}
    for one in module.modules():
        for name, parameter in one._parameters.items():
            if parameter is not None:
                wrapped = moved.setdefault(id(parameter), nn.Parameter(OnDevice(parameter.detach()), False))
                one._parameters[name] = wrapped.requires_grad_(parameter.requires_grad)  # type: ignore[assignment]
        for name, buffer in one._buffers.items():
            if buffer is not None:
                one._buffers[name] = moved.setdefault(id(buffer), OnDevice(buffer))
    stay: Callable[..., nn.Module] = lambda *_: module  # noqa: E731
    vars(module)["to"] = stay
