"""Adapters on any decoder: the same facts for every family of models and every method."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import Trainer, TrainingArguments

from llava_moe.adapters import Attached, LlavaMole, Lora, MixLora, Mole, attach, load_adapter
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.errors import UserError
from tests.adapters.tiny_decoders import FAMILIES, START_TOKEN, Family
from tests.tiny_models import IMAGE_TOKEN

# Method by name: of a family of models and an empty folder, its configuration.
METHODS: dict[str, Callable[[Family, Path], Any]] = {
    "lora": lambda family, folder: Lora(r=2, lora_alpha=4),
    "llava_mole": lambda family, folder: LlavaMole(num_experts=3, r=2, lora_alpha=4),
    "mixlora": lambda family, folder: MixLora(num_factors=6, r=2, lora_alpha=4),
    "mole": lambda family, folder: Mole(experts=[trained_apart(family, folder / str(seed), seed) for seed in (1, 2)]),
}
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
UNSPEAKABLE = list(range(IMAGE_TOKEN, START_TOKEN + 2))
PAGE = Path(__file__).parents[2] / "docs" / "any_decoder.md"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def trained_apart(family: Family, folder: Path, seed: int) -> str:
    """The folder of a LoRA with weights that matter, made where it is not there."""
    if folder.exists():
        return str(folder)
    attached = attach(family.build(), family.fitted(Lora(r=2, lora_alpha=4)))
    randomize(attached, seed)
    attached.save(folder)
    return str(folder)


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what a method starts from is made once for each family."""
    return tmp_path_factory.mktemp("experts")


@pytest.fixture(params=METHODS)
def config(request: pytest.FixtureRequest, family: Family, experts: Path) -> Any:
    return family.fitted(METHODS[request.param](family, experts / family.name))


def randomize(attached: Attached, seed: int = 1) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.normal_(std=0.2)


def adapted(family: Family, config: Any) -> tuple[Any, Attached]:
    model = family.build()
    attached = attach(model, config)
    randomize(attached)
    return model, attached


def grown(family: Family, row: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """What the model is called with for a row that was gone on with."""
    more = {"input_ids": ids}
    if family.marks_images:
        marks = torch.zeros_like(ids)
        marks[:, : row["input_ids"].shape[1]] = row[family.marks_images]
        more[family.marks_images] = marks
    return row | more


def generate(model: Any, inputs: dict[str, Tensor], **more: Any) -> Any:
    return model.generate(
        **{key: value for key, value in inputs.items() if key != "position_ids"},
        max_new_tokens=4,
        do_sample=False,
        suppress_tokens=[token for token in UNSPEAKABLE if token < 64],
        output_logits=True,
        return_dict_in_generate=True,
        **more,
    )


@torch.no_grad()
def test_a_fresh_adapter_equals_the_base(family: Family, config: Any) -> None:
    model = family.build()
    before = [model(**row).logits for row in family.examples()]
    attached = attach(model, config)
    if isinstance(config, Mole):  # Its experts are no fresh ones; what it adds of its own is the gate.
        for name, parameter in attached.named_parameters().items():
            parameter.mul_("lora_B" not in name)
    assert all(torch.equal(model(**row).logits, was) for row, was in zip(family.examples(), before, strict=True))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.packs], ids=str)
@torch.no_grad()
def test_a_packed_row_equals_its_examples_alone(family: Family, config: Any) -> None:
    model, attached = adapted(family, config)
    torch.testing.assert_close(model(**family.packed(model)).logits[0], torch.cat(family.alone(model)), **CLOSE)
    assert_balance_is_that_of(family, model, attached, family.packed(model))


@torch.no_grad()
def test_left_padded_rows_equal_their_examples_alone(family: Family, config: Any) -> None:
    model, attached = adapted(family, config)
    for row, alone in zip(model(**family.left_padded()).logits, family.alone(model), strict=True):
        torch.testing.assert_close(row[-len(alone) :], alone, **CLOSE)
    assert_balance_is_that_of(family, model, attached, family.left_padded())


def assert_balance_is_that_of(family: Family, model: Any, attached: Attached, together: dict[str, Tensor]) -> None:
    """The balance loss of several examples is the mean of each one's alone: their tokens are told apart.

    MoLE's (eq. 14-15) is one of all examples together, so that rows of one example each have the same one.
    """
    model(**together)
    balance = attached.auxiliary_loss()
    if isinstance(attached.config, Mole):
        model(**family.left_padded())
        torch.testing.assert_close(balance, attached.auxiliary_loss(), **CLOSE)
        return
    alone = []
    for row in family.examples():
        model(**row)
        alone.append(attached.auxiliary_loss())
    torch.testing.assert_close(balance, torch.stack(alone).mean(), **CLOSE)


