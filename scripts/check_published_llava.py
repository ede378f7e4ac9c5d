"""Holds what llava-moe exports against other versions of transformers. It imports nothing of llava-moe.

    python3 -m venv old && old/bin/pip install torch transformers==4.57.6 'peft<0.21' accelerate sentencepiece pillow
    old/bin/python scripts/check_published_llava.py names tests/export/published_names.json
    python scripts/check_published_llava.py answers FOLDER answers.safetensors
    old/bin/python scripts/check_published_llava.py check FOLDER answers.safetensors

``names`` writes what transformers 4.57 saves of tiny models: files, tensors, shapes. Those of version 5 are others, so
it wants version 4. ``answers`` loads an exported folder, ``to=hf`` or ``to=peft``, by Hugging Face (and PEFT) alone and
notes tokens, logits and words; ``check`` does the same in another environment and compares. Both refuse a folder of
which a tensor is missing or left over.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 8, "projection_dim": 32}
TEXT = {"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "vocab_size": 640}
VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {"text": TEXT, "max_shard_size": "5GB"},
    "tied": {"text": TEXT | {"tie_word_embeddings": True}, "max_shard_size": "5GB"},
    "sharded": {"text": TEXT, "max_shard_size": 200_000},
}
QUESTIONS = ("What is shown here?", "How many bars are there, and which colour is the longest?")
TOLERANCE = 1e-4
"""Largest difference of logits allowed, as a share of the largest logit."""


def main(words: Sequence[str]) -> int:
    """Do what the first word says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("names", "answers", "check"))
    parser.add_argument("places", nargs="+", type=Path, help="names: FILE; answers and check: FOLDER FILE")
    given = parser.parse_args(words)
    if given.what == "names":
        given.places[0].write_text(json.dumps(published_names(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    folder, file = given.places
    found = answers_of(folder)
    if given.what == "answers":
        save_file(found, file)
        return 0
    return 0 if agrees(folder, found, load_file(file)) else 1


def published_names() -> dict[str, Any]:
    """What this version of transformers saves of each variant of a tiny model.

    Raises:
        RuntimeError: it is not version 4.
    """
    if not transformers.__version__.startswith("4."):
        raise RuntimeError(f"transformers {transformers.__version__}: published folders were written by version 4")
    found: dict[str, Any] = {"transformers": transformers.__version__, "vision": VISION, "variants": {}}
    with tempfile.TemporaryDirectory() as folder:
        tiny_processor().save_pretrained(folder)
        found["processor_files"] = sorted(path.name for path in Path(folder).iterdir())
    for name, variant in VARIANTS.items():
        config = transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**VISION),
            text_config=transformers.LlamaConfig(**variant["text"]),
            image_token_index=600,
        )
        with tempfile.TemporaryDirectory() as folder:
            model = transformers.LlavaForConditionalGeneration(config)
            model.save_pretrained(folder, max_shard_size=variant["max_shard_size"])
            found["variants"][name] = variant | describe(Path(folder))
    return found


def tiny_processor() -> Any:
    """A LLaVA processor of three words."""
    from tokenizers import Tokenizer, models
    from transformers.models.llava.image_processing_llava import LlavaImageProcessor

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<image>": 1, "<pad>": 2}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")
    return transformers.LlavaProcessor(LlavaImageProcessor(), tokenizer, patch_size=8, chat_template="{{ messages }}")


