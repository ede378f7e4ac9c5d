"""How the tokens of a batch are drawn: greedily, or sampled so that an answer depends on its question alone.

Legend: B questions of a batch, V words of the vocabulary, T tokens so far (left padding included).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteria
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from llava_moe.eval.benchmark import Decoding


class StopTexts(StoppingCriteria):
    """Ends the answers that hold one of the stop strings; what stands before it is cut out afterwards."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], num_prompt_tokens: int) -> None:
        self._tokenizer, self._stop, self._num_prompt_tokens = tokenizer, tuple(stop), num_prompt_tokens
        # A token is a byte at least; the stop string may begin inside the first one.
        self._num_read = 1 + max(len(text.encode()) for text in stop)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:
        """Bool [B]: which answers have come to a stop string."""
        tail_BT = input_ids[:, self._num_prompt_tokens :][:, -self._num_read :]
        texts = self._tokenizer.batch_decode(tail_BT, skip_special_tokens=True)
        ended = [any(stop in text for stop in self._stop) for text in texts]
        ended_B: torch.BoolTensor = torch.tensor(ended, device=input_ids.device)  # type: ignore[assignment]
        return ended_B


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((place for one in stop if (place := text.find(one)) >= 0), default=len(text))]


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise of each question's own, so that the likeliest token afterwards is a sample.

    ``argmax_v(logit_v - log(-log(u_v)))`` with u uniform in (0, 1) is distributed as softmax(logits). The noise of a
    question is drawn from the seed and its id: neither its batch nor what was sampled before it matters.
    """

    def __init__(self, seed: int, question_ids: Sequence[str]) -> None:
        self._generators = [torch.Generator().manual_seed(question_seed(seed, name)) for name in question_ids]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """``scores`` [B, V] with the noise of the next step added, in float32."""
        drawn_BV = torch.stack([torch.rand(scores.shape[1], generator=one) for one in self._generators])
        noise_BV = -torch.log(-torch.log(drawn_BV.clamp(1e-20, 1 - 1e-7)))
        noisy_BV: torch.FloatTensor = scores.float() + noise_BV.to(scores.device)  # type: ignore[assignment]
        return noisy_BV


def question_seed(seed: int, name: str) -> int:
    """The seed of one question's sampling: 56 bits of SHA-256 over the benchmark's seed and the question's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7])


def logits_processors(decoding: Decoding, question_ids: Sequence[str], num_prompt_tokens: int) -> LogitsProcessorList:
    """What makes greedy ``generate`` draw as ``decoding`` says; empty where it is greedy already.

    Args:
        question_ids: of the rows of the batch.
        num_prompt_tokens: length of the padded prompts; the repetition penalty does not count them.
    """
    found = LogitsProcessorList()
    if decoding.repetition_penalty != 1:
        penalty = float(decoding.repetition_penalty)
        found.append(RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=num_prompt_tokens))
    if decoding.temperature > 0:
        found.append(TemperatureLogitsWarper(float(decoding.temperature)))
        if decoding.top_p < 1:
            found.append(TopPLogitsWarper(float(decoding.top_p)))
        found.append(GumbelNoise(decoding.seed, question_ids))
    return found
