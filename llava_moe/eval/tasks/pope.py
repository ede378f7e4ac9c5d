"""Benchmark ``pope``: is an object in a COCO image? Random, popular and adversarial objects, yes or no.

Source: RUCAIBox/POPE (arXiv:2305.10355) ``evaluate.py``; lmms-eval 0.7.3 ``tasks/pope/utils.py`` scores otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from llava_moe.eval.benchmark import Expected, Measure
from llava_moe.eval.download import Download
from llava_moe.eval.metrics import pope_answer_parse, pope_metrics, pope_metrics_lmms_eval
from llava_moe.eval.mixlora_files import mixlora_items
from llava_moe.eval.protocol import SHORT_ANSWER, Wording
from llava_moe.eval.published_benchmark import Item, Published, Scored, Scorer, mean_scores

SETS = ("random", "popular", "adversarial")
_MIXLORA = {"random": "pope_rand", "popular": "pope_pop", "adversarial": "pope_adv"}
COLUMNS = ("pope_f1", "pope_accuracy", "pope_precision", "pope_recall", "pope_yes_ratio")


def read(download: Download) -> Iterator[Item]:
    """``coco_pope_<set>.json`` beside ``val2014/``, the hub's Parquet, or MixLoRA's three files."""
    if files := download.find("data/test-*.parquet", "test-*.parquet", "Full/*.parquet"):
        for file in files:
            for row in download.rows(file):
                told = (download.text(row, key) for key in ("category", "question_id", "image", "question", "answer"))
                yield _item(*told)
        return
    for part in SETS:
        if not download.find(f"coco_pope_{part}.json") and download.find(f"{_MIXLORA[part]}.jsonl"):
            yield from mixlora_items(download, _MIXLORA[part], part=part, closed=True, references=_yes_or_no)
            continue
        file = download.need(f"coco_pope_{part}.json")[0]
        for row in download.rows(file):
            number, name, question, label = (
                download.text(row, key) for key in ("question_id", "image", "text", "label")
            )
            yield _item(part, number, download.image(name, "val2014", beside=file), question, label)


def _item(part: str, number: str, image: str, question: str, label: str) -> Item:
    return Item(f"{part}/{number}", (image,), {"question": question.strip()}, _yes_or_no(label), part, closed=True)


def _yes_or_no(label: str) -> tuple[str, ...]:
    return (label.strip().lower(),)


def score(item: Item, prediction: str) -> dict[str, float]:
    """Right or wrong by the official rule."""
    return {"pope_accuracy": float(pope_answer_parse(prediction) == item.references[0])}


def exact(item: Item, prediction: str) -> dict[str, float]:
    """lmms-eval: the stripped, lower-cased answer is the label; "Yes." is wrong."""
    return {"pope_accuracy": float(prediction.lower().strip() == item.references[0])}


def five(scored: Scored, metrics: Callable[..., dict[str, float]] = pope_metrics) -> dict[str, Measure]:
    """POPE's five numbers; accuracy with its interval."""
    found = metrics([answer.prediction for _, answer in scored], [item.references[0] for item, _ in scored])
    return {f"pope_{name}": Measure(value, len(scored)) for name, value in found.items()} | mean_scores(scored)


def mean_of_sets(scored: Scored) -> dict[str, Measure]:
    """The mean over the sets, as LLaVA-1.5 reports F1."""
    sets = [five([pair for pair in scored if pair[0].part == part]) for part in {item.part for item, _ in scored}]
    return {name: Measure(sum(one[name].value for one in sets) / len(sets), len(scored)) for name in COLUMNS}


# An empty answer reads as yes: right for the half of the questions that are.
ALL_YES = {"pope_f1": 2 / 3, "pope_accuracy": 0.5, "pope_precision": 0.5, "pope_recall": 1.0, "pope_yes_ratio": 1.0}
HALF = {"pope_yes_ratio": 0.5}
BENCHMARK = Published(
    domain="general",
    answers=("yes", "no"),
    remedy="put coco_pope_{random,popular,adversarial}.json of RUCAIBox/POPE and COCO's val2014/ there, or "
    "run `hf download lmms-lab/POPE --repo-type dataset --local-dir FOLDER`",
    read=read,
    scorers={
        "": Scorer(
            name="RUCAIBox/POPE evaluate.py; all is the mean of the three sets",
            columns=COLUMNS,
            score=score,
            expected=Expected(oracle=HALF, empty=ALL_YES),
            measure_part=five,
            measure_all=mean_of_sets,
        ),
        "lmms_eval": Scorer(
            name="lmms-eval 0.7.3 tasks/pope: exact equality; all is over the sets together",
            columns=COLUMNS,
            score=exact,
            expected=Expected(oracle=HALF, empty=HALF),
            measure_part=partial(five, metrics=pope_metrics_lmms_eval),
        ),
    },
    wordings={"lmms_eval": Wording(SHORT_ANSWER, "lmms-eval 0.7.3 tasks/pope", 128)},
    known={9000: "3 x 3,000", 8910: "the random set of 2,910 of the older release, which LLaVA-1.5 used"},
    notes=(
        "The official rule reads everything without No, no or not in its first sentence as yes, an empty answer too.",
    ),
)
