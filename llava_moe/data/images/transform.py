"""Opening images of any kind, and turning them into the pixels a CLIP tower was trained on.

Shape letters: I images, H height, W width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageFile

from llava_moe.data.conversation import BadRecord, ImageRef, StoredImage
from llava_moe.data.images.bounds import MAX_PIXELS, MAX_SIDE, CostlyImageError
from llava_moe.data.images.file import OpenedImage, decode_file, failure_of, open_file, refuse_zero_filled, seems_cut
from llava_moe.data.images.inputs import ImageSize
from llava_moe.data.images.paths import find_image
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.images.tiff_pages import split_page
from llava_moe.to_device import to_device

if TYPE_CHECKING:
    import torch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

LONGEST_PADDED = 16_384
"""A taller image is made smaller by a whole factor before it is padded: the canvas grows with the square of it."""


@dataclass(frozen=True)
class ImageTransform:
    """PIL image to the square uint8 array that is shipped to the device, and from there to normalised floats.

    ``pad`` (LLaVA-1.5, stage 2): centred on a square canvas in the colour ``int(255 * mean)``, then resized
    bicubically; one taller than 16,384 pixels is made smaller first, by a whole factor. ``crop`` (stage 1): the
    shortest side resized to ``size``, then the centre cut out, as CLIP does.
    ``resize``: both sides resized to ``size``, as SigLIP's own processor does; no stage of ours takes it.
    Source: ``expand2square`` in llava/mm_utils.py; ``CLIPImageProcessorPil``, ``SiglipImageProcessorPil`` in
    transformers.
    """

    size: int = 336
    mode: Literal["pad", "crop", "resize"] = "pad"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if self.mode not in ("pad", "crop", "resize"):
            raise ValueError(f"image mode must be 'pad', 'crop' or 'resize', got {self.mode!r}")
        if self.size < 1:
            raise ValueError(f"image size must be positive, got {self.size}")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Pixels uint8 [3, size, size] of an RGB image.

        Raises:
            BadRecord: ``image_too_large``, where CLIP's resize would blow a sliver up past ``MAX_PIXELS``.
        """
        if image.mode != "RGB":
            raise ValueError(f"an RGB image is needed, got mode {image.mode!r}; open it with open_image")
        ways = {"pad": self._pad, "crop": self._crop, "resize": self._resize}
        resized = ways[self.mode](image)
        return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))

    @property
    def facts(self) -> tuple[object, ...]:
        """What decides the pixels; see :class:`~llava_moe.data.images.inputs.ImageInputs` for this and what follows."""
        return (self.size, self.mode, self.mean)

    @property
    def normalization(self) -> tuple[object, ...]:
        return (self.mean, self.std)

    @property
    def null_size(self) -> ImageSize:
        return (self.size, self.size)

    @property
    def position_ids(self) -> None:
        return None

    @property
    def no_pixels(self) -> np.ndarray:
        return np.empty((0, 3, self.size, self.size), dtype=np.uint8)

    def pixels_of(self, image: Image.Image) -> np.ndarray:
        """Pixels uint8 [1, 3, size, size]; raises as a call does."""
        return self(image)[None]

    def num_entries(self, size: ImageSize) -> int:
        """1: every image is one square."""
        return 1

    def model_inputs(
        self, pixels_N: torch.Tensor, image_sizes: Sequence[ImageSize], dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.normalize(pixels_N).to(dtype)}

    def normalize(self, pixels_I3HW: torch.Tensor) -> torch.Tensor:
        """``(pixels / 255 - mean) / std`` in float32, on the pixels' device: uint8 [I,3,H,W] to float32 [I,3,H,W]."""
        # Processes that only open images do without: it takes two hundred megabytes of each.
        import torch

        both = torch.tensor([self.mean, self.std], dtype=torch.float32).view(2, 3, 1, 1)
        mean, std = to_device(both, pixels_I3HW.device)
        return (pixels_I3HW.to(torch.float32) / 255.0 - mean) / std

    def _pad(self, image: Image.Image) -> Image.Image:
        if image.height > max(image.width, LONGEST_PADDED):
            image = image.reduce(-(-image.height // LONGEST_PADDED))
        width, height = image.size
        size = self.size
        if width == height:
            return image.resize((size, size), Image.Resampling.BICUBIC)
        side = max(width, height)
        color = tuple(int(channel * 255) for channel in self.mean)
        if width > height:
            # Pillow resizes along rows, rounds, then along columns: rows of the canvas that hold only its colour need
            # no first pass, so a wide strip never becomes a canvas of its width squared.
            rows = image.resize((size, height), Image.Resampling.BICUBIC)
            canvas = Image.new("RGB", (size, side), color)
            canvas.paste(rows, (0, (side - height) // 2))
        else:
            canvas = Image.new("RGB", (size, side))
            strip_height = max(1, 16_000_000 // side)
            for top in range(0, side, strip_height):
                bottom = min(top + strip_height, side)
                strip = Image.new("RGB", (side, bottom - top), color)
                strip.paste(image.crop((0, top, width, bottom)), ((side - width) // 2, 0))
                canvas.paste(strip.resize((size, bottom - top), Image.Resampling.BICUBIC), (0, top))
        return canvas.resize((size, size), Image.Resampling.BICUBIC)

    def _resize(self, image: Image.Image) -> Image.Image:
        return image.resize((self.size, self.size), Image.Resampling.BICUBIC)

    def _crop(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        size = self.size
        if width <= height:
            new_width, new_height = size, int(size * height / width)
        else:
            new_width, new_height = int(size * width / height), size
        if new_width * new_height > MAX_PIXELS:
            raise BadRecord("image_too_large", f"{width} x {height} becomes {new_width} x {new_height} before the crop")
        left, top = (new_width - size) // 2, (new_height - size) // 2
        resized = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
        return resized.crop((left, top, left + size, top + size))


def open_image(
    ref: ImageRef,
    root: str | None = None,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    reading: ImageReading = ImageReading(),  # noqa: B008
) -> Image.Image:
    """The picture alone of :func:`read_image`."""
    return read_image(ref, root, max_pixels, max_side, reading).image


def read_image(
    ref: ImageRef,
    root: str | None = None,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    reading: ImageReading = ImageReading(),  # noqa: B008
) -> OpenedImage:
    """Open an image as 8-bit RGB, upright and opaque, whatever its suffix says it is.

    The one door through which this package opens images. The size is judged from the header, before anything is
    decompressed. Deep images are scaled (see ``deep_values``), where Pillow alone would clip them to white. A path that
    is missing but has a neighbour of the same stem and another image suffix stands for it (OCR-VQA's GIFs listed as
    .jpg). A path that ends in ``.tif.2`` is page 2 of the file, counted from 0.

    Args:
        ref: a path under ``root`` (or of its own), or the encoded bytes.
        max_pixels: most pixels; fewer of formats that cost more, see ``image_bounds``.
        max_side: longest side.
        reading: what becomes of orientation, transparency and deep values.

    Raises:
        BadRecord: ``image_missing``, ``image_outside``, ``image_address``, ``image_unreadable``, ``image_too_large``.
    """
    with _opening(ref, root, max_pixels, max_side) as (image, name, again):
        return decode_file(image, name, reading, again)


def judge_image(ref: ImageRef, root: str | None = None) -> None:
    """Raise as :func:`read_image` where an image's header, or its last bytes, tell that it cannot be opened."""
    with _opening(ref, root, MAX_PIXELS, MAX_SIDE):
        file = ref if isinstance(ref, bytes) else find_image(str(ref), root)
    if seems_cut(file):
        # Some decoders make do without an end: only decoding tells.
        read_image(ref, root)


@contextmanager
def _opening(
    ref: ImageRef, root: str | None, max_pixels: int, max_side: int
) -> Iterator[tuple[ImageFile.ImageFile, str, Callable[[], ImageFile.ImageFile]]]:
    """An image that is not decoded yet, what it is called, and what opens it once more."""
    if isinstance(ref, StoredImage):
        raise ValueError("a stored image is read by its records first: take records[index]")
    name = f"{len(ref)} bytes in the record" if isinstance(ref, bytes) else str(ref)
    file = ref if isinstance(ref, bytes) else find_image(ref, root)
    page = split_page(ref)[1] if isinstance(ref, str) else None
    try:
        with warnings.catch_warnings():
            # Pillow warns of bombs, of palettes with transparency and of damaged EXIF; the first is judged here, the
            # others are harmless.
            warnings.simplefilter("ignore")
            with open_file(file, page) as image:
                width, height = image.size
                if width * height > max_pixels or max(width, height) > max_side:
                    raise BadRecord(
                        "image_too_large",
                        f"{name} is {width} x {height}; at most {max_pixels} pixels and {max_side} a side are opened",
                    )
                refuse_zero_filled(file)
                yield image, name, partial(open_file, file, page)
    except CostlyImageError as error:
        raise BadRecord("image_too_large", f"{name} {error}") from error
    except Image.DecompressionBombError as error:
        raise BadRecord("image_too_large", f"{name}: {error}") from error
    except (BadRecord, MemoryError):
        raise
    except Exception as error:
        # Trap: on damaged files Pillow's decoders raise what they happen to trip over (RuntimeError, IndexError,
        # NotImplementedError, struct.error, ...), and none of it may end a run.
        raise BadRecord("image_unreadable", f"{name}{failure_of(file, error)}") from error
