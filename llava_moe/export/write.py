"""The two exports: a merged Hugging Face model, and PEFT folders beside the base that they belong to."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig, LlavaForConditionalGeneration, LlavaProcessor

from llava_moe.assemble import Assembled
from llava_moe.data.end_tokens import end_token_ids
from llava_moe.export.constant_gates import Mixings, expert_names, held, one_expert, silenced
from llava_moe.export.experts import expert_parts, write_expert
from llava_moe.export.hide_local_paths import without_places
from llava_moe.export.merge import fold
from llava_moe.export.processor_files import write_processor
from llava_moe.export.proof import (
    Comparison,
    compare,
    load_merged,
    load_peft,
    load_processor,
    our_logits,
    probes_of,
    their_logits,
)
from llava_moe.export.published import MAX_SHARD_SIZE, write_config, write_weights
from llava_moe.model.adapter_record import record_of_adapter
from llava_moe.model.families import Family

BASE = "base"
ROUTER = "router"


@dataclass(frozen=True)
class PublishedBase:
    """A base that anyone can get: by its ``hub_id``; ``source`` is what it was opened by here, the id or a folder."""

    hub_id: str
    source: str


def export_merged(
    assembled: Assembled,
    processor: LlavaProcessor,
    folder: Path,
    dtype: torch.dtype,
    mixings: Mixings,
    start: Sequence[Tensor] | None = None,
) -> Comparison:
    """Fold the adapter into the base, write model and processor, load them back and compare.

    The assembled model is used up: its adapter is gone and its weights are those written.

    Args:
        assembled: in fp32.
        folder: an existing folder.
        dtype: precision of the weights written.
        mixings: M of the gated linears; empty where nothing is gated.
        start: logits of the probes before training, for a run without an adapter; else the base's are taken.

    Raises:
        UserError: what was written is not what was trained; see :func:`~llava_moe.export.proof.compare`.
    """
    probes = probes_of(assembled)
    with held(assembled.model, mixings):
        ours = our_logits(assembled, probes)
    if start is None:
        with silenced(assembled.model):
            start = our_logits(assembled, probes)
    fold(assembled.model, mixings)
    assembled.attached.detach()
    write_model(assembled.model, processor, folder, dtype, assembled.base.family)
    theirs = their_logits(load_merged(folder), load_processor(folder), probes)
    return compare("merged model", ours, theirs, start, dtype)


def export_peft(
    assembled: Assembled, processor: LlavaProcessor, folder: Path, dtype: torch.dtype, published: PublishedBase | None
) -> list[Comparison]:
    """Write a PEFT folder (plain LoRA) or one for each expert with the router beside them; load each back and compare.

    The assembled model is used up: its adapter is gone. Without a published base, each folder names the assembled one
    by the way from itself: PEFT finds it when the folder is the current one.

    Args:
        assembled: in fp32.
        folder: an existing folder; without experts it becomes the PEFT folder itself.
        dtype: precision of the base.
        published: the base that the folders belong to; without one the assembled base is written to ``folder/base``.

    Raises:
        UserError: what was written is not what was trained; see :func:`~llava_moe.export.proof.compare`.
    """
    model, probes = assembled.model, probes_of(assembled)
    with silenced(model):
        bare = our_logits(assembled, probes)
    experts = {name: folder / folder_of(name) for name in expert_names(model)} or {"": folder}
    ours, parts = {}, {}
    for name in experts:
        with held(model, one_expert(model, name) if name else {}):
            ours[name] = our_logits(assembled, probes)
        parts[name] = expert_parts(model, name or None)
    if expert_names(model):
        write_router(folder, assembled)
    dropout = {"lora_dropout": getattr(assembled.attached.config, "lora_dropout", 0.0)}
    assembled.attached.detach()
    is_projectors = assembled.base.family.parts.is_projectors
    projector = {name: tensor.detach() for name, tensor in model.named_parameters() if is_projectors(name)}
    for name, place in experts.items():
        base = published.hub_id if published else os.path.relpath(folder / BASE, place).replace(os.sep, "/")
        write_expert(place, model, parts[name], dropout | {"base_model_name_or_path": base}, projector)
        record_of_adapter(place, assembled.weights)
    write_processor(processor, folder)
    if published is None:
        write_model(model, processor, folder / BASE, dtype, assembled.base.family)
    comparisons = []
    for name, place in experts.items():
        adapted = load_peft(published.source if published else folder / BASE, dtype, place)
        theirs = their_logits(adapted, load_processor(folder), probes)
        shown = f"{place.name} (our model with {name} for every token)" if name else "PEFT adapter"
        comparisons.append(compare(shown, ours[name], theirs, bare, dtype))
    return comparisons


def folder_of(expert: str) -> str:
    """``expert-0`` for ``experts.0``."""
    return f"expert-{expert.removeprefix('experts.')}"


def write_router(folder: Path, assembled: Assembled) -> None:
    """Write what chooses between the experts: ``router.safetensors``, and ``router.json`` that says how it is read."""
    attached = assembled.attached
    tensors = {
        name: tensor.detach().float().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in attached.state_dict().items()
        if ".lora_A." not in name and ".lora_B." not in name
    }
    save_file(tensors, folder / f"{ROUTER}.safetensors", metadata={"format": "pt"})
    facts = {
        "format_version": 1,
        "method": attached.config.method,
        "settings": without_places(asdict(attached.config)),  # type: ignore[call-overload]
        "experts": {name: folder_of(name) for name in expert_names(assembled.model)},
        "reads": "the input of the module that a tensor is named after",
    }
    (folder / f"{ROUTER}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def write_model(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    folder: Path,
    dtype: torch.dtype,
    family: Family,
) -> None:
    """Write a bare model in ``dtype``, and its processor, as Hugging Face reads them."""
    before: Any = model.dtype
    device = next(model.parameters()).device
    text = cast(Any, model.config.text_config)
    folder.mkdir(parents=True, exist_ok=True)
    # Packed rows need it off (see model/build.py); whoever generates wants it on.
    text.use_cache = True
    try:
        nn.Module.to(model, torch.device("cpu"), dtype)
        write_weights(model, folder, MAX_SHARD_SIZE, family)
        write_config(model, folder, dtype)
    finally:
        text.use_cache = False
        nn.Module.to(model, device, before)
    generation_of(model, processor).save_pretrained(folder)
    write_processor(processor, folder)


def generation_of(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> GenerationConfig:
    """The tokens that generation starts with and stops at; the base's other wishes, such as sampling, are not kept."""
    # Training ends answers with the tokenizer's end token; a base may stop at others too.
    stops = end_token_ids(model, processor.tokenizer)
    return GenerationConfig(
        bos_token_id=cast(Any, model.generation_config).bos_token_id,
        eos_token_id=stops[0] if len(stops) == 1 else list(stops),
        pad_token_id=processor.tokenizer.pad_token_id,
    )
