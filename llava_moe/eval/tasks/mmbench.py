"""Benchmark ``mmbench``: English multiple choice; a question counts only if every rotation of its options is right.

Rotation k of question i is row ``i + k * 1,000,000``. Source: open-compass/MMBench (arXiv:2307.06281), matched as
VLMEvalKit does without a judge. ``mmbench_cn`` is the Chinese one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from llava_moe.eval.benchmark import Measure
from llava_moe.eval.download import Download
from llava_moe.eval.intervals import mean_of
from llava_moe.eval.metrics import mmbench_circular, mmbench_extract
from llava_moe.eval.protocol import OPTION_LETTER, Wording
from llava_moe.eval.published_benchmark import Item, Published, Scored, Scorer, mean_scores

ROTATION = 1_000_000
NAMES = {
    "en": ("MMBench_DEV_EN.tsv", "mmbench_dev_en*.tsv", "mmbench_dev_2*.tsv", "MMBench_DEV_EN*.tsv"),
    "cn": ("MMBench_DEV_CN.tsv", "mmbench_dev_cn*.tsv", "MMBench_DEV_CN*.tsv"),
}
OPTIONS = "{hint_line}{question}\n{options}"


def read(download: Download, language: str = "en") -> Iterator[Item]:
    """``mmbench_dev_*.tsv`` with base64 images, or the hub's ``en/dev-*.parquet``."""
    for file in download.need(f"{language}/dev-*.parquet", *NAMES[language]):
        for row in download.rows(file):
            index = int(download.text(row, "index"))
            choices = {letter: str(row[letter]) for letter in "ABCD" if not _is_nothing(row.get(letter))}
            hint = "" if _is_nothing(row.get("hint")) else str(row["hint"])
            yield Item(
                id=str(index),
                images=(download.text(row, "image"),),
                words={
                    "question": download.text(row, "question"),
                    "options": "\n".join(f"{letter}. {text}" for letter, text in choices.items()),
                    "hint_line": f"{hint}\n" if hint else "",
                    "hint_blank": f"{hint} " if hint else "",
                    "hint_named": f"Hint: {hint}\n" if hint else "",
                },
                references=() if _is_nothing(row.get("answer")) else (str(row["answer"]),),
                kind=str(row.get("category") or "question"),
                closed=True,
                group=str(index % ROTATION),
                choices=choices,
            )


def _is_nothing(value: object) -> bool:
    return value is None or str(value).strip().lower() in ("", "nan", "none")


def score(item: Item, prediction: str) -> dict[str, float]:
    """Whether the option that the answer names is right, in this one rotation."""
    return {"mmbench_rotation_accuracy": float(mmbench_extract(prediction, item.choices) == item.references[0])}


def circular(scored: Scored) -> dict[str, Measure]:
    """The share of questions right in every rotation, and the share of right rotations."""
    groups: dict[str, list[tuple[str, dict[str, object]]]] = {}
    for item, answer in scored:
        rotation: dict[str, object] = {"answer": item.references[0], "choices": item.choices}
        groups.setdefault(item.group, []).append((answer.prediction, rotation))
    right = [mmbench_circular([said for said, _ in one], [rotation for _, rotation in one]) for one in groups.values()]
    return {"mmbench_circular": mean_of(right)} | mean_scores(scored)


SCORERS = {
    "": Scorer(
        name="VLMEvalKit CircularEval, exact matching without a judge",
        columns=("mmbench_circular", "mmbench_rotation_accuracy"),
        score=score,
        measure_part=circular,
    )
}
NOTES = (
    "Without a judge an answer that names no option, or several, is wrong; published numbers may use a judge.",
    "lmms-eval's own scorer falls back to a random option when its judge fails; ours never does.",
)
SELECT = (
    "{hint_named}Question: {question}\nOptions:\n{options}\nPlease select the correct answer from the options above."
)
BENCHMARK = Published(
    domain="general",
    remedy="fetch mmbench_dev_20230712.tsv, or "
    "run `hf download lmms-lab/MMBench --repo-type dataset --local-dir FOLDER`",
    read=partial(read, language="en"),
    scorers=SCORERS,
    wordings={
        "llava_1_5": Wording(f"{OPTIONS}\n{OPTION_LETTER}", "haotian-liu/LLaVA llava/eval/model_vqa_mmbench.py", 1024),
        "lmms_eval": Wording(
            "{hint_blank}{question} There are several options:\n{options}\n\n" + OPTION_LETTER,
            "lmms-eval 0.7.3 tasks/mmbench/en_utils.py",
            1024,
        ),
        "llava_mole": Wording(SELECT, "open-compass/VLMEvalKit image_mcq.py: LLaVA-MoLE does not report MMBench"),
        "mixlora": Wording(f"{OPTIONS}\n{OPTION_LETTER}", "as LLaVA-1.5: MixLoRA does not report MMBench"),
    },
    known={
        4329: "dev: 1,164 questions with rotations",
        4377: "dev of 2023-07-12",
        1164: "dev without rotations: not circular",
    },
    notes=NOTES,
)
