"""Released weights: small files in the exact layout of the released modules, whose forward pass stands here too."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaMLP

from llava_moe.adapters import LlavaMole, Lora, MixLora, attach
from llava_moe.adapters.released import Released, read_llava_lora, read_llava_mole, read_mixlora
from llava_moe.adapters.released_files import PROJECTOR, read_torch_file
from llava_moe.errors import UserError

RANK, EXPERTS = 3, 2


class LoRALayer(nn.Module):
    """``moe.py`` of forwchen/LLaVA-MoLE in evaluation: names, shapes and arithmetic."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(RANK, fan_in) * 0.2)
        self.lora_B = nn.Parameter(torch.randn(fan_out, RANK) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.lora_A.T @ self.lora_B.T * (2 * RANK / RANK)


class LoraMoeLm(nn.Module):
    """``LoRA_MOE_LM``: ``original_module``, ``moe_gate``, ``moe_down``, ``moe_up``, ``router``."""

    def __init__(self, original: LlamaMLP, dense: bool) -> None:
        super().__init__()
        self.original_module, self.dense = original, dense
        width, inner = original.gate_proj.in_features, original.gate_proj.out_features
        self.moe_gate = nn.ModuleList(LoRALayer(width, inner) for _ in range(EXPERTS))
        self.moe_down = nn.ModuleList(LoRALayer(inner, width) for _ in range(EXPERTS))
        self.moe_up = nn.ModuleList(LoRALayer(width, inner) for _ in range(EXPERTS))
        self.router = nn.Linear(width, EXPERTS)

    def mixed(self, x: Tensor, projection: nn.Module, probs: Tensor, experts: nn.ModuleList) -> Tensor:
        weights = probs if self.dense else F.one_hot(probs.argmax(-1), EXPERTS).to(probs)
        return projection(x) + sum(weights[..., k : k + 1] * expert(x) for k, expert in enumerate(experts))

    def forward(self, x: Tensor) -> Tensor:
        probs = self.router(x).softmax(-1)
        gate = self.mixed(x, self.original_module.gate_proj, probs, self.moe_gate)
        up = self.mixed(x, self.original_module.up_proj, probs, self.moe_up)
        return self.mixed(self.original_module.act_fn(gate) * up, self.original_module.down_proj, probs, self.moe_down)


class InputAdaptor(nn.Module):
    """``MLLM_InputAdaptor_Vicuna``: the parameters that its state dict holds."""

    def __init__(self, vision: int, width: int, embeddings: nn.Embedding) -> None:
        super().__init__()
        self.visual_start_token = nn.Parameter(torch.randn(1, 1, width))
        self.visual_end_token = nn.Parameter(torch.randn(1, 1, width))
        self.text_embed = embeddings
        self.projector = nn.Sequential(nn.Linear(vision, width), nn.GELU(), nn.Linear(width, width))


class Tower(nn.Module):
    """``CLIPVisionTower``: the tower under ``vision_tower``."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.vision_tower = tower


class ReleasedMole(nn.Module):
    """``MLLM_LLaVA_MoLE``: ``llm_model`` under PEFT with the MLPs replaced, ``vit``, ``in_adaptor``."""

    def __init__(self, language: LlamaForCausalLM, tower: nn.Module, dense: bool) -> None:
        super().__init__()
        targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
        self.llm_model = get_peft_model(language, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets))
        for layer in self.llm_model.base_model.model.model.layers:
            layer.mlp = LoraMoeLm(layer.mlp, dense)
        self.vit = Tower(tower)
        width = language.config.hidden_size
        self.in_adaptor = InputAdaptor(16, width, language.model.embed_tokens)
        for name, parameter in self.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.2)


def released_mole(build_llava: Callable[[], LlavaForConditionalGeneration], dense: bool = True) -> ReleasedMole:
    llava = build_llava()
    config = llava.config.text_config
    assert isinstance(config, LlamaConfig)
    language = LlamaForCausalLM(config)
    language.model, language.lm_head = llava.model.language_model, llava.lm_head
    torch.manual_seed(5)
    return ReleasedMole(language.eval(), llava.model.vision_tower, dense).eval()


def loaded(released: Released, model: Any) -> Any:
    """The base with a released adapter and projector in it, every tensor in its place."""
    attach(model, released.config).load_state_dict(released.adapter)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in released.projector.items():
            parameters[name].copy_(tensor)
    return model


IDS = torch.tensor([[1, 5, 9, 2, 44, 8, 31]])


@torch.no_grad()
@pytest.mark.parametrize("router", ["dense", "hard"])
def test_released_llava_mole_computes_the_same_logits_here(build_llava: Any, tmp_path: Path, router: str) -> None:
    theirs = released_mole(build_llava, dense=router == "dense")
    torch.save({"state_dict": theirs.state_dict(), "epoch": 1}, tmp_path / "mole.pt")
    released = read_llava_mole(tmp_path / "mole.pt", router=router)
    config = released.config
    assert isinstance(config, LlavaMole)
    assert (config.num_experts, config.r, config.lora_alpha) == (EXPERTS, RANK, 2 * RANK)
    ours = loaded(released, build_llava())
    expected = theirs.llm_model(input_ids=IDS).logits
    torch.testing.assert_close(ours(input_ids=IDS).logits, expected, atol=2e-5, rtol=1e-5)
    assert (expected - build_llava()(input_ids=IDS).logits).abs().max() > 0.1
    features = torch.randn(2, 16)
    torch.testing.assert_close(ours.model.multi_modal_projector(features), theirs.in_adaptor.projector(features))


def test_each_tensor_of_a_release_is_used_or_left_behind_with_its_reason(build_llava: Any, tmp_path: Path) -> None:
    tensors = released_mole(build_llava).state_dict()
    torch.save({"state_dict": tensors}, tmp_path / "mole.pt")
    released = read_llava_mole(tmp_path / "mole.pt")
    num_used = len(released.adapter) + len(released.projector)
    assert num_used + len(released.ignored) == len(tensors)
    assert len(released.adapter) == 2 * (4 * 2 + 3 * 2 * EXPERTS + 2)
    assert "differ from the release" in released.ignored["in_adaptor.visual_start_token"]
    assert "vision tower" in next(reason for name, reason in released.ignored.items() if name.startswith("vit."))


def test_release_of_the_trained_tensors_alone_is_read_too(build_llava: Any, tmp_path: Path) -> None:
    theirs = released_mole(build_llava)
    trained = {n: t for n, t in theirs.state_dict().items() if any(w in n for w in ("lora_", "router", "in_adaptor."))}
    torch.save({"state_dict": trained}, tmp_path / "mole.pt")
    assert len(read_llava_mole(tmp_path / "mole.pt").adapter) == 2 * (4 * 2 + 3 * 2 * EXPERTS + 2)


LAYER = "llm_model.base_model.model.model.layers.1.mlp."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(LAYER + "moe_up.1.lora_B"), r"missing language_model\.layers\.1\.mlp\.up_proj\.experts\.1"),
        (lambda t: t.pop(LAYER + "router.bias"), r"missing .*router\.bias"),
        (lambda t: t.pop("in_adaptor.projector.2.bias"), r"projector's .*linear_2\.bias"),
        (lambda t: t.update({LAYER + "moe_up.1.lora_C": torch.ones(1)}), r"unexpected .*lora_C"),
        (lambda t: t.update({"another": torch.ones(1)}), "unexpected another"),
        (lambda t: t.update({LAYER + "moe_up.1.lora_A": torch.ones(5, 32)}), r"ranks \[3, 5\]"),
        (lambda t: t[LAYER + "moe_up.1.lora_A"].fill_(math.nan), "NaN"),
        (lambda t: [t.pop(n) for n in list(t) if "moe_" in n], "no expert"),
    ],
)
def test_release_that_is_not_whole_is_refused(build_llava: Any, tmp_path: Path, change: Any, message: str) -> None:
    tensors = dict(released_mole(build_llava).state_dict())
    change(tensors)
    torch.save({"state_dict": tensors}, tmp_path / "mole.pt")
    with pytest.raises(UserError, match=message) as info:
        read_llava_mole(tmp_path / "mole.pt")
    assert "\n" not in str(info.value)


class Boom:
    """Runs code of its own when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("boom"),))


