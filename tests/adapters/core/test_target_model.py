"""Where an adapter hangs, and how its targets are named."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.models.blip_2 import Blip2Config, Blip2ForConditionalGeneration
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt_neox import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.models.mistral import MistralConfig, MistralForCausalLM
from transformers.models.opt import OPTConfig

from llava_moe.adapters import Lora, attach
from llava_moe.adapters.core.target_model import ALL_LINEARS, TargetModel
from llava_moe.errors import UserError


def test_language_model_is_found_alone_and_inside_a_vision_language_model(build_llama: Any, build_llava: Any) -> None:
    llama, llava = build_llama(), build_llava()
    assert TargetModel.of(llama).language_model is llama.model and TargetModel.of(llama).language_model_name == "model"
    assert TargetModel.of(llama.model).language_model_name == "" and TargetModel.of(llama.model).hidden_size == 32
    assert TargetModel.of(llava).language_model is llava.model.language_model
    assert TargetModel.of(llava).language_model_name == "model.language_model"
    assert TargetModel.of(llava.model).language_model_name == "language_model"


def test_vision_tower_projector_and_head_are_never_touched(build_llava: Any) -> None:
    model = build_llava()
    attached = attach(model, Lora(r=2))
    assert len(attached.parameters()) == 2 * 7 * 2
    assert all(name.startswith("model.language_model.layers.") for name in attached.named_parameters())
    attached.detach()
    with pytest.raises(UserError, match=r"'\.\*q_proj' also matches 2 layers outside the language model.*vision_tower"):
        attach(model, Lora(r=2, target_modules=r".*q_proj"))
    attached = attach(model, Lora(r=2, target_modules=r"model\.language_model\..*q_proj"))
    assert len(attached.parameters()) == 2 * 2


def test_a_target_of_the_vision_tower_alone_is_named_as_such(build_llava: Any) -> None:
    with pytest.raises(UserError, match=r"\['fc1'\] match no .*vision_tower\S+fc1 is outside the language model"):
        attach(build_llava(), Lora(target_modules=["q_proj", "fc1"]))


def test_a_pattern_that_names_the_tower_may_be_cleared_by_exclusion(build_llava: Any) -> None:
    target_model = TargetModel.of(build_llava())
    names = target_model.without(r".*\.(q|v)_proj", r".*vision_tower.*|.*\.q_proj")
    assert names == tuple(f"model.language_model.layers.{i}.self_attn.v_proj" for i in range(2))


def test_all_linear_is_every_linear_of_the_language_model(build_llava: Any) -> None:
    target_model = TargetModel.of(build_llava())
    assert target_model.select("all-linear") == target_model.linears and len(target_model.linears) == 14
    assert target_model.peft_targets("all-linear", target_model.linears) == target_model.peft_targets(
        sorted(ALL_LINEARS), target_model.linears
    )


@pytest.mark.parametrize(("targets", "message"), [("q_proj[", "no regular expression"), ([], r"\[\] match no linear")])
def test_targets_that_say_nothing_are_refused(build_llama: Any, targets: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        attach(build_llama(), Lora(target_modules=targets))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"]),
        (["mlp.up_proj"], ["layers.0.mlp.up_proj", "layers.1.mlp.up_proj"]),
        (["model.layers.1.mlp.up_proj"], ["layers.1.mlp.up_proj"]),
        (r".*\.layers\.1\..*(q|v)_proj", ["layers.1.self_attn.q_proj", "layers.1.self_attn.v_proj"]),
    ],
)
def test_targets_are_ends_of_names_or_a_regular_expression(build_llama: Any, targets: Any, expected: list[str]) -> None:
    assert list(TargetModel.of(build_llama()).select(targets)) == [f"model.{name}" for name in expected]


@pytest.mark.parametrize("targets", [["q_proj", "query_key_value"], "query_key_value", ["proj"], ["lm_head"]])
def test_missing_target_is_named_with_what_there_is(build_llama: Any, targets: Any) -> None:
    with pytest.raises(
        UserError, match=r"match no linear layer of LlamaModel; it has \['down_proj', 'gate_proj'"
    ) as info:
        attach(build_llama(), Lora(target_modules=targets))
    assert str(targets if isinstance(targets, str) else targets[-1]) in str(info.value)
    assert "\n" not in str(info.value)


def test_refused_target_leaves_the_model_bare(build_llama: Any) -> None:
    model = build_llama()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(UserError):
        attach(model, Lora(target_modules=["q_proj", "nothing"]))
    assert [name for name, _ in model.named_modules()] == names


def test_any_hugging_face_decoder_will_do() -> None:
    small = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    mistral = MistralForCausalLM(MistralConfig(**small, num_attention_heads=2, num_key_value_heads=1))
    assert len(attach(mistral, Lora(r=2)).parameters()) == 14
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(**small, num_attention_heads=2))
    assert len(attach(neox, Lora(r=2, target_modules=["query_key_value", "dense_h_to_4h"])).parameters()) == 4


def test_a_decoder_is_looked_for_inside_the_language_model_that_a_model_names() -> None:
    text = OPTConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=24)
    text.word_embed_proj_dim = 16
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    qformer = vision | {"encoder_hidden_size": 16}
    config = Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text.to_dict())
    target_model = TargetModel.of(Blip2ForConditionalGeneration(config))
    assert target_model.language_model_name == "language_model.model.decoder"
    assert not any("lm_head" in name for name in target_model.select("all-linear"))


@pytest.mark.parametrize("targets", ["all-linear", ALL_LINEARS])
def test_a_decoder_without_linears_says_so(targets: Any) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2))
    with pytest.raises(UserError, match=r"match no linear layer of GPT2Model; it has none$"):
        attach(model, Lora(target_modules=targets))


def test_peft_is_told_the_plain_list_where_that_is_unambiguous(build_llama: Any, build_llava: Any) -> None:
    llama, llava = TargetModel.of(build_llama()), TargetModel.of(build_llava())
    assert llama.peft_targets(ALL_LINEARS, llama.select(ALL_LINEARS)) == sorted(ALL_LINEARS)
    pattern = llava.peft_targets(ALL_LINEARS, llava.select(ALL_LINEARS))
    assert isinstance(pattern, str) and pattern.startswith(r"model\.language_model\.")
    # Names that the tower has too are told apart by where they stand.
    pattern = llava.peft_targets(["v_proj"], llava.select(["v_proj"]))
    assert pattern == r"model\.language_model\.(?:.*\.)?(?:v_proj)"
    # What no pattern of ours says is written out name by name.
    some = [f"model.language_model.layers.{i}.self_attn.v_proj" for i in range(2)]
    assert llava.peft_targets(["q_proj", "v_proj"], some) == some
