"""What other packages offer: found without an import, and refused in one line where it is not what it must be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_moe.adapters.registry import ADAPTERS, METHODS
from llava_moe.cli import run
from llava_moe.data.auto_format import reading_formats
from llava_moe.data.readers.formats import FORMATS
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.datatools.prepare.recipe import load_recipe, recipe_names
from llava_moe.errors import UserError
from llava_moe.eval.tasks import benchmark_names, open_benchmark
from llava_moe.model import FromCheckpoint, FromShape
from llava_moe.model.families import ARCHITECTURES, FAMILIES, LLAVA, family_of
from tests.installed_plugins import Install, installing

ADAPTER = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Sora:
    method: ClassVar[str] = "sora"
    decides_per_example: ClassVar[bool] = False
    r: int = 8

    def build(self, target_model, segments): ...
    def write(self, folder, target_model, tensors): ...
"""


TILES = """
from dataclasses import dataclass
from llava_moe.model.families import LLAVA as ours

@dataclass(frozen=True)
class Shape:
    size: int = 8

class Family:
    name, architectures, parts, published_roots, default_template = "tiles", (Shape,), ours.parts, {}, "v1"
    takes = read = open = make = facts = image_inputs = set_attention = packed_inputs = parameters_of = print
    refuse_changing_tower = features_of = num_dropped_in_front = accept_features = feature_inputs = processor = print

TILES = Family()
"""
INIT = "def __init__(self, place): ..."
OTHER_BENCHMARK = """BENCHMARK = "counting"
def open_benchmark(limit, seed):
    from llava_moe.errors import UserError
    raise UserError("counting of the installed package my-domains was asked")
"""
OTHER_RECIPE = """from dataclasses import replace
from llava_moe.datatools.prepare.recipe import load_recipe
RECIPE = replace(load_recipe("m3it"), name="llava_mix665k")
"""
READER = """
from llava_moe.data.readers.formats import PlainReader
from llava_moe.data.readers.llava import llava_row

def row(record, number):
    asked = {"from": "human", "value": "<image>\\nWhat?"}
    told = {"from": "gpt", "value": record["said"] + VERSION}
    return llava_row({"image": record["picture"], "conversations": [asked, told]}, number)

Reader = PlainReader(row)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install packages of some modules, until the test ends."""
    with installing(tmp_path / "site", monkeypatch) as install:
        yield install


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run([*words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Traceback" not in told
    return told


def ask_for_shape() -> type:
    return ARCHITECTURES["mine.Shape"]


def test_a_plugin_is_found_without_being_imported(install: Install) -> None:
    install("my-domains", {"adapters sora": "mine:Sora"}, {"mine.py": "raise AssertionError('imported')"})
    assert "mine.Sora" in ADAPTERS and "sora" in METHODS and list(METHODS)[-1] == "sora"
    assert "mine" not in sys.modules and len(METHODS) == 6


def test_a_plugin_is_loaded_where_it_is_asked_for(install: Install) -> None:
    install("my-domains", {"adapters sora": "mine:Sora"}, {"mine.py": ADAPTER})
    assert ADAPTERS["mine.Sora"] is METHODS["sora"]
    assert METHODS["sora"].method == "sora"


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("import no_such_library", "does not load (ModuleNotFoundError: No module named 'no_such_library')"),
        ("Other = 1", "does not load (AttributeError"),
        ("Sora = 3", "is no dataclass of an adapter's settings"),
        (ADAPTER.replace("def write", "def save"), "lacks write()"),
        (ADAPTER.replace("decides_per_example", "decides"), "lacks decides_per_example"),
        (ADAPTER.replace("] = False", "] = 'no'"), "has a decides_per_example that is no bool"),
        (ADAPTER.replace('"sora"', '"other"'), "calls itself other, which must be the name of its entry point"),
    ],
)
def test_an_adapter_that_is_none_is_refused_by_its_package(module: str, told: str, install: Install) -> None:
    install("my-domains", {"adapters sora": "mine:Sora"}, {"mine.py": module})
    with pytest.raises(UserError, match="adapter sora of the installed package my-domains") as caught:
        METHODS["sora"]
    assert told in str(caught.value) and str(caught.value).endswith("uninstall my-domains")


