"""How likely a model holds a given answer: its loss as in training, the end of the answer included.

Legend: T tokens of the conversation, N of them supervised, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from llava_moe.assemble import Assembled
from llava_moe.data.batch import collate_row
from llava_moe.data.conversation import ASSISTANT, BadRecord, Conversation, ImageRef, Turn
from llava_moe.data.encode import IGNORED
from llava_moe.errors import UserError
from llava_moe.eval.generation.generate import answering


@dataclass(frozen=True)
class Likelihood:
    """One answer's.

    Attributes:
        log_likelihood: ln p(answer, end | question), the sum over its tokens.
        num_tokens: of the answer and its end token.
        is_greedy: greedy decoding gives this very answer and ends there.
    """

    log_likelihood: float
    num_tokens: int
    is_greedy: bool

    @property
    def loss(self) -> float:
        """``-log_likelihood / num_tokens``, the mean cross-entropy that training minimises."""
        return -self.log_likelihood / self.num_tokens


def answer_likelihood(
    assembled: Assembled, name: str, images: tuple[ImageRef, ...], turns: Sequence[Turn], answer: str
) -> Likelihood:
    """Read question and answer as training would, in one pass; what routes by prompt sees the question alone.

    Args:
        name: of the question, for messages.
        turns: the question.
        answer: outer blanks do not count: the template writes its own.

    Raises:
        UserError: an image is unreadable, the answer is blank, or both do not fit the model's positions.
    """
    model, encoder, attached = assembled.model, assembled.encoder, assembled.attached
    positions = int(model.config.get_text_config().max_position_embeddings)
    whole = replace(encoder, max_length=positions, over_length="drop")
    conversation = Conversation(name, images, (*turns, Turn(ASSISTANT, answer.strip())), "", "")
    try:
        # No record: what marks no image is text.
        rendered = whole.template.render(conversation, [len(images), 0])
        value_range = whole.reading.value_range
        sizes = whole.image_sizes(conversation, None, value_range)
        text = whole.finish(rendered, whole.encode_texts([rendered])[0], sizes)
        example = whole.with_pixels(text, conversation, None, 0, value_range)
    except BadRecord as error:
        raise UserError(f"{name}: {error}; leave the question out or shorten it") from error
    row = collate_row(encoder, [example], [0]).to(next(model.parameters()).device)
    labels_T = row.labels[0]
    # The logits of a token stand at the token before it.
    places_N = torch.nonzero(labels_T[1:] != IGNORED).flatten()
    targets_N = labels_T[1:][places_N]
    attached.new_conversation()
    attached.mark_prompts(row.labels)
    with answering(model), torch.inference_mode():
        logits_NV = model(**assembled.inputs_of(row), logits_to_keep=places_N).logits[0].float()
    attached.new_conversation()
    log_p_N = torch.log_softmax(logits_NV, dim=-1).gather(1, targets_N[:, None])[:, 0]
    is_greedy = bool((logits_NV.argmax(dim=-1) == targets_N).all())
    return Likelihood(float(log_p_N.double().sum()), len(places_N), is_greedy)
