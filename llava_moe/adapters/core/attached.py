"""Attaching a method to a model, and the handle that remains: losses, counts, tensors, saving, taking it off."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llava_moe.adapters.core.gated_mlp import forward_gated_mlp, is_gated_mlp
from llava_moe.adapters.core.load_balance import AnyRouting, ExpertTotals, count_experts
from llava_moe.adapters.core.method import Decider, Fitting, Forward, LoadBalance, Method, StepBalance
from llava_moe.adapters.core.router import Routing, route_first
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import READ_TOGETHER, Body
from llava_moe.adapters.core.wide_linear import CORES, Siblings, WideLinear
from llava_moe.errors import UserError
from llava_moe.packed_rows import keep_examples_apart


class Attached:
    """An adapter on a model. Made by :func:`attach`."""

    def __init__(self, config: Method, body: Body, segments: Segments, fitting: Fitting, core: str) -> None:
        self.config, self.core = config, core
        self.load_balance_coef = fitting.load_balance_coef
        self._body, self._segments, self._fitting = body, segments, fitting
        self._trained_before: dict[nn.Parameter, bool] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._rerouted: list[tuple[Any, Forward | None]] = []

    @property
    def model(self) -> nn.Module:
        """The model that the adapter is on."""
        return self._body.model

    def short(self, name: str) -> str:
        """A module's or tensor's name in the model as it is in the adapter's files."""
        return self._body.short(name)

    # --- tensors -----------------------------------------------------------------------------------------------------

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters by their name in ``model.named_parameters()``.

        Those with ``requires_grad`` train: all, but where a method freezes some of its own (the experts of MoLE).
        """
        mine = {id(parameter) for parameter in self._own_parameters()}
        return {name: tensor for name, tensor in self._body.model.named_parameters() if id(tensor) in mine}

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Those of :meth:`named_parameters` that train."""
        return {name: tensor for name, tensor in self.named_parameters().items() if tensor.requires_grad}

    def parameters(self) -> list[nn.Parameter]:
        """The adapter's parameters in the model's order."""
        return list(self.named_parameters().values())

    @property
    def num_parameters(self) -> int:
        """How many numbers the adapter has."""
        return sum(parameter.numel() for parameter in self._own_parameters())

    def _own_parameters(self) -> Iterator[nn.Parameter]:
        for wide in self._fitting.linears.values():
            inherited = {id(parameter) for parameter in wide.base.parameters()}
            yield from (parameter for parameter in wide.parameters() if id(parameter) not in inherited)
        for module in [*self._fitting.routers.values(), *self._fitting.modules.values()]:
            yield from module.parameters()

    def base_state_dict(self) -> dict[str, Tensor]:
        """The model's tensors as if no adapter were there, under the names that Hugging Face gives them.

        ``model.save_pretrained(folder, state_dict=attached.base_state_dict())`` writes the bare base model.
        """
        mine = self.named_parameters()
        inner = {f"{name}.base.": f"{name}." for name in self._fitting.linears}
        tensors = {}
        for name, tensor in self._body.model.state_dict().items():
            if name not in mine:
                parent = name.rpartition(".")[0] + "."
                tensors[name.replace(parent, inner[parent]) if parent in inner else name] = tensor
        return tensors

    # --- what training reads -----------------------------------------------------------------------------------------

    @property
    def is_routed(self) -> bool:
        """Whether something is chosen or weighted by the input: then there are routings and totals to read."""
        return bool(self._fitting.routers) or bool(self._deciders())

    @property
    def has_balance_loss(self) -> bool:
        """Whether :meth:`auxiliary_loss` is more than a constant 0."""
        return self._fitting.load_balance is not None

    @property
    def load_balance(self) -> LoadBalance | StepBalance | None:
        """The loss behind :meth:`auxiliary_loss`."""
        return self._fitting.load_balance

    @property
    def balances_by_step(self) -> bool:
        """Whether :meth:`auxiliary_loss` wants ``totals`` of a whole step, which :meth:`balance_totals` adds up to."""
        return isinstance(self._fitting.load_balance, StepBalance)

    def _deciders(self) -> dict[str, Decider]:
        modules: dict[str, Any] = {name: wide.gate for name, wide in self._fitting.linears.items()}
        modules |= self._fitting.modules
        return {name: module for name, module in modules.items() if isinstance(module, Decider)}

    def mark_prompts(self, labels_BT: Tensor | None) -> None:
        """Say the labels of the next forward pass: what decides by example reads only what comes before them.

        Needed by loops that do not hand ``labels`` to the model itself; -100 where nothing is learned.
        """
        self._segments.mark_prompts(labels_BT)

    def new_conversation(self) -> None:
        """Let the next forward pass decide again, even where its input begins with the whole of the last prompt.

        Without cache that is how a conversation that goes on looks, and what its first prompt decided would hold; say
        this between prompts of which one begins another, as when prefixes of one text are scored.
        """
        self._segments.forget_conversation()

    def routings(self) -> dict[str, AnyRouting]:
        """What each router or gate decided in the last forward pass, by the name of its block or linear.

        Read it before the backward pass.

        Raises:
            ValueError: one of them did not run since the adapter was attached.
        """
        decided: dict[str, AnyRouting] = {}
        for name, router in self._fitting.routers.items():
            if router.routing is None:
                raise ValueError(f"{name} has not run since the adapter was attached")
            decided[self._body.short(name)] = self._in_rows(name, router.routing)
        for name, decider in self._deciders().items():
            routings = decider.routings()
            if not routings:
                raise ValueError(f"{name} has not run since the adapter was attached")
            for suffix, routing in routings.items():
                decided[f"{self._body.short(name)}.{suffix}" if suffix else self._body.short(name)] = routing
        return decided

    def _in_rows(self, name: str, routing: Routing) -> Routing:
        """The routing as [B, T, ...]: the MLP beside the experts of a mixture gets the tokens of all rows in one."""
        if routing.chosen_BT.ndim == 2:
            return routing
        segments_BT, _ = self._segments.of_tokens()
        if routing.chosen_BT.numel() != segments_BT.numel():
            raise UserError(f"{name} does not see every token once: leave its linears out of adapter.expert_modules")
        return Routing(routing.probs_BTK.view(*segments_BT.shape, -1), routing.chosen_BT.view_as(segments_BT))

    def balance_totals(self, is_real: Tensor | None = None) -> Tensor:
        """float64, what the last forward pass adds to the sums that a balance loss over a whole step is made from.

        Raises:
            ValueError: there are no such sums, see :attr:`balances_by_step`.
        """
        balance = self._fitting.load_balance
        if not isinstance(balance, StepBalance):
            raise ValueError(f"{type(self.config).__name__} has no balance loss over a step: see balances_by_step")
        return balance.totals(self.routings(), self._segments, is_real)

    def auxiliary_loss(
        self, is_real: Tensor | None = None, reduction: str = "mean", totals: Tensor | None = None
    ) -> Tensor:
        """The unweighted load-balance loss of the last forward pass, an fp32 scalar; 0 where nothing is routed.

        Args:
            is_real: bool [S], which of the packed examples count, in the order of the rows and within them.
            reduction: ``"mean"`` over the real examples or their ``"sum"``.
            totals: where :attr:`balances_by_step`, :meth:`balance_totals` summed over all forward passes of the
                optimizer step; without them the last forward pass is the step.
        """
        balance = self._fitting.load_balance
        if balance is None:
            return torch.zeros((), device=next(self._body.model.parameters()).device)
        if totals is not None:
            if not isinstance(balance, StepBalance):
                raise ValueError(f"{type(self.config).__name__} takes no totals of a step: see balances_by_step")
            loss = balance(self.routings(), self._segments, is_real, reduction, totals)
        else:
            loss = balance(self.routings(), self._segments, is_real, reduction)
        if self.model.training and torch.is_grad_enabled() and not loss.requires_grad and self.trainable_parameters():
            warnings.warn(
                "the load-balance loss has no gradient: the forward pass ran without one, as reentrant activation "
                "checkpointing does; set use_reentrant=False",
                stacklevel=2,
            )
        return loss

    def expert_totals(self, domains_BT: Tensor, num_domains: int) -> ExpertTotals:
        """Who served the tokens of the last forward pass, and router entropy, by layer and domain (-1: not counted)."""
        return count_experts(self.routings(), domains_BT, num_domains)

    # --- files -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors (views) under readable names, one per expert.

        For example ``language_model.layers.0.mlp.up_proj.experts.1.lora_A.weight`` [r, D].
        """
        return self._split({name: parameter.detach() for name, parameter in self.named_parameters().items()})

    def load_state_dict(self, tensors: Mapping[str, Tensor], strict: bool = True) -> None:
        """Copy ``tensors``, named as in :meth:`state_dict`, into the adapter, cast to its dtypes.

        Raises:
            UserError: a tensor has another shape, or (``strict``) one is missing or unexpected.
        """
        expected = self._shapes()
        missing = sorted(expected.keys() - tensors.keys())
        unexpected = sorted(tensors.keys() - expected.keys())
        misfits = [
            f"{name} is {tuple(tensors[name].shape)} but must be {shape}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
        found = {"wrong shape": misfits}
        if strict:
            found |= {"missing": missing, "unexpected": unexpected}
        faults = [f"{fault}: {_some(names)}" for fault, names in found.items() if names]
        if faults:
            raise UserError(f"the tensors do not fit this adapter and model: {'; '.join(faults)}")
        live = self.state_dict()
        with torch.no_grad():
            for name in expected.keys() & tensors.keys():
                live[name].copy_(tensors[name])

    def save(self, folder: str | Path, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write the adapter's folder.

        Args:
            folder: made when it is not there. Atomicity is the caller's.
            tensors: written in place of the live ones, by the names of :meth:`named_parameters`: fp32 masters, or
                tensors gathered from a partition.

        Raises:
            ValueError: ``tensors`` has a name that is not a parameter of the adapter.
        """
        live: dict[str, Tensor] = {name: parameter.detach() for name, parameter in self.named_parameters().items()}
        strangers = sorted((tensors or {}).keys() - live.keys())
        if strangers:
            raise ValueError(f"not parameters of this adapter: {_some(strangers)}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write(folder, self._body, self._split(live | dict(tensors or {})))

    def _split(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        taken: set[str] = set()
        for name, wide in self._fitting.linears.items():
            pair = (f"{name}.lora_A", f"{name}.lora_B")
            for part, tensor in wide.split(tensors[pair[0]], tensors[pair[1]]).items():
                named[f"{self._body.short(name)}.{part}"] = tensor
            taken.update(pair)
        return named | {self._body.short(name): tensor for name, tensor in tensors.items() if name not in taken}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        for name, wide in self._fitting.linears.items():
            shapes |= {f"{self._body.short(name)}.{part}": shape for part, shape in wide.expert_shapes().items()}
        return shapes

    # --- on and off --------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Put the model back as it was: its own modules, hooks and ``requires_grad``. The handle is of no use after."""
        model = self._body.model
        for name in self._fitting.modules:
            parent, _, child = name.rpartition(".")
            delattr(model.get_submodule(parent), child)
        for name, wide in self._fitting.linears.items():
            _replace(model, name, wide.base)
        for name in self._fitting.routers:
            del model.get_submodule(name).router
        for block, forward_before in reversed(self._rerouted):
            vars(block).pop("forward", None)
            if forward_before is not None:
                block.forward = forward_before
        for hook in self._hooks:
            hook.remove()
        for parameter, was_trained in self._trained_before.items():
            parameter.requires_grad_(was_trained)

    def _put_on(self) -> None:
        model = self._body.model
        for name, wide in self._fitting.linears.items():
            self._trained_before |= {parameter: parameter.requires_grad for parameter in wide.base.parameters()}
            wide.base.requires_grad_(False)
            wide.core = self.core
            _replace(model, name, wide)
        for name, module in self._fitting.modules.items():
            parent, _, child = name.rpartition(".")
            model.get_submodule(parent).add_module(child, module)
        for name, router in self._fitting.routers.items():
            block = model.get_submodule(name)
            block.add_module("router", router)
            self._hooks.append(block.register_forward_pre_hook(route_first, with_kwargs=True))
        # First, so that all others see the call as it is made.
        self._hooks.append(keep_examples_apart(self._body.language_model))
        if self._fitting.linears:
            self._hooks += self._segments.watch(self._body.language_model, model)
        for name, pre_hook in self._fitting.pre_hooks.items():
            hook = model.get_submodule(name).register_forward_pre_hook(pre_hook, with_kwargs=True)
            self._hooks.append(hook)
        if self.core == "lean":
            self._tie_siblings()
            self._lighten_gated_mlps()
        for name, forward in self._fitting.forwards.items():
            owner: Any = model.get_submodule(name)
            self._reroute(owner, partial(forward, owner.forward))

    def _reroute(self, block: Any, forward: Forward) -> None:
        """Let ``forward`` run in the block's place; a ``forward`` that somebody has set on it comes back afterwards."""
        self._rerouted.append((block, vars(block).get("forward")))
        block.forward = forward

    def _tie_siblings(self) -> None:
        """Let the linears of one block that are called with one input be read together."""
        linears = self._fitting.linears
        for block in dict.fromkeys(name.rpartition(".")[0] for name in linears):
            for leaves in READ_TOGETHER:
                members = [linears[f"{block}.{leaf}"] for leaf in leaves if f"{block}.{leaf}" in linears]
                if len(members) > 1:
                    siblings = Siblings(members)
                    self._hooks += siblings.watch(self._body.model.get_submodule(block))
                    for member in members:
                        member.siblings = siblings

    def _lighten_gated_mlps(self) -> None:
        for name in dict.fromkeys(name.rpartition(".")[0] for name in self._fitting.linears):
            block: Any = self._body.model.get_submodule(name)
            if is_gated_mlp(block):
                self._reroute(block, partial(forward_gated_mlp, block))


def attach(model: nn.Module, config: Method, core: str = "lean") -> Attached:
    """Put an adapter on a model, in place.

    The wrapped linears stop training; what else trains is the caller's to decide. The model keeps its class, its module
    names (a wrapped linear moves to ``<name>.base``) and its ``generate``. Sampling the start of A takes numbers from
    torch's global generator: seed it alike on every rank.

    Args:
        model: any Hugging Face decoder, alone or inside a vision-language model.
        config: a method, such as :class:`~llava_moe.adapters.Lora`.
        core: how the bank is computed, with equal results: ``lean`` keeps little for the backward pass, ``autograd`` is
            plain PyTorch, the reference; see :class:`~llava_moe.adapters.core.wide_linear.WideLinear`.

    Raises:
        UserError: a target module is not there.
        ValueError: the model has an adapter already, or ``core`` is unknown.
    """
    if core not in CORES:
        raise ValueError(f"core={core!r} must be one of {CORES}")
    if any(isinstance(module, WideLinear) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has an adapter already; detach it first")
    body, segments = Body.of(model), Segments()
    attached = Attached(config, body, segments, config.dress(body, segments), core)
    attached._put_on()
    return attached


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