def describe(folder: Path) -> dict[str, Any]:
    """Files of a folder, each tensor's shape, and the file that each shard's tensors are in."""
    tensors, places = {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in header_of(path).items():
            tensors[name], places[name] = "x".join(map(str, entry["shape"])), path.name
    index = folder / "model.safetensors.index.json"
    noted = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else places
    if noted != places:
        raise RuntimeError(f"{index} names other places than the files do")
    files = sorted(path.name for path in folder.iterdir())
    return {"files": files, "tensors": tensors} | ({"weight_map": places} if index.is_file() else {})


def header_of(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, read by its format's definition: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


@torch.no_grad()
def answers_of(folder: Path) -> dict[str, torch.Tensor]:
    """Tokens, pixels, logits and greedy words of an exported folder on a square picture and two that are not."""
    model, processor = load_whole(folder)
    found = {}
    for name, picture in pictures(processor.image_processor.crop_size["height"]).items():
        question = [{"type": "image"}, {"type": "text", "text": QUESTIONS[len(found) % 2]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        found[f"{name}.input_ids"] = inputs["input_ids"]
        found[f"{name}.pixel_values"] = inputs["pixel_values"].float().contiguous()
        found[f"{name}.logits"] = model(**inputs).logits.float().contiguous()
        written = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        text = processor.decode(written, skip_special_tokens=True)
        found[f"{name}.words"] = torch.tensor(list(text.encode()) or [0], dtype=torch.uint8)
    return found


def pictures(size: int) -> dict[str, Image.Image]:
    """Waves with some noise."""
    generator, made = np.random.default_rng(0), {}
    for name, shape in (("square", (size, size)), ("wide", (size, 2 * size + 7)), ("tall", (size * 3 // 2, size // 2))):
        rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
        waves = np.stack([128 + 100 * np.sin(rows / 9 + columns / (5 + 3 * channel)) for channel in range(3)], -1)
        pixels = np.clip(waves + generator.integers(-20, 20, waves.shape), 0, 255).astype(np.uint8)
        made[name] = Image.fromarray(pixels)
    return made


def load_whole(folder: Path) -> tuple[Any, Any]:
    """Model (fp32, CPU) and processor of a folder by the Auto classes; PEFT's where the folder is an adapter.

    Raises:
        RuntimeError: a tensor of the model is missing, left over or of another shape.
    """
    is_adapter = (folder / "adapter_config.json").is_file()
    if not is_adapter:
        return load_model(folder), transformers.AutoProcessor.from_pretrained(folder)
    import peft

    named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    load_model(folder / named)
    before = Path.cwd()
    os.chdir(folder)  # PEFT takes a base's folder from the current one
    try:
        model = peft.AutoPeftModel.from_pretrained(".", dtype=torch.float32).eval()
        processor = transformers.AutoProcessor.from_pretrained(named)
    finally:
        os.chdir(before)
    return model, processor


def load_model(folder: Path) -> Any:
    """A ``to=hf`` folder's model, all of whose tensors were used and none invented."""
    model, account = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in account.items() if names}
    if wrong:
        raise RuntimeError(f"{folder} is not whole under transformers {transformers.__version__}: {wrong}")
    return model.eval()


def agrees(folder: Path, found: dict[str, torch.Tensor], noted: dict[str, torch.Tensor]) -> bool:
    """Print what differs, and say whether nothing does that should not."""
    same = {key: torch.equal(found[key], noted[key]) for key in noted if key.endswith(("input_ids", "words"))}
    pixels = max(float((found[key] - noted[key]).abs().max()) for key in noted if key.endswith("pixel_values"))
    keys = [key for key in noted if key.endswith("logits") and found[key].shape == noted[key].shape]
    difference = max((float((found[key] - noted[key]).abs().max()) for key in keys), default=float("inf"))
    largest = max(float(noted[key].abs().max()) for key in noted if key.endswith("logits"))
    sys.stdout.write(
        f"transformers {transformers.__version__}, torch {torch.__version__}: {folder}: logits differ by at most "
        f"{difference:.2e} of {largest:.2f} (allowed {TOLERANCE * largest:.2e}), pixels by {pixels:.2e}; tokens and "
        f"words {'equal' if all(same.values()) else [key for key, is_same in same.items() if not is_same]}\n"
    )
    return all(same.values()) and len(keys) == 3 and difference <= TOLERANCE * largest and pixels <= TOLERANCE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