@torch.no_grad()
def test_cached_generation_equals_a_full_forward(family: Family, config: Any) -> None:
    model, _ = adapted(family, config)
    row = family.examples()[1]
    generated = generate(model, row)
    for step, logits in enumerate(generated.logits):
        prefix = generated.sequences[:, : row["input_ids"].shape[1] + step]
        expected = model(**grown(family, row, prefix), use_cache=False).logits[:, -1]
        torch.testing.assert_close(logits, expected, **CLOSE)
    assert len(generated.logits) == 4


@torch.no_grad()
def test_a_left_padded_batch_generates_what_each_row_does(family: Family, config: Any) -> None:
    model, _ = adapted(family, config)
    together = generate(model, family.left_padded()).sequences[:, -4:]
    alone = [generate(model, row).sequences[:, -4:] for row in family.examples()]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("family", [FAMILIES[0], *(f for f in FAMILIES if f.name in ("llava", "qwen2_vl"))], ids=str)
@torch.no_grad()
def test_beams_are_the_same_with_and_without_cache_padded_and_alone(family: Family, config: Any) -> None:
    model, _ = adapted(family, config)
    beams = {"num_beams": 3, "num_return_sequences": 2}
    together = generate(model, family.left_padded(), **beams).sequences[:, -4:]
    assert torch.equal(generate(model, family.left_padded(), **beams, use_cache=False).sequences[:, -4:], together)
    alone = [generate(model, row, **beams).sequences[:, -4:] for row in family.examples()]
    assert torch.equal(torch.cat(alone), together)


class Watched:
    """What an adapter's methods learn of each call: the prompts' means of the first layer's input, and whether it
    goes on with a conversation."""

    def __init__(self, model: Any) -> None:
        self.pooled: list[Tensor] = []
        self.is_decoding: list[bool] = []
        self.segments = Segments()
        target_model = TargetModel.of(model)
        self.segments.watch(target_model.language_model, target_model.model)
        cast(Any, target_model.language_model).layers[0].register_forward_pre_hook(self._read)

    def _read(self, layer: Any, args: tuple[Any, ...]) -> None:
        self.is_decoding.append(self.segments.is_decoding)
        self.pooled.append(self.segments.pool(args[0]))


