"""What the rest of the program asks of a family of vision-language models, and what it is told of one model of it.

Two images of a family need not take equally many places in the sequence, nor pixels of one shape: both are asked image
by image.

Shape letters: t tokens of one example, I images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerBase, ProcessorMixin

from llava_moe.data.images.inputs import ImageInputs, TokensBySize
from llava_moe.model.architecture import Architecture
from llava_moe.model.image_processor import ImageMode, ImageProcessor

VisionLanguageConfig: TypeAlias = LlavaConfig
VisionLanguageModel: TypeAlias = LlavaForConditionalGeneration
"""The classes of Hugging Face that members build; a member of another class widens them here."""


@dataclass(frozen=True)
class PartNames:
    """Names of a model's parts as modules in it."""

    tower: str
    projector: str
    language_model: str
    head: str

    def is_projectors(self, tensor: str) -> bool:
        """Whether a tensor, by its name in the model or in a file, is one of the projector's."""
        return self.projector.rpartition(".")[2] in tensor

    def is_towers(self, tensor: str) -> bool:
        """Whether it is one of the vision tower's."""
        return self.tower.rpartition(".")[2] in tensor

    def is_language_models(self, tensor: str) -> bool:
        """Whether it is one of the language model's, the head included."""
        return self.language_model.rpartition(".")[2] in tensor or tensor.startswith(self.head)


@dataclass(frozen=True)
class BaseFacts:
    """What the data path must know of a base model: its family, its tokenizer, and how its tower sees images.

    Attributes:
        num_image_tokens: places of an image in the sequence: a number where all images take as many, else what tells it
            by an image's size.
        image_size: side of the square that the tower sees, in pixels.
        image_mode: how its own image processor makes a square of an image; None where it has no processor.
        feature_width: numbers of each of an image's vectors that the projector reads.
    """

    family: Family
    tokenizer: PreTrainedTokenizerBase
    image_size: int
    num_image_tokens: int | TokensBySize
    image_token_id: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    image_mode: ImageMode | None
    feature_width: int


class Family(Protocol):
    """One way of joining a vision tower to a language model, and all that is its own. Members hold no state.

    Attributes:
        name: in messages.
        parts: names of the modules of its models.
        published_roots: by what a tensor's name in memory begins with, the longest first; what its name in published
            folders begins with.
        default_template: the prompt format of a checkpoint that says none.
        architectures: the dataclasses that ``model.architecture._target_`` may name for it.
    """

    @property
    def name(self) -> str: ...
    @property
    def parts(self) -> PartNames: ...
    @property
    def published_roots(self) -> Mapping[str, str]: ...
    @property
    def default_template(self) -> Literal["v1", "plain"]: ...
    @property
    def architectures(self) -> tuple[type, ...]: ...

    def takes(self, architecture: Architecture) -> bool:
        """Whether a model of this architecture is of this family."""
        ...

    def read(self, architecture: Architecture) -> tuple[VisionLanguageConfig, PreTrainedTokenizerBase]:
        """A model's configuration and tokenizer, without its weights.

        Raises:
            UserError: they are not there, or not of the kinds that the family is made of.
        """
        ...

    def open(
        self, architecture: Architecture, dtype: torch.dtype
    ) -> tuple[VisionLanguageModel, PreTrainedTokenizerBase]:
        """A model with its weights; what is fresh is drawn from torch's own generator.

        Raises:
            UserError: as :meth:`read`, or weights are missing.
        """
        ...

    def make(self, config: VisionLanguageConfig, dtype: torch.dtype, name: str) -> VisionLanguageModel:
        """A model of a configuration, of whatever initialization is switched on.

        Raises:
            UserError: its numbers do not fit each other; ``name`` says whose they are.
        """
        ...

    def facts(
        self, config: VisionLanguageConfig, tokenizer: PreTrainedTokenizerBase, architecture: Architecture
    ) -> BaseFacts:
        """What the data path must know of a model with this configuration.

        Raises:
            UserError: its numbers, or its image processor, cannot be followed.
        """
        ...

    def image_inputs(self, base: BaseFacts, mode: ImageMode, nearest: ImageProcessor | None = None) -> ImageInputs:
        """What makes a model's pixels of images, and gives an example's tokens their positions.

        Args:
            nearest: an image processor that goes before the one of the base, but for its mode.
        """
        ...

    def set_attention(self, model: VisionLanguageModel, kernel: str) -> None:
        """Have the language model use this attention kernel, and the tower one that it has."""
        ...

    def packed_inputs(self, segment_lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
        """Forward arguments by which attention keeps the examples of one packed row apart."""
        ...

    def parameters_of(
        self,
        model: VisionLanguageModel,
        named: Mapping[str, nn.Parameter],
        part: str,
        vision_layers: tuple[int, int] | None,
    ) -> dict[str, nn.Parameter]:
        """The parameters that train where a stage names ``projector``, ``language_model`` or ``vision_tower``.

        Args:
            named: those of the model by name, an adapter's left out.
            vision_layers: first and last layer of the tower, both included; None: all that is read.

        Raises:
            UserError: the tower has no such layers, or their output is not read.
        """
        ...

    def refuse_changing_tower(self, model: VisionLanguageModel) -> None:
        """Refuse a tower that does not say the same of an image at every step.

        Raises:
            UserError: naming what changes.
        """
        ...

    def features_of(self, model: VisionLanguageModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the projector reads of one image: ``[T, W]`` in the model's dtype, on its device.

        Args:
            inputs: the image's forward arguments.
        """
        ...

    def num_dropped_in_front(self, model: VisionLanguageModel) -> int:
        """Vectors in front of an image's features, in the same tensor, that the projector does not read."""
        ...

    def accept_features(self, model: VisionLanguageModel) -> None:
        """Let the model's forward also take what :meth:`feature_inputs` makes of kept features."""
        ...

    def feature_inputs(self, features_ITW: torch.Tensor) -> dict[str, torch.Tensor]:
        """Forward arguments of features, in the place of those of pixels."""
        ...

    def processor(
        self, model: VisionLanguageModel, base: BaseFacts, transform: ImageInputs, chat_template: str
    ) -> ProcessorMixin:
        """The processor to export: it writes prompts and pixels as training did.

        Raises:
            ValueError: Hugging Face's cannot make these pixels.
        """
        ...
