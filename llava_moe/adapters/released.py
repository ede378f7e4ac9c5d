"""Weights that the methods' authors released, read safely into our names, each tensor used or named as left behind.

Nothing is unpickled but tensors (``weights_only=True``). Layouts: forwchen/LLaVA-MoLE 5876301 (``model.py``,
``moe.py``), VT-NLP/MixLoRA af5cc3f (``llava/peft_cmoa``), haotian-liu/LLaVA c121f04 (``llava/train/train.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llava_moe.adapters.core.field_types import first_misfit
from llava_moe.adapters.core.method import Method
from llava_moe.adapters.core.target_model import MLP_LINEARS
from llava_moe.adapters.formats.native_format import CONFIG_FILE, read_settings
from llava_moe.adapters.formats.peft_format import plain_lora_settings
from llava_moe.adapters.methods.llava_mole import LlavaMole
from llava_moe.adapters.methods.lora import Lora
from llava_moe.adapters.methods.mixlora import MixLora
from llava_moe.adapters.released_files import (
    PROJECTOR,
    as_two_layers,
    check_complete,
    check_projector,
    projector_renaming,
    rank_of,
    read_torch_file,
    translate,
)
from llava_moe.errors import UserError

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
        *projector_renaming(r"in_adaptor\.projector"),
    )
    ignoring = (
        (r"in_adaptor\.visual_(start|end)_token", NO_SUCH_TOKEN),
        (r"in_adaptor\.text_embed\.weight", OF_THE_BASE),
        (r"vit\.vision_tower\..*", OF_THE_TOWER),
        (r".*\.rotary_emb\.inv_freq", COMPUTED),
        (r"llm_model\.base_model\.model\.(model|lm_head)\.(?!.*(lora_|router|moe_)).*", OF_THE_BASE),
    )
    adapter, projector, ignored = translate(path, tensors, renaming, ignoring)
    num_experts = 1 + max(
        (int(found[1]) for name in adapter if (found := re.search(r"experts\.(\d+)\.", name))), default=-1
    )
    if num_experts < 1:
        raise UserError(f"{path} is not a LLaVA-MoLE checkpoint: it has no expert (mlp.moe_gate.0.lora_A)")
    attention = sorted({name.split(".")[4] for name in adapter if ".self_attn." in name})
    config = LlavaMole(
        num_experts=num_experts,
        r=(rank := rank_of(path, adapter)),
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
    check_complete(path, adapter, parts)
    check_projector(path, projector)
    return Released(config, adapter, projector, ignored)


def read_llava_lora(folder: str | Path) -> Released:
    """Read the folder of a LLaVA LoRA run: PEFT's two files and ``non_lora_trainables.bin`` with the projector.

    Raises:
        UserError: a file is missing (LLaVA's ``checkpoint-N`` folders lack the projector), holds anything but tensors,
            or a tensor is missing or unknown.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    plain = plain_lora_settings(folder, settings)
    if misfit := first_misfit(Lora, plain):
        raise UserError(f"{folder / CONFIG_FILE}: {misfit}; write it again with PEFT")
    config = Lora(**plain)
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
    adapter, _, ignored = translate(path, read_torch_file(path), lora, ())
    renaming = projector_renaming(r"(?:base_model\.model\.)?model\.mm_projector")
    _, projector, more = translate(others, read_torch_file(others), renaming, ((r".*\.inv_freq", COMPUTED),))
    if (rank := rank_of(path, adapter)) != config.r:
        raise UserError(f"{path} has rank {rank}, its adapter_config.json says {config.r}: the files are of two runs")
    blocks = {name: "mlp" if name in MLP_LINEARS else "self_attn" for name in config.target_modules}
    parts = [f"{block}.{name}.{side}.weight" for name, block in blocks.items() for side in ("lora_A", "lora_B")]
    check_complete(path, adapter, parts)
    check_projector(others, projector)
    return Released(config, adapter, projector, ignored | more)


def read_mixlora(
    path: str | Path, r: int | None = None, lora_alpha: float | None = None, lora_dropout: float = 0.05
) -> Released:
    """Read VT-NLP/MixLoRA's ``pytorch_model.bin``: the tensors of the whole model, base and vision tower among them.

    Its settings lie in ``cmoa_args.bin``, a pickle that is not opened. The number of factors and whether the choice is
    conditional are read off the tensors. The method comes back ``as_released``, whose forward pass is theirs.

    A projector of one linear layer, as in LLaVA v1, is written as the two layers that Hugging Face's LLaVA has, which
    compute the same: W x + b = W (gelu(x) - gelu(-x)) + b, since gelu(x) = x Phi(x).

    Args:
        r: ``n_selected``; needed where the choice is not conditional, else read off the shapes.
        lora_alpha: ``None`` is 2 E, as the released scripts set it.
        lora_dropout: of training.

    Raises:
        UserError: the file holds anything but tensors, a tensor is missing, unknown or misshaped, or ``r`` is needed.
    """
    path = Path(path)
    linear = r"base_model\.model\.model\.(layers\.\d+\.(?:self_attn|mlp)\.\w+)"
    renaming = (
        (linear + r"\.(lora_[AB])\.default\.(\d+)", r"language_model.\1.factors.\3.\2.weight"),
        (linear + r"\.cmoa_selector\.lora([AB])_selector\.weight", r"language_model.\1.gate.ifs_\2"),
        (linear + r"\.cmoa_loarB_extra_selector\.loraB_selector\.weight", r"language_model.\1.gate.ifs_B"),
        (linear + r"\.cmoa_loarB_extra_selector\.loraA_param2loraB_selector\.weight", r"language_model.\1.gate.cfs"),
        (r"base_model\.model\.model\.mm_projector\.(weight|bias)", PROJECTOR + r".\1"),
        *projector_renaming(r"base_model\.model\.model\.mm_projector"),
    )
    ignoring = (
        (r"base_model\.model\.model\.vision_tower\..*", OF_THE_TOWER),
        (r".*\.rotary_emb\.inv_freq", COMPUTED),
        (r"base_model\.model\.(lm_head|model\.(embed_tokens|norm|layers))\.(?!.*(lora_|cmoa_)).*", OF_THE_BASE),
    )
    adapter, projector, ignored = translate(path, read_torch_file(path), renaming, ignoring)
    factors = {int(found[1]) for name in adapter if (found := re.search(r"\.factors\.(\d+)\.", name))}
    if not factors:
        raise UserError(f"{path} is not a MixLoRA checkpoint: it has no factor (lora_A.default.0)")
    num_factors, conditional = max(factors) + 1, any(name.endswith(".cfs") for name in adapter)
    adapter = {name: tensor.t() if name.endswith("lora_B.weight") else tensor for name, tensor in adapter.items()}
    if rank_of(path, adapter) != 1:
        raise UserError(f"{path}: its factors are not of rank 1: mixtures that start at a later layer are not read")
    r = _split_cfs(path, adapter, num_factors, r)
    linears = sorted({tuple(name.split(".")[3:5]) for name in adapter})
    config = MixLora(
        num_factors=num_factors,
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        conditional=conditional,
        target_modules=tuple(leaf for _, leaf in linears),
        as_released=True,
    )
    of_each = [f"factors.{e}.{side}.weight" for e in range(num_factors) for side in ("lora_A", "lora_B")]
    of_each += ["gate.ifs_A", "gate.ifs_B", *(["gate.cfs"] if conditional else [])]
    check_complete(path, adapter, [f"{block}.{leaf}.{part}" for block, leaf in linears for part in of_each])
    if f"{PROJECTOR}.weight" in projector:
        projector = as_two_layers(path, projector)
    check_projector(path, projector)
    return Released(config, adapter, projector, ignored)


def _split_cfs(path: Path, adapter: dict[str, Tensor], num_factors: int, r: int | None) -> int:
    """Bring W_AB from [E, r D] to [r, E, D], in place, and say how many factors are chosen."""
    for name in [name for name in adapter if name.endswith(".cfs")]:
        width = adapter[name.replace("gate.cfs", "factors.0.lora_A.weight")].shape[1]
        r = r or adapter[name].shape[1] // width
        if adapter[name].shape != (num_factors, r * width):
            raise UserError(f"{path}: {name} is {tuple(adapter[name].shape)}, not {num_factors} x ({r} x {width})")
        adapter[name] = adapter[name].unflatten(1, (r, width)).transpose(0, 1)
    if r is None:
        raise UserError(f"{path}: its choice of B does not depend on A, so nothing tells how many are chosen: give r")
    return r


def _first_file(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has no {' or '.join(names)}: give the folder of a LLaVA LoRA run")
