"""What is kept of a tower is what its projector reads, to the bit and to the stride; and a name for a tower."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from llava_moe.data.features.shape import FeatureShape
from llava_moe.errors import UserError
from llava_moe.model.fingerprint import tower_fingerprint
from llava_moe.model.kinds import feature_width, num_image_tokens
from llava_moe.model.tower_features import accept_features, features_of, num_dropped_in_front, refuse_changing_tower
from tests.model.tiny_checkpoints import LANGUAGE_MODELS, SIZE, TEXT, VISION

Pixels = torch.Tensor
Strategy = Literal["default", "full"]
LAYERS: list[tuple[int | list[int], Strategy]] = [(-2, "default"), (-1, "full"), ([-2, 1], "default"), ([0], "full")]


def tiny(layer: int | list[int] = -2, strategy: Strategy = "default", **vision: Any) -> LlavaForConditionalGeneration:
    from transformers import CLIPVisionConfig, LlavaConfig

    torch.manual_seed(0)
    settings: dict[str, Any] = {**VISION, **vision}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**settings),
        text_config=cast(Any, LANGUAGE_MODELS["llama"])(**TEXT, vocab_size=64),
        image_token_index=60,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture
def pixels() -> Iterator[Pixels]:
    yield torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("layer", "strategy"), LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_given_features_answers_as_given_the_pixels(
    layer: int | list[int], strategy: Strategy, dtype: torch.dtype, pixels: Pixels
) -> None:
    model = cast(Any, tiny(layer, strategy)).to(dtype)
    pixels = pixels.to(dtype)
    num_tokens = num_image_tokens(model.config)
    ids = torch.tensor([[1, *[60] * (5 * num_tokens), 7, 8, 9]])
    plain = model(input_ids=ids, pixel_values=pixels, use_cache=False).logits
    read: list[torch.Tensor] = []
    model.model.multi_modal_projector.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model(input_ids=ids, pixel_values=pixels, use_cache=False)
    shape = FeatureShape(num_tokens, feature_width(model.config), dtype, num_dropped_in_front(model))
    features_ITW = shape.empty(5)
    for number, one in enumerate(pixels):
        features_ITW[number].copy_(features_of(model, one))
    assert features_ITW.equal(read[0]) and features_ITW.stride() == read[0].stride()
    accept_features(model)
    assert model(input_ids=ids, pixel_values=features_ITW, use_cache=False).logits.equal(plain)
    assert model(input_ids=ids, pixel_values=pixels, use_cache=False).logits.equal(plain)


def test_a_towers_name_changes_with_all_that_changes_its_features_and_with_nothing_else() -> None:
    model = tiny()
    name = tower_fingerprint(model)
    assert name == tower_fingerprint(tiny())
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight += 1
        model.lm_head.weight += 1
    assert name == tower_fingerprint(model)
    others = [tiny(-1), tiny(-2, "full"), tiny(hidden_act="gelu"), cast(Any, tiny()).to(torch.bfloat16)]
    with torch.no_grad():
        weight = (last := tiny()).model.vision_tower.get_parameter(
            next(name for name, _ in last.model.vision_tower.named_parameters() if "patch_embedding" in name)
        )
        weight.view(-1)[3] = torch.nextafter(weight.view(-1)[3], torch.tensor(9.0))
    names = [name, *map(tower_fingerprint, [*others, last])]
    assert len(set(names)) == len(names)


def test_a_tower_that_trains_or_draws_lots_is_refused() -> None:
    model = tiny()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    refuse_changing_tower(model)
    next(iter(model.model.vision_tower.parameters())).requires_grad_(True)
    with pytest.raises(UserError, match="freeze the tower"):
        refuse_changing_tower(model)
    dropping = tiny(attention_dropout=0.1)
    for parameter in dropping.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UserError, match=r"attention_dropout=0\.1"):
        refuse_changing_tower(dropping)
