"""``llava-moe compose`` on a tiny model: gates over two LoRAs of one base, merges, and the choice among them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llava_moe import load_run
from llava_moe.adapters import Mole
from llava_moe.adapters.methods.mole_experts import adapter_folder
from llava_moe.assemble import restore
from llava_moe.cli import run
from llava_moe.files.checkpoints import newest_checkpoint

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def trained(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a trained base (``base``), two LoRAs on it (``one``, ``two``) and one beside it (``apart``)."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        words = [*words_for_tiny, "train.max_steps=3", "stage.demo.learning_rates.adapter=2e-2"]
        frozen = [*words, "adapter=lora", "init_from=runs/base", "~stage.learning_rates.projector"]
        assert run(["train", *words, "adapter=none", "out=runs/base"]) == 0
        assert run(["train", *frozen, "adapter.r=2", "out=runs/one"]) == 0
        assert run(["train", *frozen, "adapter.r=3", "seed=1", "out=runs/two"]) == 0
        assert run(["train", *words, "adapter=lora", "adapter.r=2", "init_from=runs/base", "out=runs/apart"]) == 0
        yield folder


@pytest.fixture
def words(words_for_tiny: tuple[str, ...], trained: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(trained / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(trained)
    return ["compose", *words_for_tiny, "train.max_steps=3", "experts=[runs/one,runs/two]"]


@pytest.fixture
def exported(words: list[str], trained: Path) -> list[str]:
    """The words with the experts as ``export to=peft`` writes them, of runs that are not there to be looked at."""
    for name in ("one", "two"):
        if not (trained / "peft" / name).exists():
            assert run(["export", f"run=runs/{name}", "to=peft", f"out=peft/{name}"]) == 0
    return [*(word for word in words if not word.startswith("experts=")), "experts=[peft/one,peft/two]"]


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(newest_checkpoint(folder) / "adapter" / "adapter_model.safetensors")


def test_gates_are_trained_over_frozen_experts_and_the_run_stands_alone(words: list[str], tmp_path: Path) -> None:
    assert run([*words, f"out={tmp_path / 'run'}", "granularity=layer", "balance_coef=0.25"]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(records) == 3 and all(record["load_balance_loss"] > 1.38 for record in records)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["stage"]["learning_rates"] == {"adapter": 1e-3}
    assert Path(config["init_from"]) == Path("runs/base").resolve()
    assert not (newest_checkpoint(tmp_path / "run") / "projector.safetensors").exists()
    assembled = restore(tmp_path / "run")
    assert isinstance(assembled.attached.config, Mole)
    assert (assembled.attached.config.granularity, assembled.attached.load_balance_coef) == ("layer", 0.25)
    tensors, one = adapter_of(tmp_path / "run"), adapter_of(Path("runs/one"))
    for name, tensor in one.items():
        linear = name.removeprefix("base_model.model.model.")
        side = linear[linear.index("lora_") :]
        assert torch.equal(tensors[linear.replace(side, f"experts.one.{side}")], tensor)
    gates = {name: tensor for name, tensor in tensors.items() if "expert_gate" in name}
    assert gates and all(tensor.any() for tensor in gates.values())
    hidden = [Path("runs/one").rename("runs/hidden-one"), Path("runs/two").rename("runs/hidden-two")]
    try:
        model, _ = load_run(tmp_path / "run")
    finally:
        for folder in hidden:
            folder.rename(folder.with_name(folder.name.removeprefix("hidden-")))
    ids = torch.arange(5, 20)[None]
    assert torch.equal(model(input_ids=ids).logits, assembled.model(input_ids=ids).logits)


def test_balance_is_that_of_the_step_however_it_is_packed(words: list[str], tmp_path: Path) -> None:
    logs = []
    for tokens in (128, 1024):
        words = [word for word in words if not word.startswith(("train.tokens_per_micro_batch", "train.max_length"))]
        size = [f"train.tokens_per_micro_batch={tokens}", "train.max_length=128", f"out={tmp_path / str(tokens)}"]
        assert run([*words, *size, "stage.demo.learning_rates.adapter=1e-2"]) == 0
        logs.append([json.loads(line) for line in (tmp_path / str(tokens) / "log.jsonl").read_text().splitlines()])
    for many, one in zip(*logs, strict=True):
        assert many["rows"] >= 2 and one["rows"] == 1
        for key in ("loss", "load_balance_loss", "objective", "grad_norm"):
            assert many[key] == pytest.approx(one[key], rel=1e-4), key


def test_experts_are_left_out_of_a_composition_for_good(words: list[str], refused: Refused, tmp_path: Path) -> None:
    assert run([*words, f"out={tmp_path / 'run'}"]) == 0
    for _ in range(2):
        assert run(["compose", f"run={tmp_path / 'run'}", "mask=[0,1]", f"out={tmp_path / 'kept'}"]) == 0
    kept, _ = load_run(tmp_path / "kept")
    alone, _ = load_run("runs/two")
    ids = torch.arange(5, 20)[None]
    assert torch.equal(kept(input_ids=ids).logits, alone(input_ids=ids).logits)
    assert not any(".one." in name or "gate." in name for name in adapter_of(tmp_path / "kept") if "expert" in name)
    other = ["compose", f"run={tmp_path / 'run'}", f"out={tmp_path / 'other'}"]
    assert "must be 2 numbers" in refused(*other, "mask=[1]")
    assert "mask=[1,0] and out=" in refused(*other)
    assert "mask=" in refused(*other, "mask=[2,0]")
    assert "no composition" in refused("compose", "run=runs/two", "mask=[1,0]", f"out={tmp_path / 'other'}")


def test_gates_of_a_bf16_run_are_saved_from_fp32_masters(words: list[str], tmp_path: Path) -> None:
    assert run([*words, "train.dtype=bf16", f"out={tmp_path / 'run'}"]) == 0
    tensors = adapter_of(tmp_path / "run")
    is_exact = {name: torch.equal(tensor, tensor.bfloat16().to(tensor.dtype)) for name, tensor in tensors.items()}
    assert all(is_exact[name] == ("expert_gate" not in name) for name in tensors)
    model, _ = load_run(tmp_path / "run")
    assert bool(model(input_ids=torch.arange(5, 20)[None]).logits.isfinite().all())


@torch.no_grad()
def logits_of(folder: Path) -> torch.Tensor:
    model, processor = load_run(folder)
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    return model(input_ids=torch.tensor([[5, *[image] * 16, 7, 9, 11]]), pixel_values=pixels).logits


def test_exported_experts_are_merged_on_the_base_that_they_brought(
    words: list[str], exported: list[str], tmp_path: Path
) -> None:
    assert run([*words, "method=linear", f"out={tmp_path / 'runs-own'}"]) == 0
    for method in ("linear", "svd"):
        assert run([*exported, f"method={method}", f"out={tmp_path / method}"]) == 0
    torch.testing.assert_close(logits_of(tmp_path / "linear"), logits_of(tmp_path / "runs-own"), atol=1e-5, rtol=1e-5)
    starts = {yaml.safe_load((tmp_path / name / "config.yaml").read_text())["init_from"] for name in ("linear", "svd")}
    assert starts == {str(next(tmp_path.glob("base-of-experts-*")))}
    # What one bare model says differs from what stands under the experts: the base of the runs was trained.
    torch.testing.assert_close(logits_of(Path(starts.pop())), logits_of(Path("runs/base")), atol=0, rtol=0)


def test_gates_over_exported_experts_train_as_over_their_runs(
    words: list[str], exported: list[str], tmp_path: Path
) -> None:
    logs = []
    for name, given in (("a", words), ("b", exported)):
        assert run([*given, f"out={tmp_path / name}"]) == 0
        logs.append([json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()])
    for ours, theirs in zip(*logs, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-4)
    Path("peft").rename("away")
    try:
        torch.testing.assert_close(logits_of(tmp_path / "b"), logits_of(tmp_path / "a"), atol=1e-4, rtol=1e-4)
    finally:
        Path("away").rename("peft")


def test_exported_experts_and_runs_on_one_base_are_composed(exported: list[str], tmp_path: Path) -> None:
    mixed = [*exported[:-1], "experts=[runs/one,peft/two]", "method=linear", f"out={tmp_path / 'mixed'}"]
    assert run(mixed) == 0
    assert not list(tmp_path.glob("base-of-experts-*"))
    assert yaml.safe_load((tmp_path / "mixed" / "config.yaml").read_text())["init_from"].endswith("runs/base")


def test_an_exported_composition_names_its_experts_without_the_way_there(words: list[str], tmp_path: Path) -> None:
    places = [str(Path("runs/one").resolve()), str(Path("runs/two").resolve())]
    words = [*(word for word in words if not word.startswith("experts=")), f"experts=[{','.join(places)}]"]
    assert run([*words, f"out={tmp_path / 'run'}"]) == 0
    out = tmp_path / "it"
    assert run(["export", f"run={tmp_path / 'run'}", "to=peft", f"out={out}"]) == 0
    assert (out / "expert-one" / "adapter_model.safetensors").is_file()
    for path in (path for path in out.rglob("*") if path.is_file() and path.suffix != ".safetensors"):
        text = path.read_text()
        assert str(tmp_path) not in text and not [place for place in places if place in text], path
    settings = json.loads((out / "router.json").read_text())["settings"]
    assert [expert["origin"] for expert in settings["experts"]] == ["one", "two"]


def test_exported_experts_of_other_bases_are_refused_in_a_line(
    exported: list[str], refused: Refused, tmp_path: Path
) -> None:
    assert run(["export", "run=runs/apart", "to=peft", f"out={tmp_path / 'apart'}"]) == 0
    out, bare = f"out={tmp_path / 'run'}", exported[:-1]
    line = refused(*bare, f"experts=[peft/one,{tmp_path / 'apart'}]", "method=linear", out)
    assert "projectors of their own" in line and "init_from=" in line
    line = refused(*bare, f"experts=[runs/one,{tmp_path / 'apart'}]", "method=linear", out)
    assert "projectors of their own" in line
    wider = "model.architecture.vision.intermediate_size=96"
    assert (
        "model.vision_tower" in (line := refused(*exported, wider, "method=linear", out)) and "give the model=" in line
    )
    torn = tmp_path / "torn"
    shutil.copytree("peft/one", torn)
    (torn / "base" / "model.safetensors").write_bytes(b"cut")
    assert "damaged" in refused(*bare, f"experts=[{torn},peft/two]", "method=linear", out)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_rank_that_no_linear_has_names_the_largest(words: list[str], refused: Refused, tmp_path: Path) -> None:
    out = f"out={tmp_path / 'run'}"
    line = refused(*words, "method=svd", "rank=5000", out)
    # The narrowest linear of the tiny model: keys and values of two heads of sixteen.
    assert "rank=5000: " in line and "so 32 is the largest rank" in line
    for rank in ("0", "-1", "1.5", "x"):
        assert "give a whole number of at least 1" in refused(*words, "method=svd", f"rank={rank}", out)
    for density in ("0", "1.1", "-1", "nan"):
        assert "above 0 and at most 1" in refused(*words, "method=ties", f"density={density}", out)
    assert "a finite number" in refused(*words, "method=linear", "weights=[nan,1]", out)
    assert run([*words, "method=svd", "rank=32", out]) == 0


def test_a_finished_composition_is_not_trained_again(words: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        assert run([*words, f"out={tmp_path / 'run'}"]) == 0
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3


@torch.no_grad()
def test_a_merge_is_a_run_that_other_commands_read(words: list[str], tmp_path: Path) -> None:
    assert run([*words, "method=linear", "weights=[1,0]", f"out={tmp_path / 'run'}"]) == 0
    merged, _ = load_run(tmp_path / "run")
    alone, _ = load_run("runs/one")
    ids = torch.arange(5, 20)[None]
    torch.testing.assert_close(merged(input_ids=ids).logits, alone(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["adapter"]["r"] == 5
    assert set(config["composition"]) == {"experts", "method", "weights", "density", "rank", "seed"}, "as it always was"
    assert run([*words, "method=linear", "weights=[1,0]", f"out={tmp_path / 'run'}"]) == 0


def test_one_lora_is_written_as_it_is_in_some_layers_alone(words: list[str], tmp_path: Path) -> None:
    bare = [word for word in words if not word.startswith("experts=")]
    assert run([*bare, "experts=[runs/apart]", "method=linear", "layers=[1]", f"out={tmp_path / 'top'}"]) == 0
    there, whole = adapter_of(tmp_path / "top"), adapter_of(Path("runs/apart"))
    assert len(there) == len(whole) / 2 and all(".layers.1." in name for name in there)
    settings = json.loads((adapter_folder(Path("runs/apart")) / "adapter_config.json").read_text())
    for name in (name for name in there if "lora_A" in name):
        delta = settings["lora_alpha"] / settings["r"] * whole[name.replace("lora_A", "lora_B")] @ whole[name]
        torch.testing.assert_close(there[name.replace("lora_A", "lora_B")] @ there[name], delta, atol=1e-6, rtol=1e-5)
    config = yaml.safe_load((tmp_path / "top" / "config.yaml").read_text())
    assert Path(config["init_from"]) == Path("runs/apart").resolve(), "the projector that was trained with it"


def test_pick_scores_each_expert_each_merge_and_mole(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "pick=true", "limit=6", f"out={tmp_path / 'run'}"]) == 0
    content = json.loads((tmp_path / "run" / "pick.json").read_text())
    names = [candidate["name"] for candidate in content["candidates"]]
    assert names == [
        *("one alone", "two alone", "linear", "normalized_linear", "svd", "ties", "dare_ties", "mole"),
    ]
    means = {candidate["name"]: candidate["mean"] for candidate in content["candidates"]}
    assert content["best"] == min(means, key=lambda name: means[name]) and len(set(means.values())) > 4
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("best on average"))
    assert f"{means['mole']:.4f}" in out and "out=" not in line


def test_the_experts_of_a_merge_are_scored_with_it(words: list[str], tmp_path: Path) -> None:
    assert run([*words, "method=svd", "pick=true", "limit=4", f"out={tmp_path / 'run'}"]) == 0
    candidates = json.loads((tmp_path / "run" / "pick.json").read_text())["candidates"]
    places = {candidate["name"]: candidate["place"] for candidate in candidates}
    assert places == {
        **{"one alone": "runs/one", "two alone": "runs/two", "svd": str(tmp_path / "run")},
        **dict.fromkeys(("linear", "normalized_linear", "ties", "dare_ties")),
    }


def test_experts_with_other_projectors_need_one_to_be_named(words: list[str], refused: Refused, tmp_path: Path) -> None:
    apart = [*words, "experts=[runs/one,runs/apart]"]
    apart.remove("experts=[runs/one,runs/two]")
    line = refused(*apart, f"out={tmp_path / 'run'}")
    assert "projectors of their own" in line and "init_from=" in line
    assert run([*apart, "init_from=runs/apart", f"out={tmp_path / 'run'}"]) == 0
    model, _ = load_run(tmp_path / "run")
    theirs, _ = load_run("runs/apart")
    projector, named = model.model.multi_modal_projector, theirs.model.multi_modal_projector
    assert torch.equal(projector.linear_1.weight, named.linear_1.weight)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda settings: "[" * 100_000 + "]" * 100_000, "nested too deep"),
        (lambda settings: json.dumps(settings | {"r": 2_000_000}), "of another shape than its settings say"),
        (lambda settings: json.dumps(settings | {"target_modules": "(?:.|.|.)*[A-Z]"}), "takes too long to match"),
        (lambda settings: json.dumps(settings | {"use_tomorrow": 1}), "not read here: use_tomorrow=1"),
        (lambda settings: json.dumps(settings | {"layers_to_transform": 0}), "layers_to_transform=0"),
    ],
    ids=["deep", "rank", "pattern", "unknown", "layer"],
)
def test_settings_of_an_expert_that_cannot_be_read_are_told_in_a_line(
    edit: Any, told: str, words: list[str], refused: Refused, tmp_path: Path
) -> None:
    bare = [word for word in words if not word.startswith("experts=")]
    shutil.copytree(adapter_folder(Path("runs/two")), tmp_path / "expert")
    path = tmp_path / "expert" / "adapter_config.json"
    path.write_text(edit(json.loads(path.read_text())))
    line = refused(*bare, f"experts=[runs/one,{tmp_path / 'expert'}]", f"out={tmp_path / 'run'}")
    assert told in line and str(tmp_path / "expert") in line


def test_what_cannot_be_composed_is_refused_in_a_line(words: list[str], refused: Refused, tmp_path: Path) -> None:
    bare = [word for word in words if not word.startswith("experts=")]
    assert "experts=" in refused(*bare)
    assert "two LoRAs" in refused(*bare, "experts=runs/one")
    assert "layers= is of merges" in refused(*words, "layers=[0]")
    assert "does not exist" in refused(*bare, "experts=[runs/one,runs/three]")
    assert "holds no adapter" in refused(*bare, "experts=[runs/one,runs/base]")
    assert "adapter= is not for compose" in refused(*words, "adapter=lora")
    assert "method=average" in refused(*words, "method=average")
    assert "granularity" in refused(*words, "granularity=row")
    assert "mask" in refused(*words, "mask=[1]")
    assert "nothing to train" in refused(*words, "mask=[1,0]", f"out={tmp_path / 'w'}")
    assert "weights" in refused(*words, "method=linear", "weights=[1]", f"out={tmp_path / 'x'}")
    assert "changes nothing" in refused(*words, "method=linear", "weights=[0,0]", f"out={tmp_path / 'y'}")
    assert "was trained on" in refused(*[word for word in words if "model" not in word], "model=demo")
    assert "another run" in refused(*words, "method=linear", "out=runs/one")
