"""Benchmark ``mme``: fourteen subtasks of yes/no questions, two an image; perception (2000) and cognition (800).

Source: BradyFU/Awesome-Multimodal-Large-Language-Models ``eval_tool/calculation.py`` (arXiv:2306.13394).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Expected, Measure
from llava_moe.eval.download import Download
from llava_moe.eval.metrics import mme_answer_parse, mme_answer_parse_lmms_eval, mme_score
from llava_moe.eval.metrics.mme import MME_COGNITION, MME_PERCEPTION
from llava_moe.eval.protocol import SHORT_ANSWER, Wording
from llava_moe.eval.published_benchmark import Item, Published, Scored, Scorer, mean_scores

Parse = Callable[[str], str]
ASKED = " Please answer yes or no."
COLUMNS = ("mme_perception_score", "mme_cognition_score", "mme_accuracy")


def read(download: Download) -> Iterator[Item]:
    """The official folders (``<category>/*.txt``, or ``questions_answers_YN/`` in them), or the hub's Parquet."""
    if files := download.find("test-*.parquet"):
        counts: dict[str, int] = {}
        for file in files:
            for row in download.rows(file):
                name, category = download.text(row, "question_id"), download.text(row, "category")
                counts[name] = counts.get(name, -1) + 1
                image, question, answer = (download.text(row, key) for key in ("image", "question", "answer"))
                yield _item(category, name, counts[name], image, question, answer)
        return
    download.need("existence/*.txt", "questions_answers_YN/*.txt", "*.txt")
    for category in sorted((*MME_PERCEPTION, *MME_COGNITION)):
        for file in download.find(f"{category}/questions_answers_YN/*.txt", f"{category}/*.txt"):
            stem = file.rpartition("/")[2].removesuffix(".txt")
            image = _image(download, stem, file)
            for number, line in enumerate(download.bytes_of(file).decode("utf-8").splitlines()):
                download.reading = f"{file}, line {number + 1}"
                question, tab, answer = line.partition("\t")
                if not tab:
                    raise UserError(f"{download.reading}: no tab between question and answer; fetch it again")
                yield _item(category, f"{category}/{stem}", number, image, question, answer)


def _image(download: Download, stem: str, file: str) -> str:
    beside = file.replace("/questions_answers_YN/", "/images/")
    for suffix in (".jpg", ".png"):
        if found := download.existing(f"{stem}{suffix}", beside):
            return found
    return download.image(f"{stem}.jpg", beside=beside)


def _item(category: str, name: str, number: int, image: str, question: str, answer: str) -> Item:
    words = {"question": question.strip(), "bare": question.strip().replace(ASKED, "")}
    return Item(f"{name}#{number}", (image,), words, (answer.strip(),), category, category, closed=True, group=name)


def score(item: Item, prediction: str, parse: Parse = mme_answer_parse) -> dict[str, float]:
    """Right or wrong by the rule that reads the answer."""
    return {"mme_accuracy": float(parse(prediction) == item.references[0].lower())}


def subtask(scored: Scored, parse: Parse = mme_answer_parse) -> dict[str, Measure]:
    """The subtask's score, at most 200: per cent of right questions and of images with both right, added."""
    total = sum(score for score in _scores(scored, parse).values() if score is not None)
    return {"mme_score": Measure(total, len(scored))} | mean_scores(scored)


def sums(scored: Scored, parse: Parse = mme_answer_parse) -> dict[str, Measure]:
    """Perception, cognition, and the mean over questions."""
    kinds = {"mme_perception_score": MME_PERCEPTION, "mme_cognition_score": MME_COGNITION}
    found = {
        name: Measure(value, sum(item.part in kinds[name] for item, _ in scored))
        for name, value in _scores(scored, parse).items()
        if value is not None
    }
    return found | mean_scores(scored)


def _scores(scored: Scored, parse: Parse) -> dict[str, float | None]:
    items = [(item.part, item.group, item.references[0]) for item, _ in scored]
    return mme_score([answer.prediction for _, answer in scored], items, parse=parse)


MOST = Expected(oracle={"mme_perception_score": 2000.0, "mme_cognition_score": 800.0}, empty={})
BENCHMARK = Published(
    domain="general",
    answers=("yes", "no"),
    parts=MME_PERCEPTION | MME_COGNITION,
    remedy="extract MME_Benchmark_release_version there, or "
    "run `hf download lmms-lab/MME --repo-type dataset --local-dir FOLDER`",
    read=read,
    scorers={
        "": Scorer("MME eval_tool/calculation.py", COLUMNS, score, MOST, subtask, sums),
        "lmms_eval": Scorer(
            name="lmms-eval 0.7.3 tasks/mme: answers stripped first",
            columns=COLUMNS,
            score=partial(score, parse=mme_answer_parse_lmms_eval),
            expected=MOST,
            measure_part=partial(subtask, parse=mme_answer_parse_lmms_eval),
            measure_all=partial(sums, parse=mme_answer_parse_lmms_eval),
        ),
    },
    wordings={"lmms_eval": Wording(SHORT_ANSWER.replace("{question}", "{bare}"), "lmms-eval 0.7.3 tasks/mme", 16)},
    known={2374: "14 subtasks, 1,187 images"},
    notes=("Perception is out of 2000, cognition out of 800: no percentages.",),
)
