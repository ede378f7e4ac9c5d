"""What can be told from an image: whether training can open it, what it is, and hashes to know it again by.

An image is known by SHA-256 of its encoded bytes, and by that of its decoded pixels, which the same picture saved
another way without loss shares. No perceptual hash: those take two pages of one form for the same picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from PIL import Image

from llava_moe.data.conversation import BadRecord, ImageRef, image_identity
from llava_moe.data.encode import Encoder
from llava_moe.data.images.bounds import MAX_BYTES
from llava_moe.data.images.file import OpenedImage
from llava_moe.data.images.odd_files import HEAD, odd_file, read_format
from llava_moe.data.images.paths import find_image
from llava_moe.data.images.reading import ImageReading, bands
from llava_moe.data.images.tiff_pages import split_page
from llava_moe.data.images.transform import read_image
from llava_moe.datatools.check.text import Told

SLIVER = 50
TINY = 8
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WebP"} | {
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


@dataclass(frozen=True)
class Picture:
    """What was found at one image.

    Attributes:
        content, pixels: 64 bits of the hashes of the encoded bytes and of the decoded pixels; 0 where unknown.
        fault: kind, reason (``BadRecord``'s) and detail where training cannot use it.
        refused: for each encoder that was asked, the fault of its transform where it has one.
        notes: kinds that are reported only.
    """

    content: int = 0
    pixels: int = 0
    fault: tuple[str, str, str] | None = None
    refused: tuple[tuple[str, str, str] | None, ...] = ()
    notes: tuple[Told, ...] = ()


def image_key(ref: ImageRef, root: str | None) -> int:
    """64 bits by which an image is opened once: an encoded image's content, a path with its folder."""
    if isinstance(ref, str):
        place = os.path.normpath(os.path.join(os.path.abspath(root or ""), ref))
        return _first_bits(sha256(place.encode("utf-8", "surrogateescape")).digest())
    return image_identity(ref)


def look_at(
    ref: str | bytes,
    root: str | None,
    encoders: Sequence[Encoder],
    reading: ImageReading = ImageReading(),  # noqa: B008
) -> Picture:
    """Open one image as training does, and say what there is to say.

    Args:
        encoders: those that will read it; their transforms are tried where the shape is extreme.
        reading: what becomes of orientation, transparency and deep values.
    """
    max_pixels = min(encoder.max_pixels for encoder in encoders)
    encoded, path = b"", None
    page = split_page(ref)[1] if isinstance(ref, str) else None
    try:
        if isinstance(ref, bytes):
            encoded = ref
        else:
            path = find_image(ref, root)
            # A file that is larger is refused for its size, and is not read for that.
            encoded = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
        # A page of a document is chosen by its path; any other image is read once, here.
        opened = read_image(encoded if encoded and page is None else ref, root, max_pixels, reading=reading)
    except (BadRecord, OSError):
        try:
            opened = read_image(ref, root, max_pixels, reading=reading)
        except BadRecord as fault:
            return Picture(fault=(_refine(fault, encoded, path), fault.reason, fault.detail))
    if opened.dark is not None and isinstance(ref, str):
        opened = replace(opened, dark=replace(opened.dark, name=ref))
    image = opened.image
    width, height = image.size
    notes = [] if path is None else _name_notes(str(ref), path, encoded)
    notes += _pixel_notes(opened, reading)
    if max(width, height) > SLIVER * min(width, height):
        notes.append(("image_sliver", f"{width} x {height}"))
    if min(width, height) < TINY:
        notes.append(("image_tiny", f"{width} x {height}"))
    if _is_blank(image):
        notes.append(("image_blank", f"{width} x {height}, every pixel {image.getpixel((0, 0))}"))
    return Picture(
        content=_first_bits(sha256(encoded if page is None else encoded + str(page).encode()).digest()),
        pixels=_pixels_hash(image),
        refused=tuple(_refusal(image, encoder) for encoder in encoders),
        notes=tuple(notes),
    )


def _pixels_hash(image: Image.Image) -> int:
    width, height = image.size
    digest = sha256(f"{width} {height} ".encode())
    for box in bands(image.size):
        digest.update(image.crop(box).tobytes())
    return _first_bits(digest.digest())


def _first_bits(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


def _is_blank(image: Image.Image) -> bool:
    """Whether all pixels are one colour; a few of them answer for nearly every image."""
    width, height = image.size
    few = {image.getpixel((width * at // 7, height * at // 7)) for at in range(7)}
    return len(few) == 1 and len(image.getcolors(1) or ()) == 1


def _refusal(image: Image.Image, encoder: Encoder) -> tuple[str, str, str] | None:
    """The fault of the encoder's transform. Only CLIP's crop refuses, and only slivers: others are not resized here."""
    if max(image.size) <= SLIVER * min(image.size):
        return None
    try:
        encoder.transform.pixels_of(image)
    except BadRecord as fault:
        return fault.reason, fault.reason, fault.detail
    return None


def _refine(fault: BadRecord, encoded: bytes, path: Path | None) -> str:
    if fault.reason != "image_unreadable":
        return fault.reason
    if not encoded and (path is None or path.is_file()):
        return "image_empty"
    if read_format(encoded) is not None:
        return "image_unreadable"
    odd = odd_file(encoded[:HEAD]) if encoded else None
    return "image_other_format" if odd is not None and odd.holds_picture else "image_not_image"


def _pixel_notes(opened: OpenedImage, reading: ImageReading) -> list[Told]:
    """What became of the picture on its way to the pixels that are trained on."""
    notes: list[Told] = []
    if opened.orientation != 1:
        then = "turned upright" if reading.exif == "apply" else "left as it lies (data.exif=ignore)"
        notes.append(("image_orientation", f"orientation {opened.orientation}, {then}"))
    if opened.is_transparent:
        then = "transparency dropped" if reading.alpha == "drop" else f"laid on {reading.alpha}"
        notes.append(("image_transparent", f"{then} (data.alpha={reading.alpha})"))
    if opened.dark is not None:
        notes.append(("image_nearly_black", f"{opened.dark}: give the source {opened.dark.remedy}"))
    return notes


def _name_notes(name: str, path: Path, encoded: bytes) -> list[Told]:
    notes: list[Told] = []
    if path.suffix != Path(split_page(name)[0]).suffix:
        notes.append(("image_by_stem", f"{name} is there as {path.name}"))
    says, content = _SUFFIXES.get(path.suffix.lower()), read_format(encoded)
    if says is not None and content is not None and says != content:
        notes.append(("image_extension", f"{name} is {content}"))
    return notes
