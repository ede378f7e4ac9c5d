"""The table of candidates: which is best, on average and in each domain."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from llava_moe.compose.pick import FILE, Candidate, Picked

PICKED = Picked(
    (
        Candidate("general alone", "runs/general", {"general": 0.25, "documents": 1.0}),
        Candidate("documents alone", "runs/documents", {"general": 1.0, "documents": 0.5}),
        Candidate("linear", None, {"general": 0.5, "documents": 0.5}),
    ),
    ("general: 3 records",),
)


def test_the_best_is_the_lowest_mean_in_which_domains_count_alike() -> None:
    assert PICKED.best.name == "linear" and PICKED.best.mean == 0.5
    assert PICKED.best_in("general").name == "general alone"
    assert PICKED.best_in("documents").name == "documents alone"  # the first of equals


def test_the_file_holds_what_the_table_shows(tmp_path: Path) -> None:
    PICKED.write(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    assert content["best"] == "linear"
    assert content["best_by_domain"] == {"general": "general alone", "documents": "documents alone"}
    assert content["candidates"][0] == {
        "name": "general alone",
        "place": "runs/general",
        "losses": {"general": 0.25, "documents": 1.0},
        "mean": 0.625,
    }
    assert content["notes"] == ["general: 3 records"]


def test_the_best_of_each_column_is_starred() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(PICKED.table())
    rows = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "│" in line]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert cells["general alone"] == ["0.2500*", "1.0000", "0.6250"]
    assert cells["documents alone"] == ["1.0000", "0.5000*", "0.7500"]
    assert cells["linear"] == ["0.5000", "0.5000", "0.5000*"]
