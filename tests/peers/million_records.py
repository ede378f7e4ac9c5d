"""A million LLaVA-style records on disk, text as long as the real mix's, images few; and what preparing them takes.

``python -m tests.peers.million_records FOLDER [--records 1000000] [--text demo] [--model demo] [--processes 2]``
writes the records unless they are there (1.3 GB, a minute) and prepares them into ``FOLDER/data/million``.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import json
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from llava_moe.cli import run
from llava_moe.datatools.prepare import chunks

DEMO = Path(__file__).resolve().parents[2] / "llava_moe" / "demo" / "images"
NUM_RECORDS = 1_000_000
NUM_IMAGES = 64
SUFFIX = "\nAnswer the question using a single word or phrase."
PAGE = """from llava_moe.datatools.prepare.recipe import Part, Recipe

RECIPE = Recipe(
    name="million",
    title="generated records",
    source="tests/peers/million_records.py",
    licence="CC0",
    get=("python -m tests.peers.million_records .",),
    domain="general",
    format="llava",
    parts=(Part(split="train", find="million.json", expected={num_records}),),
    images=".",
)
"""


class Words:
    """English-looking words, drawn as words of a language are: the n-th most common 1/n as often as the first."""

    def __init__(self, draw: random.Random, num: int = 20_000) -> None:
        syllables = [first + vowel + last for first in "bcdfglmnprst" for vowel in "aeiou" for last in ("", *"lmnrst")]
        self.draw = draw
        self.words = [
            "".join(draw.choice(syllables) for _ in range(1 + (rank > 60) + (rank > 3000))) for rank in range(num)
        ]
        weights = np.cumsum(1 / np.arange(1, num + 1))
        self.edges: list[float] = (weights / weights[-1]).tolist()
        # Sentences are drawn once and put together again for each record: a million records take a minute.
        self.sentences = [self._sentence(draw.randint(4, 24)) for _ in range(30_000)]

    def _sentence(self, num: int) -> str:
        words = [self.words[bisect.bisect(self.edges, self.draw.random())] for _ in range(num)]
        return " ".join(words).capitalize() + self.draw.choice(".....?!")

    def text(self, num_characters: float) -> str:
        """About so many characters."""
        found: list[str] = []
        left = num_characters
        while left > 0:
            found.append(self.sentences[int(self.draw.random() * len(self.sentences))])
            left -= len(found[-1])
        return " ".join(found)


def records(num: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Records in the proportions of LLaVA-1.5's mix: short questions in several turns, captions, talks, text alone."""
    draw = random.Random(seed)
    words = Words(draw)
    for number in range(num):
        kind, turns = draw.random(), []
        if kind < 0.06:  # ShareGPT
            for _ in range(draw.randint(1, 5)):
                turns += [words.text(draw.lognormvariate(4.5, 0.8)), words.text(draw.lognormvariate(6.6, 0.7))]
        elif kind < 0.30:  # LLaVA's talks and details
            for _ in range(draw.choice((1, 1, 3, 4))):
                turns += [words.text(60), words.text(draw.lognormvariate(6.0, 0.6))]
        else:  # questions with short answers
            for _ in range(min(16, 1 + int(draw.expovariate(0.25)))):
                turns += [words.text(30) + SUFFIX, draw.choice(words.words[:2000])]
        turns[0] = f"{turns[0]} ({number})"
        record: dict[str, Any] = {"id": f"{number // 2:012d}"}
        if kind >= 0.06:
            record["image"] = f"images/{number % NUM_IMAGES:03d}.jpg"
            turns[0] = f"<image>\n{turns[0]}"
        roles = ("human", "gpt")
        record["conversations"] = [{"from": roles[place % 2], "value": text} for place, text in enumerate(turns)]
        yield record


def demo_records(num: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Records whose texts are the embedded demo's real ones: a question and its answer drawn for each."""
    draw = random.Random(seed)
    pairs = []
    for file in sorted(DEMO.glob("*.parquet")):
        for row in pq.read_table(file, columns=["conversations"]).to_pylist():
            turns = [turn["text"].replace("<image>", "").strip() for turn in row["conversations"]]
            pairs += list(zip(turns[::2], turns[1::2], strict=True))
    for number in range(num):
        record: dict[str, Any] = {"id": f"{number:012d}"}
        question, answer = draw.choice(pairs)
        if draw.random() >= 0.06:
            record["image"] = f"images/{number % NUM_IMAGES:03d}.jpg"
            question = f"<image>\n{question}"
        record["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        yield record


def write_million(folder: Path, num: int = NUM_RECORDS, text: str = "long") -> Path:
    """Write ``million.json``, its images and its recipe page ``million.py``; returns the records' file.

    ``text``: ``long`` has the lengths of the real mix and words that look like a language's, ``demo`` real short texts.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        pixels = noise.integers(0, 256, (60 + number, 120 - number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:03d}.jpg", quality=80)
    (folder / "million.py").write_text(PAGE.format(num_records=num))
    path = folder / "million.json"
    part = folder / "million.json.part"
    with open(part, "w", encoding="utf-8") as file:
        file.write("[")
        for number, record in enumerate((records if text == "long" else demo_records)(num)):
            file.write(", " * bool(number) + json.dumps(record))
        file.write("]")
    part.replace(path)
    return path


def peak(process: int | str) -> float:
    """Largest resident memory of a process in MiB."""
    # Trap: what getrusage tells begins with the size of the process that started this one.
    told = Path(f"/proc/{process}/status").read_text()
    return int(told.partition("VmHWM:")[2].split()[0]) / 1024


class WorkerPeak(threading.Thread):
    """Watches the worker processes and keeps the largest peak among them."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest = 0.0

    def run(self) -> None:
        while True:
            for child in multiprocessing.active_children():
                with contextlib.suppress(OSError, IndexError):  # it has just ended
                    self.largest = max(self.largest, peak(child.pid or "none"))
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=NUM_RECORDS)
    parser.add_argument("--text", choices=("long", "demo"), default="long")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--model", default=None, help="whose tokenizer counts; without it none does")
    parser.add_argument("--rows-a-chunk", type=int, default=chunks.ROWS_A_CHUNK)
    options = parser.parse_args()
    chunks.ROWS_A_CHUNK = options.rows_a_chunk
    path = options.folder / "million.json"
    if not path.exists():
        started = time.monotonic()
        write_million(options.folder, options.records, options.text)
        print(f"written in {time.monotonic() - started:.0f} s: {path}, {path.stat().st_size / 1e9:.2f} GB")
    words = [f"recipe={options.folder / 'million.py'}", f"downloads={options.folder}", f"out={options.folder / 'data'}"]
    words += [f"num_processes={options.processes}"] + ([f"model={options.model}"] if options.model else [])
    worker = WorkerPeak()
    worker.start()
    started = time.monotonic()
    status = run(["data", "prepare", *words, "restart=true"])
    seconds = time.monotonic() - started
    print(f"status {status}; {seconds:.1f} s, {options.records / seconds:,.0f} records/s")
    print(f"peak resident memory: main process {peak('self'):.0f} MiB, largest worker {worker.largest:.0f} MiB")


if __name__ == "__main__":
    main()
