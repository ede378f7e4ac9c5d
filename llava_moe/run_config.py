"""The configuration of a run, typed: made once of Hydra's words, or read back from the run's folder.

What a key means, its bounds and its default stand in ``configs/train.yaml`` and ``llava-moe help``. A default here is
what a run of an earlier release did that has no word on the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar

Section = TypeVar("Section")
Node = Mapping[str, Any]
"""What a file of a group holds for one object: a base model with its ``_target_``, an adapter, a source."""


@dataclass(frozen=True)
class DataConfig:
    """``data``: the sources of records by name, and how much of each an epoch takes."""

    sources: Mapping[str, Node]
    root: str = "data"
    max_bad_share: float = 0.01
    quarantine: str | None = None
    held_out: float = 0.0
    num_workers: int = 2
    epoch_samples: int | None = None
    weights: Literal["samples", "tokens", "temperature"] = "samples"
    temperature: float = 1.0
    phases: Sequence[Node] | None = None
    follows_domains: bool = False
    exif: Literal["apply", "ignore"] = "ignore"
    alpha: Literal["white", "black", "drop"] = "drop"


@dataclass(frozen=True)
class ModelConfig:
    """``model``: the base, and how its text begins and its attention is computed."""

    architecture: Node
    path: str | None = None
    system: str | None = None
    attn_implementation: str = "auto"
    cache_features: Literal["off", "memory", "disk"] = "off"


@dataclass(frozen=True)
class StageConfig:
    """``stage``: what an example looks like to the model, and which parts train at which rates."""

    template: Literal["v1", "plain"]
    image_mode: Literal["pad", "crop", "resize"]
    learning_rates: Mapping[str, float]
    name: str = ""
    text: str = "conversations"
    vision_layers: Sequence[int] | None = None


@dataclass(frozen=True)
class TrainConfig:
    """``train``: the schedule, the optimizer and what a step takes."""

    dtype: str
    max_length: int
    over_length: Literal["cut", "drop"]
    tokens_per_micro_batch: int
    global_batch_size: int
    epochs: int = 1
    max_steps: int | None = None
    activation_checkpointing: bool = False
    warmup_ratio: float = 0.03
    gradient_clipping: float = 1.0
    betas: Sequence[float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    save_every: int = 500
    keep_last: int = 2
    max_nonfinite_steps: int = 3
    stall_seconds: float = 300
    rehearse: bool = True
    async_save: bool = True
    num_threads: int | None = None


@dataclass(frozen=True)
class LogConfig:
    """``log``: what is written while a run trains, and who else is shown it."""

    every: int = 1
    tensorboard: bool = False
    wandb: Literal["off", "offline", "online", "auto"] = "off"
    project: str = "llava-moe"


@dataclass(frozen=True)
class EvalConfig:
    """``eval``: what is measured while a run trains, and at its end."""

    benchmarks: Sequence[str] = ()
    limit: int | None = None
    stages: Literal["last", "all"] = "last"
    no_picture: bool = False
    every: int = 0
    split: str | None = None
    held_out_limit: int = 0
    during: Sequence[str] = ()
    images: str | None = None
    best: str | None = None


@dataclass(frozen=True)
class ParallelConfig:
    """``parallel``: one process, or several by our own engine or DeepSpeed's ZeRO."""

    engine: Literal["auto", "auto_deepspeed", "local", "ddp", "deepspeed"] = "auto"
    stage: int = 2
    offload_optimizer: bool = False
    offload_parameters: bool = False
    join_seconds: float = 600
    timeout_seconds: float = 86400
    extra: Node = field(default_factory=dict)

    @property
    def asks_for_zero(self) -> bool:
        """Whether something is said, beside ``engine``, that DeepSpeed alone does."""
        of_any = {name: getattr(self, name) for name in ("engine", "join_seconds", "timeout_seconds")}
        return self != ParallelConfig(**of_any)


@dataclass(frozen=True)
class RunConfig:
    """One stage's resolved configuration.

    Attributes:
        plain: the same as plain containers: what ``config.yaml`` holds and a run's name is a hash of.
        stages: the stages of an experiment; None in the configuration of one of them.
    """

    plain: Node
    data: DataConfig
    model: ModelConfig
    stage: StageConfig
    train: TrainConfig
    log: LogConfig
    eval: EvalConfig
    parallel: ParallelConfig
    adapter: Node
    stages: Sequence[Node] | None = None
    out: str | None = None
    init_from: str | None = None
    seed: int = 0
    domains: Sequence[str] | None = None
    domain_scale: Mapping[str, float] | None = None
    path: str | None = None
    images: str | None = None

    @staticmethod
    def of(plain: Node) -> RunConfig:
        """The typed form of a resolved configuration, whose keys and values have been judged.

        Keys that are no setting of a run's, such as those that only lend their values to others, are left in ``plain``.
        """
        others = {name: plain[name] for name in _TOP if name in plain}
        return RunConfig(
            plain=plain,
            data=_section(DataConfig, plain["data"]),
            model=_section(ModelConfig, plain["model"]),
            stage=_section(StageConfig, plain["stage"]),
            train=_section(TrainConfig, plain["train"]),
            log=_section(LogConfig, plain.get("log")),
            eval=_section(EvalConfig, plain.get("eval")),
            parallel=_section(ParallelConfig, plain.get("parallel")),
            adapter=plain.get("adapter") or {},
            **others,
        )

    def changed(self, **values: Any) -> RunConfig:
        """The same with other values of keys at its top, such as ``init_from`` or ``domains``."""
        return RunConfig.of({**self.plain, **values})

    @property
    def trains_adapter(self) -> bool:
        """Whether the stage trains an adapter."""
        return "adapter" in self.stage.learning_rates


# Its sections have no default.
_TOP = tuple(one.name for one in fields(RunConfig) if one.default is not MISSING)


def _section(kind: type[Section], node: Node | None) -> Section:
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in (node or {}).items() if key in known})
