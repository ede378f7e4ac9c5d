"""Tokens as pieces of text: nothing lost, nothing said twice, and characters of several tokens kept whole."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llava_moe.data.encode import IGNORED, Encoder
from llava_moe.data.template import Rendered
from llava_moe.datatools.stats.token_pieces import Piece, read_pieces

HARD = "a😀b مرحبا שלום 👩‍👩‍👧 [bold] <script>alert(1)</script>  two  blanks\n\ttab \ufffd end é e\u0301"


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerBase:
    """A tokenizer of the other kind: bytes as letters, nothing stripped."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the red cat, the blue cat 😀😀😃"] * 5, trainer)
    loaded = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")
    loaded.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return loaded


def pieces_of(tokenizer: PreTrainedTokenizerBase, text: str, taught: tuple[int, int] = (0, 0)) -> tuple[Piece, ...]:
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    labels = [
        id_ if taught[0] <= start and end <= taught[1] and taught != (0, 0) else IGNORED
        for id_, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
    ]
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image, int)
    return read_pieces(tokenizer, encoding.ids, labels, image, 1)


def joined(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.text for piece in pieces)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=25))
def test_pieces_joined_are_the_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    if "<" in text or "▁" in text:  # Llama's vocabulary writes its own blanks and tokens with these.
        return
    pieces = pieces_of(tokenizer, text)
    # The dummy prefix is a token of its own, or part of the first.
    assert joined(pieces) in (text, f" {text}")
    positions = [token.position for piece in pieces for token in piece.tokens]
    assert positions == list(range(len(positions)))


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=25))
def test_pieces_of_a_byte_level_tokenizer_joined_are_the_text(byte_level: PreTrainedTokenizerBase, text: str) -> None:
    if "<" in text:
        return
    assert joined(pieces_of(byte_level, text)) == text


@pytest.mark.parametrize("kind", ["llama", "byte_level"])
def test_hard_text_is_read_back_and_an_emoji_is_one_piece(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue("tokenizer" if kind == "llama" else kind)
    pieces = pieces_of(tokenizer, HARD)
    assert joined(pieces).removeprefix(" ") == HARD
    smile = next(piece for piece in pieces if "😀" in piece.text)
    assert smile.text == "😀" and (kind == "byte_level" or len(smile.tokens) == 4)
    assert "\ufffd" in [piece.text for piece in pieces]


def test_every_piece_is_of_one_kind_and_images_are_numbered(encoder: Encoder) -> None:
    text = "USER: <image><image>\nWhat? ASSISTANT: red 😀</s>"
    start = text.index(" red")
    [encoding] = encoder.encode_texts([Rendered(text, ((start, len(text)),))])
    found = encoder.finish(Rendered(text, ((start, len(text)),)), encoding)
    pieces = read_pieces(encoder.tokenizer, found.input_ids.tolist(), found.labels.tolist(), encoder.image_token_id, 4)
    images = [piece for piece in pieces if piece.kind == "image"]
    assert [(piece.image, len(piece.tokens)) for piece in images] == [(0, 4), (1, 4)]
    taught = "".join(piece.text for piece in pieces if piece.kind == "supervised")
    assert taught == " red 😀</s>"
    assert "".join(piece.text for piece in pieces if piece.kind == "prompt").startswith("<s>")
    for piece in pieces:
        assert {token.label != IGNORED for token in piece.tokens} == {piece.kind == "supervised"}
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [token.id for token in tokens] == found.input_ids.tolist()
    assert [token.label for token in tokens] == found.labels.tolist()
    assert [token.position for token in tokens] == list(range(len(tokens)))


def test_half_a_character_at_the_end_stays_half(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.backend_tokenizer.encode("a😀", add_special_tokens=False).ids[:-1]
    pieces = read_pieces(tokenizer, ids, [IGNORED] * len(ids), -1, 1)
    assert sum(len(piece.tokens) for piece in pieces) == len(ids)
    assert set("".join(piece.text for piece in pieces[-3:])) <= {"\ufffd"}
