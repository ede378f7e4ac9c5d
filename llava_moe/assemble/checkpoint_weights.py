"""A checkpoint's weights: written from what an engine gathered, and its base parts read into a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from llava_moe.adapters.formats.native_format import refuse_nonfinite
from llava_moe.assemble.assembled import Assembled
from llava_moe.errors import UserError
from llava_moe.model.adapter_record import record_of_adapter


def weights_writer(assembled: Assembled) -> Callable[[Path, Mapping[str, torch.Tensor]], None]:
    """Return the function that writes a checkpoint's weights from the fp32 values that the engine gathered.

    Ask for it before an engine takes the model apart: what an adapter keeps frozen, no engine gathers again.
    """
    attached, is_projectors = assembled.attached, assembled.base.family.parts.is_projectors
    own = attached.named_parameters()
    adapter_names = set(own)
    frozen = {n: p.detach().to("cpu", copy=True) for n, p in own.items() if not p.requires_grad}
    # A wrapped linear keeps its own weight under ".base": files carry Hugging Face's names.

    def write(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        if assembled.has_adapter:
            (folder / "adapter").mkdir()
            trained = {n: t for n, t in tensors.items() if n in adapter_names}
            attached.save(folder / "adapter", tensors=frozen | trained)
            record_of_adapter(folder / "adapter", assembled.weights)
        projector = {n: t for n, t in tensors.items() if is_projectors(n)}
        if projector:
            save_file(projector, folder / "projector.safetensors")
        base = {
            n.replace(".base.", "."): t for n, t in tensors.items() if n not in adapter_names and not is_projectors(n)
        }
        if base:
            (folder / "model").mkdir()
            save_file(base, folder / "model" / "base.safetensors")

    return write


def load_base_parts(model: LlavaForConditionalGeneration, checkpoint: Path) -> None:
    """Read ``projector.safetensors`` and ``model/base.safetensors`` of a checkpoint into the model, strictly."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for path in (checkpoint / "projector.safetensors", checkpoint / "model" / "base.safetensors"):
        if not path.is_file():
            continue
        for name, tensor in _read_tensors(path):
            if name not in parameters or parameters[name].shape != tensor.shape:
                found = tuple(parameters[name].shape) if name in parameters else "missing"
                raise UserError(f"{path}: tensor {name} {tuple(tensor.shape)} does not fit the model ({found})")
            refuse_nonfinite(path, {name: tensor})
            with torch.no_grad():
                parameters[name].copy_(tensor)


def _read_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    # One at a time: a language model in fp32 must not stand in memory once more on every rank.
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): copy it again, or take another checkpoint of the run") from error
