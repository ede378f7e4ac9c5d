"""Mixtures of one's own: by the path of their file, by name in a folder, and without a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_moe.cli import run
from llava_moe.config.own_mixtures import read_mixture
from llava_moe.config.settings import source_of
from llava_moe.data.images.paths import find_image
from llava_moe.data.source import check_has_images, check_image_root, open_records
from llava_moe.errors import UserError
from tests.commands.test_rates import stages_of
from tests.commands.test_train import records_of

Refused = Callable[..., str]
TEXT = """\
sources:
  charts: {path: ../charts.json, images: ../pictures}
  photos: {path: ../photos.jsonl, images: ../snaps, domain: snaps}
"""


def sources_of(*words: str) -> dict[str, Any]:
    (stage,) = stages_of("exp=mix_doc", *words)
    return {name: dict(source) for name, source in stage.config.plain["data"]["sources"].items()}


@pytest.fixture
def mixture(three_files: Path) -> Path:
    path = three_files / "data" / "two.yaml"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


def test_a_file_is_read_by_its_path_and_its_own_paths_start_from_its_folder(
    mixture: Path, three_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {
        "charts": {"path": "data/../charts.json", "images": "data/../pictures", "domain": "charts"},
        "photos": {"path": "data/../photos.jsonl", "images": "data/../snaps", "domain": "snaps"},
    }
    assert sources_of("data=data/two.yaml") == sources_of("data=./data/two.yaml") == expected
    assert sources_of("--config-dir", ".", "data=two") == expected
    assert sources_of(f"data={mixture}")["charts"]["path"] == f"{mixture.parent}/../charts.json"
    assert sources_of("data=data/two.yaml", "data.sources.charts.path=x.json")["charts"]["path"] == "x.json"
    spaced = three_files / "a, b = 'c'"
    spaced.mkdir()
    (spaced / "two.yaml").write_text(TEXT)
    assert sources_of(f"data={spaced.name}/two.yaml")["charts"]["images"] == f"{spaced.name}/../pictures"
    monkeypatch.chdir(spaced)
    assert sources_of("data=../data/two.yaml")["charts"]["path"] == "../data/../charts.json"


def test_addresses_and_whole_paths_in_a_file_are_left_alone(three_files: Path) -> None:
    paths = ["hf://datasets/a/b", "/mnt/x.json", "~/x.json", "${data.root}/m3it", "embedded:general.parquet"]
    text = "".join(f"  s{number}: {{path: '{path}'}}\n" for number, path in enumerate(paths))
    (three_files / "data").mkdir()
    (three_files / "data" / "far.yaml").write_text(
        f"sources:\n{text}  s9: {{path: 'a,denied=0.0', format: conflict}}\n"
    )
    found = [source["path"] for source in sources_of("data=data/far.yaml").values()]
    assert found == [*paths[:3], "data/m3it", paths[4], "a,denied=0.0"]


def test_paths_that_start_from_the_command_still_work_by_name_and_a_line_says_what_to_write(
    mixture: Path, three_files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixture.write_text("sources:\n  charts: {path: charts.json, images: pictures}\n")
    assert sources_of("--config-dir", ".", "data=two")["charts"]["path"] == "charts.json"
    told = capfd.readouterr().err
    assert "data/two.yaml: charts.json is read from the folder of the command" in told
    assert "write ../charts.json there" in told and told.count("charts.json is read") == 1
    # What lies beside the file is meant first, and a file named by its path has no other way.
    (mixture.parent / "charts.json").write_text("[]")
    assert sources_of("--config-dir", ".", "data=two")["charts"]["path"] == "data/charts.json"
    assert sources_of("data=data/two.yaml")["charts"]["images"] == "data/pictures"


def test_image_paths_start_from_the_files_folder_where_it_names_none(
    three_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (three_files / "mixes").mkdir()
    (three_files / "charts.json").rename(three_files / "mixes" / "charts.json")
    (three_files / "pictures" / "charts").rename(three_files / "mixes" / "charts")
    text = [{"conversations": [{"from": "human", "value": "red?"}, {"from": "gpt", "value": "No"}]}]
    (three_files / "mixes" / "text.json").write_text(json.dumps(text))
    (three_files / "mixes" / "mix.yaml").write_text("sources: {charts: {path: charts.json}, text: {path: text.json}}")
    for place, words in (("mixes", ("data=mixes/mix.yaml",)), (".", ("data=mix.yaml",))):
        monkeypatch.chdir(three_files if place == "mixes" else three_files / "mixes")
        found = {name: source_of(name, node) for name, node in sources_of(*words).items()}
        records = open_records(found["charts"], three_files / "cache")
        check_image_root(found["charts"], records)
        assert find_image("charts/7.png", records.image_root).is_file()
        # No folder was given, so none bounds them, and a source of texts alone has none to have.
        assert find_image(str(three_files / "snaps" / "7.png"), records.image_root).is_file()
        check_has_images(found["text"], open_records(found["text"], three_files / "cache"))
    monkeypatch.chdir(three_files)
    given = source_of("charts", sources_of("data=mixes/mix.yaml", "+data.sources.charts.images=snaps")["charts"])
    assert open_records(given, three_files / "cache").image_root == "snaps"
    (three_files / "mixes" / "charts").rename(three_files / "gone")
    lost = source_of("charts", sources_of("data=mixes/mix.yaml")["charts"])
    with pytest.raises(UserError, match=r"no file mixes/charts/0.png\); give their folder as images=FOLDER"):
        check_image_root(lost, open_records(lost, three_files / "cache"))


def test_several_files_are_a_sweep(mixture: Path, three_files: Path) -> None:
    (three_files / "one.yaml").write_text("sources: {a: {path: charts.json}}\n")
    swept = stages_of("-m", "exp=mix_doc", "data=data/two.yaml,one.yaml")
    assert [[*stage.config.plain["data"]["sources"]] for stage in swept] == [["charts", "photos"], ["a"]]


def test_a_mapping_of_domains_to_files_is_the_same_mixture_without_a_file(
    three_files: Path, mixture: Path, words_for_tiny: tuple[str, ...]
) -> None:
    words = [word for word in words_for_tiny if not word.startswith(("data=", "path=", "images=", "train.max_steps="))]
    words.append("train.max_steps=1")
    mapping = ["path={charts: charts.json, snaps: photos.jsonl}", "images={charts: pictures, snaps: snaps}"]
    assert run(["train", *words, *mapping, "out=mapped"]) == 0
    (three_files / "same.yaml").write_text(
        "sources:\n  charts: {path: charts.json, images: pictures}\n  snaps: {path: photos.jsonl, images: snaps}\n"
    )
    assert run(["train", *words, "data=same.yaml", "out=named"]) == 0
    hashes = [[one["sample_hash"] for one in records_of(three_files / out)] for out in ("mapped", "named")]
    assert hashes[0] == hashes[1] and {*records_of(three_files / "mapped")[0]["domains"]} == {"charts", "snaps"}


def test_a_path_needs_no_word_for_the_data_that_reads_it(three_files: Path) -> None:
    assert sources_of("path=charts.json", "images=pictures")["mine"]["path"] == "charts.json"
    mapped = sources_of("path={a: charts.json, b: ~/x.json}", "images=pictures", "data.sources.a.repeats=2")
    assert [mapped[name]["images"] for name in "ab"] == ["pictures", "pictures"] and mapped["a"]["repeats"] == 2
    assert mapped["b"]["path"] == str(Path("~/x.json").expanduser()) and mapped["b"]["domain"] == "b"
    odd = three_files / "{odd, name}.json"
    odd.write_text((three_files / "charts.json").read_text())
    assert sources_of(f"path={odd.name}")["mine"]["path"] == odd.name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sorces: {a: {path: x}}", "two.yaml: unknown key sorces (did you mean sources?): the keys there are sources,"),
        ("sources: {a: {path: x}}\nheldout: 0.1", "unknown key heldout (did you mean held_out?)"),
        ("sources: {a: {pth: x}}", "two.yaml: unknown key sources.a.pth (did you mean path?): the keys there are"),
        ("sources: [x]", "two.yaml: holds no sources: write sources: {NAME: {path: FILE}}"),
        ("sources: {}", "two.yaml: holds no sources"),
        ("", "two.yaml: holds no sources"),
        ("a: [1", "did not find expected ',' or ']': fix that file"),
        ("data: {sources: {a: {path: x}}}", "its keys stand one level too deep: leave the line data: out"),
        ("sources: {a: x.json}", "sources.a=x.json: write a: {path: x.json}"),
        ("sources: {a: {domain: b}}", "two.yaml: sources.a has no path: add path: FILE"),
    ],
)
def test_a_mistake_in_a_file_of_ones_own_is_one_line(text: str, told: str, mixture: Path) -> None:
    mixture.write_text(text)
    with pytest.raises(UserError) as refusal:
        read_mixture(mixture)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "sources:\n  a: {path: x}\n  a: {path: y}",
            "line 3: the key 'a' stands twice in one mapping, first in line 2; two sources",
        ),
        ("sources: {a: {path: gone.json}}", "data source 'a': no file data/gone.json; check path"),
        ("sources: {a: {path: ../charts.json, format: csv}}", "data source 'a': unknown format 'csv'; use one of"),
        ("sources: {a: {path: ../charts.json, repeats: often}}", "data.sources.a.repeats=often: give a number"),
        ("held_out: 0.2\nsources: {a: {path: ../empty.json}}", "holds no records"),
        (
            "held_out: 0.2\nsources: {a: {path: ../charts.json, images: ../pictures}, b: {path: ../one.json}}",
            "data.held_out=0.2 keeps no record of domain 'b' apart, so its loss cannot be measured: raise it",
        ),
    ],
)
def test_what_a_mixture_lacks_is_one_line_before_anything_is_trained(
    text: str, told: str, mixture: Path, words_for_tiny: tuple[str, ...], refused: Refused
) -> None:
    mixture.write_text(text)
    folder = mixture.parent.parent
    (folder / "empty.json").write_text("[]")
    turns = [{"from": "human", "value": "red?"}, {"from": "gpt", "value": "No"}]
    (folder / "one.json").write_text(json.dumps([{"conversations": turns}]))
    words = [word for word in words_for_tiny if not word.startswith(("data=", "path=", "images="))]
    assert told in refused("train", *words, "data=data/two.yaml", "eval.every=1", "out=run")
    assert mixture.read_text() == text and not (folder / "run" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data=tow.yaml"], "data=tow.yaml: no such file (did you mean data=two.yaml?); llava-moe init tow.yaml"),
        (["data=two"], "data=two does not exist (did you mean data=two.yaml?)"),
        (["data=x.yml"], "data=x.yml: no such file"),
        (["path={a: charts.json}", "images={b: pictures}"], "images: b is none of the domains of path=, a"),
        (["path={a: charts.json", "exp=mix_doc"], "write path={charts: charts.json, photos: photos.jsonl}"),
        (["path={a:charts.json}"], "a:charts.json stands for no path"),
        (["path={a: [charts.json]}"], "a stands for no path"),
        (["path={}"], "maps no domain to anything"),
        (["path={a: nosuch.json}"], "data source 'a': no file nosuch.json"),
        (["path=charts.json", "images={a: pictures}"], "path= gives one file, so one folder stands there"),
        (["path={a: charts.json}", "data.sources.b.split=val"], "data.sources.b: the sources of path= are a"),
        (["path=[charts.json,photos.jsonl]"], "several are named by their domains, path={DOMAIN: PATH, ...}"),
    ],
)
def test_a_mistake_in_the_words_is_one_line(words: list[str], told: str, three_files: Path, refused: Refused) -> None:
    (three_files / "two.yaml").write_text("sources: {a: {path: charts.json}}\n")
    assert told in refused("train", "scale=demo", "exp=mix_doc", *words)
    assert not (three_files / "runs").exists()


def test_ls_lists_mixtures_here_and_yamls_of_a_folder(
    mixture: Path,
    three_files: Path,
    refused: Refused,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (three_files / "mix.yaml").write_text("# Three of mine.\n" + TEXT)
    (three_files / "notes.yaml").write_text("a: 1\n")
    assert run(["ls", "data"]) == 0
    told = capfd.readouterr().out
    assert (
        "mix.yaml" in told and "your own: Three of mine" in told and "notes.yaml" not in told and "two.yaml" not in told
    )
    assert run(["ls", "--config-dir", ".", "data"]) == 0
    assert "your own, data/two.yaml" in capfd.readouterr().out
    assert "--config-dir nosuch: no such folder" in refused("ls", "--config-dir", "nosuch")


def test_a_stage_whose_data_keep_nothing_apart_is_not_measured(mixture: Path) -> None:
    mixture.write_text(f"held_out: 0.2\n{TEXT}")
    captions, own = stages_of("data=data/two.yaml", "eval.every=5", "eval.best=held_out_loss.charts")
    assert [stage.config.plain["eval"]["every"] for stage in (captions, own)] == [0, 5]
    assert (captions.config.plain["eval"]["best"], own.config.plain["eval"]["best"]) == (None, "held_out_loss.charts")
