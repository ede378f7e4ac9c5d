"""``llava-moe init``: files of one's own become a mixture that trains, and what cannot is told in a line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llava_moe.cli import run
from tests.commands.test_train import records_of

Refused = Callable[..., str]
THREE = ("charts=charts.json", "photos=photos.jsonl", "scans=scans.parquet")


def llava_file(path: Path, images: list[str], **more: object) -> Path:
    turns = [{"from": "human", "value": "<image>\nred?"}, {"from": "gpt", "value": "No"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"id": name, "image": name, "conversations": turns, **more} for name in images]))
    return path


def test_three_files_become_a_mixture_whose_formats_and_images_were_found(
    three_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "mixes/mix.yaml", *THREE]) == 0
    told = capsys.readouterr().out
    assert "charts: llava, 24 records; images in pictures, 24 of 24 looked for are there (100%)" in told
    assert "photos: messages, 24 records; images in snaps, 24 of 24" in told
    assert re.search(r"scans: pathvqa \(guessed: .*\), 24 records; images inside the file", told)
    written = yaml.safe_load((three_files / "mixes" / "mix.yaml").read_text())
    assert written.keys() == {"held_out", "sources"} and 0 < written["held_out"] < 1
    assert written["sources"] == {
        "charts": {"domain": "charts", "path": "../charts.json", "format": "llava", "images": "../pictures"},
        "photos": {"domain": "photos", "path": "../photos.jsonl", "format": "messages", "images": "../snaps"},
        "scans": {"domain": "scans", "path": "../scans.parquet", "format": "pathvqa"},
    }
    *_, check, train = told.splitlines()
    assert check == "  llava-moe data check data=mixes/mix.yaml"
    assert train.startswith("  llava-moe train data=mixes/mix.yaml adapter=llava_mole eval.every=100")


def test_the_written_file_trains_and_each_domain_is_measured(
    three_files: Path, words_for_tiny: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "mix.yaml", *THREE]) == 0
    words = [word for word in words_for_tiny if not word.startswith(("data=", "path=", "images="))]
    words = [*words, "data=mix.yaml", "eval.every=2", "train.max_steps=2", "out=run"]
    assert run(["train", *words]) == 0
    assert {*records_of(three_files / "run")[0]["domains"]} <= {"charts", "photos", "scans"}
    (measured,) = map(json.loads, (three_files / "run" / "validation.jsonl").read_text().splitlines())
    assert {*measured["domains"]} == {"charts", "photos", "scans"}
    assert run(["data", "check", *words[:-1], "out=checked"]) == 0
    assert "llava-moe train" in capsys.readouterr().out


def test_splits_of_a_folder_as_the_hub_has_it_are_read_and_said(
    three_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (three_files / "hub" / "data").mkdir(parents=True)
    (three_files / "hub" / "README.md").write_text("# a card")
    for split in ("train", "validation"):
        (three_files / f"hub/data/{split}-00000-of-00001.parquet").write_bytes(
            (three_files / "scans.parquet").read_bytes()
        )
    assert run(["init", "mix.yaml", "scans=hub"]) == 0
    told = capsys.readouterr().out
    assert "splits: train 24, val 24; train is read" in told
    assert "adapter=llava_mole eval.split=val eval.every=100" in told
    assert "held_out" not in yaml.safe_load((three_files / "mix.yaml").read_text())


def test_a_folder_of_pictures_with_a_table_is_told_a_command_that_makes_records_of_it(
    three_files: Path, refused: Refused, capfd: pytest.CaptureFixture[str]
) -> None:
    table = three_files / "snaps" / "all labels.csv"
    table.write_text("file_name,label,page\n" + "".join(f"{number}.png,{number},0\n" for number in range(9)))
    line = refused("init", "mix.yaml", "photos=snaps")
    assert "snaps is a folder of 24 pictures and all labels.csv, which is not read" in line
    found = re.search(r"write yours\): (python .*) and then give (.*)\n", line)
    assert found is not None
    command, given = found.groups()
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    assert run(["init", "mix.yaml", *shlex.split(given)]) == 0
    assert "photos: messages, 9 records; images beside the file, 9 of 9" in capfd.readouterr().out
    assert run(["init", "folder.yaml", "photos=snaps"]) == 0
    assert "photos: messages, 9 records; images in snaps, 9 of 9" in capfd.readouterr().out
    table.write_text("a,b\n1,2\n")
    (three_files / "snaps" / "all labels.jsonl").unlink()
    assert "(a, b) is known to hold the picture's file: name them image" in refused("init", "x.yaml", "photos=snaps")
    table.unlink()
    assert "24 pictures without questions and answers: write a file" in refused("init", "x.yaml", "photos=snaps")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "name the one yaml to write; for example llava-moe init mix.yaml"),
        (("mix.yaml",), "no data is named: give a name and a file"),
        (("there.yaml", "a=charts.json"), "there.yaml is there already: choose another name, or move it away"),
        (("mix", "a=charts.json"), "mix is no name of a yaml"),
        (("mix.yaml", "charts.json"), "each file has a name before it, such as charts=charts.json"),
        (("mix.yaml", "a=charts.json", "a=photos.jsonl"), "a names two sources, charts.json and photos.jsonl"),
        (("mix.yaml", "a.b=charts.json"), "a.b=charts.json: a domain"),
        (("mix.yaml", "a="), "a=: give text, such as a path"),
        (("--foo", "mix.yaml"), "cannot read --foo"),
        (("mix.yaml", "a=charts.json", "images=nowhere"), "images=nowhere: no such folder"),
        (("mix.yaml", "a=charts.json", "images={b: snaps}"), "images: b is none of the domains, a"),
        (("mix.yaml", "a=nosuch.json"), "a=nosuch.json: no such file or folder; paths start from the folder of the"),
        (("mix.yaml", "a=chart.json"), "no such file or folder (did you mean a=charts.json?)"),
        (("mix.yaml", "a=snaps/*.json"), "a=snaps/*.json: no file is named so"),
        (("mix.yaml", "a=nothing"), "no .parquet, .json or .jsonl file in nothing: give another behind a="),
        (("mix.yaml", "a=/nosuch.json"), "a=/nosuch.json: no such file or folder; paths start"),
        (("mix.yaml", "a=owner/name"), "a data set of the Hugging Face hub is hf://datasets/owner/name"),
        (("mix.yaml", "a=https://huggingface.co/datasets/b/c/tree/main"), "is a page; the data set itself is hf://"),
        (("mix.yaml", "a=empty.jsonl"), "empty.jsonl: holds no records"),
        (("mix.yaml", "a=cut.json"), "cut.json, line 2: the file ends inside a record"),
        (("mix.yaml", "a=odd.json"), "no reader knows their keys: its keys are x"),
        (("mix.yaml", "a=bad.json"), "a: none of 2 records of bad.json is usable (image_count"),
        (("mix.yaml", "a=lost.json"), "none of 2 images is found near lost.json (no file gone/1.png); say where they"),
        (("mix.yaml", "a=web.json"), "its images are addresses (https://example.org/1.png), which are not fetched"),
        (("mix.yaml", "a=charts.json", "b=nosuch"), "b=nosuch: no such file or folder"),
    ],
)
def test_what_cannot_become_a_mixture_is_one_line_and_nothing_is_written(
    words: tuple[str, ...], told: str, three_files: Path, refused: Refused
) -> None:
    (three_files / "there.yaml").write_text("mine: own")
    (three_files / "empty.jsonl").write_text("")
    (three_files / "nothing").mkdir()
    (three_files / "cut.json").write_text('[{"a":\n')
    (three_files / "odd.json").write_text('[{"x": 1}]')
    llava_file(three_files / "bad.json", ["1.png", "2.png"], image=["1.png", "2.png"])
    llava_file(three_files / "lost.json", ["gone/1.png", "gone/2.png"])
    llava_file(three_files / "web.json", ["https://example.org/1.png"])
    assert told in refused("init", *words)
    assert (three_files / "there.yaml").read_text() == "mine: own" and not (three_files / "mix.yaml").exists()


def test_what_is_bad_or_missing_is_said_and_the_check_is_next(
    three_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llava_file(three_files / "some.json", ["1.png", "2.png", "gone.png"])
    assert run(["init", "mix.yaml", "some=some.json"]) == 0
    told = capsys.readouterr().out
    assert "images in snaps, 2 of 3 looked for are there (67%)" in told and "not there: no file snaps/gone.png" in told
    assert told.splitlines()[-1].startswith("  llava-moe data check data=mix.yaml   # names what is bad")


def test_a_small_file_is_split_so_that_each_domain_is_measured_or_not_at_all(three_files: Path) -> None:
    llava_file(three_files / "one.json", ["1.png"])
    llava_file(three_files / "few.json", [f"{number}.png" for number in range(4)])
    assert run(["init", "one.yaml", "one=one.json", "images=snaps"]) == 0
    assert "held_out" not in yaml.safe_load((three_files / "one.yaml").read_text())
    assert run(["init", "few.yaml", "few=few.json", "images=snaps"]) == 0
    assert yaml.safe_load((three_files / "few.yaml").read_text()).get("held_out", 0.5) in (0.2, 0.3, 0.5)


def test_odd_names_stay_what_they_are(three_files: Path) -> None:
    odd = three_files / "a, 'b' # ${c}: d.json"
    (three_files / "charts.json").rename(odd)
    assert run(["init", "my mix.yaml", f"größe={odd.name}"]) == 0
    assert run(["train", "exp=mix_doc", "data=my mix.yaml", "--cfg", "job"]) == 0
    written = yaml.safe_load((three_files / "my mix.yaml").read_text())["sources"]["größe"]
    assert written["path"].replace("\\$", "$") == odd.name
