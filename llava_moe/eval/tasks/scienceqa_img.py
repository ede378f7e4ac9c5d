"""Benchmark ``scienceqa_img``: multiple-choice school science, the questions that have an image.

Source: lupantech/ScienceQA (arXiv:2209.09513); haotian-liu/LLaVA ``llava/eval/eval_science_qa.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import ALL_DOMAINS
from llava_moe.eval.download import Download
from llava_moe.eval.laid_out import Row
from llava_moe.eval.protocol import LLAVA_MOLE, MIXLORA, OPTION_LETTER, Wording
from llava_moe.eval.published_benchmark import Item, Published, Scorer

LETTERS = "ABCDE"
_STARTS, _SAYS = re.compile(r"([A-E])\. "), re.compile(r"The answer is ([A-E])")
PROMPT = f"{{context}}{{question}}\n{{options}}\n{OPTION_LETTER}"


def read(download: Download) -> Iterator[Item]:
    """``problems.json`` and ``pid_splits.json`` beside ``images/test/``, or the hub's Parquet."""
    if files := download.find("ScienceQA-IMG/test-*.parquet", "test-*.parquet"):
        for file in files:
            for number, row in enumerate(download.rows(file)):
                if row.get("image"):
                    yield _item(download, f"{file.rpartition('/')[2]}#{number}", row, str(row["image"]))
        return
    file = download.need("problems.json")[0]
    splits = download.whole(download.need("pid_splits.json")[0])
    problems = download.whole(file)
    for number in splits["test"]:
        download.reading, row = f"{file}, problem {number}", problems[number]
        if not isinstance(row, dict):
            raise UserError(f"benchmark {download.name}: {download.reading}, is no object with fields; fetch it again")
        if row.get("image"):
            inner = f"{number}/{row['image']}"
            yield _item(
                download, str(number), row, download.image(f"images/test/{inner}", f"test/{number}", beside=file)
            )


def _item(download: Download, name: str, row: Row, image: str) -> Item:
    choices = dict(zip(LETTERS, download.texts(row, "choices"), strict=False))
    return Item(
        id=name,
        images=(image,),
        words={
            "question": download.text(row, "question"),
            "context": f"Context: {row['hint']}\n" if row.get("hint") else "",
            "options": "\n".join(f"{letter}. {choice}" for letter, choice in choices.items()),
        },
        references=(LETTERS[range(len(choices)).index(int(download.text(row, "answer")))],),
        part=str(row.get("subject") or ALL_DOMAINS),
        kind=str(row.get("topic") or "question"),
        closed=True,
        choices=choices,
    )


def read_letter(prediction: str) -> str:
    """The letter that LLaVA's scorer reads: alone, in front of ". ", or behind "The answer is"; else "FAILED"."""
    text = prediction.replace("\n", ". ")
    if text.strip() in set(LETTERS):
        return text.strip()
    found = _STARTS.match(text) or _SAYS.search(text)
    return found[1] if found else "FAILED"


def score(item: Item, prediction: str) -> dict[str, float]:
    """Whether the letter is right."""
    return {"scienceqa_accuracy": float(read_letter(prediction) == item.references[0])}


def score_lmms_eval(item: Item, prediction: str) -> dict[str, float]:
    """lmms-eval: the letter alone, or in front of a full stop."""
    text = prediction.strip()
    letter = text[0] if len(text) >= 2 and text[0].isupper() and text[1] == "." else text
    return {"scienceqa_accuracy": float(letter == item.references[0])}


BENCHMARK = Published(
    domain="general",
    remedy="put problems.json, pid_splits.json and images/ of lupantech/ScienceQA there, or run `hf download "
    "lmms-lab/ScienceQA --repo-type dataset --local-dir FOLDER`",
    read=read,
    scorers={
        "": Scorer("LLaVA eval_science_qa.py", ("scienceqa_accuracy",), score),
        "lmms_eval": Scorer("lmms-eval 0.7.3 tasks/scienceqa", ("scienceqa_accuracy",), score_lmms_eval),
    },
    wordings={
        "llava_1_5": Wording(PROMPT, "haotian-liu/LLaVA scripts/v1_5/eval/sqa.sh --single-pred-prompt", 1024),
        "lmms_eval": Wording(PROMPT, "lmms-eval 0.7.3 tasks/scienceqa/utils.py", 16),
    }
    | {one.name: Wording(PROMPT, "as LLaVA-1.5: its paper does not report ScienceQA") for one in (LLAVA_MOLE, MIXLORA)},
    known={2017: "test, questions with an image"},
)
