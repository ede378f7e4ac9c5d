"""What a setting may be: a wrong value is refused before anything is built, read or written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from llava_moe.data.images.reading import is_value_range
from llava_moe.errors import UserError

LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes, as on Linux."""
LONGEST_SHOWN = 400


class Limit(Protocol):
    """One setting's domain."""

    def admits(self, value: Any) -> bool: ...
    def describe(self) -> str: ...


@dataclass(frozen=True)
class Whole:
    """A whole number from ``lowest`` to ``highest``; no count of ours is larger, and no seed."""

    lowest: int
    highest: int = 2**32 - 1

    def admits(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.lowest <= value <= self.highest

    def describe(self) -> str:
        return f"a whole number of at least {self.lowest} and at most {self.highest}"


@dataclass(frozen=True)
class Real:
    """A finite number from ``lowest`` to ``highest``, themselves left out if ``open_below`` and ``open_above``."""

    lowest: float
    highest: float = math.inf
    open_below: bool = False
    open_above: bool = False

    def admits(self, value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # a whole number that no float holds
            return False
        is_above = self.lowest < value if self.open_below else self.lowest <= value
        return is_above and (value < self.highest if self.open_above else value <= self.highest)

    def describe(self) -> str:
        if self.lowest == -math.inf and math.isinf(self.highest):
            return "a finite number"
        above = f"{'above' if self.open_below else 'of at least'} {self.lowest:g}"
        below = f" and {'below' if self.open_above else 'at most'} {self.highest:g}"
        return f"a number {above}" + ("" if math.isinf(self.highest) else below)


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    options: tuple[Any, ...]

    def admits(self, value: Any) -> bool:
        return any(value is option or (value == option and isinstance(value, str)) for option in self.options)

    def describe(self) -> str:
        # YAML reads an unquoted off as false: it is one choice, named as it is typed.
        told = [option for option in self.options if not (option is False and "off" in self.options)]
        return " or ".join(str(option).lower() if isinstance(option, bool) else str(option) for option in told)


@dataclass(frozen=True)
class Text:
    """Text, which holds something unless it ``may_be_empty``."""

    may_be_empty: bool = False

    def admits(self, value: Any) -> bool:
        return isinstance(value, str) and (self.may_be_empty or bool(value.strip()))

    def describe(self) -> str:
        return "text" if self.may_be_empty else "text, such as a path or a name"


@dataclass(frozen=True)
class FilePath:
    """A path that a file can have, or an address."""

    def admits(self, value: Any) -> bool:
        # Quotes that the shell left inside quotes name nothing: out="''".
        if not isinstance(value, str) or not value.strip(" \t\n'\"") or "\0" in value:
            return False
        longest = max(len(part.encode()) for part in value.split("/"))
        return longest <= LONGEST_NAME and len(value.encode()) < LONGEST_PATH

    def describe(self) -> str:
        return f"text, such as a path; each name in it of at most {LONGEST_NAME} bytes"


@dataclass(frozen=True)
class PathOrMapping:
    """A path that a file can have, or what maps names to such paths."""

    def admits(self, value: Any) -> bool:
        return FilePath().admits(value) or (isinstance(value, str) and value.startswith("{"))

    def describe(self) -> str:
        return f"{FilePath().describe()}; or {{NAME: PATH, ...}}"


@dataclass(frozen=True)
class ListOf:
    """A list of values, of ``length`` if that is given, and of ``shortest`` at least."""

    item: Limit
    length: int | None = None
    shortest: int = 0

    def admits(self, value: Any) -> bool:
        if not isinstance(value, list) or self.length not in (None, len(value)) or len(value) < self.shortest:
            return False
        return all(self.item.admits(item) for item in value)

    def describe(self) -> str:
        how_many = f"{self.length} values, " if self.length is not None else "one or more, " if self.shortest else ""
        return f"a list [...] of {how_many}each {self.item.describe()}"


@dataclass(frozen=True)
class ValueRange:
    """Two finite numbers, the first below the second."""

    def admits(self, value: Any) -> bool:
        return is_value_range(value)

    def describe(self) -> str:
        return "two finite numbers [low, high], low below high, such as [0,4095]"


@dataclass(frozen=True)
class ByName:
    """A mapping whose every value is admitted."""

    item: Limit

    def admits(self, value: Any) -> bool:
        return isinstance(value, Mapping) and all(self.item.admits(item) for item in value.values())

    def describe(self) -> str:
        return f"a mapping {{name: value, ...}}, each value {self.item.describe()}"


@dataclass(frozen=True)
class OrNull:
    """Another limit, or null."""

    limit: Limit

    def admits(self, value: Any) -> bool:
        return value is None or self.limit.admits(value)

    def describe(self) -> str:
        return f"{self.limit.describe()}, or null"


@dataclass(frozen=True)
class Either:
    """What one of several limits admits."""

    limits: tuple[Limit, ...]

    def admits(self, value: Any) -> bool:
        return any(limit.admits(value) for limit in self.limits)

    def describe(self) -> str:
        return ", or ".join(limit.describe() for limit in self.limits)


@dataclass(frozen=True)
class Fields:
    """A mapping with fields of its own."""

    def admits(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def describe(self) -> str:
        return "a mapping {field: value, ...}"


MOST_REPEATS = 100_000
"""Passes over the data that anyone would ask for."""

FLAG = OneOf((True, False))
BY_DOMAIN = "by_domain="
"""How ``static=`` of export begins where a domain follows."""

EXIF = OneOf(("apply", "ignore"))
ALPHA = OneOf(("white", "black", "drop"))
SOURCE_TEXT = OneOf(("conversations", "caption"))
LAYERS = OrNull(ListOf(Whole(0), length=2))
VALUE_RANGE = OrNull(ValueRange())
SHARED: dict[str, Limit] = {"seed": Whole(0), "out": OrNull(FilePath()), "model.path": OrNull(FilePath())}
TRAIN: dict[str, Limit] = SHARED | {
    "init_from": OrNull(FilePath()),
    "domains": OrNull(ListOf(Text(), shortest=1)),
    "domain_scale": OrNull(ByName(Real(0, MOST_REPEATS, open_below=True))),
    "path": OrNull(PathOrMapping()),
    "images": OrNull(PathOrMapping()),
    "value_range": VALUE_RANGE,
    "conflict": OrNull(Real(0, 1)),
    "stages": OrNull(ListOf(Fields(), shortest=1)),
    "train.global_batch_size": Whole(1),
    "train.tokens_per_micro_batch": Whole(1),
    "train.epochs": OrNull(Whole(0, MOST_REPEATS)),
    "train.max_steps": OrNull(Whole(1)),
    "train.max_length": Whole(1),
    "train.over_length": OneOf(("cut", "drop")),
    "train.dtype": OneOf(("fp32", "bf16")),
    "train.activation_checkpointing": FLAG,
    "train.warmup_ratio": Real(0, 1),
    "train.gradient_clipping": Real(0),
    "train.betas": ListOf(Real(0, 0.999999), length=2),
    "train.epsilon": Real(0),
    "train.weight_decay": Real(0),
    "train.save_every": Whole(0),
    "train.keep_last": Whole(1),
    "train.max_nonfinite_steps": Whole(0),
    "train.num_threads": OrNull(Whole(1)),
    "log.every": Whole(1),
    "log.tensorboard": FLAG,
    "log.project": Text(),
    # YAML reads an unquoted off as false.
    "log.wandb": OneOf(("off", "offline", "online", "auto", False)),
    "eval.benchmarks": ListOf(Text()),
    "eval.limit": OrNull(Whole(0)),
    "eval.stages": OneOf(("last", "all")),
    "eval.no_picture": FLAG,
    "eval.every": OrNull(Whole(0)),
    "eval.split": OrNull(Text()),
    "eval.held_out_limit": Whole(0),
    "eval.during": ListOf(Text()),
    "eval.images": OrNull(PathOrMapping()),
    "eval.best": OrNull(Text()),
    "stage.name": Text(),
    "stage.text": SOURCE_TEXT,
    "stage.template": OneOf(("v1", "plain")),
    "stage.image_mode": OneOf(("pad", "crop")),
    "stage.learning_rates": ByName(OrNull(Real(0))),
    "stage.without_adapter": OrNull(ByName(OrNull(Real(0)))),
    "stage.vision_layers": LAYERS,
    "stage.demo": Fields(),
    "stage.demo.max_steps": OrNull(Whole(1)),
    "stage.demo.evening_steps": OrNull(Whole(1)),
    "stage.demo.global_batch_size": Whole(1),
    "stage.demo.learning_rates": ByName(OrNull(Real(0))),
    "stage.demo.without_adapter": OrNull(ByName(OrNull(Real(0)))),
    "stage.demo.vision_layers": LAYERS,
    "model.architecture": Fields(),
    "model.system": OrNull(Text(may_be_empty=True)),
    # YAML reads an unquoted off as false.
    "model.attn_implementation": OneOf(("auto", "flash_attention_2", "flex_attention", "sdpa", "packed_sdpa", "eager")),
    "model.cache_features": OneOf(("off", "memory", "disk", False)),
    "adapter": Fields(),
    "data.sources": ByName(Fields()),
    "data.num_workers": Whole(0),
    "data.root": FilePath(),
    "data.exif": EXIF,
    "data.alpha": ALPHA,
    "data.max_bad_share": Real(0, 1),
    "data.quarantine": OrNull(FilePath()),
    "data.held_out": Real(0, 0.9),
    "data.epoch_samples": OrNull(Whole(1)),
    "data.weights": OneOf(("samples", "tokens", "temperature")),
    "data.temperature": Real(0, open_below=True),
    "data.phases": OrNull(ListOf(Fields())),
    "data.follows_domains": FLAG,
    "parallel.engine": OneOf(("auto", "local", "ddp", "deepspeed")),
    "parallel.stage": OneOf((0, 1, 2, 3)),
    "parallel.offload_optimizer": FLAG,
    "parallel.offload_parameters": FLAG,
    "parallel.extra": Fields(),
}
READING: dict[str, Limit] = {"data.exif": OrNull(EXIF), "data.alpha": OrNull(ALPHA), "data.value_range": VALUE_RANGE}
EVAL: dict[str, Limit] = SHARED | {
    "run": OrNull(FilePath()),
    "benchmarks": ListOf(Text()),
    "protocol": Text(),
    "benchmark_root": OrNull(FilePath()),
    "benchmark_paths": ByName(FilePath()),
    "images": OrNull(PathOrMapping()),
    "limit": OrNull(Whole(0)),
    "batch_size": Whole(1),
    "num_threads": OrNull(Whole(1)),
    "dtype": OrNull(OneOf(("fp32", "bf16", "fp16"))),
    **READING,
    "model.peft": OrNull(FilePath()),
    "model.template": OrNull(OneOf(("chat", "v1"))),
    "model.image_mode": OrNull(OneOf(("pad", "crop", "resize"))),
    "model.endpoint": OrNull(Text()),
    "model.name": OrNull(Text()),
    "model.api_key_env": OrNull(Text()),
    "model.timeout": OrNull(Real(0, open_below=True)),
    "model.attempts": OrNull(Whole(1)),
    "runs": OrNull(ListOf(FilePath())),
    "common": FLAG,
    "held_out": FLAG,
    "blind": FLAG,
    "leaks": FLAG,
    "judge.endpoint": OrNull(Text()),
    "judge.name": OrNull(Text()),
    "judge.api_key_env": OrNull(Text()),
    "judge.temperature": Real(0),
    "judge.timeout": OrNull(Real(0, open_below=True)),
    "judge.attempts": OrNull(Whole(1)),
}
PHASE: dict[str, Limit] = {"share": Real(0, 1, open_below=True), "weights": ByName(Real(0))}
SOURCE: dict[str, Limit] = {
    "domain": Text(),
    "path": FilePath(),
    "images": OrNull(FilePath()),
    "folder": OrNull(FilePath()),
    "value_range": VALUE_RANGE,
    "format": Text(),
    "split": OrNull(Text()),
    "text": SOURCE_TEXT,
    "shuffle_turns": FLAG,
    "recipe": OrNull(Text()),
    "repeats": Real(0, MOST_REPEATS, open_below=True),
    "cap": OrNull(Whole(1)),
    "weight": Real(0),
}


def check_settings(config: Mapping[str, Any], limits: Mapping[str, Limit], where: str = "") -> None:
    """Hold every setting that is there against its limit; keys are dotted.

    Raises:
        UserError: naming the first setting that is not admitted, its value and what it may be.
    """
    for key, limit in limits.items():
        node: Any = config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                break
            node = node[part]
        else:
            if isinstance(limit, ByName) and isinstance(node, Mapping):
                check_settings(node, dict.fromkeys(map(str, node), limit.item), f"{where}{key}.")
            if not limit.admits(node):
                name, value, expected = _culprit(key, node, limit)
                raise UserError(f"{where}{name}={as_word(value)}: give {expected.describe()}")


def _culprit(key: str, value: Any, limit: Limit) -> tuple[str, Any, Limit]:
    """The entry of a mapping that is not admitted; the value itself where it is none, or has no such entry."""
    inner = limit.limit if isinstance(limit, OrNull) else limit
    if isinstance(inner, ByName) and isinstance(value, Mapping):
        for name, one in value.items():
            if not inner.item.admits(one):
                return f"{key}.{name}", one, inner.item
    return key, value, limit


def as_word(value: Any) -> str:
    """A value as it is written on the command line, cut where it is longer than anyone reads."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:80]}...{text[-20:]}"
