"""Who is scored: a run of ours, a Hugging Face LLaVA with or without a PEFT LoRA, or a model behind an address."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from llava_moe.data.chat_template import ChatTemplate
from llava_moe.data.encode import Encoder
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.images.transform import ImageTransform
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import ModelFacts
from llava_moe.eval.generation.endpoint import Endpoint, endpoint_fingerprint
from llava_moe.eval.generation.generate import Answerer, LocalModel
from llava_moe.eval.generation.server import ChatServer
from llava_moe.eval.ranks import ALONE, Ranks
from llava_moe.eval.run import answerer_fingerprint
from llava_moe.files.checkpoints import newest_checkpoint, stage_folders
from llava_moe.runs.image_reading import reading_asked
from llava_moe.runs.named_server import server_of

if TYPE_CHECKING:
    from llava_moe.assemble import Assembled

SERVERS_OWN = "the server's own"

Asked = TypeVar("Asked", bound=Answerer, covariant=True)


@dataclass(frozen=True)
class ScoredModel(Generic[Asked]):
    """Whom to ask, the name of its weights, what results say of it, and what the user should know of it."""

    answerer: Asked
    fingerprint: str
    facts: ModelFacts
    notes: tuple[str, ...] = ()


def open_model(asked: Mapping[str, Any], device: torch.device, ranks: Ranks = ALONE) -> ScoredModel[Answerer]:
    """Load the model that the settings name, or greet its server.

    Raises:
        UserError: it is not there, is not of the kind that is read, or its server does not answer.
    """
    from llava_moe.assemble import restore

    batch_size, given = asked["batch_size"], asked["model"]
    if given["endpoint"] is not None:
        return _served(server_of(given), batch_size, reading_asked(asked.get("data") or {}))
    if given["path"] is not None:
        return _checkpoint(given, asked["dtype"], device, batch_size, ranks, reading_asked(asked.get("data") or {}))
    assembled = with_questions(restore(asked["run"], device, asked["dtype"]), Path(asked["run"]))
    return scored_model(assembled, asked["run"], batch_size, ranks)


def with_questions(assembled: Assembled, run: Path) -> Assembled:
    """A stage that captions, asked as the next stage of its experiment is: the same template and pictures.

    Any other run is returned as it is; so is a captioning one that no stage follows.
    """
    from llava_moe.assemble import encoder_of, model_spec_of, read_config

    if assembled.encoder.template.kind != "plain":
        return assembled
    own = newest_checkpoint(run).parent.parent
    stages = stage_folders(own.resolve().parent)
    later = stages[stages.index(own.resolve()) + 1 :] if own.resolve() in stages else []
    for config in map(read_config, later):
        if config.stage.template != "plain":
            return replace(assembled, encoder=encoder_of(model_spec_of(config)))
    return assembled


def scored_model(
    assembled: Assembled, source: str, batch_size: int = 32, ranks: Ranks = ALONE
) -> ScoredModel[LocalModel]:
    """A model in memory, asked as it was trained, or as its own files say.

    Raises:
        UserError: it was trained to caption and reads no question.
    """
    encoder = assembled.encoder
    if encoder.template.kind == "plain":
        raise UserError(
            "the run was trained on the plain template (stage 1): it captions images and reads no question; score the "
            "stage that was trained from it"
        )
    facts = ModelFacts(
        source=source,
        template=template_name(encoder),
        images=encoder.transform.mode,
        dtype=_dtype_of(assembled),
        batch_size=batch_size,
        num_processes=ranks.world,
    )
    answerer = LocalModel(assembled.model, encoder, batch_size, shares_prefix=_is_causal(assembled))
    return ScoredModel(answerer, answerer_fingerprint(assembled.model, encoder), facts, assembled.notes)


def template_name(encoder: Encoder) -> str:
    """What prompts are written by, in words."""
    template = encoder.template
    return f"chat template of {template.place}" if isinstance(template, ChatTemplate) else template.kind


def _served(server: ChatServer, batch_size: int, reading: ImageReading) -> ScoredModel[Answerer]:
    facts = ModelFacts(
        source=f"{server.model} at {server.address}",
        template=SERVERS_OWN,
        images=SERVERS_OWN,
        dtype=SERVERS_OWN,
        batch_size=batch_size,
    )
    asked = Endpoint(server, batch_size, reading=reading)
    return ScoredModel(asked, endpoint_fingerprint(server, reading), facts)


def _checkpoint(
    given: Mapping[str, Any],
    dtype: str | None,
    device: torch.device,
    batch_size: int,
    ranks: Ranks,
    reading: ImageReading,
) -> ScoredModel[Answerer]:
    path, peft = given["path"], given["peft"]
    assembled = open_named(given, dtype, device, reading)
    plain = scored_model(assembled, path, batch_size, ranks)
    fingerprint = _asked_so(plain.fingerprint, assembled.encoder)
    return ScoredModel(plain.answerer, fingerprint, replace(plain.facts, adapter=peft or ""))


def open_named(
    given: Mapping[str, Any],
    dtype: str | None,
    device: torch.device | None = None,
    reading: ImageReading = ImageReading(),  # noqa: B008
) -> Assembled:
    """The checkpoint that the keys below ``model.`` name; see :func:`llava_moe.assemble.open_checkpoint`."""
    from llava_moe.assemble import open_checkpoint

    words = {name: given[name] for name in ("peft", "template", "image_mode")}
    return open_checkpoint(given["path"], dtype, device, **words, reading=reading)


def _asked_so(fingerprint: str, encoder: Encoder) -> str:
    """The fingerprint of weights that are asked in another way than LLaVA-1.5's."""
    transform, plain = encoder.transform, ImageTransform()
    source = encoder.template.source if isinstance(encoder.template, ChatTemplate) else None
    parts = [fingerprint, transform.mode, str(source)]
    if transform.normalization != plain.normalization:
        parts.append(" ".join(map(str, transform.normalization)))
    if parts[1:] == [plain.mode, "None"]:
        return fingerprint
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _is_causal(assembled: Assembled) -> bool:
    """Whether no token depends on a later one: some adapters choose by the whole prompt."""
    return not assembled.attached.config.decides_per_example


def _dtype_of(assembled: Assembled) -> str:
    from llava_moe.assemble import DTYPES

    return next((name for name, dtype in DTYPES.items() if dtype == assembled.model.dtype), str(assembled.model.dtype))
