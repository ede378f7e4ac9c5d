"""Attaching a method to a model, and the handle that remains: losses, counts, tensors, saving, taking it off."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor, nn

from llava_moe.adapters.core.adapter_parameters import AdapterParameters
from llava_moe.adapters.core.adapter_state import AdapterState
from llava_moe.adapters.core.adapter_statistics import AdapterStatistics
from llava_moe.adapters.core.forced_expert import one_expert_takes_all
from llava_moe.adapters.core.injector import Injector
from llava_moe.adapters.core.load_balance import AnyRouting, ExpertTotals
from llava_moe.adapters.core.method import Injection, LoadBalance, Method, StepBalance
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.core.wide_linear import CORES, WideLinear


class Attached:
    """An adapter on a model. Made by :func:`attach`.

    Parameters, statistics, state and injection are objects of their own, to which it hands on.
    """

    def __init__(
        self,
        config: Method,
        target_model: TargetModel,
        segments: Segments,
        injection: Injection,
        injector: Injector,
        core: str,
    ) -> None:
        self.config, self.core = config, core
        self.load_balance_coef = injection.load_balance_coef
        self._target_model, self._segments, self._injection = target_model, segments, injection
        self._parameters = AdapterParameters(target_model, injection)
        self._statistics = AdapterStatistics(type(config).__name__, target_model, injection, segments, self._parameters)
        self._state = AdapterState(config, target_model, injection, self._parameters)
        self._injector = injector

    @property
    def model(self) -> nn.Module:
        """The model that the adapter is on."""
        return self._target_model.model

    def short(self, name: str) -> str:
        """A module's or tensor's name in the model as it is in the adapter's files."""
        return self._target_model.short(name)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters by their name in ``model.named_parameters()``.

        Those with ``requires_grad`` train: all, but where a method freezes some of its own (the experts of MoLE).
        """
        return self._parameters.named()

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Those of :meth:`named_parameters` that train."""
        return self._parameters.trainable()

    def parameters(self) -> list[nn.Parameter]:
        """The adapter's parameters in the model's order."""
        return list(self.named_parameters().values())

    @property
    def num_parameters(self) -> int:
        """How many numbers the adapter has."""
        return self._parameters.num_elements

    def base_state_dict(self) -> dict[str, Tensor]:
        """The model's tensors as if no adapter were there, under the names that Hugging Face gives them.

        ``model.save_pretrained(folder, state_dict=attached.base_state_dict())`` writes the bare base model.
        """
        return self._parameters.base_state_dict()

    @property
    def is_routed(self) -> bool:
        """Whether something is chosen or weighted by the input: then there are routings and totals to read."""
        return self._statistics.is_routed

    @property
    def has_balance_loss(self) -> bool:
        """Whether :meth:`auxiliary_loss` is more than a constant 0."""
        return self.load_balance is not None

    @property
    def load_balance(self) -> LoadBalance | StepBalance | None:
        """The loss behind :meth:`auxiliary_loss`."""
        return self._statistics.load_balance

    @property
    def balances_by_step(self) -> bool:
        """Whether :meth:`auxiliary_loss` wants ``totals`` of a whole step, which :meth:`balance_totals` adds up to."""
        return isinstance(self.load_balance, StepBalance)

    def mark_prompts(self, labels_BT: Tensor | None, num_examples: int | None = None) -> None:
        """Say the labels of the next forward pass: what decides by example reads only what comes before them.

        Needed by loops that do not hand ``labels`` to the model itself; -100 where nothing is learned.

        Args:
            num_examples: how many its packed rows hold, where it is known; it saves waiting for the device.
        """
        self._segments.mark_prompts(labels_BT, num_examples)

    def new_conversation(self) -> None:
        """Let the next forward pass decide again, even where its input begins with the whole of the last prompt.

        Without cache that is how a conversation that goes on looks, and what its first prompt decided would hold; say
        this between prompts of which one begins another, as when prefixes of one text are scored.
        """
        self._segments.forget_conversation()

    @property
    def num_token_routers(self) -> int:
        """How many blocks send each token to an expert of its own."""
        return len(self._injection.routers)

    def one_expert_takes_all(self, expert: int) -> AbstractContextManager[None]:
        """Within, every router of tokens sends all of them to ``expert``, taken modulo the number of its experts."""
        return one_expert_takes_all(self._injection.routers.values(), expert)

    def routings(self) -> dict[str, AnyRouting]:
        """What each router or gate decided in the last forward pass, by the name of its block or linear.

        Read it before the backward pass.

        Raises:
            ValueError: one of them did not run since the adapter was attached.
        """
        return self._statistics.routings()

    def balance_totals(self, is_real: Tensor | None = None) -> Tensor:
        """float64, what the last forward pass adds to the sums that a balance loss over a whole step is made from.

        Raises:
            ValueError: there are no such sums, see :attr:`balances_by_step`.
        """
        return self._statistics.balance_totals(is_real)

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
        return self._statistics.auxiliary_loss(is_real, reduction, totals)

    def expert_totals(self, domains_BT: Tensor, num_domains: int) -> ExpertTotals:
        """Who served the tokens of the last forward pass, and router entropy, by layer and domain (-1: not counted)."""
        return self._statistics.expert_totals(domains_BT, num_domains)

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors (views) under readable names, one per expert.

        For example ``language_model.layers.0.mlp.up_proj.experts.1.lora_A.weight`` [r, D].
        """
        return self._state.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor], strict: bool = True) -> None:
        """Copy ``tensors``, named as in :meth:`state_dict`, into the adapter, cast to its dtypes.

        Raises:
            UserError: a tensor has another shape, or (``strict``) one is missing or unexpected.
        """
        self._state.load_state_dict(tensors, strict)

    def save(self, folder: str | Path, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write the adapter's folder.

        Args:
            folder: made when it is not there. Atomicity is the caller's.
            tensors: written in place of the live ones, by the names of :meth:`named_parameters`: fp32 masters, or
                tensors gathered from a partition.

        Raises:
            ValueError: ``tensors`` has a name that is not a parameter of the adapter.
        """
        self._state.save(folder, tensors)

    def detach(self) -> None:
        """Put the model back as it was: its own modules, hooks and ``requires_grad``. The handle is of no use after."""
        self._injector.take_out()


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
    target_model, segments = TargetModel.of(model), Segments()
    injection = config.build(target_model, segments)
    injector = Injector(target_model, injection, segments, core)
    injector.put_in()
    return Attached(config, target_model, segments, injection, injector, core)
