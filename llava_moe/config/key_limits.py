"""What each key may be, those of adapters and of base models among them: judged before torch is loaded.

Adapters and base models hold a caller of the library to the same bounds; a test holds the two against each other.
"""

from __future__ import annotations

from llava_moe.config.limits import (
    ByName,
    Either,
    Fields,
    FilePath,
    Limit,
    ListOf,
    OneOf,
    OrNull,
    PathOrMapping,
    Real,
    Text,
    ValueRange,
    Whole,
)

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
    "train.stall_seconds": Real(0),
    "train.rehearse": FLAG,
    "train.async_save": FLAG,
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
    "parallel.engine": OneOf(("auto", "auto_deepspeed", "local", "ddp", "deepspeed")),
    "parallel.stage": OneOf((0, 1, 2, 3)),
    "parallel.offload_optimizer": FLAG,
    "parallel.offload_parameters": FLAG,
    "parallel.join_seconds": Real(0, open_below=True),
    "parallel.timeout_seconds": Real(0, open_below=True),
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

_LINEARS = Either((Text(), ListOf(Text())))
_ALPHA = Real(0, 1_000_000, open_below=True)
_DROPOUT = Real(0, 1, open_above=True)
LORA: dict[str, Limit] = {
    "r": Whole(1),
    "lora_alpha": _ALPHA,
    "lora_dropout": _DROPOUT,
    "target_modules": _LINEARS,
    "use_rslora": FLAG,
}
LLAVA_MOLE: dict[str, Limit] = LORA | {
    "num_experts": Either((Whole(1), ListOf(Whole(1), shortest=1))),
    "router": OneOf(("straight_through", "hard", "gate", "dense")),
    "load_balance_coef": OrNull(Real(0)),
    "load_balance": OneOf(("per_layer", "pooled")),
    "expert_modules": _LINEARS,
    "expert_layers": OrNull(ListOf(Whole(0))),
    "shared_A": FLAG,
    "dispatch": OneOf(("auto", "masked", "sorted")),
}
MIXLORA: dict[str, Limit] = {
    "num_factors": Whole(1),
    "r": Whole(1),
    "lora_alpha": OrNull(_ALPHA),
    "lora_dropout": _DROPOUT,
    "conditional": FLAG,
    "router_grad": OneOf(("straight_through", "none")),
    "routing": OneOf(("instance", "task", "token", "random")),
    "target_modules": _LINEARS,
    "as_released": FLAG,
}
MOLE: dict[str, Limit] = {
    "experts": Either((FilePath(), ListOf(FilePath(), shortest=1))),
    "granularity": OneOf(("matrix", "layer", "block", "network")),
    "temperature": Real(0, open_below=True),
    "balance_coef": Real(0),
    "mask": OrNull(ListOf(OneOf((0, 1)))),
    "exact": FLAG,
}
FROM_PARTS: dict[str, Limit] = {
    "vision_tower": Text(),
    "language_model": Text(),
    "projector_output_std": OrNull(Real(0, open_below=True)),
}
FROM_CHECKPOINT: dict[str, Limit] = {"path": FilePath()}
FROM_SHAPE: dict[str, Limit] = {"tokenizer": Text(), "vision": Fields(), "text": Fields()}
TARGETS: dict[str, dict[str, Limit]] = {
    "llava_moe.adapters.Lora": LORA,
    "llava_moe.adapters.LlavaMole": LLAVA_MOLE,
    "llava_moe.adapters.MixLora": MIXLORA,
    "llava_moe.adapters.Mole": MOLE,
    "llava_moe.adapters.NoAdapter": {},
    "llava_moe.model.FromParts": FROM_PARTS,
    "llava_moe.model.FromCheckpoint": FROM_CHECKPOINT,
    "llava_moe.model.FromShape": FROM_SHAPE,
}
"""By what ``_target_`` says; a target that is not here is judged where it is built."""
