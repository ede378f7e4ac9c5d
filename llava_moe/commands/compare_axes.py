"""The words of ``compare``: those whose value is a list make runs of each value, the others go to all runs.

Words come out in an order of their own: in which order they were typed changes neither names nor bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

from llava_moe.config.as_typed import SWEEP_FLAGS, as_item, as_typed, key_of
from llava_moe.config.as_word import as_word
from llava_moe.config.config_folder import config_folder
from llava_moe.config.free_text import FREE_TEXT
from llava_moe.config.hydra_compose import split_flags
from llava_moe.config.key_limits import TRAIN
from llava_moe.config.limits import Limit, ListOf, OrNull, ValueRange
from llava_moe.config.odd_words import refuse_sizes
from llava_moe.config.sweep_size import refuse_large_sweep
from llava_moe.errors import UserError
from llava_moe.runs.run_names import rank
from llava_moe.text.structured_text import parse_yaml

# Null in their file, a list where they are given.
_LISTS = ("adapter.expert_layers", "adapter.mask", "adapter.experts")
# They say how finished runs are scored, and no run differs by them.
SCORING = ("eval.benchmarks", "eval.limit", "eval.images", "eval.stages", "eval.no_picture")
_EXAMPLE = "such as adapter=[lora,llava_mole]"


@dataclass(frozen=True)
class Axis:
    """A key and its values, as each stands behind ``key=``."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What is compared.

    Attributes:
        axes: in an order of their own, the seed last.
        words: to all runs, as typed.
        flags: Hydra's own, with their values.
    """

    axes: tuple[Axis, ...]
    words: tuple[str, ...]
    flags: tuple[str, ...] = ()

    @property
    def typed(self) -> list[str]:
        """All words, as they could have been typed."""
        axes = [f"{axis.key}=[{','.join(_inside(axis.key, one) for one in axis.values)}]" for axis in self.axes]
        return [*self.flags, *axes, *self.words]

    @property
    def base(self) -> list[str]:
        """What more values of the same keys leave as it is."""
        return [*self.flags, *(f"{axis.key}=[...]" for axis in self.axes), *self.words]


def read_axes(words: Sequence[str]) -> Asked:
    """Tell the words that make runs from those that go to all.

    Args:
        words: as the command line prepared them.

    Raises:
        UserError: no key has several values, two values are equal, or a word that cannot be read.
    """
    if any(word in SWEEP_FLAGS for word in words):
        raise UserError("-m makes a sweep, and compare makes runs of key=[a,b] by itself: leave -m out")
    flags, overrides = split_flags(words)
    refuse_sizes(overrides)
    axes: dict[str, Axis] = {}
    others: dict[str, str] = {}
    for word in map(as_typed, overrides):
        key, _, value = word.partition("=")
        key = key_of(word)
        axes.pop(key, None)
        others.pop(key, None)  # of a key that is given twice the last holds
        if _is_axis(key, value):
            axes[key] = Axis(key, _values(key, value))
        else:
            others[key] = word
    asked = Asked(
        tuple(sorted(axes.values(), key=lambda axis: rank(axis.key))),
        tuple(others[key] for key in sorted(others)),
        tuple(flags),
    )
    _check(asked)
    return asked


def _check(asked: Asked) -> None:
    if not any(len(axis.values) > 1 for axis in asked.axes):
        told = f"; {asked.axes[0].key}= has one" if asked.axes else ""
        raise UserError(f"compare needs a key with two values or more, {_EXAMPLE}{told}")
    for axis in asked.axes:
        # Words of ``eval.`` leave the weights as they are: the same run would be trained once for each value.
        if axis.key.startswith("eval."):
            raise UserError(f"{axis.key}= says how all runs are measured, and trains nothing: give it one value")


def _is_axis(key: str, value: str) -> bool:
    """Whether ``key=[...]`` lists values: lists of lists where the key itself holds a list."""
    if key.startswith("hydra.") or not (value.startswith("[") and value.endswith("]")):
        return False
    return value[1:].lstrip().startswith("[") if _holds_list(key) else True


def _holds_list(key: str) -> bool:
    limit: Limit | None = TRAIN.get(key)
    limit = limit.limit if isinstance(limit, OrNull) else limit
    if isinstance(limit, ListOf | ValueRange) or key in _LISTS or key.endswith(".value_range"):
        return True
    group, _, rest = key.partition(".")
    shipped = (config_folder() / group).glob("*.yaml") if rest else ()
    return any(isinstance(_node(parse_yaml(path.read_bytes()), rest), list) for path in shipped)


def _node(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def _values(key: str, listed: str) -> tuple[str, ...]:
    word = f"{key}={as_word(listed)}"
    inside = listed[1:-1].strip()
    if not inside:
        raise UserError(f"{word} names no value: give two or more, {_EXAMPLE}")
    sweep = f"value={inside}"
    refuse_large_sweep([sweep])
    try:
        override = OverridesParser.create().parse_override(sweep)
        is_list = isinstance(override.value(), ChoiceSweep | RangeSweep)
        elements = list(override.sweep_iterator()) if is_list else [override.value()]
    except (HydraException, ValueError) as error:
        instead = "write the values with commas between, text with blanks or commas in quotes"
        raise UserError(f"cannot read {word}: {instead}") from error
    texts = [_text(key, element) for element in elements]
    seen: list[Any] = []
    for element, text in zip(elements, texts, strict=True):
        told = (isinstance(element, bool), element.text if isinstance(element, QuotedString) else element)
        if told in seen:
            raise UserError(f"{word}: {key}={text} is there twice: give each value once")
        seen.append(told)
    return tuple(texts)


def _text(key: str, element: Any) -> str:
    """A value as it is typed behind ``key=``."""
    if is_free_text(key) and isinstance(element, str | QuotedString):
        return element.text if isinstance(element, QuotedString) else element
    if isinstance(element, bool):
        return str(element).lower()
    return Override._get_value_element_as_str(element, space_after_sep=True)


def is_free_text(key: str) -> bool:
    """Whether a key takes text that is none of Hydra's grammar."""
    return key in FREE_TEXT or key == "data"


def _inside(key: str, value: str) -> str:
    """A value as it stands in a list."""
    return as_item(value) if is_free_text(key) else value
