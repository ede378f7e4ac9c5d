"""lmms-eval's requests get the answers that evaluation gives to the same questions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from PIL import Image

from llava_moe.assemble import Assembled
from llava_moe.data.conversation import ASSISTANT, USER, Conversation, Turn
from llava_moe.data.images.transform import ImageTransform
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Decoding, Question
from llava_moe.eval.generation.generate import answer_questions
from llava_moe.lmms_eval_plugin import answering
from llava_moe.lmms_eval_plugin.answering import Replies, turns_of
from llava_moe.lmms_eval_plugin.likelihood import answer_likelihood
from llava_moe.lmms_eval_plugin.requests import encode_image

COLORS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90), (250, 250, 0)]
DOCS: list[dict[str, Any]] = [
    {"text": f"What colour is the {'square ' * number}?", "image": Image.new("RGB", (20 + number, 15), color)}
    for number, color in enumerate(COLORS)
]
TASKS = {"colours": {"test": DOCS}}
GREEDY = {"max_new_tokens": 8, "do_sample": False, "until": []}


@dataclass(frozen=True)
class Asked:
    args: tuple[Any, ...]


def show(doc: dict[str, Any]) -> list[Image.Image]:
    return [doc["image"]]


def generation(number: int, kwargs: dict[str, Any] = GREEDY) -> Asked:
    return Asked((DOCS[number]["text"], kwargs, show, number, "colours", "test"))


def question(number: int, decoding: Decoding = Decoding(), name: str = "") -> Question:  # noqa: B008
    doc = DOCS[number]
    image = encode_image(doc["image"], "q")
    return Question(
        name or f"colours/test/{number}", (image,), doc["text"], (), "all", "k", False, 8, decoding=decoding
    )


@pytest.fixture
def replies(assembled: Assembled) -> Replies:
    return Replies(assembled, TASKS, batch_size=2)


def test_answers_are_evaluations_own_whatever_the_order_and_the_windows(
    replies: Replies, assembled: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer_questions(assembled.model, assembled.encoder, [question(n) for n in range(5)], batch_size=5)
    assert len(set(expected)) > 2
    order = [3, 0, 4, 2, 1]
    for window in (1, 64):
        monkeypatch.setattr(answering, "WINDOW", window)
        assert replies.generate([generation(n) for n in order]) == [expected[n] for n in order]


def test_requests_that_are_drawn_otherwise_are_told_apart(replies: Replies, assembled: Assembled) -> None:
    sampled = GREEDY | {"do_sample": True, "temperature": 1.5}
    penalised = GREEDY | {"repetition_penalty": 10.0}
    found = replies.generate([generation(0, sampled), generation(0), generation(0, penalised), generation(1, sampled)])
    asked = [
        question(0, Decoding(1.5)),
        question(0, Decoding()),
        question(0, Decoding(repetition_penalty=10.0)),
        question(1, Decoding(1.5)),
    ]
    assert found == [answer_questions(assembled.model, assembled.encoder, [one])[0] for one in asked]


def test_repetitions_of_a_sampled_question_are_drawn_anew(replies: Replies) -> None:
    sampled = GREEDY | {"do_sample": True, "temperature": 2.0}
    assert len(set(replies.generate([generation(0, sampled)] * 4))) > 1
    assert replies.generate([generation(0, sampled)] * 4) == replies.generate([generation(0, sampled)] * 4)


def test_an_answer_ends_before_a_text_that_its_task_names(replies: Replies) -> None:
    (whole,) = replies.generate([generation(0)])
    stop = whole[len(whole) // 2]
    (cut,) = replies.generate([generation(0, GREEDY | {"until": [stop]})])
    assert cut == whole[: whole.index(stop)].strip()


def test_a_question_of_text_alone_and_one_of_two_images_are_answered(replies: Replies) -> None:
    text = Asked(("How many bars are shown?", GREEDY, None, 0, "colours", "test"))
    two = Asked(("Is <image> like <image>?", GREEDY, lambda doc: [doc["image"]] * 2, 1, "colours", "test"))
    assert len(replies.generate([text, two, generation(2)])) == 3


def test_images_stand_where_the_task_marks_them(replies: Replies) -> None:
    before = question(0)
    assert [turn.text for turn in turns_of(before)] == ["<image>\n" + before.prompt]
    within = replace(before, prompt="Is <image> red?")
    assert turns_of(within) == [Turn(USER, "Is <image> red?")]


def test_control_tokens_that_a_task_spells_are_text(assembled: Assembled, replies: Replies) -> None:
    """Marks of images too, where the question has none; in the answer always."""
    tokenizer = assembled.encoder.tokenizer
    asked = replace(question(0), images=(), prompt="What is <image>, and </s>?")
    ids = replies._write_prompt(asked).tolist()
    assert [id_ for id_ in ids if id_ in (*tokenizer.all_special_ids, assembled.encoder.image_token_id)] == [1]
    found = answer_likelihood(assembled, "q", (), turns_of(asked), "a <image> mark </s>")
    assert found.num_tokens > 6


def test_rounds_are_written_by_the_task_from_the_answers_before(replies: Replies) -> None:
    heard: list[tuple[int, list[str], Any]] = []

    def write(doc: Any, previous_output: list[str], round_idx: int, previous_round_info: Any) -> Any:
        heard.append((round_idx, previous_output, previous_round_info))
        is_over = round_idx == 2
        shown = None if is_over else [doc["image"]]
        return shown, f"{doc['text']} Not {previous_output[-1]}?", is_over, previous_output, round_idx

    first = Asked((DOCS[0]["text"], GREEDY, show, write, 0, "colours", "test"))
    second = Asked((DOCS[1]["text"], GREEDY, show, write, 1, "colours", "test"))
    answers = replies.converse([first, second])
    assert [len(one) for one in answers] == [2, 2]
    assert answers[0][0] == replies.generate([generation(0)])[0]
    follow_up = Asked((f"{DOCS[0]['text']} Not {answers[0][0]}?", GREEDY, show, 0, "colours", "test"))
    assert answers[0][1] == replies.generate([follow_up])[0]
    assert [one[0] for one in heard] == [1, 1, 2, 2] and heard[2][2] == 1


def test_a_likelihood_is_the_loss_that_hugging_face_computes(assembled: Assembled, replies: Replies) -> None:
    request = Asked((DOCS[0]["text"], " blue", show, 0, "colours", "test"))
    (found,) = replies.judge([request])
    image = encode_image(DOCS[0]["image"], "q")
    turns = (*turns_of(question(0)), Turn(ASSISTANT, "blue"))
    example = assembled.encoder.encode(Conversation("", (image,), turns, "", ""), None, 0)
    labels = torch.from_numpy(example.labels)[None]
    transform = assembled.encoder.transform
    assert isinstance(transform, ImageTransform)
    pixels = transform.normalize(torch.from_numpy(example.pixels))
    with torch.no_grad():
        output = assembled.model(
            input_ids=torch.from_numpy(example.input_ids)[None], pixel_values=pixels, labels=labels, use_cache=False
        )
    assert found.num_tokens == int((labels != -100).sum()) > 1
    assert found.loss == pytest.approx(float(output.loss), rel=1e-5)


def test_the_greedy_answer_is_known_to_be_greedy_and_others_not(assembled: Assembled) -> None:
    asked = replace(question(0), max_new_tokens=200)
    (greedy,) = answer_questions(assembled.model, assembled.encoder, [asked])
    likely = [
        answer_likelihood(assembled, "q", asked.images, turns_of(asked), answer) for answer in ("red", "blue", "three")
    ]
    assert not any(one.is_greedy for one in likely)
    assert len({round(one.loss, 4) for one in likely}) == 3 and greedy not in ("red", "blue", "three")


def test_an_answer_that_does_not_fit_is_refused_in_a_line(replies: Replies) -> None:
    request = Asked((DOCS[0]["text"], "red " * 400, show, 0, "colours", "test"))
    with pytest.raises(UserError, match=r"colours/test/0: too_long"):
        replies.judge([request])
