"""Text is text: nothing that a person wrote becomes a control token, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llava_moe.data.batch_lengths import measure
from llava_moe.data.conversation import BadRecord, Conversation, Turn
from llava_moe.data.encode import IGNORED, Encoder
from llava_moe.data.template import Rendered, Template
from llava_moe.data.tokens import Tokens

MakeEncoder = Callable[..., Encoder]
SPELLED = ["</s>", "<s>", "<pad>", "<unk>", "<|im_end|>"]
WORDS = [
    "a",
    " ",
    "  ",
    "\n",
    "the cat",
    "é",
    "🙂",
    "<",
    ">",
    "/s>",
    "</s",
    "<0x0A>",
    "▁",
    "\U000f0000",
    "\U000f0005/s>",
]
WRITTEN = st.lists(st.sampled_from([*SPELLED, *WORDS]), min_size=1, max_size=8).map("".join).filter(str.strip)
KINDS = ["llama", "legacy", "merging", "byte_level", "unigram"]


@pytest.fixture(scope="module")
def llama(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    own = copy.deepcopy(tokenizer)
    own.add_tokens([AddedToken("<|im_end|>", special=False, normalized=False)])
    return own


@pytest.fixture(scope="module")
def legacy(legacy_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    own = copy.deepcopy(legacy_tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    return own


@pytest.fixture(scope="module")
def merging(tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer whose merges make ``</s>`` of its letters."""
    loaded = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    loaded.add_special_tokens({"additional_special_tokens": ["<image>", "<|im_end|>"], "pad_token": "<pad>"})
    return loaded


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        ["the cat"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<unk>", "<image>")])
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<pad>", "<|im_end|>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="module")
def unigram() -> PreTrainedTokenizerBase:
    """A tokenizer whose own vocabulary has ``</s>`` as its likeliest piece."""
    pieces = [(piece, 0.0) for piece in ("<unk>", "<s>", "</s>")] + [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    pieces += [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyzABEGHINRSTU</>|_:.,?"] + [("▁the", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<unk>", "<image>")])
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<pad>", "<|im_end|>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def conversation(*texts: str, system: str | None = None, images: tuple[str, ...] = ()) -> Conversation:
    turns = tuple(Turn(("user", "assistant")[number % 2], text) for number, text in enumerate(texts))
    return Conversation("1", images, turns, "s", "d", system=system)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(system=WRITTEN, questions=st.tuples(WRITTEN, WRITTEN), answers=st.tuples(WRITTEN, WRITTEN))
def test_the_only_control_tokens_are_those_of_the_template(
    make_encoder: MakeEncoder,
    request: pytest.FixtureRequest,
    kind: str,
    system: str,
    questions: tuple[str, str],
    answers: tuple[str, str],
) -> None:
    encoder = make_encoder(tokenizer=request.getfixturevalue(kind), num_image_tokens=1)
    tokenizer = encoder.tokenizer
    shown = f"<image>\n{questions[0].strip()}"
    whole = conversation(shown, answers[0], questions[1], answers[1], system=system, images=("a.jpg",))
    text = encoder.encode_text(whole)
    control = set(cast(list[int], tokenizer.convert_tokens_to_ids([*SPELLED, "<image>"])))
    found = [id_ for id_ in text.input_ids.tolist() if id_ in control]
    eos, image = tokenizer.eos_token_id, encoder.image_token_id
    assert found == [tokenizer.bos_token_id, image, eos, eos]
    supervised = text.labels != IGNORED
    assert (text.labels[supervised] == text.input_ids[supervised]).all()
    ends = np.flatnonzero(text.input_ids == eos)
    assert supervised[ends].all() and supervised[-1]
    said = "".join((system, *questions, *answers))
    # "▁" is a blank to these vocabularies, and "<0x0A>" a newline to a unigram's.
    if "▁" not in said and not (kind == "unigram" and "<0x0A>" in said):
        decoded = tokenizer.backend_tokenizer.decode(text.input_ids.tolist(), skip_special_tokens=False)
        read = decoded.replace(" ", "").replace("\n", "")
        assert read == "<s>" + encoder.template.render(whole).text.replace(" ", "").replace("\n", "")
    (size,) = measure(encoder, [encoder.template.render(whole)])
    assert not isinstance(size, BadRecord)
    assert (size.length, size.supervised) == (len(text.input_ids), int(supervised.sum()))
    prompt = encoder.encode_prompt(whole.turns[:-1])
    if system == encoder.template.system:
        assert prompt.tolist() == text.input_ids[: len(prompt)].tolist()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.tuples(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip)))
def test_text_that_spells_no_control_token_is_tokenized_as_hugging_face_does(
    make_encoder: MakeEncoder, request: pytest.FixtureRequest, kind: str, texts: tuple[str, str]
) -> None:
    encoder = make_encoder(tokenizer=request.getfixturevalue(kind), num_image_tokens=1)
    whole = conversation(f"<image>\n{texts[0].strip()}", texts[1], "and 1  2 ?", "\n🙂\t", images=("a.jpg",))
    if any(spelled in "".join(texts) for spelled in [*SPELLED, "<image>"]):
        return
    rendered = encoder.template.render(whole)
    expected = encoder.tokenizer.backend_tokenizer.encode(rendered.text, add_special_tokens=False).ids
    assert encoder.encode_text(whole).input_ids.tolist() == [encoder.tokenizer.bos_token_id, *expected]
    # And so does the copy that the other texts are tokenized by.
    assert encoder.tokens._encode_shielded(rendered).ids == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.tuples(WRITTEN, WRITTEN))