def test_nothing_but_tensors_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": Boom()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="more than tensors"):
        read_llava_mole(tmp_path / "evil.pt")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", b"PK\x03\x04rest"])
def test_damaged_release_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.pt").write_bytes(content)
    with pytest.raises(UserError) as info:
        read_torch_file(tmp_path / "some.pt")
    assert "\n" not in str(info.value) and "some.pt" in str(info.value)


def llava_lora_folder(build_llava: Any, folder: Path, safe: bool) -> Any:
    """What LLaVA's train.py leaves: PEFT on ``LlavaLlamaForCausalLM`` (a Llama with ``model.mm_projector``)."""
    llava = build_llava()
    language = LlamaForCausalLM(llava.config.text_config)
    language.model, language.lm_head = llava.model.language_model, llava.lm_head
    targets = ["q_proj", "up_proj", "down_proj", "v_proj"]
    theirs = get_peft_model(
        language, LoraConfig(r=RANK, lora_alpha=6, lora_dropout=0.05, target_modules=targets, task_type="CAUSAL_LM")
    ).eval()
    torch.manual_seed(5)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(folder)
    if not safe:
        torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
    width = language.config.hidden_size
    shapes = {"0.weight": (width, 16), "0.bias": (width,), "2.weight": (width, width), "2.bias": (width,)}
    projector = {f"base_model.model.model.mm_projector.{name}": torch.randn(shape) for name, shape in shapes.items()}
    torch.save(projector, folder / "non_lora_trainables.bin")
    return theirs, projector


