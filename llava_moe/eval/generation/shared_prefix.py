"""Questions about one image read it once: what their prompts begin with is computed for each image, not each question.

Legend: B questions of a batch, U different images (or sets of them) among them, P tokens that all prompts begin with,
T tokens of the padded prompts.

A causal model's keys and values of a token depend on the tokens before it alone, so those of "system prompt, USER:,
image" serve every question about that image. Adapters that pool the whole prompt before they choose (conditional
MixLoRA, MoLE) are not causal in this sense and must not be asked so.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, LlavaForConditionalGeneration

from llava_moe.data.conversation import ImageRef, StoredImage
from llava_moe.data.encode import Encoder
from llava_moe.data.images.inputs import SeenImage, inputs_of
from llava_moe.eval.benchmark import Question
from llava_moe.kv_cache import cache_name

ImageKey = tuple[Hashable, ...]


def image_key(question: Question) -> ImageKey:
    """Equal for questions about the same images in the same order."""
    return tuple(_mark(image) for image in question.images)


def _mark(image: ImageRef) -> Hashable:
    return image.sha256 if isinstance(image, StoredImage) else image


def order_by_image(questions: Sequence[Question], lengths: Sequence[int]) -> list[int]:
    """Indices with the longest prompts first, questions about one image beside one another."""
    keys: list[Hashable] = [image_key(question) or index for index, question in enumerate(questions)]
    longest: dict[Hashable, int] = {}
    first: dict[Hashable, int] = {}
    for index, (key, length) in enumerate(zip(keys, lengths, strict=True)):
        longest[key] = max(length, longest.get(key, 0))
        first.setdefault(key, index)
    return sorted(
        range(len(keys)), key=lambda index: (-longest[keys[index]], first[keys[index]], -lengths[index], index)
    )


def shared_length(questions: Sequence[Question], prompts: Sequence[np.ndarray], image_token_id: int) -> int:
    """P, or 0 where nothing is to be shared: no image is asked about twice, or text of a question stands before one."""
    if len({image_key(question) for question in questions}) == len(questions):
        return 0
    shortest = min(len(prompt) for prompt in prompts) - 1  # one token at least is left to answer from
    heads_BT = np.stack([prompt[:shortest] for prompt in prompts])
    differing = np.flatnonzero((heads_BT != heads_BT[0]).any(axis=0))
    num_shared = int(differing[0]) if len(differing) else shortest
    num_in_head = int((prompts[0][:num_shared] == image_token_id).sum())
    is_whole = all(int((prompt == image_token_id).sum()) == num_in_head for prompt in prompts)
    return num_shared if is_whole and num_in_head else 0


def read_prefix(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    questions: Sequence[Question],
    prefix: np.ndarray,
    images: Sequence[Sequence[SeenImage]],
) -> DynamicCache:
    """Keys and values of P tokens for each of B questions, computed once for each of U.

    Args:
        prefix: token ids int64 [P].
        images: those of each question.
    """
    places: dict[ImageKey, int] = {}
    which_B = [places.setdefault(image_key(question), len(places)) for question in questions]
    chosen = [which_B.index(place) for place in range(len(places))]
    device = next(model.parameters()).device
    input_ids_UP = torch.from_numpy(prefix).to(device).expand(len(places), -1)
    seen = [one for index in chosen for one in images[index]]
    # The tower stands first, so its dtype is the model's.
    given: dict[str, Any] = {**inputs_of(encoder.transform, seen, device, model.dtype)}
    cache = DynamicCache(config=model.config.get_text_config())
    given[cache_name(type(model).forward)] = cache
    model(
        input_ids=input_ids_UP,
        attention_mask=torch.ones_like(input_ids_UP),
        use_cache=True,
        logits_to_keep=1,
        **given,
    )
    cache.batch_select_indices(torch.tensor(which_B, device=device))
    return cache
