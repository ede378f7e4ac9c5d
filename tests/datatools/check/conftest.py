"""A small encoder, and views of records written on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from transformers import PreTrainedTokenizerFast

from llava_moe.data.encode import Encoder
from llava_moe.data.images.transform import ImageTransform
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.data.template import Template
from llava_moe.datatools.check.stage_view import View
from tests.datatools.check.seeded import noise

MakeView = Callable[..., View]


@pytest.fixture(scope="session")
def encoder(tokenizer_folder: Path) -> Encoder:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    image = tokenizer.convert_tokens_to_ids("<image>")
    return Encoder(tokenizer, Template("v1", ""), ImageTransform(8), image, 4, max_length=400)


@pytest.fixture
def make_view(encoder: Encoder, tmp_path: Path) -> MakeView:
    """Writes records (LLaVA's) beside a folder of images, and opens them as a view."""

    def make(
        records: list[Any] | Path,
        label: str = "mine",
        stage: str = "instruct",
        kind: Literal["v1", "plain"] = "v1",
        images: Path | None = None,
        encoder: Encoder = encoder,
        **more: Any,
    ) -> View:
        name = more.pop("name", label)
        path = records if isinstance(records, Path) else tmp_path / f"{more.pop('file', name)}.json"
        if not isinstance(records, Path):
            path.write_text(json.dumps(records))
        fields = {field: more.pop(field) for field in ("text", "split") if field in more}
        root = str(images or tmp_path) if path.is_file() else None
        source = Source(name, "general", str(path), images=root, **fields)
        reader = replace(encoder, template=Template(kind, ""), max_length=more.pop("max_length", encoder.max_length))
        return View(label, (stage,), source, open_records(source, tmp_path / "cache"), reader, **more)

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Six different image files."""
    for number in range(6):
        noise(number).save(tmp_path / f"{number}.png")
    return [f"{number}.png" for number in range(6)]


def say(image: str | list[str] | None, *turns: str, **more: Any) -> dict[str, Any]:
    """A LLaVA record; the first turn is the user's."""
    said = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(turns)]
    return {"id": f"{image} {turns[0]}", **({} if image is None else {"image": image}), "conversations": said, **more}
