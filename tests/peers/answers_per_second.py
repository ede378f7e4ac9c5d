"""Answers a second of `llava-moe eval`'s engine, beside Hugging Face's `generate()` called question by question.

    python tests/peers/answers_per_second.py run=FOLDER [questions=96] [rounds=5] [batch_size=32] [threads=1]

Both read the same questions of the demo benchmark with the same run, from the images' bytes to the answers' text. The
rounds take turns, so that a busy machine slows both alike; what is printed is the median over the rounds, by the wall
clock and by processor time, and the ratios of the medians. The answers must be equal.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from llava_moe.assemble import Assembled, processor_of, restore
from llava_moe.eval.benchmark import Question
from llava_moe.eval.generation.generate import LocalModel
from llava_moe.eval.ranks import ALONE
from llava_moe.eval.tasks import open_benchmark

DEFAULTS = {"questions": 96, "rounds": 5, "batch_size": 32, "threads": 1}


def some_questions(count: int) -> list[Question]:
    """About this many of the benchmark's questions: all that it asks about some images, drawn evenly."""
    by_image: dict[object, list[Question]] = {}
    every = open_benchmark("demo").questions()
    for question in every:
        by_image.setdefault(question.images, []).append(question)
    step = max(1, len(every) // count)
    return [question for group in list(by_image.values())[::step] for question in group]


def one_by_one(assembled: Assembled, questions: list[Question]) -> list[str]:
    """The recipe of Hugging Face's model page: processor, `generate`, decode."""
    model, processor = assembled.model, processor_of(assembled)
    answers = []
    for question in questions:
        parts: Any = [{"type": "image"} for _ in question.images] + [{"type": "text", "text": question.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        images = [Image.open(io.BytesIO(image)).convert("RGB") for image in question.images]  # type: ignore[arg-type]
        inputs = processor(images=images, text=text, return_tensors="pt")
        with torch.inference_mode():
            tokens = cast(Any, model).generate(
                **inputs, max_new_tokens=question.max_new_tokens, do_sample=False, use_cache=True
            )
        answers.append(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return answers


def answered(engine: LocalModel, questions: list[Question]) -> list[str]:
    """Our answers, in the order of the questions."""
    found = {one.index: one.text for batch in engine.answers(questions, ALONE) for one in batch}
    return [found[index] for index in range(len(questions))]


def timed(answer: Callable[[], list[str]]) -> tuple[list[str], float, float]:
    """Answers, seconds by the wall clock, seconds of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    answers = answer()
    return answers, time.perf_counter() - wall, time.process_time() - processor


def main(words: list[str]) -> int:
    given = dict(word.split("=", 1) for word in words)
    run = Path(given.pop("run"))
    settings = DEFAULTS | {name: int(value) for name, value in given.items()}
    torch.set_num_threads(settings["threads"])
    assembled = restore(run)
    questions = some_questions(settings["questions"])
    ways: dict[str, Callable[[], list[str]]] = {"generate() one by one": lambda: one_by_one(assembled, questions)}
    for shares in (False, True):
        engine = LocalModel(assembled.model, assembled.encoder, settings["batch_size"], shares_prefix=shares)
        name = f"engine, {settings['batch_size']} together" + ", images read once" * shares
        ways[name] = partial(answered, engine, questions)
    for answer in ways.values():  # warm-up
        answer()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for _ in range(settings["rounds"]):
        for name, answer in ways.items():
            answers[name], wall, processor = timed(answer)
            seconds[name].append((wall, processor))
    rates = {
        name: [len(questions) / statistics.median(clock) for clock in zip(*rounds, strict=True)]
        for name, rounds in seconds.items()
    }
    print(f"{len(questions)} questions, median of {settings['rounds']} rounds, {settings['threads']} thread(s)")
    num_images = len({question.images for question in questions})
    print(f"about {num_images} images; in brackets: beside generate(), the ratio of the medians")
    print(f"{'':<38}{'answers/s, wall':>24}{'answers/s, processor':>24}")
    slow = next(iter(rates.values()))
    for name, clocks in rates.items():
        cells = [f"{rate:.2f} ({rate / before:.2f})" for rate, before in zip(clocks, slow, strict=True)]
        print(f"{name:<38}{cells[0]:>24}{cells[1]:>24}")
    differing = [texts for texts in zip(*answers.values(), strict=True) if len(set(texts)) > 1]
    print(f"{len(differing)} of {len(questions)} answers differ{f', such as {differing[0]}' if differing else ''}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
