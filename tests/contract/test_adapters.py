"""What every adapter must do, whichever it is: one run of these facts per file in configs/adapter.

A new method is held to them by having a yaml. The model is a tiny random LLaVA with images of four tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from llava_moe.adapters import Attached, LlavaMole, Lora, MixLora, attach, load_adapter
from llava_moe.adapters.registry import ADAPTERS
from llava_moe.model import recompute_activations
from tests.tiny_models import IMAGE_TOKEN, tiny_llava

FILES = sorted((Path(__file__).parents[2] / "configs" / "adapter").glob("*.yaml"))
IMAGE_LENGTH = 4


def build_config(file: Path, tmp_path: Path) -> Any:
    settings = yaml.safe_load(file.read_text())
    kind = ADAPTERS[settings.pop("_target_")]
    if "experts" in settings:
        settings["experts"] = [write_lora(tmp_path / f"rank{r}", r) for r in (3, 5)]
    return kind(**settings)


def write_lora(folder: Path, r: int) -> str:
    """A LoRA trained for no step: its A is random, its B is zero."""
    attach(tiny_llava(), Lora(r=r, lora_alpha=7)).save(folder)
    return str(folder)


def randomize(attached: Attached) -> None:
    """Give every tensor of the adapter a value that matters, B included."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.normal_(std=0.2)


