"""Where a base model comes from, as a configuration names it: parts, a checkpoint, or a shape alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_moe.embedded_base import EMBEDDED, base_folder
from llava_moe.errors import UserError


@dataclass(frozen=True)
class FromParts:
    """A CLIP vision tower and a language model joined by a fresh projector.

    Attributes:
        vision_tower: hub id or folder of a CLIP model; ``embedded:vision_tower`` is the demo's.
        language_model: hub id or folder of a Llama model with its tokenizer; ``embedded:language_model`` is the demo's.
        projector_output_std: when set, the projector's second layer starts normal with the standard deviation that
            makes its outputs about this many times as wide as the text embeddings, with zero bias. None keeps
            ``nn.Linear``'s start, as LLaVA-1.5 has it.
        vision_feature_layer: hidden state of the tower that is read.
    """

    vision_tower: str
    language_model: str
    projector_output_std: float | None = None
    vision_feature_layer: int = -2


@dataclass(frozen=True)
class FromCheckpoint:
    """An existing ``llava-hf/llava-1.5-7b-hf``-style checkpoint: hub id or folder. See ``kinds.py`` for its parts."""

    path: str


@dataclass(frozen=True)
class FromShape:
    """Random weights of a given shape, for tests, benches and plans.

    Attributes:
        vision, text: fields of ``CLIPVisionConfig`` and ``LlamaConfig``.
        tokenizer: hub id or folder of the tokenizer; ``embedded:language_model`` is the demo's.
    """

    vision: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = EMBEDDED + "language_model"
    vision_feature_layer: int = -2
    seed: int = 0


Architecture = FromParts | FromCheckpoint | FromShape
"""Those of LLaVA; another package's family has classes of its own, which nothing but that family looks into."""


def name_of(architecture: Architecture) -> str:
    """What messages call a model: ``model`` goes before it."""
    if isinstance(architecture, FromCheckpoint):
        return architecture.path
    if isinstance(architecture, FromParts):
        return f"of {architecture.vision_tower} and {architecture.language_model}"
    return "of model.architecture"


def resolve(reference: str) -> str:
    """Turn ``embedded:NAME`` into a folder; hub ids and folders stay as they are.

    Raises:
        UserError: what is plainly a folder does not exist.
    """
    if reference.startswith(EMBEDDED):
        return str(base_folder() / reference.removeprefix(EMBEDDED))
    path = Path(reference).expanduser()
    if not path.exists() and reference.startswith(("/", ".", "~")):
        raise UserError(f"model {reference} cannot be loaded: no such folder; give one that is there, or a hub id")
    return str(path) if path.exists() else reference
