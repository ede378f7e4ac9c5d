"""A base that ships ``tokenizer.model`` alone tokenizes as SentencePiece does, also when it was saved again."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from transformers import AutoTokenizer, LlavaProcessor, PreTrainedTokenizerBase
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_moe.errors import UserError
from llava_moe.model.tokenizer import load_tokenizer

WORDS = ["the", "red", "blue", "cat", "dog", "house", "tree", "shows", "image", "what", "colour", "picture", "22", "."]
MakeFolder = Callable[..., Path]


def train(**changes: Any) -> Any:
    """A SentencePiece model made as Llama's is."""
    draw = random.Random(0)
    lines = [" ".join(draw.choice(WORDS) for _ in range(draw.randint(4, 20))) for _ in range(200)]
    model = io.BytesIO()
    fields: dict[str, Any] = {
        **{"vocab_size": 300, "model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": True},
        **{"remove_extra_whitespaces": False, "normalization_rule_name": "identity", "split_digits": True},
        **{"allow_whitespace_only_pieces": True, "character_coverage": 1.0, "minloglevel": 2, "num_threads": 1},
        **{"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1},
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **(fields | changes))
    return ModelProto.FromString(model.getvalue())


def with_blanks(proto: Any, lengths: tuple[int, ...] = (2, 4, 8, 16, 3)) -> Any:
    """Runs of blanks as Llama has them: at the front, with the score that merges last."""
    pieces = [piece for piece in proto.pieces if set(piece.piece) != {"▁"} or len(piece.piece) == 1]
    first = next(number for number, piece in enumerate(pieces) if piece.type == 1)
    for length in lengths:
        run = ModelProto.SentencePiece(piece="▁" * length, score=-1e9)
        pieces.insert(first, run)
    del proto.pieces[:]
    proto.pieces.extend(pieces)
    return proto


@pytest.fixture(scope="module")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    def make(proto: Any, config: dict[str, Any] | None = None) -> Path:
        folder = tmp_path_factory.mktemp("bare")
        (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        if config is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    return make


VICUNA = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "vicuna": ({}, VICUNA),
    "legacy": ({}, VICUNA | {"legacy": True}),
    "no settings": ({}, None),
    "no dummy prefix": ({"add_dummy_prefix": False}, VICUNA),
    "user-defined symbols": ({"user_defined_symbols": ["<ocr>", "[q]"]}, VICUNA),
}
Pair = tuple[list[PreTrainedTokenizerBase], sentencepiece.SentencePieceProcessor]


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request: pytest.FixtureRequest, make_folder: MakeFolder, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The tokenizer, the same saved and read again by us and by transformers, in a processor too, and SentencePiece."""
    changes, config = KINDS[request.param]
    proto = with_blanks(train(**changes))
    tokenizer = load_tokenizer(str(make_folder(proto, config)))
    saved = str(tmp_path_factory.mktemp("saved"))
    tokenizer.save_pretrained(saved)
    exported = str(tmp_path_factory.mktemp("exported"))
    LlavaProcessor(LlavaImageProcessorPil(), tokenizer, patch_size=8).save_pretrained(exported)
    again = [tokenizer, load_tokenizer(saved), AutoTokenizer.from_pretrained(saved)]
    again += [load_tokenizer(exported), LlavaProcessor.from_pretrained(exported).tokenizer]
    return again, sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


PARTS = st.sampled_from(
    [*("a", "the", "cat", "  ", "\n", "\t", "    ", " ", "🙂", "这", "é", "12", "▁", "\u3000", "[q", "red house", "q]")]
)
TEXTS = st.lists(PARTS, min_size=1, max_size=14).map("".join) | st.integers(1, 70).map(lambda n: f"a{' ' * n}the")
TEXTS |= st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\x00"), min_size=1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_tokens_are_those_of_sentencepiece(pair: Pair, text: str) -> None:
    tokenizers, pieces = pair
    for tokenizer in tokenizers:
        # Hugging Face writes no dummy prefix before a text that begins with a blank.
        assert tokenizer(f"x{text}").input_ids == [1, *pieces.encode(f"x{text}")]
        assert (tokenizer.convert_tokens_to_ids("<image>"), tokenizer.pad_token) == (pieces.vocab_size(), "<pad>")


@pytest.mark.parametrize("legacy", [True, False])
def test_the_blank_behind_a_special_token_is_the_same_when_saved_and_read_again(
    make_folder: MakeFolder, tmp_path: Path, legacy: bool
) -> None:
    """SentencePiece's own dummy prefix again where the checkpoint says ``legacy``, none where it does not."""
    proto = with_blanks(train())
    tokenizer = load_tokenizer(str(make_folder(proto, VICUNA | {"legacy": legacy})))
    tokenizer.save_pretrained(tmp_path)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    proto.normalizer_spec.add_dummy_prefix = legacy
    behind = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    image = tokenizer.convert_tokens_to_ids("<image>")
    expected = [1, *pieces.encode("the cat"), 2, *behind.encode("red  house"), image, *behind.encode("cat")]
    for one in (tokenizer, load_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)):
        assert one("the cat</s>red  house<image>cat").input_ids == expected


