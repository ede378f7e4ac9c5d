"""Fig. 6 of LLaVA-MoLE: what experts tell of the domain by depth, whatever the answer is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llava_moe.errors import UserError
from llava_moe.grid.results import Results
from llava_moe.reproduce.figures import llava_mole_fig6
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from llava_moe.reproduce.routing import Routing, bits_of, read_routing
from tests.reproduce.written_cells import grid_of, setup_of, write_cells

NAMES = ["general", "documents", "medical"]
DEEPER = {0: 0.01, 1: 0.1, 2: 0.3, 3: 0.4, 4: 0.4, 5: 0.5}
ALIKE = dict.fromkeys(range(6), 0.079)
REVERSE = {0: 0.5, 1: 0.3, 2: 0.03, 3: 0.02, 4: 0.02, 5: 0.01}


def write_routing(path: Path, bits_by_layer: Mapping[int, float], seed: int) -> None:
    """As ``analyze routing`` writes it, of three experts whose bits a test says."""
    generator = np.random.default_rng(seed)
    routers = []
    for layer, level in bits_by_layer.items():
        bits = round(max(0.0, level + float(generator.normal(0, 0.004))), 4)
        domains = {name: {"share": [0.2 + 0.1 * place, 0.5, 0.3 - 0.1 * place]} for place, name in enumerate(NAMES)}
        told = {"bits": bits, "interval": [max(0.0, bits - 0.01), bits + 0.01]}
        routers.append({"layer": layer, "mutual_information_bits": told, "domains": domains})
    path.parent.mkdir(parents=True)
    kinds = {"all": {"routers": routers}}
    path.write_text(json.dumps({"names": NAMES, "images": 192, "checkpoints": [{"kinds": kinds}]}))


def written(folder: Path, bits_by_layer: Mapping[int, float], seeds: tuple[int, ...] = (0, 1, 2)) -> Results:
    setup = replace(setup_of("llava_mole", "fig6"), seeds=seeds)
    results = write_cells(folder, setup, lambda *_: 0.5, num_items=3)
    for cell in results.cells:
        if cell.labels["model"] != "stage 1":
            write_routing(folder / cell.name / "analyze" / "routing.json", bits_by_layer, cell.labels["seed"])
    return results


def test_it_routes_the_runs_of_figure_1() -> None:
    own, first = (grid_of(setup_of("llava_mole", figure)) for figure in ("fig6", "fig1"))
    assert len(own.cells) == 3 * (1 + 2) and set(own.by_name) <= set(first.by_name)
    assert all(own.settings[name] == first.settings[name] for name in own.by_name)
    assert own.by_name["llava_mole-mix-seed0"].measured[-1] == ("analyze", "routing", "samples=64")


def test_at_full_size_runs_that_hold_something_out_have_names_of_their_own() -> None:
    own, first = (grid_of(setup_of("llava_mole", figure, "full")) for figure in ("fig6", "fig1"))
    assert {name for name in own.by_name if name in first.by_name} == {"stage1-2-seed0", "stage1-seed0"}
    assert "data.held_out=0.001" in own.by_name["llava_mole_held_out-mix-seed0"].words


@pytest.mark.parametrize(
    ("bits_by_layer", "verdicts"),
    [
        (DEEPER, ["seen", "seen", "seen"]),
        (ALIKE, ["undecided", "undecided", "undecided"]),
        (REVERSE, ["not seen", "not seen", "not seen"]),
    ],
    ids=["deeper", "alike", "reverse"],
)
def test_an_interval_decides_by_depth(bits_by_layer: Mapping[int, float], verdicts: list[str], tmp_path: Path) -> None:
    for seed in range(3):
        write_routing(tmp_path / str(seed) / "routing.json", bits_by_layer, seed)
    runs = {seed: read_routing(tmp_path / str(seed) / "routing.json") for seed in range(3)}
    findings = llava_mole_fig6.findings_of(setup_of("llava_mole", "fig6"), runs)
    assert [one.verdict for one in findings] == verdicts
    assert "layer 0 serve all domains alike" in findings[0].sentence and "over 3 seeds" in findings[0].sentence
    assert "layers 2 to 5 depend on the domain" in findings[1].sentence


def test_records_and_seeds_both_widen_an_interval() -> None:
    def run(bits: float, error: float) -> Routing:
        return Routing(("a", "b"), 100, (0,), np.array([bits]), np.array([error]), np.zeros((2, 1, 3)))

    def width(bits: tuple[float, float], error: float) -> float:
        found = bits_of([run(one, error) for one in bits], [0])
        assert found is not None and found.effect is not None and found.mean == pytest.approx(0.2)
        return found.effect.high - found.effect.low

    # No spread over seeds: that of the records alone, t of 99 degrees of freedom.
    assert width((0.2, 0.2), 0.01) == pytest.approx(2 * 1.984 * 0.01, rel=1e-3)
    # No error of records: that of two seeds alone, t of 1 degree of freedom.
    assert width((0.19, 0.21), 0.0) == pytest.approx(2 * 12.706 * 0.01, rel=1e-3)
    assert width((0.19, 0.21), 0.01) > width((0.2, 0.2), 0.01)
    assert bits_of([run(0.2, 0.01)], [0]) == bits_of([run(0.2, 0.5)], [0]), "one seed has no interval"


def test_the_page_draws_shares_seed_by_seed_and_bits_by_layer(tmp_path: Path) -> None:
    results = written(tmp_path / "cells", {layer: DEEPER[layer] for layer in (0, 2, 5)}, seeds=(0, 1))
    setup = replace(setup_of("llava_mole", "fig6"), seeds=(0, 1))
    page = write_page(find("llava_mole", "6"), setup, results, tmp_path, "llava-moe reproduce")
    assert [sentence.split(" at ")[0] for sentence in page.sentences] == ["Seen"] * 3
    assert {path.name for path in tmp_path.glob("*.svg")} == {"shares.svg", "bits.svg", "curves.svg"}
    shares = (tmp_path / "shares.svg").read_text()
    assert all(told in shares for told in ("seed 0", "seed 1", "layer 0", "layer 5", "all layers", "expert 3"))
    told = json.loads((tmp_path / "results.json").read_text())
    assert [answer["verdict"] for answer in told["answers"]] == ["seen"] * 3 and told["answers"][2]["low"] > 0
    assert {one["id"] for one in told["published"] if one["ours"]} == {"first", "later", "all"}
    assert set(told["facts"]["llava_mole"]) == {"0", "1"}


def test_a_page_of_no_run_says_so_and_a_damaged_atlas_is_one_line(tmp_path: Path) -> None:
    results = written(tmp_path / "cells", DEEPER, seeds=(0,))
    setup = replace(setup_of("llava_mole", "fig6"), seeds=(0,))
    damaged = tmp_path / "cells" / "llava_mole-mix-seed0" / "analyze" / "routing.json"
    damaged.write_text("{}")
    with pytest.raises(UserError, match=r"routing.json has another shape .* delete the cell's folder"):
        llava_mole_fig6.sheet(setup, results)
    results.cards.clear()
    del results.__dict__["cells"]
    page = write_page(find("llava_mole", "6"), setup, results, tmp_path, "llava-moe reproduce")
    assert all("no run is there" in sentence for sentence in page.sentences)
