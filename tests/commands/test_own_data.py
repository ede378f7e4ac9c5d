"""``scale=demo`` swaps in embedded data for what is published and keeps data, experiments and parts of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from llava_moe.cli import run
from llava_moe.config.config_folder import config_folder
from tests.commands.test_rates import stages_of
from tests.commands.test_train import records_of

EMBEDDED = {name: f"embedded:{name}.parquet" for name in ("general", "documents", "medical")}


@pytest.fixture
def mine(own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configurations of one's own."""
    monkeypatch.chdir(tmp_path)  # a sweep writes runs/.sweep
    folder = tmp_path / "my configs, v=2"
    (folder / "exp").mkdir(parents=True)
    (folder / "data").mkdir()
    shape = yaml.safe_load((config_folder() / "data" / "mine.yaml").read_text())
    own = {"domain": "reports", "format": "auto", "path": str(own_data / "train.json"), "images": str(own_data)}
    mixed = {
        "own": own,
        "ureader": {"domain": "documents", "recipe": "ureader", "path": "${data.root}/ureader", "repeats": 1.68},
        "m3it": {"domain": "general", "recipe": "m3it", "path": "${data.root}/m3it", "weight": 2.0},
        "more": {"domain": "general", "recipe": "sharegpt4v_ft", "path": "${data.root}/sharegpt4v_ft"},
        "there": {"domain": "captions", "recipe": "llava_558k", "path": "/mnt/prepared/llava_558k"},
    }
    for name, sources in (("my_data", {"own": own}), ("my_mix", mixed)):
        (folder / "data" / f"{name}.yaml").write_text(yaml.safe_dump(shape | {"sources": sources}))

    def write(name: str, file: str, **more: object) -> None:
        overrides = [{"override /model": "vicuna_7b_clip336"}, {"override /data": file}]
        text = yaml.safe_dump({"defaults": overrides, **more})
        (folder / "exp" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")

    write("own_file", "my_data", stage={"learning_rates": {"vision_tower": 1e-5}})
    write("own_mix", "my_mix")
    write("in_one_line", "mine", path=own["path"], images=own["images"])
    write("added", "general_doc_med", domains=["documents", "reports"], data={"sources": {"own": own}})
    stages = [{"name": "1-a", "overrides": ["exp=own_file", "scale=demo"], "ignores": []}]
    (folder / "exp" / "staged.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"stages": stages}))
    return folder


def paths_of(*words: str) -> dict[str, str]:
    (stage,) = stages_of(*words)
    assert stage.config.plain["model"]["architecture"]["language_model"].startswith("embedded:")
    assert stage.config.plain["train"]["max_steps"] == 850
    return {name: source["path"] for name, source in stage.config.plain["data"]["sources"].items()}


def test_data_of_ones_own_stays_and_published_data_is_swapped(mine: Path, own_data: Path) -> None:
    own, words = str(own_data / "train.json"), ("scale=demo", "--config-dir", str(mine))
    assert paths_of("exp=own_file", *words) == {"own": own}
    assert paths_of("exp=in_one_line", *words) == {"mine": own}
    assert paths_of("exp=mix_doc", "data=my_data", *words) == {"own": own}
    assert paths_of("exp=mix_doc", *words) == EMBEDDED
    assert paths_of("exp=added", *words) == EMBEDDED | {"own": own}
    mixed = {"own": own, "ureader": EMBEDDED["documents"], "m3it": EMBEDDED["general"]}
    mixed["there"] = "/mnt/prepared/llava_558k"
    assert paths_of("exp=own_mix", *words) == paths_of("exp=mix_doc", "data=my_mix", *words) == mixed
    assert paths_of("exp=own_file", "data=mine", "path=other.json", *words) == {"mine": "other.json"}
    # Where a stage says its scale itself, and where each job of a sweep has its own experiment.
    assert paths_of("exp=staged", "--config-dir", str(mine)) == {"own": own}
    swept = stages_of("-m", "exp=own_file,mix_doc", *words)
    assert [[*stage.config.plain["data"]["sources"]] for stage in swept] == [["own"], [*EMBEDDED]]


def test_an_experiment_of_ones_own_keeps_the_parts_it_trains(mine: Path) -> None:
    words = ("exp=own_file", "--config-dir", str(mine), "scale=demo")
    (stage,) = stages_of(*words)
    assert stage.config.plain["stage"]["learning_rates"] == {"adapter": 1e-3, "projector": 1e-3, "vision_tower": 1e-5}
    (stage,) = stages_of(*words, "~stage.learning_rates.vision_tower")
    assert stage.config.plain["stage"]["learning_rates"] == {"adapter": 1e-3, "projector": 1e-3}


def test_the_configuration_is_printed_as_it_would_run(mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["train", "exp=own_file", "--config-dir", str(mine), "scale=demo", "--cfg", "job"]
    assert run(words) == 0
    shown = yaml.safe_load(capfd.readouterr().out)
    assert [*shown["data"]["sources"]] == ["own"]


def test_an_experiment_of_ones_own_trains_its_data_small_and_says_so(
    mine: Path, tiny_words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = [word for word in tiny_words if not word.startswith(("exp=", "data=", "path=", "images="))]
    words = ["exp=own_mix", "--config-dir", str(mine), *kept, "~data.sources.there", "train.max_steps=2"]
    assert run(["train", *words, f"out={tmp_path / 'run'}"]) == 0
    assert "a model of random weights on own and the embedded data, " in capfd.readouterr().out
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["data"].keys() == {"own", "ureader", "m3it"}
    assert len(records_of(tmp_path / "run")) == 2
