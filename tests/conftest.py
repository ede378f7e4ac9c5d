"""What many tests share: a small Llama-style tokenizer, real images on disk, and a tiny model's command-line words."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.forked_commands import CommandServer
from tests.shipped_configurations import parsed_once
from tests.support_matrix import hold_to_the_matrix

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)

# A shell starts what it sends to the background deaf to Ctrl-C, and so would be every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no garbage collection need look at it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that docs/support.md names trained what stands there."""
    result = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if folder is not None:
        hold_to_the_matrix(item.nodeid, folder)
    return result


@pytest.fixture(scope="session", autouse=True)
def shipped_configurations() -> Iterator[None]:
    """The tests compose thousands of times what never changes."""
    with parsed_once():
        yield


@pytest.fixture(scope="session")
def command_server() -> Iterator[CommandServer]:
    """Starts commands in processes of their own that need not load torch again."""
    server = CommandServer()
    yield server
    server.close()


SENTENCES = [
    "USER: What colour is the square? ASSISTANT: red</s>",
    "USER: What colour is the circle? ASSISTANT: blue</s>",
    "A chat between a curious user and an artificial intelligence assistant. How many bars are shown? three",
    "Which plane is this slice? Axial Coronal Sagittal Yes No green white black large small",
]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-style fast tokenizer of a few hundred pieces: byte fallback, a blank in front, ``<s>`` first."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    from tokenizers import pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    bytes_there = [f"<0x{value:02X}>" for value in range(256)]
    state = json.loads(tokenizer.to_str())
    for piece in bytes_there:
        state["model"]["vocab"].setdefault(piece, len(state["model"]["vocab"]))
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<s>", "</s>")])
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=False
    ).save_pretrained(folder)
    return folder


COLORS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (20, 180, 40)}


@pytest.fixture(scope="session")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight LLaVA records about real image files (three colours, odd sizes, several turns, some text only)."""
    folder = tmp_path_factory.mktemp("own_data")
    generator = np.random.default_rng(0)
    records = []
    for number in range(48):
        color = list(COLORS)[number % 3]
        record: dict[str, object] = {"id": f"r{number}"}
        turns = [
            {"from": "human", "value": "<image>\nWhat colour is the square?"},
            {"from": "gpt", "value": color},
        ]
        if number % 4 == 3:
            turns[0]["value"] = "How many bars are shown?"
            turns[1]["value"] = "three " * (1 + number % 5) + "bars"
        else:
            size = (20 + number, 30 + (7 * number) % 23)
            pixels = np.clip(np.array(COLORS[color]) + generator.integers(-20, 20, (*size, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
            record["image"] = f"{number}.png"
        if number % 5 == 0:
            turns += [{"from": "human", "value": "Is it small?"}, {"from": "gpt", "value": "Yes"}]
        record["conversations"] = turns
        records.append(record)
    (folder / "train.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="session")
def words_for_tiny(tokenizer_folder: Path, own_data: Path) -> tuple[str, ...]:
    """Command-line words that train a tiny model on :func:`own_data`, wherever they are used."""
    return (
        "exp=mix_general",
        "scale=demo",
        "model=tiny",
        f"model.architecture.tokenizer={tokenizer_folder}",
        "data=mine",
        f"path={own_data / 'train.json'}",
        f"images={own_data}",
        "data.num_workers=0",
        "train.max_steps=6",
        "train.global_batch_size=8",
        "train.tokens_per_micro_batch=256",
        "train.max_length=256",
        "train.num_threads=1",
    )


@pytest.fixture
def tiny_words(words_for_tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """:func:`words_for_tiny` in a folder of the test's own."""
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return list(words_for_tiny)


THREE_DOMAINS = (
    *("exp=mix_general_doc_med", "scale=demo", "model=tiny", "train.max_steps=3", "train.num_threads=1"),
    *("train.global_batch_size=6", "train.tokens_per_micro_batch=512", "train.save_every=2", "data.num_workers=0"),
    "train.betas=[0.9,0.999]",
)
"""Words that train a tiny model on the three domains of the embedded data, in seconds."""


@pytest.fixture(scope="session")
def embedded_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for runs on the embedded data, whose six thousand records are then read and measured once."""
    return tmp_path_factory.mktemp("embedded_cache")


Trained = Callable[[str], Path]


@pytest.fixture(scope="session")
def trained(embedded_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """The folder of a run of :data:`THREE_DOMAINS` with the adapter of this name; tests write into copies of it."""
    from llava_moe.cli import run

    folder = tmp_path_factory.mktemp("analyzed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
        patch.setenv("OMP_NUM_THREADS", "1")

        def train(adapter: str) -> Path:
            out = folder / adapter
            if not out.exists():
                assert run(["train", *THREE_DOMAINS, f"adapter={adapter}", f"out={out}"]) == 0
            return out

        yield train
