"""A comparison's page, of runs that a test writes itself: what is best, how sure, and what is said where runs lack."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from llava_moe.compare.best import Best, best_of
from llava_moe.compare.comparison import Comparison
from llava_moe.compare.curves import ALL, Line, curve_picture, frame, line_of
from llava_moe.compare.page import write_page
from llava_moe.compare.routing import how_far_apart, routed
from llava_moe.compare.tables import NONE, difference_table
from llava_moe.grid.card import Card, write_card
from llava_moe.grid.cell import Cell, Grid
from llava_moe.grid.in_words import MINUS
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.train.stage_log import ExpertShares, StageLog
from tests.browser import document, needs_browser

DOMAINS = ("charts", "photos")
Level = Callable[[str, int], float]
"""Way and seed to nats a token."""


def comparison_of(names: Sequence[str], seeds: Sequence[int]) -> Comparison:
    return Comparison(
        title=f"adapter: {', '.join(names)}",
        command="llava-moe compare 'adapter=[<b>,x]'",
        ways=tuple(Ways(name, {"adapter": name}) for name in names),
        chosen={name: {"adapter": name} for name in names},
        seeds=tuple(seeds),
        domains=DOMAINS,
        scores=("demo",),
        words=(),
        is_embedded=False,
    )


def written(folder: Path, comparison: Comparison, level: Level, missing: Sequence[str] = ()) -> Results:
    cells = [
        Cell(f"{way.name}-seed{seed}", (f"adapter={way.name}",), labels={**way.labels, "seed": seed})
        for seed in comparison.seeds
        for way in comparison.ways
    ]
    grid = Grid("compare", tuple(cells))
    for cell in cells:
        if cell.name in missing:
            continue
        run = folder / cell.name
        run.mkdir(parents=True)
        (run / "finished.json").write_text("{}")
        write_card(
            folder, Card(cell.name, grid.settings[cell.name], "", ("train",), (), True, 60.0, 2_000_000, steps=40)
        )
        name, seed = cell.labels["adapter"], cell.labels["seed"]
        generator = np.random.default_rng(7)
        records = [
            {"key": f"{domain}{n}", "domain": domain, "tokens": 4, "nats": 4 * (level(name, seed) + noise)}
            for domain in DOMAINS
            for n, noise in enumerate(generator.normal(0, 0.3, 30).tolist())
        ]
        questions = [{"id": f"q{n}", "domain": "demo", "image": n, "score": float(n % 3 > 0)} for n in range(12)]
        told: dict[str, Any] = {
            "parameters": 1000,
            "flops_per_token": None,
            "records": records,
            "questions": questions,
            "curve": {},
        }
        trained = {"adapter": 1000, "projector": 50}
        (run / "measured.json").write_text(json.dumps(told | {"trained": trained}))
        (run / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps(name)))
    return Results(grid, folder)


def steps(name: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for step in range(1, 41):
        loss = 1.0 + 9.0 * (step < 3) + 0.2 * (step % 2)
        domains = {domain: {"loss": loss, "supervised_tokens": 10, "samples": 2} for domain in DOMAINS}
        share = {"charts": [0.75, 0.25], "photos": [0.25, 0.75]}
        experts = {"0": {domain: {"share": share[domain], "entropy": 0.5} for domain in DOMAINS}}
        told = {"step": step, "loss": loss, "supervised_tokens": 20, "domains": domains, "seconds": 0.5, "tokens": 100}
        found.append(told | {"peak_memory_bytes": 3_000_000_000} | ({"experts": experts} if name == "moe" else {}))
    return found


def keep(best: Best) -> list[str]:
    return [f"llava-moe chat run={best.cell.name}"]


def test_the_best_is_the_lowest_mean_loss_and_sure_only_where_the_interval_says_so(tmp_path: Path) -> None:
    comparison = comparison_of(["lora", "moe"], [0, 1, 2])
    sure = best_of(
        comparison, written(tmp_path / "a", comparison, lambda name, seed: 2.0 - 0.2 * (name == "moe") + 0.01 * seed)
    )
    assert sure is not None and sure.is_sure and (sure.way.name, sure.cell.name) == ("moe", "moe-seed0")
    assert "moe has the lowest mean held-out loss" in sure.sentence and "more than chance" in sure.sentence

    def crossing(name: str, seed: int) -> float:
        return 2.0 + (0.1 * (seed - 1) if name == "moe" else 0.01)

    unsure = best_of(comparison, written(tmp_path / "b", comparison, crossing))
    assert unsure is not None and not unsure.is_sure and unsure.sentence.endswith("; 0 lies in the interval.")
    alone = comparison_of(["lora", "moe"], [4])
    one_seed = best_of(alone, written(tmp_path / "c", alone, lambda name, _: 2.0 - (name == "lora")))
    assert (
        one_seed is not None and one_seed.way.name == "lora" and "Of one seed there is no interval" in one_seed.sentence
    )


def leaning_to(lower: str) -> Level:
    return lambda name, seed: 2.0 + 0.01 * seed - 0.2 * (name == lower)


def test_the_first_line_and_the_table_give_one_difference_one_sign(tmp_path: Path) -> None:
    comparison = comparison_of(["lora", "moe"], [0, 1])
    for lower in ("lora", "moe"):
        folder = tmp_path / lower
        results = written(folder, comparison, leaning_to(lower))
        best = best_of(comparison, results)
        [row] = difference_table(comparison, results, "loss", is_mean=True).rows
        assert best is not None and best.way.name == lower and best.is_sure
        assert row[0] == "moe against lora: mean of all" and row[1][0] == ("+" if lower == "lora" else MINUS)
        assert f"the difference, moe against lora, is {row[1]} over".replace("\n", " ") in best.sentence


def test_a_way_is_no_better_for_a_hard_seed_that_it_lacks(tmp_path: Path) -> None:
    comparison = comparison_of(["lora", "moe"], [0, 1])

    def level(name: str, seed: int) -> float:
        return 2.0 + seed + 0.1 * (name == "moe")

    best = best_of(comparison, written(tmp_path / "a", comparison, level, missing=["moe-seed1"]))
    assert best is not None and best.way.name == "lora" and not best.is_sure
    assert "lowest mean held-out loss of the seeds that all ways have, 1.937" in best.sentence
    apart = written(tmp_path / "b", comparison, level, missing=["moe-seed1", "lora-seed0"])
    assert best_of(comparison, apart) is None


def test_the_page_has_every_section_says_what_lacks_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    comparison = comparison_of(["lora", "moe", "mix"], [0, 1])
    results = written(tmp_path / "cells", comparison, lambda *_: 2.0, missing=["mix-seed0", "mix-seed1", "moe-seed1"])
    page = write_page(comparison, results, tmp_path, keep, ["A note & more."]).page.read_text()
    assert "3 of 6 runs are there" in page and "A note &amp; more." in page and "<b>" not in page
    for heading in ("Held-out loss", "Scores", "Training", "Routing", "Cost", "Keep the best", "What made it"):
        assert f"<h2>{heading}</h2>" in page
    assert f'<td class="label">mix</td><td>{NONE}</td>' in page
    assert '<td class="label">moe</td><td>50.0 %</td><td>50.0 %</td><td>50%</td>' in page
    assert 'lora</td><td colspan="3">no routing</td>' in page
    assert "1,050" in page and "3.00" in page and ">200<" in page
    again = write_page(comparison, results, tmp_path, keep, ["A note & more."]).page.read_text()
    assert again == page


MEASURE = """<script>
const width = one => [one.scrollWidth, one.clientWidth], all = name => [...document.querySelectorAll(name)].map(width)
const column = document.querySelector("h2").clientWidth, told = [...document.querySelectorAll(".title, figcaption")]
const parts = [column, [document.documentElement.scrollWidth, innerWidth], all(".scroll"), all("pre"), told.map(width)]
document.title = JSON.stringify(parts)
</script>"""


@needs_browser
def test_nothing_of_the_page_is_cut_off_or_sticks_out_of_its_column(tmp_path: Path) -> None:
    comparison = comparison_of(["lora", "moe"], [0, 1])
    results = written(tmp_path / "cells", comparison, lambda *_: 2.0)
    path = write_page(comparison, results, tmp_path, lambda _: ["llava-moe train " + "out=a/long/word " * 40]).page
    path.write_text(path.read_text().replace("http-equiv", "name").replace("</main>", f"</main>{MEASURE}"))
    for width in (1400, 500):
        title = re.findall(r"<title>(.*)</title>", document(path, width))[0]
        column, page, tables, commands, words = json.loads(title)
        assert page[0] <= page[1] and all(room == column for _, room in tables if room)
        assert all(need <= room for need, room in (*commands, *words))
        assert all(need <= room for need, room in tables) or width == 500


def test_what_was_measured_on_other_records_is_not_paired(tmp_path: Path) -> None:
    comparison = comparison_of(["lora", "moe"], [0, 1])
    results = written(tmp_path / "cells", comparison, lambda *_: 2.0)
    for seed in (0, 1):
        path = tmp_path / "cells" / f"moe-seed{seed}" / "measured.json"
        path.write_text(path.read_text().replace('"key": "photos', '"key": "others'))
    results = Results(results.grid, results.folder)
    best = best_of(comparison, results)
    assert best is not None  # by the domain that both were measured on
    page = write_page(comparison, results, tmp_path, keep).page.read_text()
    assert "Not measured on the same records in all runs, so not paired: photos." in page


def test_records_that_were_cut_elsewhere_are_not_paired(tmp_path: Path) -> None:
    comparison = comparison_of(["lora", "moe"], [0, 1])
    results = written(tmp_path / "cells", comparison, lambda *_: 2.0)
    for seed in (0, 1):
        path = tmp_path / "cells" / f"moe-seed{seed}" / "measured.json"
        path.write_text(path.read_text().replace('"tokens": 4', '"tokens": 3'))  # of shorter lines: train.max_length
    results = Results(results.grid, results.folder)
    assert best_of(comparison, results) is None
    page = write_page(comparison, results, tmp_path, keep).page.read_text()
    assert "Not measured on the same records in all runs, so not paired: charts, photos." in page


def test_the_first_steps_do_not_flatten_the_curves() -> None:
    log = StageLog("run", tuple(steps("lora")))
    line = line_of(log, ALL)
    assert len(line.steps_S) == 40 and line.losses_S[0] == 10.2
    smooth = line.smoothed_S()
    assert smooth[0] > 5 and smooth[10:].max() < 1.5
    flat = Line(np.arange(5.0), np.full(5, 2.0), np.array([1.0, 0.0, 3.0, 0.0, 1.0]))
    assert flat.smoothed_S() == pytest.approx(2.0)
    axes = Figure().add_subplot()
    frame(axes, [line])
    assert 1.0 < axes.get_ylim()[1] < 2.0
    picture = curve_picture(comparison_of(["lora", "moe"], [0]), {"lora": [log], "moe": []})
    assert picture is not None and "charts" in picture.drawing
    assert curve_picture(comparison_of(["lora"], [0]), {"lora": []}) is None


def test_domains_are_as_far_apart_as_their_shares() -> None:
    alike = ExpertShares("0", {"a": (0.5, 0.5), "b": (0.5, 0.5)}, {"a": 0.0, "b": 0.0})
    apart = ExpertShares("1", {"a": (1.0, 0.0), "b": (0.0, 1.0)}, {"a": 0.0, "b": 0.0})
    assert how_far_apart([alike]) == 0 and how_far_apart([alike, apart]) == 0.5
    assert how_far_apart([ExpertShares("0", {"a": (1.0,)}, {"a": 0.0})]) is None
    assert routed("lora", [3], [StageLog("run")]).layers == ()
