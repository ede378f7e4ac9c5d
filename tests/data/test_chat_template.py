"""A checkpoint's own chat template writes whole conversations, images in their places, or is told in a line."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llava_moe.data.chat_template import ChatTemplate
from llava_moe.data.conversation import ASSISTANT, USER, BadRecord, Conversation, Turn
from llava_moe.data.template import Template, chat_template
from llava_moe.data.tokens import Tokens
from llava_moe.errors import UserError
from llava_moe.model.tokenizer import extend_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# A tokenizer's: contents are text. It puts the begin token in front itself.
PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ '[' + message['role'] + '] ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)
TURNS = [
    Turn(USER, "<image>\nWhat colour?"),
    Turn(ASSISTANT, "red"),
    Turn(USER, "Is it small?"),
    Turn(ASSISTANT, "Yes"),
]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    return extend_tokenizer(AutoTokenizer.from_pretrained(tokenizer_folder))


def test_a_prompt_is_written_with_parts_or_as_text_as_the_template_takes_it(tokenizer: PreTrainedTokenizerBase) -> None:
    parts, plain = (ChatTemplate(tokenizer, source, "here") for source in (CHATML, PLAIN))
    assert parts.prompt(TURNS[:3]) == (
        "<|user|><image>What colour?</s><|assistant|>red</s><|user|>Is it small?</s><|assistant|>"
    )
    assert plain.prompt(TURNS[:3]) == "[user] <image>\nWhat colour?\n[assistant] red\n[user] Is it small?\n[assistant] "
    assert replace(plain, system="Be kind.").prompt(TURNS[:1]).startswith("[system] Be kind.\n[user] <image>")


def test_one_image_goes_to_the_front_of_its_turn_and_several_stay_where_they_stand(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = ChatTemplate(tokenizer, CHATML, "here")
    assert template.prompt([Turn(USER, "Look: <image> red?")]).startswith("<|user|><image>Look:  red?</s>")
    two = template.prompt([Turn(USER, "First <image>, then <image>?")])
    assert two.startswith("<|user|>First<image>, then<image>?</s>")


def test_answers_and_their_end_are_supervised(tokenizer: PreTrainedTokenizerBase) -> None:
    rendered = ChatTemplate(tokenizer, CHATML, "here").render(Conversation("a", ("b.png",), tuple(TURNS), "", ""))
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["red</s>", "Yes</s>"]
    with pytest.raises(BadRecord, match="writes no answer behind its prompt"):
        ChatTemplate(tokenizer, CHATML.replace("<|assistant|>", "<|said|>"), "here").render(
            Conversation("a", ("b.png",), tuple(TURNS), "", "")
        )


def test_the_template_of_an_export_writes_what_training_wrote(tokenizer: PreTrainedTokenizerBase) -> None:
    own = Template("v1")
    again = ChatTemplate(tokenizer, chat_template(own), "here")
    conversation = Conversation("a", ("b.png",), tuple(TURNS), "", "")
    assert again.prompt(TURNS[:3]) == own.prompt(TURNS[:3])
    assert again.render(conversation).text.replace("</s>USER", "</s> USER") == own.render(conversation).text.replace(
        "</s>USER", "</s> USER"
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0]['content'] | length }}",
        "{{ messages[0]['content'][9]['text'] }}",
        "{% for message in messages %}USER: {{ message['content'][-1]['text'] }}{% endfor %}",
        "{{ undefined_name.field }}",
        "{% if %}",
    ],
)
def test_a_template_that_fails_or_leaves_something_out_is_told(source: str, tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(tokenizer, source, "a/folder")
    with pytest.raises(UserError, match="the chat template of a/folder does not take a question with its images"):
        template.check()


OF_ITS_OWN = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | upper + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] | trim }}{% endfor %}{% endif %}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SPELLED = ["Is it red?", "a </s> b <s> <pad> <unk>", "<image> and </s><image>", "</s>", "\U000f0000</s>\U000f0001"]


@pytest.mark.parametrize("text", SPELLED)
@pytest.mark.parametrize("num_images", [0, 1, 2])
def test_only_the_templates_own_control_tokens_are_control_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, num_images: int
) -> None:
    template = ChatTemplate(tokenizer, OF_ITS_OWN, "here", system="Be </s> brief.")
    turn = Turn(USER, "<image>\n" * num_images + text)
    rendered = template.render_prompt([turn], [num_images])
    assert rendered.text == f"SYSTEM: Be </s> brief.</s>USER: {'<image>' * num_images}{text}</s>ASSISTANT:"
    ids = Tokens(tokenizer.backend_tokenizer).encode([rendered])[0].ids
    control = {*tokenizer.all_special_ids, tokenizer.convert_tokens_to_ids("<image>")}
    images = [tokenizer.convert_tokens_to_ids("<image>")] * num_images
    assert [number for number in ids if number in control] == [tokenizer.eos_token_id, *images, tokenizer.eos_token_id]


def test_a_spelled_end_token_in_an_answer_ends_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = (Turn(USER, "Write </s>"), Turn(ASSISTANT, "It is </s> here"))
    rendered = ChatTemplate(tokenizer, OF_ITS_OWN, "here").render(Conversation("a", (), turns, "", ""))
    assert [rendered.text[start:end] for start, end in rendered.spans] == [" It is </s> here</s>"]
    assert [rendered.text[start:end] for start, end in rendered.marks or ()] == ["</s>", "</s>"]


def test_a_records_own_system_text_and_loss_flags_count(tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(tokenizer, OF_ITS_OWN, "here", system="Of the run.")
    turns = (Turn(USER, "a"), Turn(ASSISTANT, "b", is_supervised=False), Turn(USER, "c"), Turn(ASSISTANT, "d"))
    rendered = template.render(Conversation("a", (), turns, "", "", system="Of the record."))
    assert rendered.text.startswith("SYSTEM: Of the record.</s>")
    assert [rendered.text[start:end] for start, end in rendered.spans] == [" d</s>"]
    assert len(rendered.ends) == 2
    with pytest.raises(BadRecord, match="nothing_supervised"):
        template.render(Conversation("a", (), turns[:2], "", ""))


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLES = "{% set all = namespace(x='ab') %}{% for a in range(60) %}{% set all.x = all.x + all.x %}{% endfor %}"


@pytest.mark.parametrize("source", [LOOPS, DOUBLES, "{{ 'a' * 10**11 }}"])
def test_a_template_that_does_not_end_is_refused(
    source: str, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_moe.data.chat_template.MOST_SECONDS", 1)
    begin = time.monotonic()
    with pytest.raises(UserError, match="takes more than 1 s or 1 GiB"):
        ChatTemplate(tokenizer, source + CHATML, "here").check()
    assert time.monotonic() - begin < 10
    ChatTemplate(tokenizer, CHATML, "here").check()


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ range(10**9) }}", "{{ 10.0 ** 400 }}", "{{ ().__class__.__mro__[1] }}"]
)
def test_a_template_that_trips_is_told(source: str, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="the chat template of here"):
        ChatTemplate(tokenizer, source + CHATML, "here").check()
