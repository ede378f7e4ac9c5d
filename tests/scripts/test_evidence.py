"""``docs/evidence``: its index is what its figures say, and what they say follows from their numbers."""

from __future__ import annotations

import re

import pytest

from llava_moe.reproduce.index import entries
from scripts.evidence import FOLDER, INDEX, index_of, read_results

RESULTS = read_results(FOLDER)


def test_the_index_is_what_the_script_writes_of_every_folder() -> None:
    assert (FOLDER / INDEX).read_text(encoding="utf-8") == index_of(RESULTS)
    # gpu/ holds what scripts/gpu_check.py measured, which is no figure of a paper.
    assert sorted(RESULTS) == sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "gpu")
    assert RESULTS


@pytest.mark.parametrize("folder", RESULTS)
def test_a_figure_has_its_page_its_drawings_and_the_command_that_makes_it(folder: str) -> None:
    told = RESULTS[folder]
    entry = entries()[told["paper"], told["figure"]]
    assert folder == f"{entry.paper}-{entry.figure}"
    page = (FOLDER / folder / "index.html").read_text(encoding="utf-8")
    assert f"All {len(told['cells'])} runs are there." in page
    assert all(one["sentence"].split(";")[0] in page for one in told["answers"])
    assert {path.suffix for path in (FOLDER / folder).iterdir()} == {".html", ".json", ".svg"}
    kind = "table" if entry.figure.startswith("table") else "figure"
    number = re.sub(r"\D", "", entry.figure)
    assert told["command"].startswith(f"llava-moe reproduce paper={entry.paper} {kind}={number} ")


@pytest.mark.parametrize("folder", RESULTS)
def test_a_figure_is_of_three_seeds_on_one_commit_one_base_and_one_set_of_data(folder: str) -> None:
    cells = RESULTS[folder]["cells"].values()
    assert {cell["labels"]["seed"] for cell in cells} == {0, 1, 2}
    assert len({(cell["commit"], cell["base"]) for cell in cells}) == 1
    # Stage 1 reads the same records as captions, and what is cut or merged from a run reads none.
    compared = [cell for cell in cells if cell["labels"]["model"] != "stage 1" and cell["steps"]]
    assert compared
    # LLaVA-MoLE's Fig. 4 is of two domains alone.
    domains = {domain for cell in compared for domain in cell["data"]}
    assert {"general", "documents"} <= domains <= {"general", "documents", "medical"}
    for domain in domains:
        assert len({cell["data"][domain] for cell in compared if domain in cell["data"]}) == 1, domain


@pytest.mark.parametrize("folder", RESULTS)
def test_a_verdict_follows_from_its_interval_and_the_side_of_the_claim(folder: str) -> None:
    for one in RESULTS[folder]["answers"]:
        told = one.get("effect") or one
        low, high, line = told["low"], told["high"], told.get("line", 0.0)
        assert low <= high
        if low <= line <= high:
            assert one["verdict"] == "undecided", one["sentence"]
        elif "expected" in one:
            is_better = low > 0 if one["measure"] == "accuracy" else high < 0
            assert one["verdict"] == ("seen" if is_better == (one["expected"] == "better") else "not seen")
        else:  # of a router: below the line the domains are served alike
            is_claimed_below = "alike" in one["sentence"]
            assert one["verdict"] == ("seen" if (high < line) == is_claimed_below else "not seen"), one["sentence"]


def test_no_file_tells_where_it_was_made() -> None:
    for path in FOLDER.rglob("*"):
        if path.is_file():
            text = re.sub(r"https?://[^\s\"<]*", "", path.read_text(encoding="utf-8"))
            found = re.search(r"(?<![\w.<])/(root|home|tmp|work|Users|var)\b", text)
            assert found is None, f"{path}: {found}"