def test_runs_of_blanks_are_what_transformers_5_gets_wrong(make_folder: MakeFolder) -> None:
    """Else the tests above would prove nothing."""
    proto = with_blanks(train())
    folder = make_folder(proto, VICUNA)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    text = "red     dog\n\n  the    cat"
    assert load_tokenizer(str(folder))(text).input_ids[1:] == pieces.encode(text)
    assert AutoTokenizer.from_pretrained(folder)(text).input_ids[1:] != pieces.encode(text)


def test_no_letters_merge_into_a_control_token_or_a_byte(make_folder: MakeFolder) -> None:
    proto = with_blanks(train())
    known = {piece.piece for piece in proto.pieces}
    for number, piece in enumerate(("<", "/", ">", "0", "x", "A", "</", "s>", "<0", "<0x", "<0x0", "A>")):
        if piece not in known:
            proto.pieces.add(piece=piece, score=-500.0 - number)
    folder = make_folder(proto, VICUNA)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    backend = load_tokenizer(str(folder)).backend_tokenizer
    assert backend.encode("a <0x0A> b", add_special_tokens=False).ids == pieces.encode("a <0x0A> b")
    backend.encode_special_tokens = True
    assert backend.encode("a </s> b", add_special_tokens=False).ids == pieces.encode("a </s> b")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "unigram", "vocab_size": 285}, "is not of the BPE kind"),
        ({"byte_fallback": False, "vocab_size": 90}, "has no byte pieces"),
        ({"normalization_rule_name": "nmt_nfkc"}, "rewrites characters"),
        ({"remove_extra_whitespaces": True}, "drops blanks"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_a_line(
    make_folder: MakeFolder, changes: dict[str, Any], told: str
) -> None:
    folder = make_folder(train(**changes), VICUNA)
    with pytest.raises(UserError, match=told) as caught:
        load_tokenizer(str(folder))
    assert str(folder / "tokenizer.model") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x00\xff\x00"])
def test_what_is_no_model_is_refused_in_a_line(make_folder: MakeFolder, content: bytes) -> None:
    folder = make_folder(train(), VICUNA)
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError, match="is no SentencePiece model") as caught:
        load_tokenizer(str(folder))
    assert "\n" not in str(caught.value)


def test_the_ends_of_a_model_are_its_own_pieces_whatever_they_are_called(make_folder: MakeFolder) -> None:
    proto = with_blanks(train(bos_piece="[B]", eos_piece="[E]", unk_piece="[U]"))
    tokenizer = load_tokenizer(str(make_folder(proto)))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("[B]", "[E]", "[U]")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert tokenizer("a").input_ids[0] == 1 and len(tokenizer) == len(proto.pieces) + 2
    # What the folder itself names goes before, as a chat model's turn end does.
    named = load_tokenizer(str(make_folder(proto, VICUNA | {"eos_token": "[q]", "additional_special_tokens": ["[q]"]})))
    assert (named.bos_token_id, named.eos_token) == (1, "[q]")


@pytest.mark.parametrize("end", ["bos", "eos"])
def test_a_model_without_an_end_is_refused_and_given_none(end: str, make_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match=rf"tokenizer\.model has no {end} token"):
        load_tokenizer(str(make_folder(with_blanks(train(**{f"{end}_id": -1})))))
