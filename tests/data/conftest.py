"""A Llama-style tokenizer trained on the spot, image files, and records on disk."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image
from tokenizers import normalizers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase

from llava_moe.data.encode import Encoder
from llava_moe.data.images.transform import ImageTransform
from llava_moe.data.template import VICUNA_V1_SYSTEM, Template

torch.set_num_threads(1)

_WORDS = """the a red blue cat dog house tree shows image what colour is in this picture answer yes no two left right
    slice of brain with scan patient table chart value total invoice date question how many . , : ; ? ! 1 2 3 10"""


def _corpus() -> list[str]:
    """Text that makes Llama's own pieces at the seams: ``USER`` is one piece, `` USER`` is two (``▁US``, ``ER``)."""
    draw = random.Random(0)
    words = _WORDS.split()
    lines = [" ".join(draw.choice(words) for _ in range(draw.randint(4, 20))) for _ in range(300)]
    lines += [f"{VICUNA_V1_SYSTEM} what is this ASSISTANT: a cat"] * 20
    return lines + ["US US US xUSER yUSER 1USER xUSER"] * 40


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SentencePiece BPE model made as Llama's: byte fallback, dummy prefix, blanks kept."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_corpus()),
        model_writer=model,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    folder = tmp_path_factory.mktemp("llama")
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="session")
def sentence_pieces(llama_folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(llama_folder / "tokenizer.model"))


def _llama(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer(llama_folder: Path) -> PreTrainedTokenizerBase:
    """As transformers 5 builds Llama's: the dummy prefix once, at the very start."""
    return _llama(llama_folder)


@pytest.fixture(scope="session")
def legacy_tokenizer(llama_folder: Path) -> PreTrainedTokenizerBase:
    """As the tokenizer.json files of the Llama 2 era: the dummy prefix at the start and behind every special token."""
    tokenizer = _llama(llama_folder)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


MakeEncoder = Callable[..., Encoder]


@pytest.fixture
def make_encoder(tokenizer: PreTrainedTokenizerBase) -> MakeEncoder:
    def make(
        kind: Literal["v1", "plain"] = "v1",
        size: int = 8,
        num_image_tokens: int = 4,
        max_length: int = 2048,
        over_length: Literal["cut", "drop"] = "cut",
        system: str = VICUNA_V1_SYSTEM,
        tokenizer: PreTrainedTokenizerBase = tokenizer,
        mode: Literal["pad", "crop", "resize"] = "pad",
    ) -> Encoder:
        image_token_id = tokenizer.convert_tokens_to_ids("<image>")
        assert isinstance(image_token_id, int)
        return Encoder(
            tokenizer,
            Template(kind, system),
            ImageTransform(size, mode),
            image_token_id,
            num_image_tokens,
            max_length,
            over_length,
        )

    return make


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Twelve small JPEGs: 0.jpg ... 11.jpg."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        noise(10 + number, 14, number).save(folder / f"{number}.jpg")
    return folder


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[..., Path]:
    def write(records: list[object], name: str = "records.json") -> Path:
        path = tmp_path / name
        if name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        else:
            path.write_text(json.dumps(records, indent=1))
        return path

    return write
