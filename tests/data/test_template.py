"""What is written for a conversation, for a prompt, and by the Jinja of Hugging Face processors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from llava_moe.data.conversation import BadRecord, Conversation, Turn
from llava_moe.data.template import VICUNA_V1_SYSTEM, Template, chat_template, join_parts

Q, A = "user", "assistant"
Kind = Literal["v1", "plain"]


def conversation(*texts: str) -> Conversation:
    turns = tuple(Turn((Q, A)[number % 2], text) for number, text in enumerate(texts))
    return Conversation("1", (), turns, "s", "d")


def test_v1_is_vicunas_text_to_the_letter() -> None:
    rendered = Template().render(conversation("what is <image> this ?\n", "a cat", " why ", "so"))
    assert rendered.text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nwhat is  this ? ASSISTANT: a cat</s>"
        "USER:  why  ASSISTANT: so</s>"
    )
    assert [rendered.text[start:end] for start, end in rendered.spans] == [" a cat</s>", " so</s>"]


def test_without_a_system_sentence_the_text_begins_with_user() -> None:
    assert Template(system="").render(conversation("what", "a cat")).text == "USER: what ASSISTANT: a cat</s>"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Is A <image> like it ?\n", "<image>\nIs A  like it ?"),
        ("A: <image> and B: <image>. Which ? ", "A: <image> and B: <image>. Which ? "),
        (" <image><image>\n<image>  ", " <image><image>\n<image>  "),
        ("<image>\n<image>\nalike ?", "<image>\n<image>\nalike ?"),
    ],
)
def test_one_image_moves_to_the_front_of_its_turn_and_several_stay_where_they_stand(written: str, shown: str) -> None:
    rendered = Template(system="").render(conversation(written, "no", "and this <image> ?", "yes"))
    assert rendered.text == f"USER: {shown} ASSISTANT: no</s>USER: <image>\nand this  ? ASSISTANT: yes</s>"
    assert rendered.marks is not None
    marked = [rendered.text[start:end] for start, end in rendered.marks]
    assert marked == ["<image>"] * written.count("<image>") + ["</s>", "<image>", "</s>"]


def test_a_conversations_own_system_prompt_stands_in_place_of_the_templates() -> None:
    whole = replace(conversation("what", "a cat"), system="Answer in </s> one word.")
    rendered = Template().render(whole)
    assert rendered.text == "Answer in </s> one word. USER: what ASSISTANT: a cat</s>"
    assert rendered.marks == ((len(rendered.text) - 4, len(rendered.text)),)
    assert Template().render(replace(whole, system="")).text == "USER: what ASSISTANT: a cat</s>"
    shown = replace(conversation("<image>", "a cat"), system="Answer in one word.")
    assert Template("plain").render(shown).text == "<image>a cat\n"


def test_an_answer_that_is_not_supervised_has_no_span() -> None:
    whole = conversation("one ?", "draft", "two ?", "good", "three ?", "draft")
    turns = [replace(turn, is_supervised=turn.text != "draft") for turn in whole.turns]
    rendered = Template().render(replace(whole, turns=tuple(turns)))
    assert rendered.text == Template().render(whole).text
    assert [rendered.text[start:end] for start, end in rendered.spans] == [" good</s>"]
    assert rendered.ends == tuple(end for _, end in Template().render(whole).spans)


@pytest.mark.parametrize("kind", ["v1", "plain"])
def test_a_conversation_that_teaches_nothing_is_a_bad_record(kind: Kind) -> None:
    with pytest.raises(BadRecord, match="nothing_supervised"):
        Template(kind).render(
            replace(conversation(), turns=(Turn(Q, "<image>"), Turn(A, "a cat", is_supervised=False)))
        )


def test_a_prompt_shows_as_many_images_as_it_is_told_and_the_rest_is_text() -> None:
    turns = [Turn(Q, "what is <image> ?"), Turn(A, "the word <image>"), Turn(Q, "<image>\nand <image> ?")]
    rendered = Template(system="").render_prompt(turns, [0, 0, 1])
    assert rendered.text == (
        "USER: what is <image> ? ASSISTANT: the word <image></s>USER: <image>\nand <image> ? ASSISTANT:"
    )
    assert rendered.marks is not None
    assert [rendered.text[start:end] for start, end in rendered.marks] == ["</s>", "<image>"]
    assert rendered.marks[1][0] == rendered.text.index("\nand") - len("<image>") and rendered.spans == ()
    with pytest.raises(ValueError, match="shows 2 images and marks 1"):
        Template().render_prompt(turns[:1], [2])


def test_an_image_alone_is_a_question() -> None:
    assert Template(system="").render(conversation(" <image>\n", "a cat")).text == "USER: <image> ASSISTANT: a cat</s>"


def test_plain_is_image_caption_newline_and_the_question_is_thrown_away() -> None:
    rendered = Template("plain").render(conversation("describe it\n<image>", "a red cat"))
    assert rendered.text == "<image>a red cat\n"
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["a red cat\n"]


@pytest.mark.parametrize(
    ("kind", "texts", "reason"),
    [
        ("plain", ("<image>", "a cat", "why ?", "so"), "not_plain"),
        ("plain", ("what ?", "a cat"), "not_plain"),
        ("v1", ("  ", "a cat"), "empty_question"),
        ("v1", ("what ?",), "role_order"),
        ("v1", ("what ?", " "), "empty_answer"),
    ],
)
def test_what_cannot_be_written_is_a_bad_record(kind: Kind, texts: tuple[str, ...], reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        Template(kind).render(conversation(*texts))
    assert caught.value.reason == reason


def test_a_prompt_is_the_training_text_up_to_the_last_answer() -> None:
    for texts in (("<image>\nwhat ?", "a cat"), ("what ?", "a cat", "why <image> ?", " so")):
        whole = conversation(*texts)
        rendered = Template().render(whole)
        prompt = Template().prompt(whole.turns[:-1])
        assert prompt == rendered.text[: rendered.spans[-1][0]] and prompt.endswith(" ASSISTANT:")
    assert Template("plain").prompt([Turn(Q, "what is it ?\n<image>")]) == "<image>"


def test_a_prompt_that_ends_with_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="a prompt needs turns"):
        Template().prompt(conversation("what ?", "a cat").turns)


messages = st.text(st.sampled_from("ab {}%'\"\\\n\té🙂")).filter(str.strip)
questions = st.lists(messages, min_size=1, max_size=4).map("<image>".join)


@given(
    st.lists(st.tuples(questions, messages), min_size=1, max_size=3),
    st.sampled_from([VICUNA_V1_SYSTEM, "", 'a "b" EOS SYSTEM']),
)
def test_the_jinja_template_writes_the_same_text(
    tokenizer: PreTrainedTokenizerBase, rounds: list[tuple[str, str]], system: str
) -> None:
    template = Template(system=system)
    whole = conversation(*(text for pair in rounds for text in pair))
    chat = [{"role": turn.role, "content": turn.text} for turn in whole.turns]

    def jinja(turns: list[dict[str, str]], **more: Any) -> str:
        written = tokenizer.apply_chat_template(turns, chat_template=chat_template(template), tokenize=False, **more)
        assert isinstance(written, str)
        return written

    assert jinja(chat) == template.render(whole).text
    own = [{"role": "system", "content": "Be brief."}, *chat]
    assert jinja(own) == template.render(replace(whole, system="Be brief.")).text
    assert jinja(chat[:-1], add_generation_prompt=True) == template.prompt(whole.turns[:-1])


@pytest.mark.parametrize("kind", ["v1", "plain"])
def test_the_jinja_template_takes_contents_in_parts(tokenizer: PreTrainedTokenizerBase, kind: Kind) -> None:
    template = Template(kind)
    parts: list[dict[str, Any]] = [
        {"role": Q, "content": [{"type": "text", "text": "what ?"}, {"type": "image"}]},
        {"role": A, "content": [{"type": "text", "text": "a cat"}]},
    ]
    written = tokenizer.apply_chat_template(parts, chat_template=chat_template(template), tokenize=False)
    assert written == template.render(conversation("what ?<image>", "a cat")).text


@pytest.mark.parametrize("kind", ["v1", "plain"])
@given(parts=st.lists(messages | st.none(), min_size=1, max_size=6), answer=messages | st.just("<image> is a word"))
def test_the_jinja_template_joins_a_list_of_parts_as_we_do(
    tokenizer: PreTrainedTokenizerBase, kind: Kind, parts: list[str | None], answer: str
) -> None:
    if None not in parts:
        return
    listed = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    told: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": Q, "content": listed},
        {"role": A, "content": [{"type": "text", "text": answer}]},
    ]
    written = tokenizer.apply_chat_template(told, chat_template=chat_template(Template(kind)), tokenize=False)
    assert written == Template(kind).render(replace(conversation(join_parts(parts), answer), system="Be brief.")).text


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([None, None, "Alike ?"], "<image>\n<image>\nAlike ?"),
        (["Picture A: ", None, " and B: ", None, "."], "Picture A: <image> and B: <image>."),
        (["One", "two"], "One\ntwo"),
        ([None, "one", "two", None], "<image>\none\ntwo<image>"),
    ],
)
def test_parts_stand_where_they_stand_and_images_in_front_a_line_each(parts: list[str | None], text: str) -> None:
    assert join_parts(parts) == text