def labeled(family: Family, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with the last three tokens of each example supervised."""
    ids = inputs["input_ids"]
    labels = torch.full_like(ids, -100)
    lengths = torch.tensor([row["input_ids"].shape[1] for row in family.examples()])
    ends = (
        [(0, end) for end in lengths.cumsum(0)] if len(ids) == 1 else [(row, ids.shape[1]) for row in range(len(ids))]
    )
    for row, end in ends:
        labels[row, end - 3 : end] = ids[row, end - 3 : end]
    return inputs | {"labels": labels}


@pytest.mark.parametrize("layout", ["packed", "left_padded"])
@torch.no_grad()
def test_prompts_are_told_from_answers_and_other_examples(family: Family, layout: str) -> None:
    model = family.build()
    watched = Watched(model)
    for row in family.examples():
        prompt = {key: value[:, :-3] if family.is_by_token(key) else value for key, value in row.items()}
        model(**prompt, use_cache=False)
    alone = torch.cat(watched.pooled)
    model(**labeled(family, family.packed(model) if layout == "packed" else family.left_padded()))
    torch.testing.assert_close(watched.pooled[-1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cache", [None, "static"])
@torch.no_grad()
def test_generation_is_one_prompt_and_then_decoding(family: Family, cache: str | None) -> None:
    model = family.build()
    watched = Watched(model)
    for row in family.examples():
        generate(model, row, cache_implementation=cache)
    alone = torch.cat([watched.pooled[call] for call in (0, 4, 8)])
    assert watched.is_decoding == [False, True, True, True] * 3
    generate(model, family.left_padded(), cache_implementation=cache)
    torch.testing.assert_close(watched.pooled[12], alone, atol=1e-5, rtol=1e-5)
    assert watched.is_decoding[12:] == [False, True, True, True]


def test_every_tensor_of_the_adapter_has_a_gradient_and_no_other(family: Family, config: Any) -> None:
    model, attached = adapted(family, config)
    cast(Tensor, sum(logits.square().mean() for logits in family.alone(model))).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in attached.named_parameters().items() if parameter.requires_grad}
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == trained and trained


def test_only_linears_of_the_language_model_are_widened(family: Family, config: Any) -> None:
    bare = {name: type(module) for name, module in family.build().named_modules()}
    model, attached = adapted(family, config)
    target_model = TargetModel.of(model)
    widened = {name for name, module in model.named_modules() if isinstance(module, WideLinear)}
    assert len(widened) == len(family.targets.get("target_modules", range(7))) * 2
    assert all(name.startswith(f"{target_model.language_model_name}.layers.") for name in widened)
    outside = {name for name in bare if not f"{name}.".startswith(f"{target_model.language_model_name}.")}
    assert {name: type(model.get_submodule(name)) for name in outside} == {name: bare[name] for name in outside}
    assert all(name.startswith(f"{target_model.language_model_name}.") for name in attached.named_parameters())


@torch.no_grad()
def test_a_saved_adapter_gives_the_same_logits_on_a_fresh_model(family: Family, config: Any, tmp_path: Path) -> None:
    model, attached = adapted(family, config)
    attached.save(tmp_path / "adapter")
    other = family.build()
    load_adapter(other, tmp_path / "adapter")
    assert all(map(torch.equal, family.alone(other), family.alone(model)))


@torch.no_grad()
def test_lora_is_pefts_both_ways(family: Family, tmp_path: Path) -> None:
    model, attached = adapted(family, family.fitted(Lora(r=2, lora_alpha=4)))
    attached.save(tmp_path / "ours")
    read_by_peft = PeftModel.from_pretrained(family.build(), tmp_path / "ours")
    for logits, expected in zip(family.alone(read_by_peft), family.alone(model), strict=True):
        torch.testing.assert_close(logits, expected, **CLOSE)

    target_model = TargetModel.of(family.build())
    assert isinstance(attached.config, Lora)
    targets = target_model.peft_targets(
        attached.config.target_modules, target_model.select(attached.config.target_modules)
    )
    made_by_peft = get_peft_model(family.build(), LoraConfig(r=2, lora_alpha=8, target_modules=targets))
    for name, parameter in made_by_peft.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.2)
    made_by_peft.save_pretrained(tmp_path / "theirs")
    other = family.build()
    load_adapter(other, tmp_path / "theirs")
    for logits, expected in zip(family.alone(other), family.alone(made_by_peft), strict=True):
        torch.testing.assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize("method", ["lora", "llava_mole", "mixlora"])
def test_fused_linears_are_named_where_the_usual_ones_are_missing(method: str, experts: Path) -> None:
    phi3 = next(family for family in FAMILIES if family.name == "phi3")
    setting = "expert_modules" if method == "llava_mole" else "target_modules"
    with pytest.raises(
        UserError,
        match=rf"{setting} .* match no linear.*\['down_proj', 'gate_up_proj', 'o_proj', 'qkv_proj'\]$",
    ):
        attach(phi3.build(), METHODS[method](phi3, experts))


def shown_example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert len(code.splitlines()) <= 15
    return code


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_of_the_documentation_trains_the_adapter_and_its_routers(
    checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base,) = [family for family in FAMILIES if family.name == "qwen2"]
    base.build().save_pretrained(tmp_path / "base")
    logged: list[float] = []
    before: dict[str, Tensor] = {}

    def short(*_: Any, **__: Any) -> Any:
        return TrainingArguments(
            str(tmp_path / "out"),
            max_steps=3,
            learning_rate=0.02,
            lr_scheduler_type="constant",
            per_device_train_batch_size=4,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            gradient_checkpointing=checkpointing,
        )

    train = Trainer.train

    def watched(self: Trainer) -> Any:
        assert self.model is not None
        before.update({name: tensor.detach().clone() for name, tensor in self.model.named_parameters()})
        done = train(self)
        logged.extend(entry["loss"] for entry in self.state.log_history if "loss" in entry)
        return done

    torch.manual_seed(3)
    ids = torch.randint(2, 60, (4, 12))
    dataset = [{"input_ids": row, "labels": row} for row in ids]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "train", watched)
    code = shown_example().replace('"Qwen/Qwen2-0.5B"', repr(str(tmp_path / "base")))
    code = code.replace('TrainingArguments("out")', "short()")
    names: dict[str, Any] = {"dataset": dataset, "short": short}
    exec(compile(code, str(PAGE), "exec"), names)

    model, attached = names["model"], names["attached"]
    assert len(logged) == 3 and logged[2] < logged[0]
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == attached.named_parameters().keys() and any("router" in name for name in moved)
    again = base.build()
    load_adapter(again, tmp_path / "out" / "adapter")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model.eval()(ids).logits)


def test_routers_of_a_mixtures_own_experts_are_refused_where_the_balance_is_asked_for() -> None:
    class Part(torch.nn.Module):
        """An MLP that every other token visits."""

        def __init__(self, mlp: torch.nn.Module) -> None:
            super().__init__()
            self.expert = mlp

        def forward(self, x_BTD: Tensor) -> Tensor:
            x_ND = x_BTD.flatten(0, 1)
            return x_ND.index_add(0, torch.arange(0, len(x_ND), 2), self.expert(x_ND[::2])).view_as(x_BTD)

    model = next(family for family in FAMILIES if family.name == "llama").build()
    for layer in model.model.layers:
        layer.mlp = Part(layer.mlp)
    attached = attach(model, LlavaMole(r=2))
    model(torch.arange(8)[None])
    with pytest.raises(UserError, match=r"model\.layers\.0\.mlp\.expert does not see every token once"):
        attached.auxiliary_loss()
