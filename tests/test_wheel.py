"""The wheel carries configurations, images and base model, and works away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def build(source: Path, out: Path, *targets: str) -> None:
    """Build from a folder of the project, as `pip install` and `python -m build` have hatchling do it."""
    words = [word for target in targets for word in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", *words, "-d", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the archive of sources."""
    out = tmp_path_factory.mktemp("built")
    build(ROOT, out, "sdist", "wheel")
    (wheel,), (sources,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sources


@pytest.fixture(scope="module")
def command(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``llava-moe`` of an environment into which pip has put the wheel.

    What the wheel depends on is lent by the environment of the tests: nothing is downloaded.
    """
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, str(built[0])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The name of the checkout's own package is not among them: an editable one is a file of another name.
    lent = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    (site / "lent.pth").write_text("\n".join(dict.fromkeys(lent)) + "\n")
    return place / "bin" / "llava-moe"


def run(command: Path, folder: Path, *words: str) -> str:
    """What a command prints in a folder away from the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"LLAVA_MOE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([command, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_installed_wheel_finds_its_configurations_and_its_demo(built: tuple[Path, Path], command: Path) -> None:
    names = set(zipfile.ZipFile(built[0]).namelist())
    assert names > {
        "llava_moe/configs/train.yaml",
        "llava_moe/demo/images/general.parquet",
        "llava_moe/demo/images/SOURCES.json",
        "llava_moe/demo/base/vision_tower/model.safetensors",
        "llava_moe/demo/base/language_model/tokenizer.json",
        "llava_moe/pages/head.html.j2",
        "llava_moe/pages/page.css.j2",
        "llava_moe/report/page.html.j2",
        "llava_moe/recipes/llava_mix665k.py",
        "llava_moe/lmms_tasks/vsr.yaml",
        "llava_moe/lmms_tasks/_shared_yaml",
        "llava_moe/lmms_tasks/named/vsr.jsonl",
    }
    # The recipes of the demo's own pictures and base model stay in the checkout.
    assert not [name for name in names if "demo_assets" in name or name.startswith("tools")]
    listed = run(command, command.parent, "ls", "exp", "recipe")
    assert "mix_general_doc_med" in listed and "sharegpt4v_pt" in listed


def test_an_installed_wheel_writes_a_mixture_and_trains_on_it(command: Path, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "A boot"}]
    records = [{"id": str(number), "conversations": turns} for number in range(20)]
    (tmp_path / "charts.json").write_text(json.dumps(records))
    assert "mix.yaml" in run(command, tmp_path, "init", "mix.yaml", "charts=charts.json")
    words = ["exp=mix_general", "scale=demo", "model=tiny", "train.max_steps=2", "out=runs/mix"]
    run(command, tmp_path, "train", "data=mix.yaml", *words)
    assert (tmp_path / "runs" / "mix" / "report.html").is_file()
    installed = (tmp_path / "runs" / "mix" / "environment.json").read_text()
    assert str(ROOT) not in installed


def test_the_archive_of_sources_builds_the_same_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sources = built
    with tarfile.open(sources) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    build(unpacked, tmp_path / "again", "wheel")
    (again,) = (tmp_path / "again").glob("*.whl")
    first, second = (zipfile.ZipFile(path) for path in (wheel, again))
    assert first.namelist() == second.namelist()
    assert [entry.CRC for entry in first.infolist()] == [entry.CRC for entry in second.infolist()]