@pytest.mark.parametrize(
    ("entry", "value", "ask"),
    [
        ("adapters mixlora", "mine:Sora", lambda: METHODS["lora"]),
        ("formats llava", "mine:Reader", lambda: FORMATS["llava"]),
        ("benchmarks vsr", "mine", benchmark_names),
        ("recipes m3it", "mine:RECIPE", recipe_names),
        ("families llava", "mine:TILES", lambda: ARCHITECTURES["llava_moe.model.FromShape"]),
    ],
)
def test_a_name_of_ours_is_refused(entry: str, value: str, ask: Callable[[], Any], install: Install) -> None:
    install("my-domains", {entry: value}, {"mine.py": ""})
    with pytest.raises(UserError, match=r"of the installed package my-domains has the name of one of llava-moe's own"):
        ask()


def test_one_name_of_two_packages_is_refused(install: Install) -> None:
    install("my-domains", {"formats coco": "mine:Reader"}, {"mine.py": ""})
    install("your-domains", {"formats coco": "other:Reader"}, {"other.py": ""})
    with pytest.raises(UserError, match=r"format coco of the installed package .* uninstall one of the two packages"):
        assert "coco" in FORMATS


@pytest.mark.parametrize(
    ("entry", "value", "module", "ask", "told"),
    [
        ("formats coco", "mine:Reader", "class Reader:\n    find = records = print", lambda: FORMATS["coco"], "row()"),
        ("formats coco", "mine:Reader", "class Reader:\n    find = 1 / 0", lambda: FORMATS["coco"], "does not load"),
        ("formats coco", "mine:Reader", f"class Reader:\n    {INIT}", lambda: FORMATS["coco"], "without arguments"),
        ("benchmarks counting", "mine", OTHER_BENCHMARK, lambda: open_benchmark("counting").name, "asked"),
        ("benchmarks results", "mine", "", benchmark_names, "means another thing beside the scores"),
        ("benchmarks ../x", "mine", "", benchmark_names, "a name that is not of letters"),
        ("recipes coco", "mine:RECIPE", OTHER_RECIPE, lambda: load_recipe("coco"), "calls itself 'llava_mix665k'"),
        ("benchmarks counting", "mine", "BENCHMARK = 3", lambda: open_benchmark("counting"), "neither BENCHMARK nor"),
        ("recipes coco", "mine:RECIPE", "RECIPE = {}", lambda: load_recipe("coco"), "is no Recipe"),
        ("families tiles", "mine:TILES", "TILES = 1 / 0", lambda: FAMILIES["tiles"], "does not load (ZeroDivision"),
        ("families tiles", "mine:TILES", "TILES = 3", lambda: FAMILIES["tiles"], "lacks name"),
        ("families tiles", "mine:TILES", f"class TILES:\n    {INIT}", lambda: FAMILIES["tiles"], "without arguments"),
        (
            "families tiles",
            "mine:TILES",
            TILES.replace("= open =", "= close ="),
            ask_for_shape,
            "lacks open()",
        ),
        (
            "families tiles",
            "mine:TILES",
            TILES.replace('"tiles"', '"other"'),
            ask_for_shape,
            "calls itself other",
        ),
        (
            "families tiles",
            "mine:TILES",
            TILES.replace("(Shape,)", "(int,)"),
            ask_for_shape,
            "is no dataclass",
        ),
    ],
)
def test_a_thing_that_answers_in_part_is_refused(
    entry: str, value: str, module: str, ask: Callable[[], Any], told: str, install: Install
) -> None:
    install("my-domains", {entry: value}, {"mine.py": module})
    with pytest.raises(UserError, match="of the installed package my-domains") as caught:
        ask()
    assert told in str(caught.value)


def test_a_family_is_loaded_where_a_class_of_its_package_or_a_checkpoint_is_built(install: Install) -> None:
    entries = {"families tiles": "mine:TILES"}
    install("my-domains", entries, {"mine.py": "import no_such_library"})
    assert family_of(FromShape()) is LLAVA and ARCHITECTURES["llava_moe.model.FromShape"] is FromShape
    with pytest.raises(UserError, match="family tiles of the installed package my-domains does not load"):
        family_of(FromCheckpoint("llava-hf/llava-1.5-7b-hf"))
    install("my-domains", entries, {"mine.py": TILES})
    architecture = ARCHITECTURES["mine.Shape"]()
    assert list(ARCHITECTURES)[-1] == "mine.Shape" and "mine.Other" not in ARCHITECTURES
    # Its takes() takes nothing.
    with pytest.raises(
        UserError, match=r"model of model\.architecture is of no family that is known here: llava, tiles"
    ):
        family_of(architecture)


