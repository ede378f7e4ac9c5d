"""Opening images of any kind, and turning them into the pixels a CLIP tower was trained on.

Shape letters: I images, H height, W width.
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from llava_moe.data.conversation import BadRecord, ImageRef, StoredImage
from llava_moe.data.pages import split_page

if TYPE_CHECKING:
    import torch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

MAX_PIXELS = 89_478_485
"""Pillow's own line for a decompression bomb: a quarter of a gibibyte of RGB."""
MAX_SIDE = 32_768

_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".JPG", ".JPEG", ".PNG", ".GIF")


@dataclass(frozen=True)
class ImageTransform:
    """PIL image to the square uint8 array that is shipped to the device, and from there to normalised floats.

    ``pad`` (LLaVA-1.5, stage 2): centred on a square canvas in the colour ``int(255 * mean)``, then resized
    bicubically. ``crop`` (stage 1): the shortest side resized to ``size``, then the centre cut out, as CLIP does.
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

    def normalise(self, pixels_I3HW: torch.Tensor) -> torch.Tensor:
        """``(pixels / 255 - mean) / std`` in float32, on the pixels' device: uint8 [I,3,H,W] to float32 [I,3,H,W]."""
        # Processes that only open images do without: it takes two hundred megabytes of each.
        import torch

        mean = torch.tensor(self.mean, dtype=torch.float32, device=pixels_I3HW.device).view(3, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=pixels_I3HW.device).view(3, 1, 1)
        return (pixels_I3HW.to(torch.float32) / 255.0 - mean) / std

    def _pad(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        size = self.size
        if width == height:
            return image.resize((size, size), Image.Resampling.BICUBIC)
        side = max(width, height)
        colour = tuple(int(channel * 255) for channel in self.mean)
        if width > height:
            # Pillow resizes along rows, rounds, then along columns: rows of the canvas that hold only its colour need
            # no first pass, so a wide strip never becomes a canvas of its width squared.
            rows = image.resize((size, height), Image.Resampling.BICUBIC)
            canvas = Image.new("RGB", (size, side), colour)
            canvas.paste(rows, (0, (side - height) // 2))
        else:
            canvas = Image.new("RGB", (size, side))
            strip_height = max(1, 16_000_000 // side)
            for top in range(0, side, strip_height):
                bottom = min(top + strip_height, side)
                strip = Image.new("RGB", (side, bottom - top), colour)
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
    ref: ImageRef, root: str | None = None, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE
) -> Image.Image:
    """Open an image as 8-bit RGB, whatever its suffix says it is.

    The size is judged from the header, before anything is decompressed. Alpha is dropped as LLaVA's ``convert("RGB")``
    drops it; 16-bit images are scaled, where Pillow alone would clip them to white. A path that is missing but has a
    neighbour of the same stem and another image suffix stands for it (OCR-VQA's GIFs listed as .jpg). A path that ends
    in ``.tif.2`` is page 2 of the file, counted from 0.

    Args:
        ref: a path under ``root`` (or of its own), or the encoded bytes.
        max_pixels: most pixels. Pillow itself refuses twice its own ``MAX_IMAGE_PIXELS``.
        max_side: longest side.

    Raises:
        BadRecord: ``image_missing``, ``image_outside``, ``image_address``, ``image_unreadable``, ``image_too_large``.
    """
    if isinstance(ref, StoredImage):
        raise ValueError("a stored image is read by its records first: take records[index]")
    name = f"{len(ref)} bytes in the record" if isinstance(ref, bytes) else str(ref)
    file = io.BytesIO(ref) if isinstance(ref, bytes) else find_image(ref, root)
    try:
        with warnings.catch_warnings():
            # Pillow warns of bombs and of palettes with transparency; the first is judged here, the second is harmless.
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                if isinstance(ref, str) and (page := split_page(ref)[1]) is not None:
                    image.seek(page)
                width, height = image.size
                if width * height > max_pixels or max(width, height) > max_side:
                    raise BadRecord(
                        "image_too_large",
                        f"{name} is {width} x {height}; at most {max_pixels} pixels and {max_side} a side are opened",
                    )
                image.load()
                return _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise BadRecord("image_too_large", f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise BadRecord("image_unreadable", f"{name} is no image that Pillow knows") from error
    except (BadRecord, MemoryError):
        raise
    except Exception as error:
        # Trap: on damaged files Pillow's decoders raise what they happen to trip over (RuntimeError, IndexError,
        # NotImplementedError, struct.error, ...), and none of it may end a run.
        told = str(error) or type(error).__name__
        raise BadRecord("image_unreadable", f"{name}: {told.splitlines()[0]}") from error


def find_image(ref: str, root: str | None) -> Path:
    """The file of an image path, or its neighbour of the same stem and another image suffix; of a page, its document.

    Where ``root`` is given, records cannot reach out of it: neither by ``..``, nor by an absolute path, nor by a file
    that is a link to one outside. Folders below the root may be links, since that is how people lay data sets out.

    Raises:
        BadRecord: ``image_missing``, ``image_outside``, ``image_address``.
    """
    if "://" in ref[:16]:
        raise BadRecord("image_address", f"{ref[:200]} is an address; fetch the image and give its path")
    try:
        path = Path(root or "", split_page(ref)[0]).expanduser()
        if root is not None:
            # Trap: behind a linked folder the system takes .. for the parent of what is linked to.
            path = Path(os.path.normpath(path))
            _stay_inside(path, ref, root)
        found = _existing(path)
        if found is not None and root is not None and found.is_symlink():
            _refuse_link_outside(found, ref, root)
    except (OSError, RuntimeError) as error:
        # A name longer than names may be (text that is no path at all), a folder closed to us, a home of nobody's.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadRecord("image_missing", f"no file {ref[:200]} ({reason})") from error
    if found is None:
        raise BadRecord("image_missing", f"no file {path}")
    return found


def _existing(path: Path) -> Path | None:
    # Not whatever exists: a named pipe would be read for ever. A folder is found, and is no image.
    if path.is_file() or path.is_dir():
        return path
    if path.suffix:
        for suffix in _SUFFIXES:
            if (neighbour := path.with_suffix(suffix)).is_file():
                return neighbour
    return None


def _stay_inside(path: Path, ref: str, root: str) -> None:
    inside, base = os.path.abspath(path), os.path.abspath(Path(root).expanduser())
    if os.path.commonpath([inside, base]) != base:
        raise BadRecord("image_outside", f"{ref[:200]} leads out of the image folder {root}; give a path inside it")


def _refuse_link_outside(path: Path, ref: str, root: str) -> None:
    target, folder = path.resolve(), path.parent.resolve()
    bases = (Path(root).expanduser().resolve(), folder)
    if not any(target.is_relative_to(base) for base in bases):
        raise BadRecord(
            "image_outside", f"{ref[:200]} is a link to {target}, out of the image folder {root}; copy the file there"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Grey values of 16 bits, 32 bits or floats as uint8 [H, W], the full range of the kind becoming 0..255.

    Integers: 65,535 is white, or the largest value present where that is larger. Floats: 1 is white where none is
    larger, else 255, else the largest value present. Below zero is black.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0.0))
    white = max(65_535.0, largest) if image.mode != "F" else (1.0 if largest <= 1.0 else max(255.0, largest))
    return np.rint(np.clip(values, 0.0, white) * (255.0 / white)).astype(np.uint8)