def examples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three examples (input_ids [t], pixel_values [1, 3, 16, 16]); an image each."""
    torch.manual_seed(2)
    image = torch.full((IMAGE_LENGTH,), IMAGE_TOKEN)
    return [
        (torch.cat([torch.tensor([1]), image, torch.randint(2, 60, (length,))]), torch.randn(1, 3, 16, 16))
        for length in (5, 11, 8)
    ]


def packed() -> dict[str, Any]:
    rows = examples()
    return {
        "input_ids": torch.cat([ids for ids, _ in rows])[None],
        "position_ids": torch.cat([torch.arange(len(ids)) for ids, _ in rows])[None],
        "pixel_values": torch.cat([pixels for _, pixels in rows]),
        "use_cache": False,
    }


def alone(model: torch.nn.Module) -> list[torch.Tensor]:
    return [model(input_ids=ids[None], pixel_values=pixels).logits[0] for ids, pixels in examples()]


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_config(request.param, tmp_path_factory.mktemp("experts"))


@pytest.fixture
def model() -> LlavaForConditionalGeneration:
    return tiny_llava()


def test_every_method_of_the_package_has_a_yaml() -> None:
    assert {file.stem for file in FILES} >= {"lora", "llava_mole", "mixlora", "none"}


@torch.no_grad()
def test_fresh_adapter_equals_base_exactly(config: Any, model: LlavaForConditionalGeneration) -> None:
    before = model(**packed()).logits
    attach(model, config)
    assert torch.equal(model(**packed()).logits, before)


@torch.no_grad()
def test_packed_row_equals_examples_alone(config: Any, model: LlavaForConditionalGeneration) -> None:
    randomize(attach(model, config))
    torch.testing.assert_close(model(**packed()).logits[0], torch.cat(alone(model)), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_left_padded_batch_equals_examples_alone(config: Any, model: LlavaForConditionalGeneration) -> None:
    randomize(attach(model, config))
    rows = examples()
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.stack([torch.nn.functional.pad(ids, (width - len(ids), 0)) for ids, _ in rows])
    pixels = torch.cat([pixels for _, pixels in rows])
    mask = torch.stack([torch.arange(width) >= width - len(ids) for ids, _ in rows]).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=input_ids, pixel_values=pixels, attention_mask=mask, position_ids=positions).logits
    for row, expected in zip(logits, alone(model), strict=True):
        torch.testing.assert_close(row[-len(expected) :], expected, atol=2e-5, rtol=1e-5)


def test_every_trainable_tensor_receives_task_gradient(config: Any, model: LlavaForConditionalGeneration) -> None:
    attached = attach(model, config)
    randomize(attached)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, tensor in attached.named_parameters().items() if tensor.requires_grad}
    if not trainable:
        return
    model(**packed()).logits.square().mean().backward()
    silent = {name for name, p in attached.trainable_parameters().items() if p.grad is None or not p.grad.any()}
    assert silent == set()
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name not in trainable)


@pytest.mark.parametrize("config", [LlavaMole(r=2, router="hard"), MixLora(router_grad="none")], ids=["hard", "none"])
def test_the_task_leaves_the_routers_alone_where_that_is_asked(
    config: Any, model: LlavaForConditionalGeneration
) -> None:
    attached = attach(model, config)
    randomize(attached)
    model(**packed()).logits.square().mean().backward()
    names = attached.named_parameters()
    silent = {name for name, parameter in names.items() if parameter.grad is None or not parameter.grad.any()}
    assert silent == {name for name in names if ".router." in name or ".gate." in name} and silent


@torch.no_grad()
def test_cached_generation_equals_full_forward(config: Any, model: LlavaForConditionalGeneration) -> None:
    randomize(attach(model, config))
    ids, pixels = examples()[1]
    generated = cast(Any, model).generate(
        input_ids=ids[None],
        pixel_values=pixels,
        max_new_tokens=6,
        do_sample=False,
        suppress_tokens=[IMAGE_TOKEN],
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert len(generated.logits) == 6
    for step, logits in enumerate(generated.logits):
        prefix = generated.sequences[:, : len(ids) + step]
        expected = model(input_ids=prefix, pixel_values=pixels, use_cache=False).logits[:, -1]
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_saved_and_loaded_adapter_gives_equal_logits(
    config: Any, model: LlavaForConditionalGeneration, tmp_path: Path
) -> None:
    attached = attach(model, config)
    randomize(attached)
    attached.save(tmp_path)
    other = tiny_llava()
    loaded = load_adapter(other, tmp_path)
    assert loaded.load_balance_coef == attached.load_balance_coef
    assert torch.equal(other(**packed()).logits, model(**packed()).logits)


def test_file_holds_the_adapter_and_nothing_else(
    config: Any, model: LlavaForConditionalGeneration, tmp_path: Path
) -> None:
    attached = attach(model, config)
    randomize(attached)
    attached.save(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert sum(tensor.numel() for tensor in tensors.values()) == attached.num_parameters
    live = attached.state_dict()
    assert sum(tensor.double().sum() for tensor in tensors.values()) == sum(t.double().sum() for t in live.values())


def test_checkpointing_changes_no_gradient(config: Any) -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = tiny_llava().train()
        attached = attach(model, config)
        randomize(attached)
        if checkpointing:
            recompute_activations(model)
        # The projector trains too, as in the instruct stage: without an adapter it is what has a gradient.
        model.model.multi_modal_projector.requires_grad_(True)
        torch.manual_seed(3)
        row = packed()
        attached.mark_prompts(torch.where(row["position_ids"] < IMAGE_LENGTH + 3, -100, row["input_ids"]))
        loss = model(**row).logits.square().mean() + attached.auxiliary_loss()
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys() and plain
    for name in plain:
        assert torch.equal(plain[name], recomputed[name]), name


def test_passes_before_one_backward_pass_keep_their_gradients_when_recomputed(config: Any) -> None:
    def gradients(together: bool) -> dict[str, torch.Tensor]:
        model = tiny_llava().train()
        attached = attach(model, config)
        randomize(attached)
        model.model.multi_modal_projector.requires_grad_(True)
        losses = []
        if together:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        rows = packed()
        alone_rows = [
            {"input_ids": ids[None], "pixel_values": pixels, "use_cache": False} for ids, pixels in examples()
        ]
        for row in [rows, *alone_rows]:
            attached.mark_prompts(
                torch.where(torch.arange(row["input_ids"].shape[1]) < IMAGE_LENGTH + 3, -100, 1)[None]
            )
            losses.append(model(**row).logits.square().mean() + attached.auxiliary_loss())
            if not together:
                losses.pop().backward()
            with torch.no_grad():
                model.eval()(input_ids=torch.arange(1, 6)[None])
                model.train()
        if together:
            torch.stack(losses).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    each, together = gradients(False), gradients(True)
    assert each.keys() == together.keys() and each
    for name in each:
        torch.testing.assert_close(together[name], each[name], atol=1e-6, rtol=1e-4)


class Partition:
    """A model whose every module has its own parameters only while it runs, forward or backward, as under ZeRO-3."""

    def __init__(self, model: torch.nn.Module) -> None:
        for module in model.modules():
            whole = {name: parameter.data for name, parameter in module.named_parameters(recurse=False)}
            if whole:
                module.register_forward_pre_hook(self.gathering(whole))
                module.register_forward_hook(lambda module, _, __: self.release(module))
                module.register_full_backward_pre_hook(self.gathering(whole))
                self.release(module)

    def gathering(self, whole: dict[str, torch.Tensor]) -> Callable[[torch.nn.Module, Any], None]:
        return lambda module, _: self.gather(module, whole)

    @staticmethod
    def gather(module: torch.nn.Module, whole: dict[str, torch.Tensor]) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            parameter.data = whole[name]

    @staticmethod
    def release(module: torch.nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.empty(0)


def test_parameters_are_read_only_by_the_module_that_owns_them(config: Any) -> None:
    def gradients(partitioned: bool) -> dict[str, torch.Tensor]:
        model = tiny_llava()
        model.model.multi_modal_projector.requires_grad_(True)
        attached = attach(model, config)
        randomize(attached)
        if partitioned:
            Partition(model)
        loss = model(**packed()).logits.square().mean() + attached.auxiliary_loss()
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    whole, partitioned = gradients(False), gradients(True)
    assert whole.keys() == partitioned.keys() and whole
    for name in whole:
        torch.testing.assert_close(partitioned[name], whole[name])


@torch.no_grad()
def test_detaching_restores_the_model(config: Any, model: LlavaForConditionalGeneration) -> None:
    model.model.language_model.requires_grad_(True)
    before = model(**packed()).logits
    modules, trained = dict(model.named_modules()), {n: p.requires_grad for n, p in model.named_parameters()}
    attached = attach(model, config)
    randomize(attached)
    attached.detach()
    assert {name: id(module) for name, module in model.named_modules()} == {n: id(m) for n, m in modules.items()}
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trained
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(**packed()).logits, before)


def test_base_tensors_keep_hugging_face_names(
    config: Any, model: LlavaForConditionalGeneration, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attached = attach(model, config)
    randomize(attached)
    base = attached.base_state_dict()
    assert base.keys() == before.keys()
    assert all(torch.equal(base[name], before[name]) for name in before)
    model.save_pretrained(tmp_path, state_dict=base)
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())