def test_records_are_read_again_by_a_new_version_of_a_reader(install: Install, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"picture": "a.png", "said": "cat"}]))
    for version, read in (("1.0", "1.0"), ("1.0", "1.0"), ("1.1", "1.1")):
        module = f"VERSION = {version!r}\n{READER}"
        install("my-domains", {"formats coco": "mine:Reader"}, {"mine.py": module}, version)
        source = Source("a", "general", str(tmp_path / "a.json"), format="coco")
        [turn] = [one for one in open_records(source, tmp_path / "cache")[0].turns if one.role == "assistant"]
        assert turn.text == f"cat{read}"


def test_a_reader_that_trips_over_others_records_is_passed_over(install: Install, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"image": "a.png", "words": "a cat"}]))
    for module in (READER, "import no_such_library"):
        install("my-domains", {"formats coco": "mine:Reader"}, {"mine.py": module})
        assert "coco" not in reading_formats(str(tmp_path / "a.json"))


def test_a_recipe_that_does_not_load_is_told_by_ls_and_hides_no_other(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("my-domains", {"recipes coco": "mine:RECIPE"}, {"mine.py": "import no_such_library"})
    assert run(["ls", "recipe"]) == 0
    told = capsys.readouterr().out
    assert "recipe coco of the installed package my-domains does not load" in " ".join(told.split()) and "m3it" in told


def test_an_instrument_is_listed_helped_and_refused_in_one_line(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    module = "SUMMARY = 'how far'\nUSAGE = 'llava-moe analyze movement run=FOLDER'\ndef judge(plain): ...\n"
    install("my-domains", {"instruments movement": "mine"}, {"mine.py": module})
    assert run(["analyze"]) == 0 and "movement      of the installed package my-domains" in capsys.readouterr().out
    assert "lacks measure()" in refused(capsys, "analyze", "movement", "--help")
    (Path(sys.path[0]) / "mine.py").write_text(f"{module}def measure(plain, session): ...\n")
    sys.modules.pop("mine")
    assert run(["analyze", "movement", "--help"]) == 0
    assert capsys.readouterr().out == "how far\n\nllava-moe analyze movement run=FOLDER\n"
    assert "did you mean movement" in refused(capsys, "analyze", "movment")


def test_yamls_of_a_package_are_chosen_listed_and_completed(
    install: Install, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "# LoRA with ranks that turn off.\n_target_: mine.sora.Sora\nr: 8\n"
    entries = {"adapters sora": "mine.sora:Sora", "configs mine": "mine.configs"}
    install("my-domains", entries, {"mine/sora.py": ADAPTER, "mine/configs/adapter/sora.yaml": text})
    assert run(["ls", "adapter"]) == 0 and "LoRA with ranks that turn off" in capsys.readouterr().out
    assert run(["train", "adapter=sora", "adapter.r=4", "--cfg", "job"]) == 0
    assert "_target_: mine.sora.Sora\n  r: 4" in capsys.readouterr().out
    assert "did you mean sora" in refused(capsys, "train", "adapter=sorra")
    assert "mine" not in sys.modules


def test_yamls_that_no_package_holds_are_refused(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("my-domains", {"configs mine": "mine.nowhere"}, {"mine/__init__.py": ""})
    told = "config mine of the installed package my-domains names mine.nowhere, which is no package with a folder"
    assert told in refused(capsys, "ls", "adapter")


def test_a_yaml_that_names_a_class_nobody_offers_is_refused(
    install: Install, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "_target_: mine.sora.Sora\nr: 8\n"
    install("my-domains", {"configs mine": "mine.configs"}, {"mine/configs/adapter/sora.yaml": text})
    told = refused(capsys, "train", "adapter=sora", "model=tiny", "train.max_steps=1")
    assert "_target_=mine.sora.Sora is none of llava_moe.adapters.Lora" in told
    assert not (tmp_path / "runs").exists()
