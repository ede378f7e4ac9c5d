"""Write the shipped base: float16 copies of the trained tower, language model and tokenizer.

`python -m tools.demo_assets.base.export --work FOLDER [--language-model mixed]` scales the tower's residual stream so
that its patch features have overall std 1 on the training pictures, and writes `llava_moe/demo/base/`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPVisionModel, GenerationConfig, LlamaForCausalLM

from tools.demo_assets.base.features import tower_features
from tools.demo_assets.base.items import CLIP_MEAN, CLIP_STD, read_items

BASE_FOLDER = Path(__file__).resolve().parents[3] / "llava_moe" / "demo" / "base"


@torch.no_grad()
def scale_residual_stream(tower: CLIPVisionModel, factor: float) -> None:
    """Multiply every hidden state by `factor`, exactly (up to LayerNorm's eps).

    All that is written to the residual stream is linear in the scaled weights, and every reader is a LayerNorm, which
    does not see the scale.
    """
    writers = [tower.pre_layrnorm]
    for layer in tower.encoder.layers:
        writers += [layer.self_attn.out_proj, layer.mlp.fc2]
    for writer in writers:
        writer.weight.mul_(factor)
        writer.bias.mul_(factor)


def export_tower(work: Path) -> dict[str, float]:
    """Scale, store and describe the tower; returns the largest channel mean and the range of channel stds."""
    tower = CLIPVisionModel.from_pretrained(work / "vision_tower", dtype=torch.float32).eval()
    items = read_items("train")[::4]
    scale_residual_stream(tower, 1 / tower_features(tower, items).float().std().item())
    features = tower_features(tower, items).float().flatten(0, 1)
    tower.half().save_pretrained(BASE_FOLDER / "vision_tower")
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": tower.config.image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": tower.config.image_size, "width": tower.config.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    }
    file = BASE_FOLDER / "vision_tower" / "preprocessor_config.json"
    file.write_text(json.dumps(processor, indent=2) + "\n")
    std = features.std(0)
    return {
        "largest_mean": features.mean(0).abs().max().item(),
        "least_std": std.min().item(),
        "most": std.max().item(),
    }


def export_language_model(work: Path, stage: str) -> None:
    """Store the language model of a stage, its tokenizer and greedy generation settings."""
    folder = BASE_FOLDER / "language_model"
    model = LlamaForCausalLM.from_pretrained(work / f"language_model_{stage}", dtype=torch.float32)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, do_sample=False)
    model.half().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    tokenizer.save_pretrained(folder)
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text()) | {"add_bos_token": True}
    config.pop("is_local", None)
    config.pop("local_files_only", None)
    config_file.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--language-model", default="mixed", choices=("text", "mixed"))
    parser.add_argument("--keep-tower", action="store_true", help="leave the tower that is shipped as it is")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not arguments.keep_tower:
        print(export_tower(arguments.work))
    export_language_model(arguments.work, arguments.language_model)
    files = sorted(path for path in BASE_FOLDER.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size / 1e6:8.3f} MB {path.relative_to(BASE_FOLDER)}")
    print(f"{sum(path.stat().st_size for path in files) / 1e6:8.3f} MB together")


if __name__ == "__main__":
    main()