def test_a_spelled_control_token_has_the_ids_that_sentencepiece_gives_its_letters(
    make_encoder: MakeEncoder,
    llama: PreTrainedTokenizerBase,
    sentence_pieces: sentencepiece.SentencePieceProcessor,
    texts: tuple[str, str],
) -> None:
    proto = ModelProto.FromString(sentence_pieces.serialized_model_proto())
    proto.normalizer_spec.add_dummy_prefix = False
    bare = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    encoder = make_encoder(tokenizer=llama, system="")
    found = encoder.encode_text(conversation(*texts, "so ?", "yes")).input_ids.tolist()
    first = sentence_pieces.encode(f"USER: {texts[0]} ASSISTANT: {texts[1]}")
    assert found == [1, *first, 2, *bare.encode("USER: so ? ASSISTANT: yes"), 2]


def test_the_end_token_in_an_answer_is_learned_as_letters_and_never_as_the_end(
    make_encoder: MakeEncoder, llama: PreTrainedTokenizerBase
) -> None:
    encoder = make_encoder(tokenizer=llama)
    text = encoder.encode_text(conversation("What ends it?", "The mark </s> ends it."))
    learned = text.labels[text.labels != IGNORED].tolist()
    assert learned.count(2) == 1 and learned[-1] == 2
    assert llama.decode(learned) == "The mark </s> ends it.</s>"


def test_a_long_conversation_is_cut_at_the_templates_end_token_alone(
    make_encoder: MakeEncoder, llama: PreTrainedTokenizerBase
) -> None:
    texts = ("a </s> b", "<s> c </s> d", "what ?", "no " * 40)
    short = make_encoder(tokenizer=llama).encode_text(conversation(*texts[:2]))
    cut = make_encoder(tokenizer=llama, max_length=len(short.input_ids) + 9).encode_text(conversation(*texts))
    assert cut.was_cut and cut.input_ids.tolist() == short.input_ids.tolist()
    assert cut.labels.tolist() == short.labels.tolist()


def test_a_cut_never_leaves_an_example_without_a_supervised_answer(make_encoder: MakeEncoder) -> None:
    whole = conversation("one ?", "draft", "two ?", "good", "three ?", "yes " * 40)
    turns = tuple(replace(turn, is_supervised=turn.text != "draft") for turn in whole.turns)
    whole = replace(whole, turns=turns)
    ends = np.flatnonzero(make_encoder().encode_text(whole).input_ids == 2) + 1
    kept = make_encoder(max_length=int(ends[1])).encode_text(whole)
    assert kept.was_cut and len(kept.input_ids) == ends[1] and (kept.labels != IGNORED).any()
    for max_length in (int(ends[0]), int(ends[1]) - 1):
        encoder = make_encoder(max_length=max_length)
        with pytest.raises(BadRecord, match="too_long"):
            encoder.encode_text(whole)
        (size,) = measure(encoder, [encoder.template.render(whole)])
        assert isinstance(size, BadRecord) and size.reason == "too_long"


def test_words_that_were_added_to_a_vocabulary_stay_words(byte_level: PreTrainedTokenizerBase) -> None:
    own = PreTrainedTokenizerFast(tokenizer_object=byte_level.backend_tokenizer, eos_token="</s>")
    own.add_tokens(["aspirin"])
    tokens = Tokens(own.backend_tokenizer)
    (encoding,) = tokens.encode([Rendered("take aspirin </s> now", (), ())])
    number = own.convert_tokens_to_ids("aspirin")
    assert isinstance(number, int)
    assert encoding.ids.count(number) == 1 and own.eos_token_id not in encoding.ids


def test_counting_counts_letters(llama: PreTrainedTokenizerBase) -> None:
    tokens = Tokens(llama.backend_tokenizer)
    plain, spelled = tokens.count(["a cat", "a </s> cat"])
    assert plain == len(llama("a cat", add_special_tokens=False).input_ids) and spelled > plain + 2


def test_offsets_are_those_of_the_text(make_encoder: MakeEncoder, llama: PreTrainedTokenizerBase) -> None:
    encoder = make_encoder(tokenizer=llama)
    rendered = encoder.template.render(conversation("<image>\na <s> é b", "<pad> c", images=("a.jpg",)))
    (encoding,) = encoder.encode_texts([rendered])
    control = {
        span for span, id_ in zip(encoding.offsets, encoding.ids, strict=True) if id_ in (2, encoder.image_token_id)
    }
    assert rendered.marks is not None and control == set(rendered.marks)
    assert Template("plain").render(conversation("<image>", "a </s> b")).marks == ((0, 7),)
