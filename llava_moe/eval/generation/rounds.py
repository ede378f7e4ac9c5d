"""Greedy answers in rounds: a batch goes on with the answers that have not ended, not with the longest for all.

Most answers of closed questions are a word; one of a sentence would otherwise have the whole batch computed with it.

Letters of shapes: B questions of a round, T tokens of its longest prompt and of what was answered so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from transformers import DynamicCache, GenerationConfig, LlavaForConditionalGeneration

from llava_moe.kv_cache import cache_name

FIRST_ROUND = 3
"""Tokens of the first round; each further round has twice as many."""


def generate_in_rounds(
    model: LlavaForConditionalGeneration,
    inputs: Mapping[str, torch.Tensor],
    cache: DynamicCache,
    settings: GenerationConfig,
    limits: Sequence[int],
    end_tokens: Sequence[int],
) -> list[list[int]]:
    """The tokens of each row's answer, as ``generate`` gives them, to an end token or the row's limit at least.

    Args:
        model: one in which no token depends on a later one, nor on another row.
        inputs: ``input_ids`` and ``attention_mask``, int64 [B, T].
        cache: holds all that was read of the rows, images among it; is changed.
        settings: greedy; their number of new tokens does not count.
        limits: most new tokens of each row.
        end_tokens: what ends an answer.
    """
    answers: list[list[int]] = [[] for _ in limits]
    rows, size = list(range(len(limits))), FIRST_ROUND
    input_ids_BT, mask_BT = inputs["input_ids"], inputs["attention_mask"]
    while rows:
        settings.max_new_tokens = min(size, max(limits[row] - len(answers[row]) for row in rows))
        given: dict[str, Any] = {"input_ids": input_ids_BT, "attention_mask": mask_BT}
        given[cache_name(type(model).forward)] = cache
        # transformers types `generate` for a protocol its own LLaVA class does not match.
        sequences_BT = cast(Any, model).generate(**given, generation_config=settings)
        num_new = sequences_BT.shape[1] - input_ids_BT.shape[1]
        for row, tokens in zip(rows, sequences_BT[:, -num_new:].tolist(), strict=True):
            answers[row] += tokens
        places = [place for place, row in enumerate(rows) if _goes_on(answers[row], limits[row], end_tokens)]
        rows, size = [rows[place] for place in places], 2 * size
        kept_B = torch.tensor(places, dtype=torch.long, device=input_ids_BT.device)
        cache.batch_select_indices(kept_B)
        input_ids_BT = sequences_BT[kept_B]
        mask_BT = torch.cat([mask_BT[kept_B], mask_BT.new_ones(len(rows), num_new)], dim=1)
    return answers


def _goes_on(answer: Sequence[int], limit: int, end_tokens: Sequence[int]) -> bool:
    return len(answer) < limit and not any(token in end_tokens for token in answer)
