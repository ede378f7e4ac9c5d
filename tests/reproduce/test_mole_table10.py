"""Table 10 of MoLE: three to six LoRAs by every method, each composition asked about its own domains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from llava_moe.data.source import open_records
from llava_moe.eval.tasks.demo import EMBEDDED_IMAGES
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.composed_mixture import mixture_of_cell
from tests.reproduce.written_cells import grid_of, setup_of, write_cells

SIX = ("clothing", "charts", "radiology", "emoji", "pages", "microscopy")


@pytest.mark.parametrize("scale", ["demo", "full"])
def test_each_number_of_loras_has_gates_and_merges_over_the_first_of_six(scale: str) -> None:
    setup = setup_of("mole", "table10", scale)
    grid = grid_of(setup)
    composed = [cell for cell in grid.cells if cell.experts and cell.labels["seed"] == 0]
    assert [(cell.labels["model"], len(cell.experts)) for cell in composed] == [
        (model, number) for number in (3, 4, 5, 6) for model in ("normalized_linear", "svd", "mole")
    ]
    first = [f"expert-{domain}-seed0" for domain in setup.domains]
    assert all(list(cell.experts) == first[: len(cell.experts)] for cell in composed)
    for cell in composed:
        # The last word decides. Gates learn on the domains of their LoRAs; a merge learns on none.
        *_, last = [word for word in cell.words if word.startswith("domains=")]
        learned = setup.domains[: len(cell.experts)] if cell.labels["model"] == "mole" else setup.domains
        assert last == f"domains=[{','.join(learned)}]"


def test_the_demo_trains_each_lora_on_pictures_of_its_domain_and_asks_of_it_kinds_of_no_other(tmp_path: Path) -> None:
    setup = setup_of("mole", "table10")
    assert setup.domains == SIX
    cells = grid_of(setup).by_name
    pictures: dict[str, set[str]] = {}
    for domain in SIX:
        (source,) = mixture_of_cell(cells[f"expert-{domain}-seed0"]).sources
        records = open_records(source, tmp_path)
        pictures[domain] = {record.id for record in records.read(0, len(records))}
        assert source.cap == 500 and len(records) >= source.cap
    assert sum(map(len, pictures.values())) == len(set().union(*pictures.values()))
    domain_of = {name: domain for domain, names in pictures.items() for name in names}
    asked: dict[str, set[str]] = {domain: set() for domain in SIX}
    for file in sorted(EMBEDDED_IMAGES.glob("*.parquet")):
        for row in pyarrow.parquet.read_table(file, columns=["id", "kinds"]).to_pylist():
            if row["id"] in domain_of:
                asked[domain_of[row["id"]]].update(row["kinds"])
    for domain, score in setup.measures.scores.items():
        others = {kind for other, kinds in asked.items() if other != domain for kind in kinds}
        assert set(score.kinds) <= asked[domain] - others


def test_the_page_asks_each_composition_about_its_own_domains(tmp_path: Path) -> None:
    setup = setup_of("mole", "table10")

    def skill(labels: Any, domain: str) -> float:
        # What is asked beyond the LoRAs of a composition counts for nothing.
        held = labels["on"].split("_") if labels["on"] != "six" else SIX
        levels = {"mole": 0.7, "svd": 0.7, "normalized_linear": 0.3}
        return levels.get(labels["model"], 0.5) if domain in held else 0.0

    results = write_cells(tmp_path / "cells", setup, skill)
    write_page(find("mole", "table10"), setup, results, tmp_path, "llava-moe reproduce")
    told = json.loads((tmp_path / "results.json").read_text())
    assert [answer["verdict"] for answer in told["answers"]] == ["seen", "undecided"] * 4
    assert [len(answer["domains"]) for answer in told["answers"]] == [3, 3, 4, 4, 5, 5, 6, 6]
    ours = {one["id"]: one["ours"] for one in told["published"]}
    assert " of 3, " in ours["mole"] and " of 6: " in ours["mole"] and ours["mole image"] is None
    assert (tmp_path / "bars_3.svg").is_file() and (tmp_path / "bars_6.svg").is_file()
