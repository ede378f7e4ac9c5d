"""How a checkpoint's own image processor makes pixels of an image: read, and followed to the letter or refused."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llava_moe.errors import UserError
from llava_moe.model.checkpoint_files import read_json

ImageMode = Literal["pad", "crop", "resize"]
Channels = tuple[float, float, float]

KINDS: dict[str, Any] = {
    "CLIP": CLIPImageProcessorPil,
    "Llava": LlavaImageProcessorPil,
    "Siglip": SiglipImageProcessorPil,
}
PLAIN_KEYS = ("do_resize", "do_rescale", "do_normalize", "image_mean", "image_std")
BICUBIC = 3


@dataclass(frozen=True)
class ImageProcessor:
    """What an image processor's files say.

    Attributes:
        place: the checkpoint, for messages.
        settings: of the processor, its class's defaults filled in.
    """

    place: str
    settings: dict[str, Any]

    @property
    def mean(self) -> Channels:
        """Of the three colours, 0..1, taken off before they are divided by :attr:`std`."""
        return self._channels("image_mean")

    @property
    def std(self) -> Channels:
        return self._channels("image_std")

    def mode(self, image_size: int) -> ImageMode:
        """How an image becomes the square of ``image_size`` pixels that the tower sees.

        Raises:
            UserError: it makes something else of it, or not by a bicubic resize and a scaling of 1/255.
        """
        told = self.settings
        for key in ("do_resize", "do_rescale", "do_normalize"):
            if told[key] is not True:
                raise self._refused(f"{key}={told[key]}", "true")
        if not math.isclose(told["rescale_factor"], 1 / 255, rel_tol=1e-4):
            raise self._refused(f"rescale_factor={told['rescale_factor']}", "1/255")
        if told["resample"] != BICUBIC:
            raise self._refused(f"resample={told['resample']}", f"{BICUBIC} (bicubic)")
        self._check_size(image_size)
        if told["do_pad"]:
            return "pad"
        return "resize" if "shortest_edge" not in told["size"] else "crop"

    def _check_size(self, image_size: int) -> None:
        size, crop = self.settings["size"], self.settings["crop_size"]
        square = {"height": image_size, "width": image_size}
        # What is square already (padded, or resized on both sides) needs no crop, and a crop to its own size is none.
        is_square = self.settings["do_pad"] or "shortest_edge" not in size
        fits = size in (square, {"shortest_edge": image_size})
        if self.settings["do_center_crop"]:
            fits = fits and crop == square
        elif not is_square:
            raise self._refused("do_center_crop=false", "true, where only the shortest edge is resized")
        if not fits:
            told = f"size={_shown(size)}" + (f", crop_size={_shown(crop)}" if self.settings["do_center_crop"] else "")
            raise self._refused(told, f"{image_size} x {image_size}, which its vision tower sees")

    def _channels(self, key: str) -> Channels:
        told = self.settings[key]
        values = list(told) if isinstance(told, list | tuple) else [told] * 3
        if len(values) != 3 or not all(isinstance(one, int | float) and math.isfinite(one) for one in values):
            raise self._refused(f"{key}={told}", "three numbers")
        if key == "image_std" and not all(values):
            raise self._refused(f"{key}={told}", "three numbers above 0")
        return (float(values[0]), float(values[1]), float(values[2]))

    def _refused(self, told: str, followed: str) -> UserError:
        return UserError(
            f"the image processor of {self.place} says {told}, where {followed} can be followed: fix its "
            "preprocessor_config.json (or processor_config.json)"
        )


def read_image_processor(reference: str) -> ImageProcessor | None:
    """The image processor in a checkpoint's own files; None where it has none.

    Args:
        reference: a folder or hub id.

    Raises:
        UserError: a file is damaged, or names a processor that is not followed.
    """
    settings = read_json(reference, "processor_config.json").get("image_processor")
    if not isinstance(settings, dict):
        settings = read_json(reference, "preprocessor_config.json")
    if not settings:
        return None
    # A llava checkpoint that names no class has LLaVA's, as transformers' AutoImageProcessor decides.
    named = settings.get("image_processor_type") or settings.get("feature_extractor_type") or "LlavaImageProcessor"
    kind = KINDS.get(re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", str(named)))
    if kind is None:
        raise UserError(
            f"the image processor of {reference} is a {named}: those of "
            f"{', '.join(f'{known}ImageProcessor' for known in KINDS)} can be followed"
        )
    try:
        made = kind.from_dict(settings)
        resolved: dict[str, Any] = {key: getattr(made, key, None) for key in PLAIN_KEYS}
        resolved |= {key: bool(getattr(made, key, None)) for key in ("do_center_crop", "do_pad")}
        resolved |= {key: _edges(getattr(made, key, None)) for key in ("size", "crop_size")}
        resolved |= {"rescale_factor": float(made.rescale_factor), "resample": int(made.resample)}
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        told = str(error).strip().splitlines()
        raise UserError(
            f"the image processor of {reference} cannot be read ({told[0] if told else type(error).__name__}): fix its "
            "preprocessor_config.json (or processor_config.json)"
        ) from error
    return ImageProcessor(reference, resolved)


def _edges(size: Any) -> dict[str, int]:
    """A size without the edges that it does not name."""
    return {} if size is None else {name: edge for name, edge in dict(size).items() if edge is not None}


def _shown(size: dict[str, int]) -> str:
    return " x ".join(map(str, size.values()))
