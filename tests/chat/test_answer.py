"""One answer: its pieces, its settings, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from llava_moe.assemble import Assembled
from llava_moe.chat.answer import Answer, Decoding, TextFlow, generate_answer
from llava_moe.data.conversation import USER, Turn
from llava_moe.errors import UserError


def ask(
    assembled: Assembled,
    text: str = "What is it?",
    on_text: Callable[[str], None] = lambda piece: None,
    **decoding: Any,
) -> Answer:
    prompt = assembled.encoder.encode_prompt([Turn(USER, text)])
    return generate_answer(assembled.model, assembled.encoder, prompt, [], Decoding(**decoding), on_text)


def decoded(assembled: Assembled, tokens: list[int], **settings: Any) -> str:
    text = assembled.encoder.tokenizer.decode(tokens, **settings)
    assert isinstance(text, str)
    return text.strip()


def pieces_of(assembled: Assembled, tokens: list[int]) -> list[str]:
    pieces: list[str] = []
    flow = TextFlow(assembled.encoder, pieces.append)
    flow.put(torch.tensor([[1, 2, 3]]))
    for token in tokens:
        flow.put(torch.tensor([token]))
    flow.end()
    return pieces


@pytest.mark.parametrize("text", ["red", "one two three", "line\n  and\n line", "größe 漢字 🙂 ok", "a  b", "x\n"])
def test_the_pieces_joined_are_the_answer_for_a_llama_tokenizer(assembled: Assembled, text: str) -> None:
    tokenizer = assembled.encoder.tokenizer
    tokens = tokenizer.encode(text, add_special_tokens=False)
    pieces = pieces_of(assembled, [*tokens, tokenizer.eos_token_id])
    assert "".join(pieces) == decoded(assembled, tokens, skip_special_tokens=True) == text.strip()
    assert "\ufffd" not in "".join(pieces)


def test_words_come_as_their_tokens_come(assembled: Assembled) -> None:
    tokens = assembled.encoder.tokenizer.encode("red blue green", add_special_tokens=False)
    assert len(pieces_of(assembled, tokens)) == len(tokens) > 2


def test_the_pieces_of_a_generated_answer_are_the_answer(assembled: Assembled) -> None:
    pieces: list[str] = []
    answer = ask(assembled, on_text=pieces.append, max_new_tokens=60)
    assert "".join(pieces) == answer.text and len(pieces) > 5


def test_greedy_answers_follow_no_setting_but_their_length(assembled: Assembled) -> None:
    longest = ask(assembled, max_new_tokens=30, top_p=0.1)
    torch.manual_seed(5)
    assert ask(assembled, max_new_tokens=30) == longest
    assert longest.text.startswith(ask(assembled, max_new_tokens=10).text)


def test_a_seed_fixes_what_a_temperature_samples(assembled: Assembled) -> None:
    def sample(seed: int, **settings: Any) -> str:
        torch.manual_seed(seed)
        return ask(assembled, max_new_tokens=20, temperature=3.0, **settings).text

    assert sample(0) == sample(0) != sample(1)
    # So few of the tokens that only the likeliest is left.
    assert sample(0, top_p=1e-6) == sample(1, top_p=1e-6) == ask(assembled, max_new_tokens=20).text


def test_the_repetition_penalty_counts_the_answers_tokens_alone(assembled: Assembled) -> None:
    """Reference: greedy decoding without a cache, the logits of the tokens generated so far divided by hand."""
    prompt = assembled.encoder.encode_prompt([Turn(USER, "red blue red blue")])
    tokens: list[int] = []
    for _ in range(25):
        with torch.no_grad():
            logits = assembled.model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, -1]
        for token in set(tokens):
            logits[token] = logits[token] / 4.0 if logits[token] > 0 else logits[token] * 4.0
        tokens.append(int(logits.argmax()))
    expected = decoded(assembled, tokens, skip_special_tokens=True)
    answer = ask(assembled, "red blue red blue", max_new_tokens=25, repetition_penalty=4.0)
    assert answer == Answer(expected, "limit")
    assert answer != ask(assembled, "red blue red blue", max_new_tokens=25)


def test_an_answer_says_what_ended_it(assembled: Assembled, tmp_path: Path) -> None:
    assert ask(assembled, max_new_tokens=3).ended == "limit"
    head, end = assembled.model.lm_head, assembled.encoder.tokenizer.eos_token_id
    kept = head.forward
    head.forward = lambda hidden: torch.nn.functional.one_hot(
        torch.full(hidden.shape[:-1], end), head.out_features
    ).float()
    try:
        assert ask(assembled) == Answer("", "end")
    finally:
        head.forward = kept


def test_an_answer_ends_at_any_of_the_models_end_tokens(assembled: Assembled) -> None:
    pieces: list[str] = []
    whole = ask(assembled, max_new_tokens=20)
    tokens = (
        cast(Any, assembled.model)
        .generate(
            torch.from_numpy(assembled.encoder.encode_prompt([Turn(USER, "What is it?")]))[None],
            max_new_tokens=20,
            do_sample=False,
        )[0, -20:]
        .tolist()
    )
    generation = assembled.model.generation_config
    generation.eos_token_id = [assembled.encoder.tokenizer.eos_token_id, tokens[6]]
    try:
        cut = ask(assembled, on_text=pieces.append, max_new_tokens=20)
    finally:
        generation.eos_token_id = assembled.encoder.tokenizer.eos_token_id
    kept = tokens[: tokens.index(tokens[6])]
    assert cut == Answer(decoded(assembled, kept), "end")
    assert "".join(pieces) == cut.text != whole.text


def test_an_answer_ends_with_the_models_positions(assembled: Assembled) -> None:
    prompt = assembled.encoder.encode_prompt([Turn(USER, "red")])
    filled = np.concatenate([prompt, np.full(250 - len(prompt), prompt[-1])])
    answer = generate_answer(assembled.model, assembled.encoder, filled, [], Decoding(), lambda piece: None)
    assert answer.ended == "positions"
    full = np.full(256, prompt[-1])
    with pytest.raises(UserError, match="256 tokens long and the model has 256 positions"):
        generate_answer(assembled.model, assembled.encoder, full, [], Decoding(), lambda piece: None)


def test_ctrl_c_keeps_what_was_said_so_far(assembled: Assembled) -> None:
    pieces: list[str] = []

    def stop_after_three(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    answer = ask(assembled, on_text=stop_after_three, max_new_tokens=60)
    assert answer == Answer("".join(pieces), "interrupted")
    assert ask(assembled, max_new_tokens=60).text.startswith(answer.text)
