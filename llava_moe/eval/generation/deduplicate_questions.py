"""Questions that are put alike are asked once: the same images, words and length, answered greedily.

A benchmark asks some twice: beside another image stands, now and then, the very question that is asked of that image
itself; and without pictures few different questions are left. A sampled answer is each question's own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from llava_moe.eval.benchmark import Question
from llava_moe.eval.generation.shared_prefix import image_key


def group_alike(questions: Sequence[Question], prompts: Sequence[np.ndarray]) -> list[list[int]]:
    """Indices of the questions that share an answer, the first of each group first, groups in the order of these.

    Args:
        questions: what is asked, all with the same decoding.
        prompts: token ids int64 [t] of each.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
        is_drawn = question.decoding.temperature > 0
        key = index if is_drawn else (image_key(question), prompt.tobytes(), question.max_new_tokens)
        groups.setdefault(key, []).append(index)
    return list(groups.values())
