"""``llava-moe ls run``: what each run trained, how far it came and how well, whatever state its folder is in."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llava_moe.cli import run
from llava_moe.commands.ls_runs import line_of, run_folders, run_lines
from llava_moe.errors import UserError
from llava_moe.eval.results.scored_run import read_scored
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.files.run_places import absent_run
from tests.conftest import Trained

MOLE = "llava_moe.adapters.LlavaMole"
Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Makes a run's folder of the files that ``ls`` reads."""
    monkeypatch.chdir(tmp_path)
    clock = iter(range(1_000_000_000, 1_000_100_000, 100))

    def make(
        place: str, finished: int | None = None, steps: int = 0, saved: int = 0, losses: tuple[float, ...] = ()
    ) -> Path:
        folder = Path("runs", place)
        folder.mkdir(parents=True)
        sources = {name: {"domain": name} for name in ("general", "documents", "medical")}
        data = {"sources": sources, "follows_domains": True}
        config = {"adapter": {"_target_": MOLE}, "path": None, "domains": None, "data": data}
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"train": {"max_steps": None}}, sort_keys=False))
        (folder / "environment.json").write_text(json.dumps({"num_steps": 850}))
        (folder / "log.jsonl").write_text("".join(json.dumps({"step": one + 1}) + "\n" for one in range(steps)))
        if losses:
            lines = [{"step": 100 * n, "held_out_loss": loss} for n, loss in enumerate(losses, start=1)]
            (folder / "validation.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        if saved:
            (folder / "checkpoints" / f"step-{saved:06d}").mkdir(parents=True)
            (folder / "checkpoints" / f"step-{saved:06d}" / "COMPLETE").touch()
        if finished is not None:
            (folder / "finished.json").write_text(json.dumps({"step": finished}))
        now = next(clock)
        for path in folder.iterdir():
            os.utime(path, (now, now))
        return folder

    return make


def test_a_run_is_told_by_adapter_data_steps_held_out_loss_and_date(made: Made) -> None:
    line = line_of(made("done", finished=850, steps=850, saved=850, losses=(2.0, 1.5, 1.75)))
    assert (line.adapter, line.data) == ("llava_mole", "general, documents, medical")
    assert (line.stands, line.held_out) == ("finished, 850 steps", "1.750, best 1.500")
    assert line.changed == 1_000_000_000
    assert line_of(made("best", finished=1, losses=(2.0, 1.5))).held_out == "1.500"
    assert line_of(made("half", steps=120, saved=100)).stands == "120 of 850 steps, 100 saved"
    assert line_of(made("stopped", steps=100, saved=100)).stands == "100 of 850 steps"
    assert line_of(made("begun")).stands == "no step yet"


def test_runs_stand_in_the_order_of_their_dates_and_deep_ones_are_counted(made: Made) -> None:
    for place in ("zulu", "demo/1-pretrain", "demo/2-instruct", "alpha"):
        made(place, finished=1)
    for name in ("a", "b", "c"):
        made(f"reproduce/mixlora-2-demo/cells/{name}", finished=3 if name != "b" else None)
    lines = run_lines()
    assert [line.place for line in lines] == [
        *("runs/zulu", "runs/demo/1-pretrain", "runs/demo/2-instruct", "runs/alpha", "runs/reproduce/mixlora-2-demo/"),
    ]
    assert lines[-1].stands == "3 runs in it, 2 finished"
    assert [*map(str, run_folders())] == ["runs/alpha", "runs/demo/1-pretrain", "runs/demo/2-instruct", "runs/zulu"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.yaml", "a: [", "broken: config.yaml is damaged (line 2"),
        ("config.yaml", "a: 1", "broken: config.yaml is no run's (train is missing"),
        ("config.yaml", "[]", "broken: config.yaml is no run's (it holds no settings)"),
        ("finished.json", "{", "broken: finished.json is damaged"),
        ("finished.json", "{}", "broken: finished.json has another shape"),
        ("environment.json", "[]", "broken: environment.json has another shape"),
        ("checkpoints/last", "\0", "broken: checkpoints/last is damaged"),
        ("validation.jsonl", "{}\nnothing\n", "100 of 850 steps"),
        ("log.jsonl", "\0\n[]\n{\n", "100 of 850 steps"),
    ],
)
def test_a_damaged_file_is_told_in_its_runs_line(name: str, content: str, told: str, made: Made) -> None:
    folder = made("odd", steps=100, saved=100)
    (folder / name).write_text(content)
    assert line_of(folder).stands.startswith(told)


def test_the_table_fits_eighty_columns_and_loses_no_name(
    made: Made, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["ls", "run"]) == 0
    assert capfd.readouterr().out == "no run lies below runs here: llava-moe train makes one\n"
    long = "mix_general_doc_med_with_a_name_that_no_table_of_this_width_can_hold_on_one_line-0a1b2c3d"
    made(long, steps=120, saved=100, losses=(2.0, 2.5))
    (made("odd") / "config.yaml").write_text("a: 1")
    assert run(["ls", "run"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    [heading] = [line for line in lines if line.startswith("run ")]
    first = heading.index("adapter")
    assert heading.split()[:3] == ["run", "adapter", "data"]
    assert f"runs/{long}" in "".join(line[:first].strip() for line in lines)
    assert any(re.search(r"llava_mole .* 2001-09-09 \d\d:\d\d$", line) for line in lines)


def test_into_a_pipe_each_name_stays_whole(
    made: Made, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    folder = made("mix_general_doc_med_with_a_name_that_no_line_of_eighty_letters_can_hold-0a1b2c3d", finished=1)
    assert run(["ls", "run"]) == 0 and run(["ls", "adapter"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if str(folder) in line] and all(line.startswith("adapter ") for line in lines[3:])


def test_a_run_that_lies_deep_is_found_by_its_name(made: Made) -> None:
    cell = made("compare/mix-adapter-0a1b2c3d/cells/mix-lora-seed0", finished=1)
    made("compare/mix-adapter-0a1b2c3d/cells/mix-lora-seed1", finished=1)
    stage = made("demo-1234/1-pretrain", finished=1)
    lists = ": llava-moe ls run lists the runs here"
    told = f"mix-lora-seed0 does not exist (did you mean {cell}?){lists}"
    for find in (newest_checkpoint, lambda folder: read_scored(folder, "a", "demo")):
        with pytest.raises(UserError, match=re.escape(told)):
            find(Path("mix-lora-seed0"))
    assert absent_run(Path("runs/mix-lora-seed1")).startswith(
        f"runs/mix-lora-seed1 does not exist (did you mean {cell.parent}"
    )
    assert absent_run(Path("demo-1243")) == f"demo-1243 does not exist (did you mean {stage.parent}?){lists}"
    assert absent_run(Path("zzz")) == f"zzz does not exist{lists}"


def test_a_run_that_was_trained_says_how_many_steps_it_has(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained("lora"), folder)
    line = line_of(folder)
    assert (line.adapter, line.stands.split(",")[0]) == ("lora", "finished")
    assert json.loads((folder / "environment.json").read_text())["num_steps"] >= 1