@torch.no_grad()
@pytest.mark.parametrize("safe", [True, False])
def test_llava_lora_computes_the_same_logits_here(build_llava: Any, tmp_path: Path, safe: bool) -> None:
    theirs, projector = llava_lora_folder(build_llava, tmp_path, safe)
    released = read_llava_lora(tmp_path)
    assert isinstance(released.config, Lora) and released.config.lora_dropout == 0.05
    assert released.ignored == {}
    ours = loaded(released, build_llava())
    expected = theirs(input_ids=IDS).logits
    torch.testing.assert_close(ours(input_ids=IDS).logits, expected, atol=2e-5, rtol=1e-5)
    weight = ours.model.multi_modal_projector.linear_2.weight
    assert torch.equal(weight, projector["base_model.model.model.mm_projector.2.weight"])


def test_llava_checkpoint_without_its_projector_is_refused(build_llava: Any, tmp_path: Path) -> None:
    llava_lora_folder(build_llava, tmp_path, safe=True)
    (tmp_path / "non_lora_trainables.bin").unlink()
    with pytest.raises(UserError, match="checkpoint-N"):
        read_llava_lora(tmp_path)


def test_llava_run_that_trained_more_than_the_projector_is_refused(build_llava: Any, tmp_path: Path) -> None:
    _, projector = llava_lora_folder(build_llava, tmp_path, safe=True)
    more = {"base_model.model.model.vision_tower.vision_tower.weight": torch.ones(2)}
    torch.save(projector | more, tmp_path / "non_lora_trainables.bin")
    with pytest.raises(UserError, match=r"unexpected .*vision_tower"):
        read_llava_lora(tmp_path)


def test_llava_files_of_two_runs_are_refused(build_llava: Any, tmp_path: Path) -> None:
    llava_lora_folder(build_llava, tmp_path, safe=True)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 7}))
    with pytest.raises(UserError, match="two runs"):
        read_llava_lora(tmp_path)


def test_projector_names_are_those_of_hugging_face(build_llava: Any) -> None:
    names = {name for name, _ in build_llava().named_parameters() if "projector" in name}
    assert names == {f"{PROJECTOR}.linear_{n}.{part}" for n in (1, 2) for part in ("weight", "bias")}


