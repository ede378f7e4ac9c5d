"""Commands as the documentation shows them, made small: a tiny model, two steps, few records and questions."""

from __future__ import annotations

import re
from collections.abc import Sequence

TRAIN = (
    *("model=tiny", "train.max_steps=2", "train.save_every=1", "train.num_threads=1", "train.global_batch_size=4"),
    *("train.tokens_per_micro_batch=512", "data.num_workers=0", "eval.no_picture=false", "eval.limit=1"),
)
SHORT = {
    "train": TRAIN,
    "compose": (*TRAIN, "limit=8"),
    "plan": ("model=tiny",),
    "eval": ("limit=1", "num_threads=1"),
    "chat": ("image=pictures/0.png", "prompt=Which?", "max_new_tokens=4", "num_threads=1"),
    "data prepare": ("num_processes=1",),
    "analyze interference": ("samples=8", "exact_samples=8", "resamples=100", "num_threads=1"),
    "analyze routing": ("samples=8", "resamples=100", "num_threads=1"),
    "analyze transfer": ("samples=8", "steps=1", "resamples=100", "num_threads=1"),
    "analyze forgetting": ("resamples=100",),
    # The runs are named and composed; the tests of these commands make such runs.
    "compare": ("commands=true",),
    "reproduce": ("commands=true",),
}
"""What is typed behind a command, by its first words: of a key that is there already, the last holds."""
KEPT = {"train.max_steps", "eval.no_picture"}
"""Keys that stay as a page gives them."""
STEPS = {"10": "1", "100": "1", "200": "1", "500": "1", "800": "2"}
"""A step that a page names, and the one that stands for it in a run of two."""
_STEPPED = re.compile(r"(?<=^train\.max_steps=)\d+|(?<=^train\.save_every=)\d+|(?<=^checkpoint=)\d+")


def made_small(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a command, behind ``llava-moe``, and those that make it small."""
    short = next((SHORT[kind] for kind in (" ".join(words[:2]), words[0]) if kind in SHORT), ())
    if len(words) == 1 and words[0] != "train":  # alone it lists what there is
        short = ()
    given = {word.partition("=")[0] for word in words}
    added = [word for word in short if word.partition("=")[0] not in given & KEPT]
    return (*map(_with_small_steps, words), *added)


def _with_small_steps(word: str) -> str:
    return _STEPPED.sub(lambda step: STEPS.get(step[0], step[0]), word)
