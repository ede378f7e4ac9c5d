"""Tokens, labels and pixels of one example; long ones are cut at a turn or dropped, never inside an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llava_moe.data.conversation import BadRecord, Conversation, Turn, record_key
from llava_moe.data.encode import EncodedText, Encoder
from llava_moe.data.images.transform import ImageTransform, open_image
from llava_moe.data.template import Template
from llava_moe.errors import UserError

MakeEncoder = Callable[..., Encoder]


def conversation(*texts: str, images: tuple[str | bytes, ...] = ()) -> Conversation:
    turns = tuple(Turn(("user", "assistant")[number % 2], text) for number, text in enumerate(texts))
    return Conversation("1", images, turns, "s", "d")


def supervised(text: EncodedText, tokenizer: PreTrainedTokenizerBase) -> str:
    return cast(str, tokenizer.decode(text.labels[text.labels != -100]))


def test_an_image_becomes_its_tokens_and_none_of_them_is_learnt(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder(num_image_tokens=5)
    text = encoder.encode_text(conversation("<image>\nwhat is this ?", "a red cat", images=("a.jpg",)))
    written = encoder.template.render(conversation("<image>\nwhat is this ?", "a red cat")).text
    plain_ids = [1, *encoder.tokenizer(written, add_special_tokens=False).input_ids]
    at = plain_ids.index(encoder.image_token_id)
    expected = plain_ids[:at] + [encoder.image_token_id] * 5 + plain_ids[at + 1 :]
    assert text.input_ids.tolist() == expected
    assert text.input_ids.dtype == text.labels.dtype == np.int64
    assert text.num_images == 1 and not text.was_cut
    assert set(text.labels[: at + 5].tolist()) == {-100}
    is_supervised = text.labels != -100
    assert (text.labels[is_supervised] == text.input_ids[is_supervised]).all() and text.labels[-1] == 2


def test_a_tokenizer_that_would_add_special_tokens_itself_changes_nothing(
    make_encoder: MakeEncoder, llama_folder: Path
) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaTokenizer

    eager = LlamaTokenizer.from_pretrained(llama_folder)
    eager.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    eager.backend_tokenizer.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    eager(["a", "b c d e"], padding=True, truncation=True, max_length=3)
    whole = conversation("what is the total ?", "the total is 3")
    assert eager.backend_tokenizer.padding is not None
    one, other = make_encoder().encode_text(whole), make_encoder(tokenizer=eager).encode_text(whole)
    assert np.array_equal(one.input_ids, other.input_ids) and np.array_equal(one.labels, other.labels)


def test_an_example_holds_the_pixels_of_its_images_in_order(make_encoder: MakeEncoder, image_folder: Path) -> None:
    encoder = make_encoder()
    inline = (image_folder / "5.jpg").read_bytes()
    whole = conversation("<image>\nwhat ?", "a cat", "and <image> ?", "a dog", images=("3.jpg", inline))
    example = encoder.encode(whole, str(image_folder), 7)
    assert isinstance(encoder.transform, ImageTransform)
    expected = [encoder.transform(open_image(ref, str(image_folder))) for ref in ("3.jpg", "5.jpg")]
    assert example.pixels.dtype == np.uint8 and np.array_equal(example.pixels, np.stack(expected))
    assert (example.domain, example.key, example.is_hole) == (7, record_key(whole), False)
    text_alone = encoder.encode(conversation("what ?", "a cat"), None, 0)
    assert text_alone.pixels.shape == (0, 3, 8, 8)


LONG = ("<image>\nwhat ?", "a cat", "and <image> ?", "yes " * 20, "why ?", "so", "how <image> ?", "no " * 20)


def test_a_long_sample_is_cut_behind_the_last_answer_that_fits(make_encoder: MakeEncoder) -> None:
    images = ("0.jpg", "1.jpg", "2.jpg")
    whole = make_encoder().encode_text(conversation(*LONG, images=images))
    ends = (np.flatnonzero(whole.input_ids == 2) + 1).tolist()
    assert len(ends) == 4 and ends[-1] == len(whole.input_ids)
    images_before = [1, 2, 2, 3]
    for max_length in range(ends[0], ends[-1] + 2):
        text = make_encoder(max_length=max_length).encode_text(conversation(*LONG, images=images))
        kept = max(n for n, end in enumerate(ends) if end <= max_length)
        assert np.array_equal(text.input_ids, whole.input_ids[: ends[kept]])
        assert np.array_equal(text.labels, whole.labels[: ends[kept]])
        assert (text.num_images, text.was_cut) == (images_before[kept], kept < 3)


def test_a_cut_sample_opens_only_the_images_that_are_left(make_encoder: MakeEncoder, image_folder: Path) -> None:
    whole = conversation(*LONG, images=("0.jpg", "missing.jpg", "missing.jpg"))
    first = len(make_encoder().encode_text(conversation(*LONG[:2], images=("0.jpg",))).input_ids)
    assert len(make_encoder(max_length=first + 3).encode(whole, str(image_folder), 0).pixels) == 1
    with pytest.raises(BadRecord, match="image_missing"):
        make_encoder().encode(whole, str(image_folder), 0)


@pytest.mark.parametrize(
    ("over_length", "texts"), [("drop", LONG), ("cut", LONG[2:4]), ("cut", ("what ?", "no " * 99))]
)
def test_what_cannot_or_may_not_be_cut_is_too_long(
    make_encoder: MakeEncoder, over_length: str, texts: tuple[str, ...]
) -> None:
    images = tuple(f"{n}.jpg" for n in range(sum(text.count("<image>") for text in texts)))
    with pytest.raises(BadRecord) as caught:
        make_encoder(max_length=70, over_length=over_length).encode_text(conversation(*texts, images=images))
    assert caught.value.reason == "too_long" and "at most 70" in caught.value.detail


def test_a_legacy_prefix_behind_the_cut_goes_with_it(
    make_encoder: MakeEncoder, legacy_tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = ("what ?", "a cat", "why ?", "so", "é ?", "no " * 30)
    encoder = make_encoder(tokenizer=legacy_tokenizer)
    short = encoder.encode_text(conversation(*texts[:4]))
    cut = make_encoder(tokenizer=legacy_tokenizer, max_length=len(short.input_ids) + 5).encode_text(
        conversation(*texts)
    )
    assert np.array_equal(cut.input_ids, short.input_ids) and np.array_equal(cut.labels, short.labels)


def test_a_hole_is_as_long_as_planned_and_teaches_nothing(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder()
    placeholder = encoder.placeholder_example(9, 2, "key")
    assert placeholder.input_ids.tolist() == [encoder.tokenizer.pad_token_id] * 9
    assert placeholder.labels.tolist() == [-100] * 9
    assert (placeholder.domain, placeholder.key, placeholder.is_hole, placeholder.pixels.shape) == (
        2,
        "key",
        True,
        (0, 3, 8, 8),
    )


def test_a_prompt_is_the_beginning_of_its_training_example(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder()
    for texts in (("<image>\nwhat ?", "a cat"), ("what ?", "a cat", "why <image> ?", "so")):
        whole = conversation(*texts, images=("a.jpg",))
        text = encoder.encode_text(whole)
        prompt = encoder.encode_prompt(whole.turns[:-1])
        last = np.flatnonzero(text.labels == -100)[-1] + 1
        assert np.array_equal(prompt, text.input_ids[:last])


def test_an_image_above_the_encoders_own_limit_is_refused(make_encoder: MakeEncoder, image_folder: Path) -> None:
    whole = conversation("<image>\nwhat ?", "a cat", images=("3.jpg",))
    with pytest.raises(BadRecord, match="image_too_large"):
        replace(make_encoder(), max_pixels=13 * 14 - 1).encode(whole, str(image_folder), 0)
    assert len(replace(make_encoder(), max_pixels=13 * 14).encode(whole, str(image_folder), 0).pixels) == 1


def test_many_texts_at_once_come_out_as_one_by_one(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder()
    wholes = [conversation("what is\n" + "the  cat " * n, "yes é" * (n + 1), "and", "no") for n in range(5)]
    rendered = [encoder.template.render(whole) for whole in wholes]
    for whole, one, encoding in zip(wholes, rendered, encoder.encode_texts(rendered), strict=True):
        alone, together = encoder.encode_text(whole), encoder.finish(one, encoding)
        assert np.array_equal(alone.input_ids, together.input_ids) and np.array_equal(alone.labels, together.labels)


@pytest.fixture
def joining_tokenizer() -> PreTrainedTokenizerBase:
    """A BPE that never splits at blanks and makes one token of ``: a``, across the edge of what is supervised."""
    characters = sorted(set("ABEHGIJLRNOSTU abcdefghijklmnopqrstuvwxyz.,:'?"))
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", "<s>", "</s>", *characters, ": ", ": a"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [(":", " "), (": ", "a")], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<image>", "<pad>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def test_a_token_across_the_edge_of_a_span_raises(
    make_encoder: MakeEncoder, joining_tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UserError, match=r"tokenizer \w+ makes one token .* no exact labels exist"):
        make_encoder(tokenizer=joining_tokenizer).encode_text(conversation("what ?", "a cat"))


def test_placeholders_and_images_must_agree(make_encoder: MakeEncoder) -> None:
    with pytest.raises(BadRecord, match="image_count"):
        make_encoder().encode_text(conversation("<image>\nwhat ?", "a cat"))


def test_an_encoder_that_does_not_fit_its_tokenizer_is_refused(
    make_encoder: MakeEncoder, tokenizer: PreTrainedTokenizerBase
) -> None:
    transform = ImageTransform(8)
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image_token_id, int)
    with pytest.raises(ValueError, match="<image> is token"):
        Encoder(tokenizer, Template(), transform, image_token_id=5, num_image_tokens=4)
    with pytest.raises(ValueError, match="the tokenizer's end token"):
        Encoder(tokenizer, Template(eos="<|end|>"), transform, image_token_id, 4)
    with pytest.raises(ValueError, match="over_length"):
        make_encoder(over_length="squeeze")
