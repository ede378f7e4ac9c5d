"""A run of another version of the embedded base stops in one line that names both, wherever it is opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import llava_moe
from llava_moe import embedded_base
from llava_moe.cli import run
from llava_moe.embedded_base import VERSION_FILE, base_folder, read_version
from llava_moe.errors import UserError
from llava_moe.model.adapter_record import ADAPTER_RECORD
from tests.commands.conftest import Refusal
from tools.demo_assets.base.version import versioned

BEFORE = str(read_version())
FROZEN = "stage.learning_rates={adapter: 1e-3}"


@pytest.fixture(scope="module")
def words(words_for_tiny: tuple[str, ...]) -> list[str]:
    """Words that train one step on the embedded base."""
    others = ("model", "train.max_steps")
    return [*(word for word in words_for_tiny if not word.startswith(others)), "model=demo", "train.max_steps=1"]


@pytest.fixture(scope="module")
def trained(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that trained projector and adapter, and one of the adapter alone that was started from it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert run(["train", *words, "adapter=lora", "out=first"]) == 0
        assert run(["train", *words, "adapter=lora", "init_from=first", FROZEN, "out=second"]) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs, as the current folder."""
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(trained / "cache"))
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("cache")))
    return Path.cwd()


@pytest.fixture
def upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Puts a base of the same sizes and a version of its own in the place of the shipped one; returns its name."""

    def other() -> str:
        folder = shutil.copytree(base_folder(), tmp_path / "base")
        path = folder / "language_model" / "model.safetensors"
        tensors = load_file(path)
        tensors["model.layers.1.mlp.up_proj.weight"].mul_(1.5)
        save_file(tensors, path, metadata={"format": "pt"})
        for place in ("llava_moe.embedded_base", "llava_moe.model.architecture", "tools.demo_assets.base.version"):
            monkeypatch.setattr(f"{place}.base_folder", lambda: folder)
        (folder / VERSION_FILE).write_text(json.dumps(versioned(read_version().version + 1)))
        return str(embedded_base.read_version())

    return other


def openings(words: list[str]) -> list[list[str]]:
    """Every command that opens the runs."""
    more = ["train.max_steps=2", "out=first"]
    return [
        ["eval", "run=second", "benchmarks=[demo]", "limit=1"],
        *(["chat", "run=second", "prompt=a", "max_new_tokens=1", *dtype] for dtype in ([], ["dtype=bf16"])),
        ["export", "run=second", "to=hf", "out=hf"],
        ["train", *words, "adapter=lora", "out=first"],  # finished
        ["train", *words, "adapter=lora", *more],  # goes on
        ["train", *words, "adapter=lora", "init_from=second", FROZEN, "out=third"],
        ["train", *words, "adapter=lora", "init_from=second", FROZEN, "train.dtype=bf16", "out=third"],
        ["plan", *words, "adapter=lora", "init_from=second", FROZEN],
        ["compose", "experts=[second,second]", "method=mole", *words, "out=mole"],
        ["compose", "experts=[second,second]", "method=linear", *words, "out=linear"],
    ]


def forget(*keys: str) -> None:
    """Make the runs' records those of an earlier release."""
    for path in Path().glob("*/environment.json"):
        told = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in told.items() if key not in keys}))


def test_a_run_records_the_parts_of_the_base_that_it_stands_on(trained: Path) -> None:
    told = json.loads((trained / "second" / "environment.json").read_text())
    known = read_version()
    expected = {"version": known.version, "fingerprint": known.fingerprint, "parts": known.parts}
    assert told["embedded_base"] == expected and told["base_model"] == known.weights["fp32"]


@pytest.mark.parametrize("forgotten", [(), ("embedded_base", "base_layers")], ids=["this release", "an earlier one"])
def test_a_run_of_another_base_is_refused_wherever_it_is_opened(
    forgotten: tuple[str, ...], here: Path, words: list[str], upgrade: Callable[[], str], refused: Refusal
) -> None:
    forget(*forgotten)
    now = upgrade()
    assert now != BEFORE
    for command in openings(words):
        line = refused(*command)
        assert f"was trained on {BEFORE}, and this llava-moe has {now}: train again" in line, command
        assert line.count("\n") == 1
    with pytest.raises(UserError, match="was trained on embedded base"):
        llava_moe.load_run("second")


