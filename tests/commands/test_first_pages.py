"""The pages that a person with files of their own reads first: each command runs as it stands there, in that order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava_moe.cli import run
from tests.test_docs import shown_commands, write_shown_files

PAGES = ("docs/own_domains.md", "docs/own_questions.md")
SHORT = (
    *("model=tiny", "train.max_steps=1", "train.num_threads=1", "train.global_batch_size=4", "data.num_workers=0"),
    *("train.tokens_per_micro_batch=512", "eval.no_picture=false", "eval.limit=1"),
)
ELSEWHERE = {
    "compare": "tests/commands/test_compare.py trains its runs",
    "model.path=": "needs a 7B from the hub",
    "model=vicuna_7b_clip336": "needs a GPU",
    "llava_moe/demo/images/": "a path of the clone",
}


def shown(page: str) -> list[list[str]]:
    """The commands of a page, each once, but for those that are held elsewhere."""
    found = [(place, words) for place, words in shown_commands() if place.startswith(page) and len(words) > 2]
    kept = [words for place, words in found if not any(name in place for name in ELSEWHERE)]
    return [list(one) for one in dict.fromkeys(map(tuple, kept))]


def write_files(folder: Path) -> None:
    """What the pages take for there, beside the three files: one's own questions, and what ``mine`` reads."""
    turns = [{"role": "user", "content": "<image>\nWhich?"}, {"role": "assistant", "content": "A boot"}]
    questions = [{"id": str(n), "messages": turns, "images": [f"{n}.png"]} for n in range(3)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    shutil.copytree(folder / "snaps", folder / "pictures", dirs_exist_ok=True)
    (folder / "photos").symlink_to("pictures")
    shutil.copy(folder / "charts.json", folder / "train.json")
    for name, given in (("general.json", "charts.json"), ("documents.jsonl", "photos.jsonl")):
        shutil.copy(folder / given, folder / "mine" / name)
    shutil.copy(folder / "scans.parquet", folder / "mine" / "medical.parquet")
    for name in ("photos", "charts"):
        (folder / "mine" / name).symlink_to(folder / "pictures")


@pytest.mark.slow
def test_every_command_for_ones_own_files_runs_as_it_stands(
    three_files: Path, embedded_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
    write_shown_files(three_files)
    (three_files / "mix.yaml").unlink()  # init writes it
    write_files(three_files)
    outs = iter(["runs/a", "runs/b", *(f"runs/{number}" for number in range(99))])
    wrong, num_run = [], 0
    for words in (words for page in PAGES for words in shown(page)):
        placed = [word.replace("runs/...", "runs/a").replace("FOLDER", "mine") for word in words[1:]]
        if "runs=[runs/a,runs/b]" in placed:
            run(["eval", "run=runs/b", *placed[2:], "limit=1"])
        more = (*SHORT, f"out={next(outs)}") if words[1] == "train" else ("limit=1",) if words[1] == "eval" else ()
        status = run([*placed, *more])
        told = capfd.readouterr().err
        wrong += [f"{' '.join(words)}\n{told}"] if status else []
        num_run += 1
    assert not wrong, "\n".join(wrong)
    assert num_run >= 14
