"""Which keys a configuration has: a file of the user's own may hold a typing mistake, or lack a key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from llava_moe.config.config_folder import shipped_folders
from llava_moe.config.limits import as_word
from llava_moe.errors import UserError
from llava_moe.text.did_you_mean import did_you_mean
from llava_moe.text.structured_text import parse_yaml

# A file of each group whose keys all the group's files have. What lies deeper is checked where it is used.
PATTERNS = {"data": "data/mine", "model": "model/tiny", "stage": "stage/instruct", "parallel": "parallel/auto"}
# What other trainers (LLaVA, Hugging Face, PEFT) call a setting, where its letters lead nowhere or astray.
ELSEWHERE = {
    "lr": "stage.learning_rates.adapter",
    "learning_rate": "stage.learning_rates.adapter",
    "mm_projector_lr": "stage.learning_rates.projector",
    "batch_size": "train.global_batch_size",
    "per_device_train_batch_size": "train.global_batch_size",
    "num_train_epochs": "train.epochs",
    "model_max_length": "train.max_length",
    "save_steps": "train.save_every",
    "output_dir": "out",
    "data_path": "path",
    "data.path": "path",
    "image_folder": "images",
    "data.images": "images",
    "model_name_or_path": "model.path",
    "lora_r": "adapter.r",
    "lora_alpha": "adapter.lora_alpha",
    "lora_dropout": "adapter.lora_dropout",
    "report_to": "log.wandb",
}
# Groups whose files write into the whole configuration and leave no key of their own name.
GLOBAL_GROUPS = ("exp", "scale")


def refuse_unknown(config: Mapping[str, Any], name: str) -> None:
    """Refuse keys that the primary configuration ``name`` does not have, and keys that are gone.

    Raises:
        UserError: the first unknown key, with the nearest known one, or the first missing key.
    """
    known = _read(name)
    sections = {key: node for key, node in known.items() if key not in ("defaults", "hydra")}
    if name == "train":
        for group, pattern in PATTERNS.items():
            # What a group's files may leave out stands in the primary configuration.
            sections[group] = {**known.get(group, {}), **(_read(pattern).get(group) or _read(pattern))}
        sections["adapter"] = None
    for group in GLOBAL_GROUPS:
        if group in config:
            raise UserError(f"the file of {group}= must begin with the line '# @package _global_': add it")
    _compare(config, sections, "")
    for section, node in sections.items():
        if isinstance(node, Mapping):
            if not isinstance(config[section], Mapping):
                example = f"such as {section}.{next(iter(node))}" if node else "{NAME: value}"
                raise UserError(f"{section}={as_word(config[section])}: it holds settings, {example}")
            if node:  # one that the file leaves empty takes names of the user's
                _compare(config[section], node, f"{section}.")


def data_keys() -> list[str]:
    """The keys that a file of sources may have beside them, and ``sources`` itself."""
    return list({"sources": None, **_read("train")["data"], **_read(PATTERNS["data"])})


def source_keys() -> list[str]:
    """The keys of one source."""
    from llava_moe.data.records import Source  # words are judged before it is loaded

    return [field.name for field in dataclasses.fields(Source) if field.name != "name"]


def _compare(found: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    for key in found:
        if key not in known:
            raise UserError(f"unknown key {prefix}{key}{suggest(f'{prefix}{key}', [prefix + name for name in known])}")
    for key, value in known.items():
        if key not in found:
            example = "" if isinstance(value, Mapping) else f", such as {as_word(value)}"
            raise UserError(f"{prefix}{key} is not set: a file or a ~ left it out; give it a value{example}")


def _read(name: str) -> dict[str, Any]:
    places = [folder / f"{name}.yaml" for folder in shipped_folders()]
    content = parse_yaml(next(path for path in places if path.is_file()).read_bytes())
    assert isinstance(content, dict)
    return content


def suggest(word: str, known: Sequence[str]) -> str:
    """``" (did you mean X?)"`` with the nearest known name, or nothing."""
    elsewhere = ELSEWHERE.get(word)
    if elsewhere in known:
        return f" (did you mean {elsewhere}?)"
    by_last_name = {key.rpartition(".")[2]: key for key in known}
    return did_you_mean(word, known, cutoff=0.5) or did_you_mean(
        word.rpartition(".")[2], by_last_name, shown=by_last_name.__getitem__
    )


def dotted(node: Any, prefix: str = "") -> list[str]:
    """All keys of nested mappings, sections included, as dotted names."""
    keys: list[str] = []
    for key, value in node.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys += dotted(value, f"{prefix}{key}.")
    return keys
