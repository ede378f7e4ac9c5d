"""Turn weights that a method's authors released into a run's folder, which eval, chat and export take.

    python scripts/import_released.py llava_lora llava-v1.5-7b-lora runs/lora model=vicuna_7b_clip336
    python scripts/import_released.py llava_mole llava_mole_r16_a32_e3.pt runs/mole \\
        model=vicuna_7b_clip336 model.architecture.vision_feature_layer=-1
    python scripts/import_released.py mixlora pytorch_model.bin runs/mixlora \\
        model=vicuna_7b_clip336 model.architecture.language_model=lmsys/vicuna-7b-v1.3 \\
        model.architecture.vision_tower=openai/clip-vit-large-patch14 stage.image_mode=crop

Words behind the folder are those of ``llava-moe train``; they name the base, whose weights must be at hand. Nothing but
tensors is unpickled. Every tensor of the release is used or listed in ``import.json`` with the reason why it is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from llava_moe.adapters.released import Released, read_llava_lora, read_llava_mole, read_mixlora
from llava_moe.assemble import Assembled, model_spec_of, new_model, weights_writer
from llava_moe.config.config_folder import config_folder
from llava_moe.config.hydra_compose import as_yaml, resolved
from llava_moe.config.hydra_words import prepare_override
from llava_moe.config.settings import settle
from llava_moe.errors import UserError
from llava_moe.run_config import RunConfig
from llava_moe.train.state import RunState


def main(words: Sequence[str]) -> int:
    """Import, and say what was left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("llava_mole", "mixlora", "llava_lora"))
    parser.add_argument("source", type=Path, help="the released file, or for llava_lora the folder")
    parser.add_argument("out", type=Path, help="folder of the run to write; must not be there")
    parser.add_argument("overrides", nargs="*", help="words of llava-moe train, such as model=vicuna_7b_clip336")
    parser.add_argument("--r", type=int, help="mixlora: chosen factors, where the files do not tell")
    parser.add_argument("--lora-alpha", type=float, help="where it is not the released settings' own")
    given = parser.parse_args(words)
    try:
        if given.out.exists():
            raise UserError(f"{given.out} is there already: give another folder")
        released = read(given)
        write_run(released, given.out, given.overrides)
    except UserError as error:
        sys.stderr.write(f"import_released: {error}\n")
        return 2
    for reason, number in Counter(released.ignored.values()).items():
        sys.stdout.write(f"left behind: {number} tensors: {reason}\n")
    sys.stdout.write(f"imported: {given.out}\n")
    return 0


def read(given: argparse.Namespace) -> Released:
    """The released weights in our names."""
    if given.kind == "llava_mole":
        return read_llava_mole(given.source, given.lora_alpha)
    if given.kind == "mixlora":
        return read_mixlora(given.source, given.r, given.lora_alpha)
    return read_llava_lora(given.source)


def write_run(released: Released, out: Path, overrides: Sequence[str]) -> None:
    """Put the weights into their base, strictly, and write a run of one checkpoint."""
    config = configuration(released, overrides)
    assembled = new_model(model_spec_of(RunConfig.of(config)), torch.device("cpu"))
    fill(assembled, released)
    checkpoint = out / "checkpoints" / "step-000000"
    checkpoint.mkdir(parents=True)
    named = {name: tensor for name, tensor in assembled.model.named_parameters() if name in released.projector}
    named |= assembled.attached.named_parameters()
    weights_writer(assembled)(checkpoint, {name: tensor.detach().float() for name, tensor in named.items()})
    RunState().write(checkpoint / "state.json")
    (checkpoint / "COMPLETE").write_text("")
    (out / "checkpoints" / "last").write_text(checkpoint.name + "\n")
    (out / "config.yaml").write_text(as_yaml(config), encoding="utf-8")
    (out / "import.json").write_text(json.dumps({"ignored": released.ignored}, indent=1) + "\n", encoding="utf-8")


def configuration(released: Released, overrides: Sequence[str]) -> dict[str, Any]:
    """A run's configuration with the released method in it."""
    words = ["exp=mix_general_doc_med", *map(prepare_override, overrides)]
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        config = resolved(compose(config_name="train", overrides=words))
    kind = type(released.config)
    settings = json.loads(json.dumps(asdict(released.config)))  # type: ignore[call-overload]
    config["adapter"] = {"_target_": f"llava_moe.adapters.{kind.__name__}", **settings}
    return settle(config)


def fill(assembled: Assembled, released: Released) -> None:
    """Copy adapter and projector in; a tensor that does not fit the base is refused."""
    assembled.attached.load_state_dict(released.adapter)
    parameters = dict(assembled.model.named_parameters())
    for name, tensor in released.projector.items():
        if parameters[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, the base's {tuple(parameters[name].shape)}"
            raise UserError(f"the release's {name} is {shapes}: name the base that it was trained on")
        with torch.no_grad():
            parameters[name].copy_(tensor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
