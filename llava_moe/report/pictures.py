"""Small pictures for pages, as ``data:`` addresses, from whatever an image is given as."""

from __future__ import annotations

from llava_moe.data.conversation import BadRecord, ImageRef, StoredImage
from llava_moe.data.images.transform import open_image
from llava_moe.report.examples import thumbnail_of


def picture_of(image: ImageRef, image_root: str | None = None) -> str:
    """The image as a ``data:`` address; "" where it cannot be opened, as when its folder has moved."""
    if isinstance(image, StoredImage):
        return ""
    try:
        return thumbnail_of(open_image(image, image_root))
    except BadRecord:
        return ""
