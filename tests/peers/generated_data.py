"""Image records on disk with the length mix of LLaVA's instruction data, and a tokenizer that reads their words."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

DOMAINS = ("general", "documents", "medical")
WORDS = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in "lmnrst"]
TEXT_ONLY_SHARE = 0.06
ANSWER_SHARE = 0.28
SIGMA = 0.7


def write_tokenizer(folder: Path) -> str:
    """A Llama-style BPE tokenizer that holds each of :data:`WORDS` as one piece; returns its folder."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator([f"USER: {word} ASSISTANT: {word}\n" for word in WORDS] * 4, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<s>", "</s>")])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return str(folder)


def write_records(folder: Path, num_records: int, mean_words: float, seed: int = 0) -> dict[str, Path]:
    """LLaVA-format JSON about noise images of odd sizes, one file a domain; returns the files by domain.

    Text lengths are lognormal with the given mean, cut at five times it; 28 % of a text is its answer; 6 % of the
    records have no image.
    """
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    records: dict[str, list[dict[str, object]]] = {domain: [] for domain in DOMAINS}
    for number in range(num_records):
        length = draw.lognormvariate(math.log(mean_words) - SIGMA**2 / 2, SIGMA)
        length = min(5 * mean_words, max(6.0, length))
        answer = max(1, round(ANSWER_SHARE * length))
        question, answer_text = (
            " ".join(draw.choice(WORDS) for _ in range(count)) for count in (max(1, round(length) - answer), answer)
        )
        record: dict[str, object] = {"id": f"r{number}"}
        if draw.random() >= TEXT_ONLY_SHARE:
            pixels = noise.integers(0, 256, (draw.randint(40, 90), draw.randint(40, 90), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=85)
            record["image"] = f"{number}.jpg"
            question = f"<image>\n{question}"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer_text}]
        records[DOMAINS[number % len(DOMAINS)]].append(record | {"conversations": turns})
    files = {domain: folder / f"{domain}.json" for domain in DOMAINS}
    for domain, path in files.items():
        path.write_text(json.dumps(records[domain]))
    return files
