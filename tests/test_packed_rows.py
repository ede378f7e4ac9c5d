"""Packed rows: their examples do not see each other, however the model is called, or the call is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from llava_moe.adapters import LlavaMole, Lora, MixLora, NoAdapter, attach
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.model import FromShape, build_base
from llava_moe.packed_rows import keep_examples_apart, makes_mask_from_positions
from tests.adapters.core.test_recomputation import FAMILIES as OTHERS
from tests.adapters.tiny_decoders import FAMILIES, Family

CONFIGS = {
    "none": NoAdapter(),
    "lora": Lora(r=2),
    "llava_mole": LlavaMole(num_experts=3, r=2),
    "mixlora": MixLora(num_factors=4, r=2),
}
WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "without cache": {"use_cache": False},
    "with cache": {"use_cache": True},
    "with mask": {"attention_mask": 1},
    "with mask and cache": {"attention_mask": 1, "use_cache": True},
    "with mask and without cache": {"attention_mask": 1, "use_cache": False},
}


def family(name: str) -> Family:
    return next(one for one in FAMILIES if one.name == name)


def dressed(name: str, config: Any) -> tuple[Any, Any]:
    model = family(name).build()
    attached = attach(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.normal_(std=0.2)
    return model, attached


def asked(inputs: dict[str, Any], way: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in inputs.items() if name != "use_cache"} | way
    if "attention_mask" in way:
        plain["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return plain


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "method"),
    [*(("llama", method) for method in CONFIGS), *((name, "llava_mole") for name in ("llava", "qwen2_vl", "mistral"))],
)
def test_a_packed_row_is_its_examples_alone_however_the_model_is_called(name: str, method: str, way: str) -> None:
    model, _ = dressed(name, CONFIGS[method])
    row = asked(family(name).packed(model), WAYS[way])
    output = model(**row)
    expected = torch.cat(family(name).alone(model))
    # Of LoRA's factors a nudge of the embeddings by 1e-7 moves logits by 9e-5, and what is rounded where depends on the
    # processor; in float64, norms too, packed and alone agree to 2e-15. Examples that see each other are 1e-2 apart.
    torch.testing.assert_close(output.logits[0], expected, atol=5e-4, rtol=1e-5)


@torch.no_grad()
def test_without_the_guard_they_do_see_each_other() -> None:
    model = family("llama").build()
    expected = torch.cat(family("llama").alone(model))
    row = asked(family("llama").packed(model), {})
    assert not torch.allclose(model(**row).logits[0], expected, atol=1e-2)
    handle = keep_examples_apart(model.model)
    torch.testing.assert_close(model(**row).logits[0], expected, atol=2e-5, rtol=1e-5)
    by_position = model.model(row["input_ids"], None, row["position_ids"]).last_hidden_state
    torch.testing.assert_close(model.lm_head(by_position)[0], expected, atol=2e-5, rtol=1e-5)
    handle.remove()
    assert not torch.allclose(model(**row).logits[0], expected, atol=1e-2)


@torch.no_grad()
def test_a_cache_of_the_callers_and_a_mask_that_silences_are_refused() -> None:
    model, _ = dressed("llama", CONFIGS["lora"])
    row = asked(family("llama").packed(model), {})
    with pytest.raises(ValueError, match="several examples, which a key-value cache cannot keep apart"):
        model(**row, past_key_values=DynamicCache())
    mask = torch.ones_like(row["input_ids"])
    mask[0, -2:] = 0
    with pytest.raises(ValueError, match="several examples, which transformers does not keep apart beside"):
        model(**row, attention_mask=mask, use_cache=False)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [None, False, True])
@pytest.mark.parametrize("name", ["llama", "llava", "gemma3_text"])
def test_left_padding_is_no_packing(name: str, use_cache: bool | None) -> None:
    model, _ = dressed(name, CONFIGS["lora"])
    padded = family(name).left_padded()
    output = model(**padded, use_cache=use_cache)
    assert (output.past_key_values is None) == (use_cache is False)
    for row, expected in zip(output.logits, family(name).alone(model), strict=True):
        torch.testing.assert_close(row[-len(expected) :], expected, atol=2e-4, rtol=1e-4)
    positions = padded["position_ids"].masked_fill(padded["attention_mask"] == 0, 1)  # as generate() numbers padding
    again = model(**padded | {"position_ids": positions}, use_cache=use_cache)
    for row, expected in zip(again.logits, family(name).alone(model), strict=True):
        torch.testing.assert_close(row[-len(expected) :], expected, atol=2e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("method", CONFIGS)
def test_generation_from_padded_prompts_goes_on_with_its_cache(method: str) -> None:
    model, _ = dressed("llama", CONFIGS[method])
    padded = {name: value for name, value in family("llama").left_padded().items() if name != "position_ids"}
    settings = {"max_new_tokens": 5, "do_sample": False}
    together = model.generate(**padded, **settings)[:, padded["input_ids"].shape[1] :]
    for row, example in zip(together, family("llama").examples(), strict=True):
        assert torch.equal(model.generate(**example, **settings)[0, example["input_ids"].shape[1] :], row)


@torch.no_grad()
def test_several_tokens_on_a_filled_cache_are_no_packing() -> None:
    model, _ = dressed("llama", CONFIGS["lora"])
    ids = family("llama").examples()[1]["input_ids"]
    whole = model(input_ids=ids).logits
    begun = model(input_ids=ids[:, :4], use_cache=True)
    rest = model(
        input_ids=ids[:, 4:],
        past_key_values=begun.past_key_values,
        position_ids=torch.arange(4, ids.shape[1])[None],
        attention_mask=torch.ones_like(ids),
    )
    torch.testing.assert_close(rest.logits, whole[:, 4:], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_base_model_keeps_packed_rows_apart_without_an_adapter() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = sizes | {"image_size": 16, "patch_size": 8}
    model = build_base(FromShape(vision=vision, text=sizes), torch.float32).model.eval()
    first, second = torch.arange(5, 12)[None], torch.arange(20, 25)[None]
    expected = torch.cat([model(input_ids=ids).logits for ids in (first, second)], 1)
    row = {
        "input_ids": torch.cat([first, second], 1),
        "position_ids": torch.cat([torch.arange(7), torch.arange(5)])[None],
    }
    for way in WAYS.values():
        torch.testing.assert_close(model(**asked(row, way)).logits, expected, atol=2e-5, rtol=1e-5)


# Bloom takes no positions: given all the same, its head drops them, and a row is one example to all.
# Falcon makes its mask from its positions since transformers 5.24.
WITH_POSITIONS = [name for name in OTHERS if name != "bloom"]


@torch.no_grad()
@pytest.mark.parametrize("name", WITH_POSITIONS)
def test_a_model_that_does_not_keep_a_rows_examples_apart_is_told_from_one_that_does(name: str) -> None:
    torch.manual_seed(0)
    model = OTHERS[name]().double().eval().requires_grad_(False)
    first, second = torch.arange(3, 10)[None], torch.arange(20, 25)[None]
    expected = torch.cat([model(input_ids=ids).logits for ids in (first, second)], 1)
    row = {
        "input_ids": torch.cat([first, second], 1),
        "position_ids": torch.cat([torch.arange(7), torch.arange(5)])[None],
        "use_cache": False,
    }
    is_apart = torch.allclose(model(**row).logits, expected, atol=1e-9)
    assert is_apart == makes_mask_from_positions(type(model.get_decoder()))
    assert is_apart if name in ("llama", "gpt_neox") else name != "opt" or not is_apart
    attach(model, Lora(r=2, target_modules="all-linear"))
    if is_apart:
        torch.testing.assert_close(model(**row).logits, expected)
    else:
        with pytest.raises(ValueError, match="does not keep apart: give each example a row"):
            model(**row)
    torch.testing.assert_close(model(**row | {"position_ids": torch.arange(12)[None]}).logits.shape, expected.shape)


@pytest.mark.parametrize("one", FAMILIES, ids=str)
def test_every_family_that_we_pack_makes_its_mask_from_its_positions(one: Family) -> None:
    language_model = TargetModel.of(one.build()).language_model
    assert makes_mask_from_positions(type(language_model))