def test_the_same_base_is_known_again_in_every_precision_and_by_what_earlier_releases_recorded(
    here: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for forgotten in ((), ("embedded_base", "base_layers")):
        forget(*forgotten)
        for dtype in ("fp32", "bf16"):
            assert run(["chat", "run=second", "prompt=a", "max_new_tokens=1", f"dtype={dtype}"]) == 0
    bf16 = ["init_from=second", "train.dtype=bf16", FROZEN, "out=third"]
    assert run(["train", *words, "adapter=lora", *bf16]) == 0
    assert "cannot be told" not in "".join(capsys.readouterr())


def test_a_run_that_recorded_nothing_is_opened_and_a_line_says_that_its_base_cannot_be_told(
    here: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    forget("embedded_base", "base_layers", "base_model")
    line = f"second recorded nothing of its base: whether it was trained on {BEFORE}, which is here, cannot be told"
    started = ["train", *words, "adapter=lora", "init_from=second", FROZEN, "out=third"]
    for command in (["chat", "run=second", "prompt=a", "max_new_tokens=1"], ["export", "run=second", "to=hf", "out=hf"],
                    started):  # fmt: skip
        assert run(command) == 0
        assert "".join(capsys.readouterr()).splitlines().count(line) == 1, command
    with pytest.warns(UserWarning, match="cannot be told"):
        llava_moe.load_run("second")


@pytest.fixture
def bare(here: Path) -> str:
    """An adapter's folder, copied out of its run."""
    (name,) = (path.name for path in Path("second/checkpoints").glob("step-*"))
    shutil.copytree(Path("second/checkpoints") / name / "adapter", "bare")
    return "bare"


def test_an_adapter_copied_out_of_its_run_is_refused_on_another_base_and_welcome_on_its_own(
    bare: str, words: list[str], upgrade: Callable[[], str], refused: Refusal
) -> None:
    compose = ["compose", f"experts=[{bare},{bare}]", *words]
    assert run([*compose, "method=linear", "out=before"]) == 0
    now = upgrade()
    for method in ("linear", "mole"):
        line = refused(*compose, f"method={method}", "out=after")
        assert line.count("\n") == 1
        assert f"{bare} was trained on {BEFORE}, and this llava-moe has {now}: train it again" in line


def test_an_adapter_that_does_not_say_of_what_base_it_is_opens_and_a_line_says_so(
    bare: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(bare, ADAPTER_RECORD).unlink()
    assert run(["compose", f"experts=[{bare},{bare}]", "method=linear", *words, "out=merged"]) == 0
    line = f"{bare} does not say of what base it is: whether of {BEFORE}, which is here, cannot be told"
    assert line in "".join(capsys.readouterr()).splitlines()
    # What is made of it stands on what was here.
    (adapter,) = Path("merged/checkpoints").glob("step-*/adapter")
    assert json.loads((adapter / ADAPTER_RECORD).read_text())["embedded_base"]["version"] == read_version().version


def test_an_adapter_with_its_base_beside_it_takes_that_along(
    here: Path, words: list[str], upgrade: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "run=second", "to=peft", "out=exported"]) == 0
    upgrade()
    capsys.readouterr()
    assert run(["compose", "experts=[exported,exported]", "method=linear", *words, "out=merged"]) == 0
    assert "cannot be told" not in "".join(capsys.readouterr())
    assert list(Path().glob("base-of-experts-*"))


def test_a_run_that_recorded_nothing_is_known_by_its_adapter(
    here: Path, words: list[str], upgrade: Callable[[], str], refused: Refusal
) -> None:
    forget("embedded_base", "base_layers", "base_model", "start")
    now = upgrade()
    started = ["train", *words, "adapter=lora", "init_from=second", FROZEN, "out=third"]
    for command in (["chat", "run=second", "prompt=a", "max_new_tokens=1"], started):
        line = refused(*command)
        assert f"adapter was trained on {BEFORE}, and this llava-moe has {now}" in line


def test_a_part_that_a_run_does_not_use_may_be_another(
    words_for_tiny: tuple[str, ...], here: Path, upgrade: Callable[[], str]
) -> None:
    words = [word for word in words_for_tiny if not word.startswith("model.architecture.tokenizer")]
    assert run(["train", *words, "adapter=lora", "train.max_steps=1", "out=tiny"]) == 0
    told = json.loads(Path("tiny/environment.json").read_text())
    assert list(told["embedded_base"]["parts"]) == ["tokenizer"]
    upgrade()
    assert run(["chat", "run=tiny", "prompt=a", "max_new_tokens=1"]) == 0


def test_a_start_of_another_base_than_the_embedded_one_is_refused_too(
    here: Path, words: list[str], tokenizer_folder: Path, refused: Refusal
) -> None:
    """It is one of the same sizes, or their shapes would tell."""
    told = json.loads(Path("second/environment.json").read_text())
    del told["embedded_base"]
    Path("second/environment.json").write_text(json.dumps(told | {"base_model": "0" * 16, "base_layers": "0" * 16}))
    line = refused("train", *words, "adapter=lora", "init_from=second", FROZEN, "out=third")
    assert f"a base whose version it did not record (weights 00000000), and this llava-moe has {BEFORE}" in line
