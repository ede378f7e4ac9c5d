"""A base model with its tokenizer, built by its family: with weights, of tensors that hold nothing, or described."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from llava_moe.model.architecture import Architecture, name_of
from llava_moe.model.families import family_of
from llava_moe.model.families.protocol import BaseFacts, Family, VisionLanguageModel
from llava_moe.packed_rows import keep_examples_apart


@dataclass(frozen=True)
class BaseModel(BaseFacts):
    """What :func:`build_base` returns: the model, and what the data path must know of it."""

    model: VisionLanguageModel


def build_base(architecture: Architecture, dtype: torch.dtype, seed: int = 0) -> BaseModel:
    """Build the model with its tokenizer; fresh parts start from ``seed``.

    Raises:
        UserError: a checkpoint or tokenizer is not there or is not of the kind that its family is made of.
    """
    family = family_of(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, tokenizer = family.open(architecture, dtype)
    return _described(family, model, tokenizer, architecture)


def read_base(architecture: Architecture) -> BaseFacts:
    """What the data path must know of a base model, from its configurations and tokenizer alone: no weight is read.

    Raises:
        UserError: as :func:`build_base`, weights apart.
    """
    family = family_of(architecture)
    config, tokenizer = family.read(architecture)
    return family.facts(config, tokenizer, architecture)


def build_base_without_weights(
    architecture: Architecture, dtype: torch.dtype, place: torch.device | str = "meta"
) -> BaseModel:
    """The model that :func:`build_base` would build, with tensors that hold nothing: a 7B takes seconds and no memory.

    Args:
        place: ``meta``, or any device under a ``FakeTensorMode``.

    Raises:
        UserError: as :func:`build_base`, weights apart.
    """
    family = family_of(architecture)
    config, tokenizer = family.read(architecture)
    # Trap: SigLIP's initialization asks its numbers for their values, and here they have none.
    with torch.device(place), no_init_weights():
        model = family.make(config, dtype, name_of(architecture))
    # The initialization that was left out would have tied what is tied.
    model.tie_weights()
    return _described(family, model, tokenizer, architecture)


def _described(
    family: Family, model: VisionLanguageModel, tokenizer: PreTrainedTokenizerBase, architecture: Architecture
) -> BaseModel:
    # Trap: the text tower reads its own use_cache; left on, packed rows leak into each other (masking_utils.py).
    model.config.get_text_config().use_cache = False
    # Asked for a cache or given a mask all the same, a call of packed rows keeps them apart or is refused.
    keep_examples_apart(model.get_submodule(family.parts.language_model))
    return BaseModel(model=model, **vars(family.facts(model.config, tokenizer, architecture)))
