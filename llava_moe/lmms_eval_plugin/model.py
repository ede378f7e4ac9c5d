"""Our models as lmms-eval's ``lmms``: ``lmms_eval --model llava_moe --model_args run=DIR``.

Source of the interface: lmms-eval 0.7.3 ``lmms_eval/api/model.py``, ``api/task.py`` (what requests hold) and
``evaluator.py`` (ranks). Imported when lmms-eval asks for the model, never before.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from tqdm import tqdm

from llava_moe.assemble import Assembled, open_checkpoint, restore
from llava_moe.data.images.reading import ImageReading
from llava_moe.errors import UserError
from llava_moe.eval.generation.generate import with_system
from llava_moe.lmms_eval_plugin.answering import Replies

AUTOMATIC_BATCH = 32


class LlavaMoe(lmms):
    """A run of ours, or a Hugging Face LLaVA checkpoint, answering lmms-eval's requests.

    Several ranks are lmms-eval's affair: each builds the model on its own device and gets its share of the documents.

    Args:
        run: a run's folder, an experiment's folder or one checkpoint.
        pretrained: instead, a Hugging Face LLaVA folder or hub id (``export to=hf`` writes one), asked as its files
            say.
        peft: a PEFT LoRA folder on it.
        template: ``chat`` or ``v1`` for the prompts of ``pretrained``; None: its own chat template if it has one.
        dtype: ``fp32``, ``bf16`` or ``fp16``; None: as the run trained.
        device: None: the GPU of this rank, or the CPU.
        batch_size: questions answered together; ``auto`` is 32.
        seed: of sampled answers, for tasks that sample.
        exif, alpha: how ``pretrained``'s images are read (see ``ImageReading``); a run reads them as it was trained.
        system: the sentence before the question, or a file that holds it; None: the one the model was trained with.

    Raises:
        UserError: not exactly one model is named, an argument is unknown, or the folder holds no model.
    """

    is_simple = True

    def __init__(
        self,
        run: str | None = None,
        pretrained: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        seed: int = 0,
        system: str | None = None,
        peft: str | None = None,
        template: str | None = None,
        exif: str | None = None,
        alpha: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise UserError(
                f"model_args {', '.join(sorted(unknown))}: llava_moe knows run, pretrained, peft, template, dtype, "
                "device, batch_size, seed, system, exif and alpha"
            )
        if (run is None) == (pretrained is None):
            raise UserError("model_args: name one model: run=FOLDER, or pretrained= a LLaVA checkpoint's folder")
        if template not in (None, "chat", "v1"):
            raise UserError(f"model_args template={template}: give chat or v1")
        if run is not None and (peft is not None or template is not None):
            raise UserError("model_args: peft= and template= belong to pretrained=: leave them out")
        reading = _read_reading(exif, alpha, run)
        self.batch_size = _read_batch_size(batch_size, max_batch_size)
        self.device = torch.device(device or _device_of_rank())
        self._seed = seed
        self._system = None if system is None else self._resolve_system_prompt(_unquoted(system))
        assembled = (
            restore(_unquoted(run), self.device, dtype)
            if pretrained is None
            else open_checkpoint(
                _unquoted(pretrained),
                dtype,
                self.device,
                peft=None if peft is None else _unquoted(peft),
                template=template,
                reading=reading,
            )
        )

        self._assembled: Assembled | None = assembled
        for note in assembled.notes:
            warnings.warn(note, stacklevel=2)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in the order of the requests."""
        with self._replies(len(requests)) as replies:
            return replies.generate(requests)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """The answers of all rounds of each request, each round asked alone."""
        with self._replies(None) as replies:
            return replies.converse(requests)

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """``(loss, is_greedy)`` of each answer, the loss being the mean over its tokens, end token included.

        Trap: the interface speaks of log-probabilities, but lmms-eval's own models return the loss and its scorer
        takes the smallest. In 0.7.3 the evaluator turns a bare pair into text, on which that scorer fails; what a
        ``GenerationResult`` holds it hands on as it is.
        """
        with self._replies(len(requests)) as replies:
            return [GenerationResult((one.loss, one.is_greedy)) for one in replies.judge(requests)]

    def clean(self) -> None:
        """Let go of the model: a judge may need its memory."""
        self._assembled = None
        super().clean()

    @contextmanager
    def _replies(self, total: int | None) -> Iterator[Replies]:
        assert self._assembled is not None, "asked after clean()"
        assembled = replace(self._assembled, encoder=with_system(self._assembled.encoder, self._system))
        with tqdm(total=total, desc="llava_moe", disable=self.rank != 0) as bar:
            yield Replies(assembled, self.task_dict, self.batch_size, self._seed, lambda done: bar.update(done))


def _unquoted(path: object) -> str:
    """A path without the quotes that keep its commas together in ``--model_args``, where lmms-eval leaves them."""
    text = str(path)
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _read_batch_size(given: int | str, largest: int | None) -> int:
    text = str(given)
    if text.startswith("auto"):
        return min(AUTOMATIC_BATCH, largest or AUTOMATIC_BATCH)
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"batch_size={given}: give a whole number from 1 on, or auto")
    return int(text)


def _read_reading(exif: str | None, alpha: str | None, run: str | None) -> ImageReading:
    given: dict[str, Any] = {key: value for key, value in (("exif", exif), ("alpha", alpha)) if value is not None}
    if given and run is not None:
        raise UserError(f"model_args {next(iter(given))}: a run reads images as it was trained; leave it out")
    try:
        return ImageReading(**given)
    except ValueError as error:
        raise UserError(f"model_args {error}") from error


def _device_of_rank() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
