"""A small demo set on disk and a tiny random LLaVA, for the tests of evaluation."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from llava_moe.data.encode import Encoder
from llava_moe.data.images.transform import ImageTransform
from llava_moe.data.template import Template

TURN = pa.struct([("role", pa.string()), ("text", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("conversations", pa.list_(TURN)),
        ("caption", pa.string()),
        ("kinds", pa.list_(pa.string())),
        ("closed", pa.list_(pa.bool_())),
        ("source", pa.string()),
        ("domain", pa.string()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("licence", pa.string()),
    ]
)


def png(color: tuple[int, int, int], size: tuple[int, int] = (20, 14)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, format="PNG")
    return stream.getvalue()


def demo_row(
    id: str, image: bytes, domain: str, split: str, pairs: list[tuple[str, str, str, bool]]
) -> dict[str, object]:
    """One row of the embedded set; ``pairs`` are (question, answer, kind, closed)."""
    turns = []
    for index, (question, answer, _, _) in enumerate(pairs):
        mark = "<image>\n" if index == 0 else ""
        turns += [{"role": "user", "text": mark + question}, {"role": "assistant", "text": answer}]
    return {
        "id": id,
        "images": [image],
        "conversations": turns,
        "caption": "A picture.",
        "kinds": [kind for _, _, kind, _ in pairs],
        "closed": [closed for _, _, _, closed in pairs],
        "source": "made",
        "domain": domain,
        "task": "vqa",
        "split": split,
        "licence": "CC0-1.0",
    }


def write_demo(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for domain in sorted({str(row["domain"]) for row in rows}):
        of_domain = [row for row in rows if row["domain"] == domain]
        pq.write_table(pa.Table.from_pylist(of_domain, schema=SCHEMA), folder / f"{domain}.parquet")
    return folder


@pytest.fixture
def demo_folder(tmp_path: Path) -> Path:
    """Three domains; colours are the answers, so every question has a true answer and other images that carry it."""
    rows = []
    colors = {"red": (220, 20, 20), "green": (20, 200, 30), "blue": (20, 30, 220)}
    for domain in ("general", "documents", "medical"):
        for split, count in (("train", 6), ("val", 1), ("test", 9)):
            for number in range(count):
                name = list(colors)[number % 3]
                red, green, blue = (min(255, part + number) for part in colors[name])
                # Among the training answers red is the majority.
                trained = "red" if split == "train" and number < 3 else name
                pairs = [
                    ("What colour is this?", trained, "colour", True),
                    ("Is it red?", "yes" if name == "red" else "no", "is red", True),
                    ("What number is written?", str(10 + number), "number", False),
                ]
                rows.append(demo_row(f"{domain}-{split}-{number}", png((red, green, blue)), domain, split, pairs))
    lonely = [("Who made this?", "nobody", "maker", True)]
    rows.append(demo_row("general-test-lonely", png((1, 2, 3)), "general", "test", lonely))
    return write_demo(tmp_path / "images", rows)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens behind ``<unk>``, ``<s>``, ``</s>``, ``<image>`` and ``<pad>``."""
    special = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
    pieces = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )


def image_token(tokenizer: PreTrainedTokenizerFast) -> int:
    token = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(token, int)
    return token


@pytest.fixture(scope="session")
def encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    transform = ImageTransform(size=32, mode="pad", mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    return Encoder(
        tokenizer=tokenizer,
        template=Template("v1", system=""),
        transform=transform,
        image_token_id=image_token(tokenizer),
        num_image_tokens=4,
        max_length=256,
    )


@pytest.fixture(scope="session")
def tiny_llava(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Random weights, large enough that answers differ from question to question."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token(tokenizer),
        image_seq_length=4,
    )
    model = LlavaForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