class CmoaLinear(nn.Linear):
    """``cmoa_lora.py``'s Linear of VT-NLP/MixLoRA in evaluation: names, shapes and arithmetic."""

    lora_A: Any
    lora_B: Any
    cmoa_selector: Any
    cmoa_loarB_extra_selector: Any

    def __init__(self, old: nn.Linear, r: int, num_factors: int, conditional: bool) -> None:
        super().__init__(old.in_features, old.out_features, bias=False)
        self.weight, self.r, self.conditional = old.weight, r, conditional
        rows = [nn.Parameter(torch.randn(1, old.in_features) * 0.3) for _ in range(num_factors)]
        columns = [nn.Parameter(torch.randn(1, old.out_features) * 0.3) for _ in range(num_factors)]
        self.lora_A = nn.ModuleDict({"default": nn.ParameterList(rows)})
        self.lora_B = nn.ModuleDict({"default": nn.ParameterList(columns)})
        self.scaling = 2 * num_factors / r
        self.cmoa_selector = nn.Module()
        self.cmoa_selector.loraA_selector = nn.Linear(old.in_features, num_factors, bias=False)
        owner = self.cmoa_selector
        if conditional:
            owner = self.cmoa_loarB_extra_selector = nn.Module()
            owner.loraA_param2loraB_selector = nn.Linear(r * old.in_features, num_factors, bias=False)
        owner.loraB_selector = nn.Linear(old.in_features, num_factors, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = x.mean(dim=1)
        chosen_A = self.cmoa_selector.loraA_selector(h).topk(self.r, -1).indices
        lora_A = torch.cat(list(self.lora_A["default"]))[chosen_A]
        if self.conditional:
            extra = self.cmoa_loarB_extra_selector
            weight = extra.loraA_param2loraB_selector.weight.unflatten(1, (self.r, -1)).permute(1, 2, 0)
            of_A = torch.einsum("brd,rfe->bre", lora_A, weight).softmax(-1).sum(1)  # the release's own letters
            scores = extra.loraB_selector(h).softmax(-1) + of_A.softmax(-1)
        else:
            scores = self.cmoa_selector.loraB_selector(h)
        lora_B = torch.cat(list(self.lora_B["default"]))[scores.topk(self.r, -1).indices]
        return F.linear(x, self.weight) + x @ (lora_A.transpose(1, 2) @ lora_B) * self.scaling


FACTORS, CHOSEN = 6, 2


class Named(nn.Module):
    """A module of these children: the names that wrappers put in front of a state dict."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def released_mixlora(build_llava: Any, conditional: bool) -> tuple[LlamaForCausalLM, dict[str, Tensor], nn.Linear]:
    """The model, the tensors of its ``pytorch_model.bin``, and its linear projector."""
    llava = build_llava()
    language = LlamaForCausalLM(llava.config.text_config)
    language.model, language.lm_head = llava.model.language_model, llava.lm_head
    torch.manual_seed(7)
    for layer in language.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, linear in list(block.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(block, name, CmoaLinear(linear, CHOSEN, FACTORS, conditional))
    language.model.vision_tower = Named(vision_tower=llava.model.vision_tower)
    language.model.mm_projector = nn.Linear(16, 32)
    whole = Named(base_model=Named(model=language))
    tensors = dict(whole.state_dict())
    tensors["base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    return language.eval(), tensors, language.model.mm_projector


@torch.no_grad()
@pytest.mark.parametrize("conditional", [True, False])
def test_released_mixlora_computes_the_same_logits_here(build_llava: Any, tmp_path: Path, conditional: bool) -> None:
    theirs, tensors, projector = released_mixlora(build_llava, conditional)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    released = read_mixlora(tmp_path / "pytorch_model.bin", r=None if conditional else CHOSEN)
    config = released.config
    assert isinstance(config, MixLora) and config.as_released
    assert (config.num_factors, config.r, config.lora_alpha, config.conditional) == (FACTORS, 2, 12, conditional)
    assert len(released.adapter) + len(released.ignored) + 2 == len(tensors)  # the two of the projector become four
    ours = loaded(released, build_llava())
    expected = theirs(input_ids=IDS).logits
    torch.testing.assert_close(ours(input_ids=IDS).logits, expected, atol=2e-5, rtol=1e-5)
    features = torch.randn(3, 16) * 3
    torch.testing.assert_close(ours.model.multi_modal_projector(features), projector(features), atol=1e-5, rtol=1e-5)


CMOA = "base_model.model.model.layers.1.mlp.up_proj."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(CMOA + "lora_B.default.3"), r"missing .*up_proj\.factors\.3\.lora_B"),
        (lambda t: t.pop(CMOA + "cmoa_selector.loraA_selector.weight"), r"missing .*up_proj\.gate\.ifs_A"),
        (lambda t: t.update({"base_model.model.task_encoder.weight": torch.ones(1)}), "unexpected .*task_encoder"),
        (lambda t: t.update({CMOA + "cmoa_selector.more": torch.ones(1)}), r"unexpected .*cmoa_selector\.more"),
        (lambda t: t.update({CMOA + "lora_A.default.3": torch.ones(2, 32)}), r"ranks \[1, 2\]"),
        (lambda t: [t.pop(n) for n in list(t) if "lora_" in n], "no factor"),
        (lambda t: [t.pop(n) for n in list(t) if "param2" in n], "give r"),
        (lambda t: t.pop("base_model.model.model.mm_projector.bias"), "linear projector"),
    ],
)
def test_mixlora_release_that_is_not_whole_is_refused(
    build_llava: Any, tmp_path: Path, change: Any, message: str
) -> None:
    _, tensors, _ = released_mixlora(build_llava, True)
    change(tensors)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=message) as info:
        read_mixlora(tmp_path / "pytorch_model.bin")
    assert "\n" not in str(info.value)


def test_default_of_the_released_settings_is_told_by_the_config(build_llava: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": released_mole(build_llava).state_dict()}, tmp_path / "mole.pt")
    config = read_llava_mole(tmp_path / "mole.pt", lora_alpha=5).config
    assert isinstance(config, LlavaMole)
    assert (config.router, config.load_balance, config.lora_alpha) == ("dense", "pooled", 5)
