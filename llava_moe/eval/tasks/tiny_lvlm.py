"""Benchmark ``tiny_lvlm``: Tiny LVLM-eHub by ability, five of them; overall is the sum of five accuracies, at most 500.

The ability level is what ``updated_eval_tiny.py`` runs, without a judge; the leaderboard's numbers are such sums.
Source: OpenGVLab/Multi-Modality-Arena bd2999a ``tiny_lvlm_evaluation`` (``GeneralDataset``, ``evaluate_VQA``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from llava_moe.eval.benchmark import Expected, Measure
from llava_moe.eval.download import Download, texts_of
from llava_moe.eval.metrics import tiny_lvlm_overall, tiny_lvlm_word_match
from llava_moe.eval.protocol import LLAVA_1_5, LMMS_EVAL, QUESTION_ALONE, Wording
from llava_moe.eval.published_benchmark import Item, Published, Scored, Scorer, mean_scores

ABILITIES = (
    "Visual_Reasoning",
    "Visual_Perception",
    "Visual_Knowledge_Acquisition",
    "Visual_Commonsense",
    "Object_Hallucination",
)


def read(download: Download) -> Iterator[Item]:
    """``<ability>/dataset.json``: a list of ``image_path, question, gt_answers``; all five abilities must be there."""
    for ability in ABILITIES:
        file = download.need(f"{ability}/dataset.json")[0]
        for number, row in enumerate(download.rows(file)):
            yield Item(
                id=f"{ability}/{number}",
                images=(download.image(download.text(row, "image_path"), beside=file),),
                words={"question": download.text(row, "question")},
                references=texts_of(download.cell(row, "gt_answers")),
                part=ability,
                kind=str(row.get("dataset_name") or row.get("task") or "question"),
            )


def score(item: Item, prediction: str) -> dict[str, float]:
    """Whether a gold answer stands in the prediction as a whole word."""
    return {"tiny_lvlm_word_match": tiny_lvlm_word_match(prediction, item.references)}


def overall(scored: Scored) -> dict[str, Measure]:
    """The sum over the abilities, and the plain mean over questions."""
    total = Counter(item.part for item, _ in scored)
    correct = Counter({ability: 0 for ability in total})
    for item, answer in scored:
        correct[item.part] += int(answer.score["tiny_lvlm_word_match"])
    return {"tiny_lvlm_overall": Measure(tiny_lvlm_overall(correct, total), len(scored))} | mean_scores(scored)


BENCHMARK = Published(
    domain="general",
    remedy="get the five folders of the updated Tiny LVLM-eHub from OpenGVLab/Multi-Modality-Arena and extract them",
    read=read,
    scorers={
        "": Scorer(
            name="VQAEval of Multi-Modality-Arena: whole-word match, no judge",
            columns=("tiny_lvlm_overall", "tiny_lvlm_word_match"),
            score=score,
            expected=Expected(oracle={"tiny_lvlm_overall": 500.0}, empty={}),
            measure_all=overall,
        )
    },
    # The data holds whole prompts.
    wordings={
        protocol.name: Wording(QUESTION_ALONE, "the data's own prompts (updated_eval_tiny.py)")
        for protocol in (LLAVA_1_5, LMMS_EVAL)
    },
    known={2450: "ability level: 550 + 400 + 700 + 500 + 300"},
    notes=("Overall is the sum of the five abilities' accuracies in %, at most 500; it is no average.",),
)
