"""A family of an installed package is built, trained, resumed, saved and loaded: nothing of ours names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llava_moe.assemble import encoder_of, load_run, model_spec_of, read_config, restore
from llava_moe.cli import run
from llava_moe.errors import UserError
from llava_moe.model.families import FAMILIES, family_of
from tests.installed_plugins import installing
from tests.model.families import toy_tiles

ENTRIES = {"families tiles": "mine.tiles:TILES", "configs mine": "mine.configs"}
MODULES = {
    "mine/__init__.py": "",
    "mine/tiles.py": Path(toy_tiles.__file__).read_text(encoding="utf-8"),
    "mine/configs/model/tiles.yaml": """# A tiny model of tiles.
architecture:
  _target_: mine.tiles.TilesShape
  vision: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 3, num_attention_heads: 2, image_size: 32,
           patch_size: 8, projection_dim: 32}
  text: {hidden_size: 32, intermediate_size: 56, num_hidden_layers: 1, num_attention_heads: 2,
         max_position_embeddings: 2048}
path: null
system: ""
attn_implementation: auto
""",
}
TRAIN = (
    "train",
    "exp=mix_doc",
    "scale=demo",
    "model=tiles",
    "train.max_steps=2",
    "train.save_every=1",
    "eval.benchmarks=[]",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tiles")
    with pytest.MonkeyPatch.context() as patch, installing(folder / "site", patch) as install:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        install("my-domains", ENTRIES, MODULES)
        assert run([*TRAIN, f"out={folder / 'run'}"]) == 0
        yield folder / "run"


def test_its_images_take_the_places_of_their_tiles(trained: Path) -> None:
    encoder = encoder_of(model_spec_of(read_config(trained)))
    assert not encoder.has_equal_images
    assert encoder.transform.mode == "tiles"


def test_a_plan_counts_the_tokens_that_training_saw(trained: Path) -> None:
    assert run(["plan", *TRAIN[1:], f"out={trained.parent / 'planned'}"]) == 0
    (stage,) = json.loads((trained.parent / "planned" / "plan.json").read_text())["stages"]
    steps = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert stage["num_steps"] == len(steps) == 2
    assert stage["tokens"] == sum(step["tokens"] for step in steps)
    assert stage["needs"][0]["row_images"] > 0 and stage["fits"]


def test_it_goes_on_to_the_same_bytes(trained: Path) -> None:
    copy, last = trained.parent / "stopped", Path("checkpoints", "step-000002")
    shutil.copytree(trained, copy)
    shutil.rmtree(copy / last)
    (copy / "finished.json").unlink()
    assert run([*TRAIN, f"out={copy}"]) == 0
    for name in ("adapter/adapter_model.safetensors", "projector.safetensors"):
        assert (copy / last / name).read_bytes() == (trained / last / name).read_bytes()


def test_it_is_loaded_as_it_was_saved(trained: Path) -> None:
    loaded = restore(trained, torch.device("cpu"))
    assert loaded.base.family is FAMILIES["tiles"] is family_of(loaded.weights.architecture)
    assert type(loaded.weights.architecture).__module__ == "mine.tiles"
    weights = loaded.attached.named_parameters()
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    with pytest.raises(UserError, match="models of the family tiles have no processor to export: Hugging Face"):
        load_run(trained)


def test_without_its_package_a_run_is_refused_in_one_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (trained / "config.yaml").read_text()
    lost = trained.parent / "lost"
    shutil.copytree(trained, lost)
    (lost / "config.yaml").write_text(config.replace("mine.tiles.TilesShape", "gone.tiles.TilesShape"))
    assert run(["eval", f"run={lost}", "benchmarks=[demo]"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "_target_=gone.tiles.TilesShape is none of llava_moe.model.FromParts" in told
    assert "mine.tiles.TilesShape" in told
