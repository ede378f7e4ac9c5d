"""``llava-moe compare`` over the real command line: a small comparison, its page, its second start, what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from llava_moe.cli import run
from llava_moe.commands import grid_runs
from llava_moe.commands.compare import ASKED
from llava_moe.grid.runner import Runner
from llava_moe.plan import devices
from tests.commands.conftest import Refusal
from tests.commands.started_cells import Starting
from tests.forked_commands import CommandServer

SHORT = (
    *("exp=mix_general_doc_med", "scale=demo", "model=tiny", "train.max_steps=3", "train.global_batch_size=6"),
    *("train.tokens_per_micro_batch=512", "train.num_threads=1", "data.num_workers=0", "eval.held_out_limit=5"),
)
WORDS = ("adapter=[lora,llava_mole]", "seed=[0,1]", "data=mix.yaml", *SHORT, "out=cmp")
CELLS = ["mix-lora-seed0", "mix-llava_mole-seed0", "mix-lora-seed1", "mix-llava_mole-seed1"]


def write_data(folder: Path, held_out: float = 0.4) -> None:
    """Two files of twenty records with a picture each, and a mixture of them."""
    for place, (name, answer) in enumerate((("charts", "three bars"), ("photos", "a cat"))):
        records = []
        for number in range(20):
            picture = folder / name / f"{name}{number}.png"
            picture.parent.mkdir(exist_ok=True)
            Image.new("RGB", (9 + place, 8), (11 * number, 60, 90 * place)).save(picture)
            turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": answer}]
            records.append({"id": f"{name}{number}", "image": picture.name, "conversations": turns})
        (folder / f"{name}.json").write_text(json.dumps(records))
    sources = "".join(f"  {name}: {{path: {name}.json, images: {name}}}\n" for name in ("charts", "photos"))
    (folder / "mix.yaml").write_text(f"held_out: {held_out}\nsources:\n{sources}")


@dataclass(frozen=True)
class Start:
    """One start of the command: its status, what it said, the commands of cells that it started, and the files."""

    status: int
    told: str
    commands: tuple[str, ...]
    files: dict[str, bytes]

    @property
    def page(self) -> str:
        return self.files["index.html"].decode()


@dataclass(frozen=True)
class Starts:
    folder: Path
    first: Start
    again: Start
    after_deletion: Start
    with_failure: Start


@pytest.fixture(scope="module")
def starts(command_server: CommandServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starts]:
    """A comparison of two adapters with two seeds, then again, then without one run, then with one that fails."""
    folder = tmp_path_factory.mktemp("compared")
    write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        starting = Starting(command_server)
        patch.setattr(grid_runs, "Runner", partial(Runner, start=starting))

        def start(*words: str) -> Start:
            starting.commands.clear()
            with contextlib.redirect_stdout(io.StringIO()) as told:
                status = run(["compare", *words])
            root = folder / "cmp"
            files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
            return Start(status, told.getvalue(), tuple(starting.commands), files)

        first = start(*WORDS)
        again = start(*reversed(WORDS))
        shutil.rmtree(folder / "cmp" / "cells" / "mix-lora-seed1")
        after_deletion = start(*WORDS)
        starting.failing = "mixlora"
        with_failure = start("adapter=[lora,llava_mole,mixlora]", *WORDS[1:])
        yield Starts(folder, first, again, after_deletion, with_failure)


@pytest.mark.slow
def test_every_run_is_made_once_named_by_what_differs_and_measured(starts: Starts) -> None:
    assert starts.first.status == 0, starts.first.told
    assert starts.first.commands == tuple(f"{what} {cell}" for cell in CELLS for what in ("train", "measure_items"))
    assert "4 runs in cmp/cells, 0 of them there" in starts.first.told
    measured = json.loads(starts.first.files["cells/mix-lora-seed0/measured.json"])
    assert {one["domain"] for one in measured["records"]} == {"charts", "photos"}
    assert set(measured["trained"]) == {"adapter", "projector"} and all(measured["trained"].values())
    keys = [
        [one["key"] for one in json.loads(starts.first.files[f"cells/{cell}/measured.json"])["records"]]
        for cell in CELLS
    ]
    assert all(one == keys[0] for one in keys) and 4 <= len(keys[0]) <= 10


@pytest.mark.slow
def test_the_page_sets_losses_curves_routing_and_cost_beside_each_other(starts: Starts) -> None:
    page = starts.first.page
    assert "<h1>adapter: lora, llava_mole</h1>" in page and "seeds 0, 1" in page
    assert "All 4 runs are there" in page
    for heading in ("Held-out loss", "Training", "Routing", "Cost", "Keep the best"):
        assert f"<h2>{heading}</h2>" in page
    assert "has the lowest mean held-out loss" in page
    assert re.search(r"<td class=\"label\">lora</td><td>\d\.\d{3} ± \d\.\d{3}\n\(", page)
    assert '<td class="label">lora</td><td colspan="3">no routing</td>' in page
    assert "llava_mole, seed 0" in page and 'title="expert 3:' in page
    assert "Training loss of every run" in page and "<svg" in page
    assert "No benchmark was asked" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_the_numbers_lie_beside_the_page(starts: Starts) -> None:
    told = json.loads(starts.first.files["results.json"])
    assert set(told["ways"]) == {"lora", "llava_mole"} and set(told["ways"]["lora"]["loss"]["charts"]) == {"0", "1"}
    (difference,) = told["differences"]
    assert (difference["before"], difference["after"], difference["seeds"]) == ("lora", "llava_mole", [0, 1])
    assert set(difference["effect"]) == {"value", "low", "high", "p"}
    losses = {name: sum(sum(own.values()) for own in way["loss"].values()) for name, way in told["ways"].items()}
    assert told["best"]["way"] == min(losses, key=lambda name: losses[name])
    assert told["best"]["run"].startswith(f"mix-{told['best']['way']}-seed")


@pytest.mark.slow
def test_what_to_type_next_names_the_best_run_and_composes(
    starts: Starts, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(starts.folder)
    best = json.loads(starts.first.files["results.json"])["best"]["run"]
    commands = starts.first.told.partition("Next:\n")[2].splitlines()
    assert [shlex.split(one)[1] for one in commands][:3] == ["chat", "export", "train"]
    assert all(f"cmp/cells/{best}" in one for one in commands[:2]) and f"out=cmp/{best}-longer" in commands[2]
    assert "train.max_steps=6" in commands[2]
    for line in commands:
        words = shlex.split(line, comments=True)[1:]
        assert run([*words, "--cfg", "job"]) == 0, (line, capfd.readouterr().err)


@pytest.mark.slow
def test_the_same_words_in_any_order_run_nothing_and_leave_the_same_bytes(starts: Starts) -> None:
    assert starts.again.status == 0 and not starts.again.commands
    assert "4 runs in cmp/cells, 4 of them there" in starts.again.told
    assert starts.again.files == starts.first.files


@pytest.mark.slow
def test_a_deleted_run_is_made_again_alone_to_the_same_weights(starts: Starts) -> None:
    assert starts.after_deletion.commands == ("train mix-lora-seed1", "measure_items mix-lora-seed1")
    measured = "cells/mix-lora-seed1/measured.json"
    assert starts.after_deletion.files[measured] == starts.first.files[measured]


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_rest_goes_on(starts: Starts) -> None:
    start = starts.with_failure
    assert start.status == 1
    assert start.commands == ("train mix-mixlora-seed0", "train mix-mixlora-seed1")
    assert "mix-mixlora-seed0 failed (status 2): the disk is full" in start.told
    assert "2 runs failed: the same command tries them again" in start.told
    assert "4 of 6 runs are there" in start.page and "adapter: lora, llava_mole, mixlora" in start.page


@pytest.mark.slow
def test_runs_that_were_never_scored_are_compared_by_their_losses(
    starts: Starts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(starts.folder / "cache"))
    monkeypatch.chdir(starts.folder)
    cells = starts.folder / "cmp" / "cells"
    known, unknown = cells / "mix-lora-seed0", tmp_path / "copy"
    shutil.copytree(cells / "mix-llava_mole-seed0", unknown)
    (unknown / "measured.json").unlink()
    runs = f"runs=[{known},{unknown}]"
    assert run(["eval", runs]) == 2 and "not been scored" in capsys.readouterr().err
    assert run(["eval", runs, "held_out=true", f"out={tmp_path / 'side'}"]) == 0
    told = capsys.readouterr().out
    assert "held-out loss, nats a token" in told and "record by record" in told and "mean of domains" in told
    measured = json.loads((unknown / "measured.json").read_text())["records"]
    assert measured == json.loads((cells / "mix-llava_mole-seed0" / "measured.json").read_text())["records"]
    numbers = json.loads((tmp_path / "side" / "comparison.json").read_text())["held_out_loss"]["domains"]
    assert set(numbers) == {"charts", "photos", "mean of domains"}
    assert "Held-out loss" in (tmp_path / "side" / "comparison.html").read_text()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    write_data(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("adapter=lora",), "compare needs a key with two values or more, such as adapter=[lora,llava_mole]"),
        (("adapter=[lora]",), "adapter= has one"),
        (("adapter=[]",), "adapter=[] names no value"),
        (("adapter=[lora,llava_mole]", "seed=[0,1,0]"), "seed=[0,1,0]: seed=0 is there twice"),
        (("adapter=[lora,lorra]",), "adapter=lorra does not exist (did you mean lora?)"),
        (("adapter=[lora,llava_mole]", "adapter.num_experts=2"), "adapter=lora: unknown key adapter.num_experts"),
        (
            ("adapter=[lora,llava_mole]", "train.max_stps=3"),
            "unknown key train.max_stps (did you mean train.max_steps?)",
        ),
        (("adapter=[lora,llava_mole]", "at_onse=2"), "unknown key at_onse (did you mean at_once?)"),
        (("adapter=[lora,llava_mole]", "seed=[0,-1]"), "seed=-1: give a whole number"),
        (("model=[tiny,demo]",), "stand on two bases"),
        (("eval.limit=[1,2]",), "eval.limit= says how all runs are measured"),
        (("adapter=[lora,llava_mole]", "eval.held_out_limit=[5,0]"), "eval.held_out_limit= says how all runs"),
        (("adapter=[lora,llava_mole]", "-m"), "leave -m out"),
        (("adapter=[lora,llava_mole]", "data=nosuch.yaml"), "llava-moe: data=nosuch.yaml: no such file"),
        (("adapter=[lora,llava_mole]", "train.max_steps=0"), "llava-moe: train.max_steps=0"),
        (("adapter=[lora,llava_mole]", "only=loro"), "only=loro: compare has no such cell (did you mean"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    words: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refusal
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused("compare", *words)
    assert told in line
    assert not [*tmp_path.iterdir()]


def test_data_of_which_a_domain_has_no_loss_is_refused_before_anything_is_trained(data: Path, refused: Refusal) -> None:
    words = ["compare", "adapter=[lora,llava_mole]", "data=mix.yaml", *SHORT]
    write_data(data, held_out=0.0)
    assert "add data.held_out=0.1" in refused(*words)
    line = refused(*words, "data.held_out=0.06")
    told = "domain charts has 1 held-out record (data.held_out=0.06), and its loss needs 2"
    assert f"{told}: of its 20 records data.held_out=0.09 holds as many" in line
    assert not (data / "runs").exists()


def test_many_runs_are_asked_for_twice_with_how_long_they_take(
    data: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "product_rate", lambda dtype: 1e8)
    monkeypatch.setattr(devices, "operation_seconds", lambda: 0.0)
    words = ["compare", "adapter=[lora,llava_mole]", "data=mix.yaml", *SHORT, "out=many"]
    seeds = f"seed=[{','.join(map(str, range(13)))}]"
    line = refused(*words, seeds)
    assert "26 runs would be trained, 78 steps in all, about" in line and line.endswith("yes=true\n")
    told = re.search(r"about (\d+) min one after the other \(an estimate: ([\d.]+) s a step", line)
    assert told is not None and abs(int(told[1]) - 78 * float(told[2]) / 60) < 1
    monkeypatch.setattr(devices, "product_rate", lambda dtype: 2e8)
    twice_as_fast = re.search(r"an estimate: ([\d.]+) s a step", refused(*words, seeds))
    assert twice_as_fast is not None and float(twice_as_fast[1]) == pytest.approx(float(told[2]) / 2, rel=0.01)
    assert not (data / "many").exists()


def test_a_folder_of_another_comparison_is_refused(data: Path, refused: Refusal) -> None:
    words = ["compare", "adapter=[lora,llava_mole]", "data=mix.yaml", *SHORT, "out=cmp"]
    (data / "cmp").mkdir()
    (data / "cmp" / "thesis.tex").write_text("")
    assert "neither empty nor a comparison's (thesis.tex lies in it)" in refused(*words)
    (data / "cmp" / ASKED).write_text(json.dumps({"words": ["adapter=[...]", "data=other.yaml", *sorted(SHORT)]}))
    line = refused(*words)
    assert "cmp holds another comparison: data=other.yaml there, data=mix.yaml asked" in line
