"""Puts the modules of an adapter into a model, and takes them out again."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from llava_moe.adapters.core.gated_mlp import forward_gated_mlp, is_gated_mlp
from llava_moe.adapters.core.method import Forward, Injection
from llava_moe.adapters.core.router import route_first
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import READ_TOGETHER, TargetModel
from llava_moe.adapters.core.wide_linear import SharedInputLinears
from llava_moe.packed_rows import keep_examples_apart


class Injector:
    """What was done to a model, so that it can be undone: modules, hooks, rerouted forwards, ``requires_grad``.

    Args:
        target_model: the model.
        injection: what to put in.
        segments: what is to watch the model's calls.
        core: how the banks are computed; ``lean`` also lets blocks read their input once, and run as gated MLPs.
    """

    def __init__(self, target_model: TargetModel, injection: Injection, segments: Segments, core: str) -> None:
        self._target_model, self._injection, self._segments, self._core = target_model, injection, segments, core
        self._trained_before: dict[nn.Parameter, bool] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._rerouted: list[tuple[Any, Forward | None]] = []

    def put_in(self) -> None:
        """Change the model. Hooks run in the order in which they are set here."""
        self._put_in_modules()
        # First, so that all others see the call as it is made.
        self._hooks.append(keep_examples_apart(self._target_model.language_model))
        if self._injection.linears:
            self._hooks += self._segments.watch(self._target_model.language_model, self._target_model.model)
        for name, pre_hook in self._injection.pre_hooks.items():
            hook = self._target_model.model.get_submodule(name).register_forward_pre_hook(pre_hook, with_kwargs=True)
            self._hooks.append(hook)
        if self._core == "lean":
            self._tie_siblings()
            self._lighten_gated_mlps()
        for name, forward in self._injection.forwards.items():
            owner: Any = self._target_model.model.get_submodule(name)
            self._reroute(owner, partial(forward, owner.forward))

    def take_out(self) -> None:
        """Put the model back as it was."""
        model = self._target_model.model
        for name in self._injection.modules:
            parent, _, child = name.rpartition(".")
            delattr(model.get_submodule(parent), child)
        for name, wide in self._injection.linears.items():
            _replace(model, name, wide.base)
        for name in self._injection.routers:
            del model.get_submodule(name).router
        for block, forward_before in reversed(self._rerouted):
            vars(block).pop("forward", None)
            if forward_before is not None:
                block.forward = forward_before
        for hook in self._hooks:
            hook.remove()
        for parameter, was_trained in self._trained_before.items():
            parameter.requires_grad_(was_trained)

    def _put_in_modules(self) -> None:
        model = self._target_model.model
        for name, wide in self._injection.linears.items():
            self._trained_before |= {parameter: parameter.requires_grad for parameter in wide.base.parameters()}
            wide.base.requires_grad_(False)
            wide.core = self._core
            _replace(model, name, wide)
        for name, module in self._injection.modules.items():
            parent, _, child = name.rpartition(".")
            model.get_submodule(parent).add_module(child, module)
        for name, router in self._injection.routers.items():
            block = model.get_submodule(name)
            block.add_module("router", router)
            self._hooks.append(block.register_forward_pre_hook(route_first, with_kwargs=True))

    def _reroute(self, block: Any, forward: Forward) -> None:
        """Let ``forward`` run in the block's place; a ``forward`` that somebody has set on it comes back afterwards."""
        self._rerouted.append((block, vars(block).get("forward")))
        block.forward = forward

    def _tie_siblings(self) -> None:
        """Let the linears of one block that are called with one input be read together."""
        linears = self._injection.linears
        for block in dict.fromkeys(name.rpartition(".")[0] for name in linears):
            for leaves in READ_TOGETHER:
                members = [linears[f"{block}.{leaf}"] for leaf in leaves if f"{block}.{leaf}" in linears]
                if len(members) > 1:
                    siblings = SharedInputLinears(members)
                    self._hooks += siblings.watch(self._target_model.model.get_submodule(block))
                    for member in members:
                        member.siblings = siblings

    def _lighten_gated_mlps(self) -> None:
        for name in dict.fromkeys(name.rpartition(".")[0] for name in self._injection.linears):
            block: Any = self._target_model.model.get_submodule(name)
            if is_gated_mlp(block):
                self._reroute(block, partial(forward_gated_mlp, block))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
