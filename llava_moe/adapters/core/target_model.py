"""What an adapter hangs on: the language model inside a model, and its linears by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.adapters.core.targets import ends_of, matching
from llava_moe.errors import UserError

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
ALL_LINEARS = ATTENTION_LINEARS + MLP_LINEARS
# What PEFT calls every linear of a model but its head; here it is every linear of the language model.
ALL_LINEAR = "all-linear"
# Linears of one block that the decoders of transformers call with one and the same tensor.
READ_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True)
class TargetModel:
    """A model seen by an adapter.

    Attributes:
        model: the whole model.
        language_model: the decoder inside it (``get_decoder()``), or the model itself where it has none.
        language_model_name: its module name in ``model``, ``""`` when it is the model itself.
        linears: every ``nn.Linear`` of the language model by its full module name. The vision tower, the projector and
            ``lm_head`` stand outside and are never touched.
    """

    model: nn.Module
    language_model: nn.Module
    language_model_name: str
    linears: dict[str, nn.Linear]

    @classmethod
    def of(cls, model: nn.Module) -> TargetModel:
        """Find the language model of any Hugging Face decoder, alone or inside a vision-language model.

        Raises:
            UserError: the model does not say which part of it is the language model.
        """
        language_model = model
        # A model around a language model may name that with its head (BLIP-2), which names the decoder in turn.
        while (get_decoder := getattr(language_model, "get_decoder", None)) is not None:
            inner = get_decoder()
            if inner is None or inner is language_model:
                break
            language_model = inner
        if hasattr(getattr(language_model, "config", None), "vision_config"):
            raise UserError(
                f"{type(model).__name__} does not tell its language model from its vision tower; "
                f"attach the adapter to its language model itself"
            )
        name = next(name for name, module in model.named_modules() if module is language_model)
        linears = {
            f"{name}.{child}" if name else child: module
            for child, module in language_model.named_modules()
            if isinstance(module, nn.Linear)
        }
        return cls(model, language_model, name, linears)

    @property
    def hidden_size(self) -> int:
        """Width of the language model's residual stream."""
        config: Any = self.language_model.config
        return int(config.hidden_size)

    @property
    def num_layers(self) -> int:
        """Decoder layers of the language model."""
        config: Any = self.language_model.config
        return int(config.num_hidden_layers)

    @staticmethod
    def layer_of(name: str) -> int | None:
        """The decoder layer in which a module stands, by its name; ``None`` outside of any."""
        found = re.search(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.", name)
        return int(found[1]) if found else None

    @staticmethod
    def block_of(name: str) -> str | None:
        """The module name of the decoder layer in which a module stands, by its name; ``None`` outside of any."""
        found = re.match(r"(.*?(?:^|\.)(?:layers|h|blocks)\.\d+)\.", name)
        return found[1] if found else None

    def describe(self) -> dict[str, Any]:
        """What an adapter's file says of the model it was trained on; ``None`` where the model does not say.

        All but ``name`` must be the same in a model that the adapter is put on.
        """
        text: Any = getattr(self.language_model, "config", None)
        whole: Any = getattr(self.model, "config", None)
        return {
            "name": getattr(self.model, "name_or_path", None) or None,
            "model_type": getattr(whole, "model_type", None),
            "text_model_type": getattr(text, "model_type", None),
            "hidden_size": getattr(text, "hidden_size", None),
            "num_hidden_layers": getattr(text, "num_hidden_layers", None),
        }

    @property
    def root(self) -> str:
        """The module name under which a model with a head keeps the rest, with its dot: ``"model."`` or ``""``."""
        prefix = getattr(self.model, "base_model_prefix", "")
        return f"{prefix}." if prefix and hasattr(self.model, prefix) else ""

    def short(self, name: str) -> str:
        """A module or tensor name without the root, the same with or without a language-model head."""
        return name.removeprefix(self.root)

    def select(
        self, targets: str | Sequence[str], excluded: str | Sequence[str] = (), setting: str = "target_modules"
    ) -> dict[str, nn.Linear]:
        """The linears that ``targets`` names and ``excluded`` does not, in the model's order.

        Args:
            targets: as PEFT takes it: names or ends of names (``q_proj``, ``self_attn.q_proj``), one regular expression
                that the full name must match, or ``"all-linear"``. Ends of names look inside the language model alone;
                an expression for full names must not reach outside it.
            excluded: in the same forms.
            setting: what the user calls ``targets``.

        Raises:
            UserError: a target names no linear of the language model, or an expression is none or names a layer of the
                vision tower, the projector or the head.
        """
        targets = self._spelt_out(targets)
        missing = self._missing(targets)
        outside = self._linears_outside()
        spared = set(matching(outside, excluded))
        outside = [name for name in outside if name not in spared]
        if missing or not targets:
            stray = matching(outside, _alone(missing[0], targets)) if missing else []
            raise UserError(
                f"{setting} {quote_value(missing)} match no linear layer of {type(self.language_model).__name__}; "
                f"it has {self._leaves() or 'none'}"
                + (f" ({stray[0]} is outside the language model, which alone is adapted)" if stray else "")
            )
        strays = matching(outside, targets) if isinstance(targets, str) else []
        if strays:
            raise UserError(
                f"{setting}={quote_value(targets)} also matches {len(strays)} layers outside the language model, "
                f"which alone is adapted ({strays[0]}): begin it with {re.escape(self.language_model_name + '.')}"
            )
        left_out = set(matching(self.linears, excluded))
        return {name: self.linears[name] for name in matching(self.linears, targets) if name not in left_out}

    def _missing(self, targets: str | Sequence[str]) -> list[str]:
        """Those of ``targets`` that name no linear."""
        if isinstance(targets, str):
            return [] if matching(self.linears, targets) else [targets]
        there = {end for name in self.linears for end in ends_of(name)}
        return [target for target in targets if target not in there]

    def _leaves(self) -> list[str]:
        return sorted({name.rpartition(".")[2] for name in self.linears})

    def _spelt_out(self, targets: str | Sequence[str]) -> str | Sequence[str]:
        return self._leaves() if targets == ALL_LINEAR else targets

    def _linears_outside(self) -> list[str]:
        inside = f"{self.language_model_name}." if self.language_model_name else ""
        return [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith(inside)
        ]

    def without(self, targets: str | Sequence[str], excluded: str | Sequence[str]) -> tuple[str, ...]:
        """Full names of the linears that ``targets`` names and ``excluded`` does not."""
        return tuple(self.select(targets, excluded))

    def peft_targets(self, targets: str | Sequence[str], chosen: Iterable[str]) -> str | list[str]:
        """``target_modules`` that make PEFT, which looks through the whole model, choose exactly ``chosen``."""
        targets = self._spelt_out(targets)
        everything = [name for name, module in self.model.named_modules() if name]
        wanted = sorted(chosen)
        listed = [re.escape(target) for target in _listed(targets)]
        inside = rf"{re.escape(self.language_model_name)}\.(?:.*\.)?(?:{'|'.join(listed)})"
        candidates: list[str | list[str]] = [targets if isinstance(targets, str) else sorted(targets), inside]
        for candidate in candidates:
            if sorted(matching(everything, candidate)) == wanted:
                return candidate
        return wanted


def _listed(targets: str | Sequence[str]) -> list[str]:
    return [targets] if isinstance(targets, str) else list(targets)


def _alone(target: str, targets: str | Sequence[str]) -> str | list[str]:
    """One of ``targets`` in the form that keeps its meaning: a regular expression stays one."""
    return target if isinstance(targets, str) else [target]
