"""What a method says: the modules that it puts on a model, and what those must answer to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from llava_moe.adapters.core.load_balance import AnyRouting
from llava_moe.adapters.core.router import TokenRouter
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.core.wide_linear import WideLinear

PreHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
Forward = Callable[..., Any]


class LoadBalance(Protocol):
    """A balance loss of what was decided in the last forward pass."""

    def __call__(
        self, routings: Mapping[str, Any], segments: Segments, is_real: Tensor | None, reduction: str
    ) -> Tensor: ...


@runtime_checkable
class StepBalance(Protocol):
    """A balance loss that is no sum over examples: its gradient needs sums over the whole optimizer step."""

    def totals(self, routings: Mapping[str, Any], segments: Segments, is_real: Tensor | None) -> Tensor:
        """float64, what the last forward pass adds to the step's sums."""
        ...

    def __call__(
        self,
        routings: Mapping[str, Any],
        segments: Segments,
        is_real: Tensor | None,
        reduction: str,
        totals: Tensor | None = None,
    ) -> Tensor:
        """With the step's ``totals``: what, summed over its forward passes, has the step's value and gradient."""
        ...


@runtime_checkable
class HasRoutings(Protocol):
    """A gate, or another module of an adapter, that remembers what it decided in the last forward pass."""

    def routings(self) -> Mapping[str, AnyRouting]:
        """By a name that follows the module's own (``""`` for the only one); empty before the first forward pass."""
        ...


@dataclass(frozen=True)
class Injection:
    """What a method puts on a body.

    Attributes:
        linears: the wide linear that takes the place of the linear of that name.
        routers: the router that becomes the submodule ``router`` of the block of that name and is asked before it runs.
        modules: any further module of the adapter, by the name that it gets in the model.
        pre_hooks: what is called before the module of that name runs, with the module and its arguments.
        forwards: what runs in the place of a module's ``forward``, which it is given first, by the module's name.
        load_balance: its loss; ``None`` where nothing is routed.
        load_balance_coef: its weight in the training objective.
    """

    linears: dict[str, WideLinear] = field(default_factory=dict)
    routers: dict[str, TokenRouter] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    pre_hooks: dict[str, PreHook] = field(default_factory=dict)
    forwards: dict[str, Forward] = field(default_factory=dict)
    load_balance: LoadBalance | StepBalance | None = None
    load_balance_coef: float = 0.0


class Method(Protocol):
    """An adapter method: a frozen dataclass of its hyper-parameters, which is also its yaml.

    Attributes:
        method: its name, in files and as an entry point.
        decides_per_example: whether something is chosen or weighted by more than the tokens up to this one, such as the
            whole prompt. Prompts that begin alike then share no cache when they are answered.
    """

    method: ClassVar[str]
    decides_per_example: ClassVar[bool]

    def build(self, target_model: TargetModel, segments: Segments) -> Injection:
        """Build the modules for ``target_model``; :func:`attach` puts them on."""
        ...

    def write(self, folder: Path, target_model: TargetModel, tensors: Mapping[str, Tensor]) -> None:
        """Write the adapter's files; ``tensors`` are named as in :meth:`Attached.state_dict`."""
        ...
