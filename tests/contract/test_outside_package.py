"""An installed package trains, goes on, is exported, scored and analyzed: that of docs/contributing/a_package.md.

Its adapter, format, benchmark and instrument are the files of the pages for contributors, under its own name. What its
family does, tests/model/families/test_installed_family.py holds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "contributing"
HEADS = {"python": r"# (\S+)\n", "yaml": r"# (\S+)\n", "toml": r"# (\S+)\n", "html": r"\{# (\S+) #\}\n"}
TAKEN = {
    "llava_moe/adapters/methods/sora.py": "my_domains/sora.py",
    "llava_moe/data/readers/coco_captions.py": "my_domains/coco_captions.py",
    "llava_moe/eval/tasks/counting.py": "my_domains/counting.py",
    "llava_moe/analyze/movement.py": "my_domains/movement.py",
    "llava_moe/analyze/movement.html.j2": "my_domains/movement.html.j2",
    "configs/analyze_movement.yaml": "my_domains/configs/analyze_movement.yaml",
}
"""Files of the other pages that the package has, and where."""
FAMILY = ROOT / "tests" / "model" / "families" / "toy_tiles.py"
TRAIN = ("train", "exp=mix_doc", "scale=demo", "model=tiny", "adapter=sora", "train.max_steps=4", "train.save_every=2")


def shown(page: str) -> dict[str, str]:
    """The files that a page shows, by path."""
    found = {}
    for kind, head in HEADS.items():
        for block in re.findall(rf"```{kind}\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), flags=re.DOTALL):
            named = re.match(head, block)
            assert named is not None, block[:80]
            found[named[1]] = block.removeprefix(named[0])
    return found


def write_package(folder: Path) -> None:
    others = {path: text for page in PAGES.glob("an*_*.md") for path, text in shown(page.name).items()}
    others |= shown("a_format.md") | shown("a_benchmark.md")
    files = {new: others[old] for old, new in TAKEN.items()} | shown("a_package.md")
    files |= {"my_domains/tiles.py": FAMILY.read_text(encoding="utf-8"), "my_domains/__init__.py": ""}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


class Installed:
    """The command line in a folder, with the package installed."""

    def __init__(self, site: Path, folder: Path) -> None:
        self.folder = folder
        place = os.pathsep.join([str(site), str(ROOT)])
        self.environment = os.environ | {"PYTHONPATH": place, "COLUMNS": "200"}
        self.environment |= {"LLAVA_MOE_CACHE": str(folder / "cache")}

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llava_moe", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("outside")
    write_package(folder / "package")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*install, "--target", "site", "./package"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Installed(folder / "site", folder)


@pytest.fixture(scope="module")
def trained(installed: Installed) -> Path:
    installed(*TRAIN, "out=run")
    return installed.folder / "run"


@pytest.mark.slow
def test_its_things_are_listed(installed: Installed) -> None:
    told = installed("ls", "adapter", "model", "benchmark", "recipe")
    assert "tiles" in told and "one to three tiles each" in told
    assert "sora" in told and "ranks have learned weights" in told
    assert "counting" in told and "coco_2017" in told and "118,287 images" in told
    assert "movement      of the installed package my-domains" in installed("analyze")


@pytest.mark.slow
def test_its_adapter_trains_is_read_back_and_goes_on_to_the_same_bytes(installed: Installed, trained: Path) -> None:
    last = "checkpoints/step-000004"
    settings = json.loads((trained / last / "adapter" / "adapter_config.json").read_text())
    assert settings["method"] == "sora"
    gates = [one for one in load_file(trained / last / "adapter" / "adapter_model.safetensors") if "weights_R" in one]
    assert gates
    copy = installed.folder / "stopped"
    shutil.copytree(trained, copy)
    shutil.rmtree(copy / last)
    for name in ("finished.json", "report.html"):
        (copy / name).unlink(missing_ok=True)
    shutil.rmtree(copy / "eval", ignore_errors=True)
    installed(*TRAIN, "out=stopped")
    for name in ("adapter/adapter_model.safetensors", "projector.safetensors"):
        assert (copy / last / name).read_bytes() == (trained / last / name).read_bytes()


@pytest.mark.slow
def test_its_adapter_is_exported_scored_and_analyzed(installed: Installed, trained: Path) -> None:
    counts = installed.folder / "counts"
    (counts / "images").mkdir(parents=True)
    for number in (1, 3):
        Image.new("RGB", (40, 40), (number * 40, 0, 0)).save(counts / "images" / f"{number}.png")
    rows = [{"image": f"{number}.png", "thing": "squares", "number": str(number)} for number in (1, 3)]
    (counts / "counts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("benchmarks=[counting]", f"benchmark_paths={{counting: {counts}}}")

    assert "counting" in installed("eval", "run=run", *asked)
    installed("analyze", "movement", "run=run")
    found = json.loads((trained / "analyze" / "movement.json").read_text())["movement"]
    assert found and all(value > 0 for value in found.values())

    installed("export", "run=run", "to=hf", "static=by_domain=documents", "out=exported")
    assert "counting" in installed("eval", "model.path=exported", *asked, "out=scores")


@pytest.mark.slow
def test_its_format_and_its_recipe_prepare_a_download(installed: Installed) -> None:
    download = installed.folder / "download"
    (download / "annotations").mkdir(parents=True)
    (download / "train2017").mkdir()
    whole = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)],
        "annotations": [{"id": number, "image_id": number, "caption": f"A boot {number}."} for number in (1, 2)],
    }
    (download / "annotations" / "captions_train2017.json").write_text(json.dumps(whole))
    for number in (1, 2):
        Image.new("RGB", (30, 20), (0, number * 60, 0)).save(download / "train2017" / f"{number}.jpg")
    installed("data", "prepare", "recipe=coco_2017", "downloads=download", "out=prepared")
    manifest = json.loads(next((installed.folder / "prepared").rglob("manifest.json")).read_text())
    assert manifest["recipe"] == "coco_2017"
