"""Files of released weights: read without running what is in them, and sorted tensor by tensor.

Shape suffixes: H hidden, V vision hidden.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llava_moe.adapters.formats.native_format import refuse_nonfinite
from llava_moe.errors import UserError

PROJECTOR = "model.multi_modal_projector"
# (pattern of a released name, our name for it); the first that fits the whole name counts.
Renaming = Sequence[tuple[str, str]]
# (pattern, why such a tensor is left behind)
Ignoring = Sequence[tuple[str, str]]


def read_torch_file(path: Path) -> dict[str, object]:
    """Read a ``.safetensors`` file, or a torch file of nothing but tensors and plain containers.

    Raises:
        UserError: it is not there, is damaged, or would run code of its own when opened.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # A whole model of 14 GB is read a tensor at a time; files older than torch 1.6 cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the file that the authors released") from None
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "not tensors"
        raise UserError(f"{path} holds more than tensors, and nothing else is unpickled here ({reason})") from error
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({(str(error) or 'empty').splitlines()[0]}); download it again") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not tensors by name: give the released file")
    return {str(name): value for name, value in content.items()}


def translate(
    path: Path, tensors: Mapping[str, object], renaming: Renaming, ignoring: Ignoring
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """Sort released tensors into (adapter, projector, reasons for those left behind)."""
    adapter: dict[str, Tensor] = {}
    projector: dict[str, Tensor] = {}
    ignored: dict[str, str] = {}
    unexpected: list[str] = []
    for released, tensor in tensors.items():
        name = next(
            (found.expand(ours) for pattern, ours in renaming if (found := re.fullmatch(pattern, released))), None
        )
        reason = next((reason for pattern, reason in ignoring if re.fullmatch(pattern, released)), None)
        if name is not None and isinstance(tensor, Tensor):
            (projector if name.startswith(PROJECTOR) else adapter)[name] = tensor
        elif name is None and reason is not None:
            ignored[released] = reason
        else:
            unexpected.append(released)
    if unexpected:
        raise UserError(f"{path}: unexpected {_some(sorted(unexpected))}; this is not a file of the released format")
    refuse_nonfinite(path, adapter | projector)
    return adapter, projector, ignored


def projector_renaming(prefix: str) -> Renaming:
    """``nn.Sequential(Linear, GELU, Linear)`` in Hugging Face's names."""
    return (
        (prefix + r"\.0\.(weight|bias)", PROJECTOR + r".linear_1.\1"),
        (prefix + r"\.2\.(weight|bias)", PROJECTOR + r".linear_2.\1"),
    )


def rank_of(path: Path, adapter: Mapping[str, Tensor]) -> int:
    ranks = {tensor.shape[0] for name, tensor in adapter.items() if name.endswith("lora_A.weight")}
    ranks |= {tensor.shape[1] for name, tensor in adapter.items() if name.endswith("lora_B.weight")}
    if len(ranks) != 1:
        raise UserError(
            f"{path} has {'no LoRA' if not ranks else f'LoRAs of ranks {sorted(ranks)}'}; one rank is needed"
        )
    return ranks.pop()


def check_complete(path: Path, adapter: Mapping[str, Tensor], parts: Sequence[str]) -> None:
    """Every layer up to the last has every part, and nothing else."""
    layers = {int(found[1]) for name in adapter if (found := re.match(r"language_model\.layers\.(\d+)\.", name))}
    wanted = {f"language_model.layers.{layer}.{part}" for layer in range(max(layers, default=0) + 1) for part in parts}
    missing, unexpected = sorted(wanted - adapter.keys()), sorted(adapter.keys() - wanted)
    named = {"missing": missing, "unexpected": unexpected}
    faults = [f"{fault} {_some(names)}" for fault, names in named.items() if names]
    if faults:
        raise UserError(f"{path} is not whole: {'; '.join(faults)}; download it again")


def check_projector(path: Path, projector: Mapping[str, Tensor]) -> None:
    wanted = {f"{PROJECTOR}.linear_{number}.{part}" for number in (1, 2) for part in ("weight", "bias")}
    if missing := sorted(wanted - projector.keys()):
        raise UserError(f"{path} lacks the projector's {_some(missing)}: a two-layer one with biases is needed")


def as_two_layers(path: Path, projector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A linear projector [H, V] as linear_1 = [I; -I; 0] and linear_2 = [W, -W, 0], exact with GELU between them."""
    weight_HV, bias_H = projector[f"{PROJECTOR}.weight"], projector.get(f"{PROJECTOR}.bias")
    hidden, vision = weight_HV.shape
    if bias_H is None or hidden < 2 * vision:
        raise UserError(f"{path}: a linear projector of {vision} to {hidden} without bias or width has no form here")
    first_HV, second_HH = weight_HV.new_zeros(hidden, vision), weight_HV.new_zeros(hidden, hidden)
    identity_VV = torch.eye(vision, dtype=weight_HV.dtype)
    first_HV[: 2 * vision] = torch.cat([identity_VV, -identity_VV])
    second_HH[:, : 2 * vision] = torch.cat([weight_HV, -weight_HV], 1)
    return {
        f"{PROJECTOR}.linear_1.weight": first_HV,
        f"{PROJECTOR}.linear_1.bias": torch.zeros_like(bias_H),
        f"{PROJECTOR}.linear_2.weight": second_HH,
        f"{PROJECTOR}.linear_2.bias": bias_H,
    }


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
