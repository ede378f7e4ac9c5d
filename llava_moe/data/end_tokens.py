"""Which tokens end an answer."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's own first, then all that the model's settings name.

    Settings are ``generation_config.json``, and lists in ``config.json`` or its ``text_config``: chat models end turns
    with a token of their own beside the tokenizer's.
    """
    generation = getattr(model.generation_config, "eos_token_id", None)
    configs = (model.config, model.config.get_text_config())
    lists = [found for config in configs if isinstance(found := getattr(config, "eos_token_id", None), list | tuple)]
    said = [tokenizer.eos_token_id]
    for found in (generation, *lists):
        said += found if isinstance(found, list | tuple) else [found]
    return tuple(dict.fromkeys(int(one) for one in said if isinstance(one, int) and one >= 0))
