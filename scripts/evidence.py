"""Writes docs/evidence/README.md from the figures that lie beside it, each as ``llava-moe reproduce`` wrote it.

    llava-moe reproduce paper=llava_mole figure=6 cells=runs/cells at_once=2 out=docs/evidence/llava_mole-fig6
    python scripts/evidence.py

A figure's folder holds no runs: where they lie is said by ``cells=``, in words that hold anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_moe.reproduce.index import entries

FOLDER = Path(__file__).parents[1] / "docs" / "evidence"
INDEX = "README.md"

OPENING = """# Figures of the papers, from our own runs

Each figure was made by the command that stands below it, on the embedded demo: a Llama of 6 million parameters, three
domains, two CPU cores. "Seen", "not seen" and "undecided" go by a 95 % interval over seeds and records and not by eye
([reproduce.md](../reproduce.md)). None of it says what a 7B does: the same commands with `scale=full` would.

A folder holds the page, its drawings, and `results.json` with every number and the card of every run (command, commit,
steps, seconds). Runs of one name are shared between figures, and their minutes are told in each.
"""


def index_of(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page that tells of every figure.

    Args:
        results: folder of a figure -> what its ``results.json`` holds.
    """
    parts = [OPENING]
    for folder, told in results.items():
        paper = entries()[told["paper"], told["figure"]].paper_title
        cells = told["cells"].values()
        minutes = sum(cell["seconds"] for cell in cells) / 60
        commits = sorted({str(cell["commit"])[:7] for cell in cells})
        parts += [
            f"## {paper}: [{told['title']}]({folder}/index.html)\n",
            f"The paper says: {told['effect']}.\n",
            *(f"- **{one['verdict'].capitalize()}.** {_claim(one['sentence'])}" for one in told["answers"]),
            f"\n![{told['title']}]({folder}/{_first_drawing(folder)})\n",
            f"{len(cells)} runs, seeds {', '.join(map(str, told['seeds']))}; {minutes:.0f} minutes of runs, two at a "
            f"time; commit {', '.join(commits)}:\n",
            f"```bash\n{told['command']}\n```\n",
        ]
    return "\n".join(parts)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """What the figures in a folder hold, by the folder's name."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/results.json"))}


def _claim(sentence: str) -> str:
    """A sentence without the verdict that it begins with."""
    claim = sentence.partition(" at this scale: ")[2]
    return claim[:1].upper() + claim[1:]


def _first_drawing(folder: str) -> str:
    return min(path.name for path in (FOLDER / folder).glob("*.svg") if path.stem != "curves")


if __name__ == "__main__":
    (FOLDER / INDEX).write_text(index_of(read_results(FOLDER)), encoding="utf-8")
