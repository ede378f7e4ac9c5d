"""Weights that the methods' authors released, read safely into our names, each tensor used or named as left behind.

Nothing is unpickled but tensors (``weights_only=True``). Layouts: forwchen/LLaVA-MoLE 5876301 (``model.py``,
``moe.py``), VT-NLP/MixLoRA af5cc3f (``llava/peft_cmoa``), haotian-liu/LLaVA c121f04 (``llava/train/train.py``).
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llava_moe.adapters.adapter import Method
from llava_moe.adapters.body import MLP_LINEARS
from llava_moe.adapters.llava_mole import LlavaMole
from llava_moe.adapters.lora import Lora
from llava_moe.adapters.own_format import read_settings, refuse_nonfinite
from llava_moe.adapters.peft_format import plain_lora_settings
from llava_moe.errors import UserError

PROJECTOR = "model.multi_modal_projector"
# (pattern of a released name, our name for it); the first that fits the whole name counts.
Renaming = Sequence[tuple[str, str]]
# (pattern, why such a tensor is left behind)
Ignoring = Sequence[tuple[str, str]]

OF_THE_BASE = "a weight of the base model, which comes from the base"
OF_THE_TOWER = "the vision tower, which comes from the base"
NO_SUCH_TOKEN = "Hugging Face's LLaVA has no learned token around an image, so answers differ from the release's"
COMPUTED = "computed, not learned"


@dataclass(frozen=True)
class Released:
    """A released adapter in our names.

    Attributes:
        config: the method with the hyper-parameters that the files show.
        adapter: tensors as :meth:`~llava_moe.adapters.Attached.load_state_dict` takes them.
        projector: the projector's tensors by their names in ``LlavaForConditionalGeneration``.
        ignored: each tensor of the files that is in neither, with the reason.
    """

    config: Method
    adapter: dict[str, Tensor]
    projector: dict[str, Tensor]
    ignored: dict[str, str]


def read_llava_mole(path: str | Path, lora_alpha: float | None = None, router: str = "dense") -> Released:
    """Read forwchen/LLaVA-MoLE's ``.pt``: ``{"state_dict": tensors of MLLM_LLaVA_MoLE}``.

    Ranks and the number of experts are read off the shapes.

    Args:
        lora_alpha: not in the file; ``None`` is 2 r, as in the released settings.
        router: ``dense``, as the released inference settings have it (``dense_moe = True``), or ``hard``, its sparse
            form.

    Raises:
        UserError: the file holds anything but tensors, or a tensor is missing, unknown or misshaped.
    """
    path = Path(path)
    content = read_torch_file(path)
    tensors = content.get("state_dict", content)
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{path} is not a LLaVA-MoLE checkpoint: it has no state_dict of tensors")
    layer = r"llm_model\.base_model\.model\.model\.(layers\.\d+"
    renaming = (
        (layer + r"\.self_attn\.\w+)\.(lora_[AB])(?:\.default)?\.weight", r"language_model.\1.\2.weight"),
        (layer + r"\.mlp)\.moe_(gate|up|down)\.(\d+)\.(lora_[AB])", r"language_model.\1.\2_proj.experts.\3.\4.weight"),
        (layer + r"\.mlp)\.router\.(weight|bias)", r"language_model.\1.router.\2"),
        *_projector_renaming(r"in_adaptor\.projector"),
    )
    ignoring = (
        (r"in_adaptor\.visual_(start|end)_token", NO_SUCH_TOKEN),
        (r"in_adaptor\.text_embed\.weight", OF_THE_BASE),
        (r"vit\.vision_tower\..*", OF_THE_TOWER),
        (r".*\.rotary_emb\.inv_freq", COMPUTED),
        (r"llm_model\.base_model\.model\.(model|lm_head)\.(?!.*(lora_|router|moe_)).*", OF_THE_BASE),
    )
    adapter, projector, ignored = _translate(path, tensors, renaming, ignoring)
    num_experts = 1 + max(
        (int(found[1]) for name in adapter if (found := re.search(r"experts\.(\d+)\.", name))), default=-1
    )
    if num_experts < 1:
        raise UserError(f"{path} is not a LLaVA-MoLE checkpoint: it has no expert (mlp.moe_gate.0.lora_A)")
    attention = sorted({name.split(".")[4] for name in adapter if ".self_attn." in name})
    config = LlavaMole(
        num_experts=num_experts,
        r=(rank := _rank_of(path, adapter)),
        lora_alpha=2 * rank if lora_alpha is None else lora_alpha,
        lora_dropout=0.05,
        router=router,
        load_balance="pooled",
        target_modules=(*attention, *MLP_LINEARS),
    )
    experts = [f"experts.{expert}." for expert in range(num_experts)]
    parts = [f"self_attn.{name}.{side}.weight" for name in attention for side in ("lora_A", "lora_B")]
    parts += [
        f"mlp.{name}.{expert}{side}.weight"
        for name in MLP_LINEARS
        for expert in experts
        for side in ("lora_A", "lora_B")
    ]
    if num_experts == 1:  # a router over one expert decides nothing, and we have none
        for name in [name for name in adapter if ".router." in name]:
            del adapter[name]
            ignored[name] = "a router over one expert"
    else:
        parts += ["mlp.router.weight", "mlp.router.bias"]
    _check_complete(path, adapter, parts)
    _check_projector(path, projector)
    return Released(config, adapter, projector, ignored)


def read_llava_lora(folder: str | Path) -> Released:
    """Read the folder of a LLaVA LoRA run: PEFT's two files and ``non_lora_trainables.bin`` with the projector.

    Raises:
        UserError: a file is missing (LLaVA's ``checkpoint-N`` folders lack the projector), holds anything but tensors,
            or a tensor is missing or unknown.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    config = Lora(**plain_lora_settings(folder, settings))
    if isinstance(config.target_modules, str):
        raise UserError(f"{folder}: target_modules is an expression; LLaVA lists names, which are needed here")
    path = _first_file(folder, "adapter_model.safetensors", "adapter_model.bin")
    others = folder / "non_lora_trainables.bin"
    if not others.is_file():
        raise UserError(
            f"{folder} has no {others.name}, which holds the projector; LLaVA writes it when training ends, not into "
            "its checkpoint-N folders: take the folder of the finished run"
        )
    lora = ((r"base_model\.model\.model\.(layers\..*)\.(lora_[AB])\.weight", r"language_model.\1.\2.weight"),)
    adapter, _, ignored = _translate(path, read_torch_file(path), lora, ())
    renaming = _projector_renaming(r"(?:base_model\.model\.)?model\.mm_projector")
    _, projector, more = _translate(others, read_torch_file(others), renaming, ((r".*\.inv_freq", COMPUTED),))
    if (rank := _rank_of(path, adapter)) != config.r:
        raise UserError(f"{path} has rank {rank}, its adapter_config.json says {config.r}: the files are of two runs")
    blocks = {name: "mlp" if name in MLP_LINEARS else "self_attn" for name in config.target_modules}
    parts = [f"{block}.{name}.{side}.weight" for name, block in blocks.items() for side in ("lora_A", "lora_B")]
    _check_complete(path, adapter, parts)
    _check_projector(others, projector)
    return Released(config, adapter, projector, ignored | more)


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


def _translate(
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


def _projector_renaming(prefix: str) -> Renaming:
    """``nn.Sequential(Linear, GELU, Linear)`` in Hugging Face's names."""
    return (
        (prefix + r"\.0\.(weight|bias)", PROJECTOR + r".linear_1.\1"),
        (prefix + r"\.2\.(weight|bias)", PROJECTOR + r".linear_2.\1"),
    )


def _rank_of(path: Path, adapter: Mapping[str, Tensor]) -> int:
    ranks = {tensor.shape[0] for name, tensor in adapter.items() if name.endswith("lora_A.weight")}
    ranks |= {tensor.shape[1] for name, tensor in adapter.items() if name.endswith("lora_B.weight")}
    if len(ranks) != 1:
        raise UserError(
            f"{path} has {'no LoRA' if not ranks else f'LoRAs of ranks {sorted(ranks)}'}; one rank is needed"
        )
    return ranks.pop()


def _check_complete(path: Path, adapter: Mapping[str, Tensor], parts: Sequence[str]) -> None:
    """Every layer up to the last has every part, and nothing else."""
    layers = {int(found[1]) for name in adapter if (found := re.match(r"language_model\.layers\.(\d+)\.", name))}
    wanted = {f"language_model.layers.{layer}.{part}" for layer in range(max(layers, default=0) + 1) for part in parts}
    missing, unexpected = sorted(wanted - adapter.keys()), sorted(adapter.keys() - wanted)
    named = {"missing": missing, "unexpected": unexpected}
    faults = [f"{fault} {_some(names)}" for fault, names in named.items() if names]
    if faults:
        raise UserError(f"{path} is not whole: {'; '.join(faults)}; download it again")


def _check_projector(path: Path, projector: Mapping[str, Tensor]) -> None:
    wanted = {f"{PROJECTOR}.linear_{number}.{part}" for number in (1, 2) for part in ("weight", "bias")}
    if missing := sorted(wanted - projector.keys()):
        raise UserError(f"{path} lacks the projector's {_some(missing)}: a two-layer one with biases is needed")


def _first_file(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has no {' or '.join(names)}: give the folder of a LLaVA LoRA run")


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
