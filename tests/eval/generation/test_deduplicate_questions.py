"""Questions that are put alike are asked once, and each has the answer that it has alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llava_moe.eval.benchmark import Decoding, Question
from llava_moe.eval.generation.deduplicate_questions import group_alike
from llava_moe.eval.generation.generate import LocalModel, answer_questions
from llava_moe.eval.ranks import Ranks
from tests.eval.generation.test_generate import make_questions


def asked_again() -> list[Question]:
    """Each question three times, under other names, scattered."""
    once = make_questions(7)
    return [replace(once[number * 5 % 7], id=f"q{number}") for number in range(21)]


@pytest.mark.parametrize("shares_prefix", [False, True])
def test_each_has_the_answer_of_a_question_asked_alone_and_none_is_read_twice(
    tiny_llava: Any, encoder: Any, shares_prefix: bool
) -> None:
    questions = asked_again()
    alone = [answer_questions(tiny_llava, encoder, [question])[0] for question in questions]
    assert len(set(alone)) > 3
    rows: list[int] = []
    # The first call of a batch reads its prompts; later ones add a token to each of its answers.
    hook = tiny_llava.lm_head.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    try:
        asker = LocalModel(tiny_llava, encoder, 4, shares_prefix=shares_prefix)
        batches = list(asker.answers(questions, Ranks()))
    finally:
        hook.remove()
    answers = {one.index: one.text for batch in batches for one in batch}
    assert answers == dict(enumerate(alone))
    assert len(batches) == 2 and max(rows) <= 4


def test_several_processes_answer_all_of_them_once(tiny_llava: Any, encoder: Any) -> None:
    parts = [LocalModel(tiny_llava, encoder, 2).answers(asked_again(), Ranks(rank, 3)) for rank in range(3)]
    assert sorted(one.index for part in parts for batch in part for one in batch) == list(range(21))


def test_another_picture_prompt_or_length_is_another_question_and_so_is_each_sample() -> None:
    first = make_questions(1)[0]
    prompt = np.array([1, 2, 3])
    others = [replace(first, id="twin"), replace(first, images=(b"x",)), replace(first, max_new_tokens=9)]
    assert group_alike([first, *others], [prompt] * 4) == [[0, 1], [2], [3]]
    assert group_alike([first, first], [prompt, np.array([1, 2, 4])]) == [[0], [1]]
    sampled = replace(first, decoding=Decoding(temperature=0.5))
    assert group_alike([sampled, sampled], [prompt] * 2) == [[0], [1]]
