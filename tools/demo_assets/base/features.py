"""What the projector reads: the finished tower's patch features of pictures.

Shape suffixes: I items, P patches, V tower width.
"""

from __future__ import annotations

import torch
from transformers import CLIPVisionModel

from tools.demo_assets.base.items import Item, all_pixels
from tools.demo_assets.base.vision_tower import normalize


@torch.inference_mode()
def tower_features(tower: CLIPVisionModel, items: list[Item]) -> torch.Tensor:
    """hidden_states[-2] of the patches, float16 [I, P, V], of pictures as they are."""
    pixels = torch.from_numpy(all_pixels(items, tower.config.image_size))
    features_IPV = torch.empty(len(items), 64, tower.config.hidden_size, dtype=torch.float16)
    for start in range(0, len(items), 64):
        with torch.autocast("cpu", torch.bfloat16):
            out = tower(normalize(pixels[start : start + 64]), output_hidden_states=True)
        features_IPV[start : start + 64] = out.hidden_states[-2][:, 1:].half()
    return features_IPV
