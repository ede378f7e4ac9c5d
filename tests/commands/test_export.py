"""``llava-moe export`` through the real command line, on runs that were really trained."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import struct
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModel, PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_moe import load_run
from llava_moe.adapters import load_adapter
from llava_moe.assemble import read_config, restore
from llava_moe.cli import run
from llava_moe.commands import export as export_command
from llava_moe.commands.export_data import base_in_words
from llava_moe.config.settings import mixture_of
from llava_moe.data.images.transform import ImageTransform
from llava_moe.data.source import open_records
from llava_moe.model import FromCheckpoint, FromParts

TRAINED = {
    "lora": ["adapter=lora"],
    "llava_mole": ["adapter=llava_mole", "adapter.r=4"],
    "one_expert": ["adapter=llava_mole", "adapter.num_experts=1"],
    "mixlora": ["adapter=mixlora", "adapter.num_factors=6", "adapter.r=2"],
    "as_released": ["adapter=mixlora", "adapter.num_factors=6", "adapter.r=2", "adapter.as_released=true"],
    "none": ["adapter=none"],
    "pretrain": ["exp=pretrain_llava_558k"],
    "on_a_folder": ["adapter=lora", "model=llava_1_5_7b_hf", "model.architecture.path=MERGED"],
    "on_a_hub_model": ["adapter=lora", "model=llava_1_5_7b_hf", "model.architecture.path=CACHED"],
    "untrained": ["adapter=lora", "stage.demo.learning_rates.adapter=0.0", "train.max_steps=1"],
}


@pytest.fixture(scope="module")
def trained(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the folder of a tiny run of this name, trained once."""
    root = tmp_path_factory.mktemp("runs")

    def train(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            # A rate at which a few steps move the logits.
            rate = "stage.demo.learning_rates.adapter=0.01"
            words = [*words_for_tiny, *([] if name in ("none", "pretrain") else [rate]), *TRAINED[name]]
            if name == "pretrain":  # captions are the demo's
                words = [word for word in words if not word.startswith(("data=", "path=", "images="))]
            if name.startswith("on_a"):  # its base is what another run was exported to
                words = [word for word in words if "tokenizer=" not in word and word != "model=tiny"]
                words = [word.replace("MERGED", str(merged())).replace("CACHED", str(cached())) for word in words]
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LLAVA_MOE_CACHE", str(root / "cache"))
                patch.chdir(root)
                assert run(["train", *words, f"out={folder}"]) == 0
        return folder

    def merged() -> Path:
        if not (root / "merged").exists():
            assert run(["export", f"run={train('lora')}", "to=hf", f"out={root / 'merged'}"]) == 0
        return root / "merged"

    def cached() -> Path:
        place = root / "hub" / "models--acme--tiny-llava" / "snapshots" / "0123abcd"
        if not place.exists():
            shutil.copytree(merged(), place)
        return place

    return train


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


QUESTION = "USER: <image>\nWhat colour is the square? ASSISTANT:"
PICTURES = {"square": Image.new("RGB", (40, 40), (30, 30, 220)), "wide": Image.new("RGB", (90, 33), (220, 30, 30))}


@torch.no_grad()
def answers(model: Any, processor: Any, num_tokens: int = 8) -> dict[str, list[int]]:
    found = {}
    for name, picture in PICTURES.items():
        inputs = processor(images=picture, text=QUESTION, return_tensors="pt").to(model.dtype)
        tokens = model.generate(**inputs, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False)
        found[name] = tokens[0, inputs["input_ids"].shape[1] :].tolist()
    return found


@pytest.mark.parametrize("name", ["lora", "one_expert", "none", "pretrain"])
def test_merged_run_answers_the_same_words_under_plain_transformers(
    trained: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(["export", f"run={trained(name)}", "to=hf", f"out={tmp_path / 'merged'}"]) == 0
    assert re.search(r"merged model: logits differ by at most \d\.\d+e[-+]\d+ from ours", capsys.readouterr().out)
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    assert type(model) is LlavaForConditionalGeneration
    assert answers(model, processor) == answers(*load_run(trained(name)))


def test_plain_lora_is_one_folder_that_peft_loads_with_the_projector(
    trained: Callable[[str], Path], tmp_path: Path
) -> None:
    assert run(["export", f"run={trained('lora')}", "to=peft", f"out={tmp_path / 'it'}"]) == 0
    base = LlavaForConditionalGeneration.from_pretrained(tmp_path / "it" / "base")
    with torch.no_grad():
        base.model.multi_modal_projector.linear_1.weight.zero_()  # the folder carries its own
    model = PeftModel.from_pretrained(base, tmp_path / "it").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "it")
    assert answers(model, processor) == answers(*load_run(trained("lora")))
    settings = json.loads((tmp_path / "it" / "adapter_config.json").read_text())
    assert settings["modules_to_save"] == ["multi_modal_projector"]
    assert settings["base_model_name_or_path"] == "base"


def test_the_next_command_of_a_peft_export_answers_as_the_run_does(
    trained: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    PICTURES["wide"].save(tmp_path / "picture.png")
    out, asked = tmp_path / "export", [f"image={tmp_path / 'picture.png'}", "prompt=What is it?", "max_new_tokens=8"]
    folder = trained("lora")
    capfd.readouterr()
    assert run(["export", f"run={folder}", "to=peft", f"out={out}"]) == 0
    (line,) = re.findall("^  (llava-moe chat .*)$", capfd.readouterr().out, flags=re.MULTILINE)
    said = []
    for words in (shlex.split(line)[1:], ["chat", f"run={folder}"]):
        assert run([*words, *asked]) == 0
        said.append(capfd.readouterr().out)
    assert said[0] == said[1] != ""
    assert run(["chat", f"model.path={out}", *asked]) == 2
    assert f"give model.path=BASE model.peft={out}" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["lora", "llava_mole"])
def test_auto_peft_takes_a_folder_that_is_the_current_one_and_its_base_with_it(
    trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert run(["export", f"run={trained(name)}", "to=peft", f"out={tmp_path / 'it'}"]) == 0
    shutil.move(tmp_path / "it", tmp_path / "moved")
    base, processor = tmp_path / "moved" / "base", AutoProcessor.from_pretrained(tmp_path / "moved")
    inputs = processor(images=PICTURES["wide"], text=QUESTION, return_tensors="pt")

    @torch.no_grad()
    def logits(model: torch.nn.Module) -> torch.Tensor:
        return model.eval()(**inputs).logits

    experts = sorted((tmp_path / "moved").glob("expert-*"))
    found = [logits(LlavaForConditionalGeneration.from_pretrained(base))]
    for folder in experts or [tmp_path / "moved"]:
        apart = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(base), folder)
        monkeypatch.chdir(folder)
        found.append(logits(AutoPeftModel.from_pretrained(".")))
        assert torch.equal(found[-1], logits(apart))
        ours = LlavaForConditionalGeneration.from_pretrained(base)
        with torch.no_grad():
            ours.model.multi_modal_projector.linear_1.weight.zero_()  # the folder carries its own
        load_adapter(ours, folder)
        torch.testing.assert_close(logits(ours), found[-1], atol=1e-5, rtol=1e-5)
    assert all(not torch.equal(left, right) for left, right in pairwise(found))
    if not experts:
        torch.testing.assert_close(found[1], logits(load_run(trained(name))[0]), atol=1e-5, rtol=1e-5)


PUBLISHED = json.loads((Path(__file__).parent.parent / "export" / "published_names.json").read_text())


@pytest.mark.parametrize(
    ("name", "words", "base"),
    [("lora", ["to=hf"], ""), ("lora", ["to=peft"], "base"), ("llava_mole", ["to=hf", "static=by_domain=mine"], "")],
)
def test_a_base_is_written_with_the_files_and_tensor_names_of_published_folders(
    trained: Callable[[str], Path], tmp_path: Path, name: str, words: list[str], base: str
) -> None:
    assert run(["export", f"run={trained(name)}", *words, f"out={tmp_path / 'it'}"]) == 0
    folder, model = tmp_path / "it" / base, PUBLISHED["variants"]["untied"]
    files = [path.name for path in folder.iterdir() if path.name != "README.md"]
    assert sorted(files) == sorted([*model["files"], *PUBLISHED["processor_files"]])
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    assert header.keys() - {"__metadata__"} == model["tensors"].keys()  # the tiny model has the list's layers


@pytest.mark.parametrize("name", ["lora", "on_a_folder", "on_a_hub_model", "llava_mole"])
def test_no_place_of_the_maker_stays_in_an_export_or_an_adapter(
    trained: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = trained(name)
    uniform = ["static=uniform", "limit=8"] if name == "llava_mole" else []
    assert run(["export", f"run={folder}", "to=hf", f"out={tmp_path / 'a'}", *uniform]) == 0
    assert run(["export", f"run={folder}", "to=peft", f"out={tmp_path / 'b'}"]) == 0
    places = [str(place) for place in (tmp_path, folder, folder.parent, Path.home(), Path.cwd())]
    exported = [path for part in ("a", "b") for path in (tmp_path / part).rglob("*")]
    own = list((folder / "checkpoints").glob("*/adapter/*"))
    assert own
    for path in [*exported, *own]:
        if path.is_file() and path.suffix != ".safetensors":
            text = path.read_text()
            assert not [place for place in places if place in text], path
            assert "_name_or_path" not in text.replace("base_model_name_or_path", ""), path
    named = {
        json.loads(path.read_text())["base_model_name_or_path"]
        for path in exported
        if path.name == "adapter_config.json"
    }
    assert named == {"on_a_hub_model": {"acme/tiny-llava"}, "llava_mole": {"../base"}}.get(name, {"base"})
    assert (tmp_path / "b" / "base").is_dir() == (name != "on_a_hub_model")
    card = (tmp_path / "b" / "README.md").read_text()
    hub = 'base_model: "acme/tiny-llava"' in card and "from_pretrained('acme/tiny-llava')" in card
    assert hub == (name == "on_a_hub_model")
    assert ("`merged` (a local folder)" in card) == (name == "on_a_folder")


@pytest.mark.parametrize(
    ("architecture", "words", "hub"),
    [
        (FromCheckpoint("llava-hf/llava-1.5-7b-hf"), "`llava-hf/llava-1.5-7b-hf`", "llava-hf/llava-1.5-7b-hf"),
        (FromCheckpoint("/data/anna/llava"), "`llava` (a local folder)", None),
        (
            FromParts("~/clip", "lmsys/vicuna-7b-v1.5"),
            "Vision tower `clip` (a local folder), language model `lmsys/vicuna-7b-v1.5`, joined by a projector.",
            "lmsys/vicuna-7b-v1.5",
        ),
        (FromParts("openai/clip", "/data/anna/vicuna"), "Vision tower `openai/clip`, language model `vicuna` (a", None),
        (FromParts("embedded:vision_tower", "embedded:language_model"), "`embedded:language_model`, joined", None),
    ],
)
def test_a_card_names_the_base_and_never_where_it_lay(
    architecture: FromCheckpoint | FromParts, words: str, hub: str | None
) -> None:
    said, found = base_in_words(architecture)
    assert words in said and found == hub and "anna" not in said and "~" not in said


def test_each_expert_becomes_a_folder_and_the_router_stands_beside_them(
    trained: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", f"run={trained('llava_mole')}", "to=peft", f"out={tmp_path / 'it'}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "logits differ" in line]
    assert [line.split()[0] for line in lines] == ["expert-0", "expert-1", "expert-2"]
    router = load_file(tmp_path / "it" / "router.safetensors")
    assert sorted(router) == [
        f"language_model.layers.{layer}.mlp.router.{part}" for layer in (0, 1) for part in ("bias", "weight")
    ]
    facts = json.loads((tmp_path / "it" / "router.json").read_text())
    assert facts["experts"] == {f"experts.{k}": f"expert-{k}" for k in range(3)}
    assert facts["settings"]["router"] == "straight_through"
    first, second = (load_file(tmp_path / "it" / f"expert-{k}" / "adapter_model.safetensors") for k in (0, 1))
    assert first.keys() == second.keys()
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert all(("mlp" not in name) == (name in same) for name in first)


def test_expert_folders_are_composed_again(
    trained: Callable[[str], Path], words_for_tiny: tuple[str, ...], tmp_path: Path
) -> None:
    assert run(["export", f"run={trained('llava_mole')}", "to=peft", f"out={tmp_path / 'it'}"]) == 0
    experts = f"experts=[{tmp_path / 'it' / 'expert-0'},{tmp_path / 'it' / 'expert-2'}]"
    words = [*words_for_tiny, experts, "method=linear", "weights=[0,1]", f"out={tmp_path / 'composed'}"]
    assert run(["compose", *words]) == 0
    base = LlavaForConditionalGeneration.from_pretrained(tmp_path / "it" / "base")
    alone = PeftModel.from_pretrained(base, tmp_path / "it" / "expert-2").eval()
    model, processor = load_run(tmp_path / "composed")
    inputs = processor(images=PICTURES["wide"], text=QUESTION, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, alone(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_mixture_that_depends_on_the_input_is_merged_only_when_asked_to_hold_it(
    trained: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["export", f"run={trained('llava_mole')}", "to=hf", f"out={tmp_path / 'it'}"]
    capfd.readouterr()
    assert run(words) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "static=uniform" in error and "by_domain=NAME (mine)" in error
    assert not (tmp_path / "it").exists() and not list(tmp_path.glob(".it*"))


@pytest.mark.parametrize("static", ["uniform", "by_domain=mine"])
def test_mixture_held_constant_prints_what_it_costs(
    trained: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], static: str
) -> None:
    words = ["export", f"run={trained('llava_mole')}", "to=hf", f"out={tmp_path / 'it'}", f"static={static}"]
    assert run([*words, "limit=24"]) == 0
    out = capsys.readouterr().out
    row = re.search(r"\| mine \| (\S+) \| (\S+) \| (\S+) \| (\d+) \|", out)
    assert row, out
    routed, held, cost = (float(row[i]) for i in (1, 2, 3))
    assert abs(held - routed - cost) < 2e-4 and held != routed
    assert "no held-out split" in out  # one's own data has none, and that is said
    card = (tmp_path / "it" / "README.md").read_text()
    assert "The processor reads `<image>`, `</s>` and other control tokens wherever they stand" in card
    assert row[0] in card and "held constant" in card


@torch.no_grad()
def test_loss_as_trained_is_the_mean_over_all_answer_tokens_of_each_record_alone(
    trained: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", f"run={trained('llava_mole')}", "to=hf", f"out={tmp_path / 'it'}", "static=uniform"]
    assert run([*words, "limit=48"]) == 0
    printed = re.search(r"\| mine \| (\S+) \|.*\| (\d+) \|", capsys.readouterr().out)
    assert printed is not None
    assembled = restore(trained("llava_mole"))
    transform = assembled.encoder.transform
    assert isinstance(transform, ImageTransform)
    source = mixture_of(read_config(trained("llava_mole"))).sources[0]
    total, num_tokens = 0.0, 0
    records = open_records(source, tmp_path / "cache")
    for conversation in map(records.__getitem__, range(len(records))):
        example = assembled.encoder.encode(conversation, source.images, 0)
        inputs = {"input_ids": torch.from_numpy(example.input_ids)[None]}
        if len(example.pixels):
            inputs["pixel_values"] = transform.normalize(torch.from_numpy(example.pixels))
        labels = torch.from_numpy(example.labels)[1:]
        logits = assembled.model(**inputs).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
        num_tokens += int((labels != -100).sum())
    assert int(printed[2]) == num_tokens
    assert float(printed[1]) == pytest.approx(total / num_tokens, abs=1e-4)


def test_mean_pairing_of_mixlora_is_merged_and_its_experts_are_none(
    trained: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["export", f"run={trained('mixlora')}"]
    assert run([*words, "to=hf", f"out={tmp_path / 'it'}", "static=by_domain=mine", "limit=8"]) == 0
    refused = (["to=peft"], "none is a LoRA alone"), (["to=hf", "static=uniform"], "by_domain=NAME"), (["to=hf"], "by_")
    for rest, message in refused:
        capfd.readouterr()
        assert run([*words, *rest, f"out={tmp_path / 'other'}"]) == 2
        error = capfd.readouterr().err
        assert message in error and "or export to=peft" not in error
    capfd.readouterr()
    assert run(["export", f"run={trained('as_released')}", "to=hf", f"out={tmp_path / 'other'}"]) == 2
    assert "as_released=false" in capfd.readouterr().err


@pytest.mark.parametrize("to", ["hf", "peft"])
def test_the_commands_of_the_card_load_the_export(
    trained: Callable[[str], Path], tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["export", f"run={trained('lora')}", f"to={to}", f"out={tmp_path / 'an export'}"]) == 0
    card = (tmp_path / "an export" / "README.md").read_text()
    PICTURES["wide"].save(tmp_path / "picture.png")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(code[1], str(tmp_path / "an export" / "README.md"), "exec"), {"__name__": "__main__"})
    for word in ("| mine | mine |", "6 optimizer steps", "| `lora_alpha` | `64` |", "library_name", "## Licences"):
        assert word in card, word


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eval/results.json", b"{"),
        ("eval/results.json", b"7"),
    ],
)
def test_damaged_files_of_the_run_are_named_in_one_line(
    trained: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    shutil.copytree(trained("lora"), tmp_path / "run")
    (tmp_path / "run" / "eval").mkdir(exist_ok=True)
    (tmp_path / "run" / name).write_bytes(content)
    capfd.readouterr()
    assert run(["export", f"run={tmp_path / 'run'}", "to=hf", f"out={tmp_path / 'it'}"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and f"{tmp_path / 'run' / name}" in error, error


def test_damaged_lines_of_the_log_are_counted_in_the_card(trained: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(trained("lora"), tmp_path / "run")
    sound = b'{"domains": {"mine": {"samples": 8, "supervised_tokens": 9}}}\n'
    damaged = (b'{"domains": []}\n', b'{"domains": {"mine": {"samples": "many", "supervised_tokens": 9}}}\n')
    (tmp_path / "run" / "log.jsonl").write_bytes(sound + b"".join(damaged))
    (tmp_path / "run" / "log.jsonl.damaged").write_bytes(b"\xff\n")
    assert run(["export", f"run={tmp_path / 'run'}", "to=hf", f"out={tmp_path / 'it'}"]) == 0
    card = (tmp_path / "it" / "README.md").read_text()
    assert "The counts lack 3 damaged line(s) of its log." in card and "| mine | mine | 8 | 9 |" in card


@pytest.mark.parametrize("to", ["hf", "peft"])
def test_a_copy_that_memory_does_not_hold_is_refused_before_it_is_read(
    to: str,
    trained: Callable[[str], Path],
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_command, "free_memory", lambda: 1 << 16)
    told = refused("export", f"run={trained('lora')}", f"to={to}", f"out={tmp_path / 'out'}")
    assert "GiB more, and 0.0 are free: export on a machine with more memory" in told
    assert not (tmp_path / "out").exists()


def test_run_whose_adapter_was_never_trained_is_refused(
    trained: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for to in ("hf", "peft"):
        capfd.readouterr()
        assert run(["export", f"run={trained('untrained')}", f"to={to}", f"out={tmp_path / 'it'}"]) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and "equal the base model's" in error
        assert not (tmp_path / "it").exists()


def test_peft_that_is_not_installed_is_asked_for_before_anything_is_done(
    trained: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained("lora")
    monkeypatch.setitem(sys.modules, "peft", None)
    capfd.readouterr()
    assert run(["export", f"run={folder}", "to=peft", f"out={tmp_path / 'it'}"]) == 2
    assert "pip install 'llava-moe[peft]'" in capfd.readouterr().err


def test_bfloat16_export_is_written_and_compared(
    trained: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", f"run={trained('lora')}", "to=hf", f"out={tmp_path / 'it'}", "dtype=bf16"]) == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "it" / "model.safetensors").values()} == {torch.bfloat16}
    assert LlavaForConditionalGeneration.from_pretrained(tmp_path / "it").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("lora", ["to=onnx", "out=it"], "to=onnx: give hf or peft"),
        ("lora", ["out=it"], "export needs to="),
        ("lora", ["to=hf"], "export needs out="),
        ("lora", ["to=hf", "out=it", "static=some"], "static=uniform or static=by_domain=NAME"),
        ("lora", ["to=hf", "out=it", "static=uniform"], "does not: leave it out"),
        ("lora", ["to=hf", "out=it", "static=by_domain=law"], "'law' is no domain of the run's data: it has mine"),
        ("llava_mole", ["to=peft", "out=it", "static=uniform"], "leave static= out"),
        ("none", ["to=peft", "out=it"], "no adapter"),
        ("lora", ["to=hf", "out=full"], "out=full is there already"),
        ("lora", ["to=hf", "out=it", "stati=uniform"], "did you mean static"),
        ("lora", ["to=hf", "out=full/file/it"], "full/file is there already and is no folder"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    trained: Callable[[str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    words: list[str],
    message: str,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    folder = trained(name)
    capfd.readouterr()
    assert run(["export", f"run={folder}", *words]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and message in error, error
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["full"]
