"""A batch goes on with the answers that have not ended, and each is what it is alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llava_moe.eval.generation.generate import LocalModel, answer_questions
from llava_moe.eval.generation.rounds import FIRST_ROUND
from llava_moe.eval.ranks import ALONE
from tests.eval.generation.test_generate import make_questions, random_png


def test_no_token_is_computed_for_an_answer_whose_round_is_over(tiny_llava: Any, encoder: Any) -> None:
    limits = [2] * 5 + [20] * 3 + [FIRST_ROUND, FIRST_ROUND + 1]
    questions = [
        replace(one, images=(random_png(1),), prompt=f"{one.prompt} {number}", max_new_tokens=limits[number])
        for number, one in enumerate(make_questions(10))
    ]
    alone = answer_questions(tiny_llava, encoder, questions, batch_size=1)
    rows: list[int] = []
    hook = tiny_llava.lm_head.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    try:
        batches = list(LocalModel(tiny_llava, encoder, 10, shares_prefix=True).answers(questions, ALONE))
    finally:
        hook.remove()
    assert {one.index: one.text for batch in batches for one in batch} == dict(enumerate(alone))
    # The image is read once, then come whole rounds: the first for all, the second for those with more to say.
    assert rows[: 1 + FIRST_ROUND] == [1] + [10] * FIRST_ROUND
    assert max(rows[1 + FIRST_ROUND :]) <= 4 and max(rows[1 + 3 * FIRST_ROUND :], default=0) <= 3
