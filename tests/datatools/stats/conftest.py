"""A stream over three small sources in two domains: captions of odd lengths, several images, text alone, long talks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llava_moe.data.encode import Encoder
from llava_moe.data.images.transform import ImageTransform
from llava_moe.data.mixture import Mixture
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.data.source_index import SourceIndex, index_source
from llava_moe.data.stream import StepStream
from llava_moe.data.template import Template

MakeStream = Callable[..., StepStream]


def talk(*texts: str) -> list[dict[str, str]]:
    """Turns that alternate from the user on."""
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    loaded = AutoTokenizer.from_pretrained(tokenizer_folder)
    loaded.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    return loaded


@pytest.fixture(scope="session")
def encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image, int)
    return Encoder(
        tokenizer=tokenizer,
        template=Template(system=""),
        transform=ImageTransform(size=8),
        image_token_id=image,
        num_image_tokens=4,
        max_length=100,
    )


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, ...]:
    folder = tmp_path_factory.mktemp("sources")
    draw = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(draw.integers(0, 255, (10 + number, 20, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    captions = [
        {"id": f"c{n}", "image": f"{n % 6}.png", "conversations": talk("<image>\nWhat?", "red " * (1 + n % 7))}
        for n in range(29)
    ]
    mixed: list[dict[str, object]] = [
        {"id": f"t{n}", "conversations": talk(f"What is {n}?", "green blue " * (1 + n % 4))} for n in range(9)
    ]
    mixed += [
        {"id": f"p{n}", "image": ["0.png", "1.png"], "conversations": talk("<image><image> Which?", f"plane {n}")}
        for n in range(5)
    ]
    # The last pair of these does not fit into a hundred tokens; the first of the very last record does not either.
    mixed += [{"id": "cut", "conversations": talk("How many?", "three", "How many bars?", "bars " * 120)}] * 2
    mixed += [{"id": "long", "conversations": talk("How many?", "bars " * 120)}]
    scans = [
        {"id": f"s{n}", "image": f"{n % 6}.png", "conversations": talk("<image>\nWhich plane?", "Axial", "Yes?", "No")}
        for n in range(11)
    ]
    made = []
    for name, domain, records in (
        ("captions", "general", captions),
        ("mixed", "general", mixed),
        ("scans", "medical", scans),
    ):
        (folder / f"{name}.json").write_text(json.dumps(records))
        made.append(Source(name, domain, str(folder / f"{name}.json"), images=str(folder)))
    return tuple(made)


@pytest.fixture(scope="session")
def indexed(
    sources: tuple[Source, ...], encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SourceIndex, ...]:
    cache = tmp_path_factory.mktemp("cache")
    return tuple(index_source(source, open_records(source, cache), encoder, cache) for source in sources)


@pytest.fixture
def make_stream(
    sources: tuple[Source, ...], indexed: tuple[SourceIndex, ...], encoder: Encoder, tmp_path: Path
) -> MakeStream:
    """Make a stream; ``per_source`` gives fields of the sources by name, other words go to the mixture."""

    def make(per_source: dict[str, dict[str, Any]] | None = None, batch: int = 7, **words: Any) -> StepStream:
        stream: dict[str, Any] = {
            key: words.pop(key) for key in ("rank", "world", "null_image", "encoder") if key in words
        }
        changed = tuple(replace(source, **(per_source or {}).get(source.name, {})) for source in sources)
        records = [open_records(source, tmp_path) for source in changed]
        stream = {"encoder": encoder} | stream
        return StepStream(
            mixture=Mixture(changed, **words),
            indexes=indexed,
            records=records,
            global_batch_size=batch,
            tokens_per_micro_batch=150,
            **stream,
        )

    return make


class Page(HTMLParser):
    """A page's tags with their attributes, its styles and its text; refuses tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.styles: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        (self.styles if self.open and self.open[-1] == "style" else self.words).append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def check_it_stands_alone(self) -> None:
        names = {name for name, _ in self.tags}
        assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & names
        for name, attributes in self.tags:
            assert not any(key.startswith("on") for key in attributes), name
            for key in ("src", "href", "data", "action"):
                assert attributes.get(key, "data:").startswith("data:"), attributes
        styles = " ".join([*self.styles, *(attributes.get("style", "") for _, attributes in self.tags)])
        assert "@import" not in styles and "url(" not in styles and "//" not in styles


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Page]:
    return Page
