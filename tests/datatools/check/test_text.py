"""What the words of a record tell, and what they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.data.conversation import ASSISTANT, USER, BadRecord, Turn, check_images, merge_turns, settle_turns
from llava_moe.data.conversation import Conversation as Record
from llava_moe.datatools.check.text import asked_questions, normal_question, refine, text_kinds

SPECIALS = ("<s>", "<pad>", "<unk>")


def kinds(question: str, answer: str) -> list[str]:
    return [kind for kind, _ in text_kinds([Turn(USER, question), Turn(ASSISTANT, answer)], "</s>", SPECIALS)]


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("<image> What?", "a</s>b", "end_token"),
        ("What does <pad> mean?", "padding", "special_token"),
        ("<Image> What?", "a", "leftover_placeholder"),
        ("<image_1> What?", "a", "leftover_placeholder"),
        ("<img>x</img> What?", "a", "leftover_placeholder"),
        ("What?", "see <|image|>", "leftover_placeholder"),
        ("What?", "[IMG] a", "leftover_placeholder"),
        ("What?", "caf\ufffd", "replacement_character"),
        ("What?", "cafÃ© con leche", "mojibake"),
        ("What?", "itâ€™s a dog", "mojibake"),
        ("What?", "20Â° warm", "mojibake"),
        ("ï»¿What?", "a", "mojibake"),
        ("What?", "a\x00b", "control_character"),
        ("What?", "a\x9bb", "control_character"),
        ("<image>\nSay it.", "say  it.", "echo"),
        ("What?", "I'm sorry, but I cannot help with that.", "refusal"),
        ("What?", "As an AI language model, I see nothing.", "refusal"),
        ("What?", " I can\u2019t see the picture", "refusal"),
    ],
)
def test_each_kind_of_text_is_told(question: str, answer: str, kind: str) -> None:
    assert kinds(question, answer) == [kind]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("<image>\nWhat is this?", "A dog."),
        ("<image>What <image> differs?", "Nothing"),
        ("Write HTML for a picture", '<img src="a.png"> and <p>text</p> with <strong>force</strong>'),
        ("À quoi ça sert ?", "Ça coûte 5 € — près de l\u2019Élysée… « été »"),
        ("São Paulo NÃO É AQUI?", "NÃO, É LÁ. MANHÃ: 20 °C"),
        ("Đây là gì?", "“HÃY XEM” — ĐÃ”"),
        ("这是什么\uff1f", "一只狗。🐕 e\u0301"),
        ("Is 3 < 5 and [image credits]?", "Yes: a[i] < b[j]"),
        ("Tell a joke", "Sorry seems to be the hardest word. I can see it."),
        ("Line\none\ttwo\r\n", "three\n\nfour"),
        ("", "yes"),
    ],
)
def test_good_text_is_left_in_peace(question: str, answer: str) -> None:
    assert kinds(question, answer) == []


@given(st.text("éèçñöü\u2019ab ", max_size=20))
def test_text_read_as_cp1252_is_told_and_the_original_is_not(text: str) -> None:
    assert "mojibake" not in kinds("What?", text)
    assert ("mojibake" in kinds("What?", text.encode().decode("cp1252"))) == (not text.isascii())


def test_a_question_is_the_same_whatever_its_form() -> None:
    written = "<image>\nWhat colour is the CAR?\nAnswer the question using a single word or phrase."
    assert normal_question(written) == "what colour is the car"
    turns = [Turn(USER, "Answer the question about the picture.\nHow many cups?"), Turn(ASSISTANT, "Two")]
    assert "how many cups" in asked_questions(turns) and "two" not in asked_questions(turns)
    assert asked_questions([Turn(USER, "<image>")]) == set()


@given(
    st.lists(
        st.builds(Turn, st.sampled_from([USER, ASSISTANT, "system"]), st.sampled_from(["", " ", "text", "<image> x"])),
        max_size=6,
    ),
    st.integers(0, 2),
)
def test_what_training_refuses_is_told_apart_and_what_it_takes_is_not_asked(turns: list[Turn], num_images: int) -> None:
    try:
        settled = settle_turns(turns)
        check_images(Record("", ("a",) * num_images, settled, "", ""))
        return
    except BadRecord as fault:
        kind = refine(fault, turns)
        if kind == "unknown_role":
            assert any(turn.role == "system" for turn in turns)
        elif kind == "no_answer":
            assert merge_turns(turns)[-1].role == USER
        elif kind == "placeholder_in_answer":
            assert any("<image>" in turn.text for turn in turns if turn.role == ASSISTANT)
        else:
            assert kind == fault.reason
