"""Loads an exported folder back by Hugging Face and PEFT alone and compares its logits with ours.

Shape suffixes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_moe.adapters.formats.peft_library import import_peft
from llava_moe.assemble import Assembled
from llava_moe.data.conversation import IMAGE_PLACEHOLDER, USER, Turn
from llava_moe.data.images.inputs import inputs_of, see
from llava_moe.errors import UserError

QUESTIONS = ("What is shown here?", "How many bars are there, and which colour is the longest?")
PEFT_READS = "to=peft loads what it wrote back by PEFT"
"""Why it is needed."""
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of logits, as a share of the largest logit, by the precision of what was written."""


@dataclass(frozen=True)
class Probe:
    """One prompt with its picture, as both sides get it."""

    name: str
    text: str
    image: Image.Image
    input_ids: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """What a written folder computes beside what our model does.

    Attributes:
        name: what was compared.
        difference: max |theirs - ours| over the logits of all probes.
        from_base: max |ours - base|: what the adapter changes at all.
        largest: max |ours|, to which ``tolerance`` is relative.
    """

    name: str
    difference: float
    from_base: float
    largest: float
    tolerance: float

    @property
    def line(self) -> str:
        """One line for the user."""
        return (
            f"{self.name}: logits differ by at most {self.difference:.2e} from ours (allowed "
            f"{self.tolerance * self.largest:.2e}), which differ by {self.from_base:.2e} from the base's"
        )


def probes_of(assembled: Assembled) -> list[Probe]:
    """A square picture and two that are not, each with a question, written as training wrote them."""
    encoder, size = assembled.encoder, assembled.base.image_size
    generator = np.random.default_rng(0)
    probes: list[Probe] = []
    for name, shape in (("square", (size, size)), ("wide", (size, 2 * size + 7)), ("tall", (size * 3 // 2, size // 2))):
        rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
        waves = np.stack([128 + 100 * np.sin(rows / 9 + columns / (5 + 3 * channel)) for channel in range(3)], -1)
        pixels = np.clip(waves + generator.integers(-20, 20, waves.shape), 0, 255).astype(np.uint8)
        turns = [Turn(USER, f"{IMAGE_PLACEHOLDER}\n{QUESTIONS[len(probes) % 2]}")]
        text = encoder.template.prompt(turns)
        image = Image.fromarray(pixels)
        probes.append(Probe(name, text, image, encoder.encode_prompt(turns, image_sizes=[image.size])))
    return probes


@torch.no_grad()
def our_logits(assembled: Assembled, probes: Sequence[Probe]) -> list[Tensor]:
    """Logits [T, V] fp32 on the CPU, from our own encoder's tokens and pixels."""
    model, transform = assembled.model, assembled.encoder.transform
    device = next(model.parameters()).device
    logits = []
    for probe in probes:
        # Made on the CPU whatever the device, as a processor makes its own.
        images = inputs_of(transform, [see(transform, probe.image)], torch.device("cpu"), model.dtype)
        images = {name: tensor.to(device) for name, tensor in images.items()}
        ids = torch.from_numpy(probe.input_ids)[None].to(device)
        logits.append(model(input_ids=ids, **images, use_cache=False).logits[0].float().cpu())
    return logits


@torch.no_grad()
def their_logits(model: Any, processor: Any, probes: Sequence[Probe]) -> list[Tensor]:
    """The same from Hugging Face's processor and model.

    Raises:
        UserError: the written processor makes other tokens of a prompt than training did.
    """
    logits = []
    for probe in probes:
        inputs = processor(images=probe.image, text=probe.text, return_tensors="pt")
        if inputs["input_ids"][0].tolist() != probe.input_ids.tolist():
            raise UserError(f"the written processor makes other tokens of the {probe.name} probe than training did")
        logits.append(model(**inputs).logits[0].float())
    return logits


def load_merged(folder: Path) -> nn.Module:
    """The model of a folder, by Hugging Face alone, computing in fp32 on the CPU.

    Raises:
        UserError: the folder lacks a tensor of the model, or holds one that is none of it.
    """
    return nn.Module.eval(_load_whole(folder, torch.float32))


def _load_whole(base: str | Path, dtype: torch.dtype) -> Any:
    # Trap: transformers starts what it does not find at random, with a warning; logits need not tell of every tensor.
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(base, dtype=dtype, output_loading_info=True)
    model, account = loaded
    wrong = sorted(
        str(name) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in account[kind]
    )
    if wrong:
        raise UserError(f"{base} is not whole as Hugging Face reads it: {len(wrong)} tensors, such as {wrong[0]}")
    return model


def load_processor(folder: Path) -> Any:
    """The processor of a folder, by Hugging Face alone."""
    return AutoProcessor.from_pretrained(folder)


def load_peft(base: str | Path, dtype: torch.dtype, adapter: Path) -> nn.Module:
    """A base in the precision it is used in, with a PEFT folder on it, by Hugging Face and PEFT alone; in fp32."""
    peft = import_peft(PEFT_READS)
    model: Any = nn.Module.to(_load_whole(base, dtype), torch.float32)
    adapted: nn.Module = peft.PeftModel.from_pretrained(model, str(adapter))
    return adapted.eval()


def compare(
    name: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], base: Sequence[Tensor], dtype: torch.dtype
) -> Comparison:
    """Hold logits against each other.

    Raises:
        UserError: what was written computes something else than our model, or nothing else than the base.
    """
    comparison = Comparison(
        name=name,
        difference=_largest_difference(ours, theirs),
        from_base=_largest_difference(ours, base),
        largest=max(float(logits.abs().max()) for logits in ours),
        tolerance=TOLERANCES[dtype],
    )
    if comparison.from_base == 0 or _largest_difference(theirs, base) == 0:
        raise UserError(f"{name}: its logits equal the base model's, so nothing was trained or nothing was written")
    if comparison.difference > comparison.tolerance * comparison.largest:
        raise UserError(f"{comparison.line}: what was written is not this run; please report it with this line")
    if comparison.difference > comparison.from_base / 2:
        raise UserError(
            f"{comparison.line}: rounding to {str(dtype).removeprefix('torch.')} loses most of what was trained: "
            "add dtype=fp32"
        )
    return comparison


def _largest_difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return max(float((a_TV - b_TV).abs().max()) for a_TV, b_TV in zip(left, right, strict=True))
