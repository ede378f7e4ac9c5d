"""A name for an encoded image and all that decides which pixels it becomes."""

from __future__ import annotations

import os
from hashlib import sha256

import PIL

from llava_moe.data.conversation import BadRecord, ImageRef, StoredImage
from llava_moe.data.images.inputs import ImageInputs
from llava_moe.data.images.paths import find_image
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.images.tiff_pages import split_page
from llava_moe.data.images.transform import judge_image
from llava_moe.data.readers.content import hash_of
from llava_moe.files.regular_file import open_regular


def image_key(ref: ImageRef, root: str | None, transform: ImageInputs, reading: ImageReading) -> bytes:
    """SHA-256 (32 bytes) over the image's encoded bytes, its page, how it is read and made pixels, and Pillow.

    Where it lies and what it is called count for nothing, but for ``.tga``, which alone tells Pillow that it is one.

    Raises:
        BadRecord: there is no such file, or it cannot be read.
    """
    page, is_tga = None, False
    if isinstance(ref, StoredImage):
        content = ref.sha256
    elif isinstance(ref, bytes):
        content = sha256(ref).hexdigest()
    else:
        path = find_image(ref, root)
        page, is_tga = split_page(ref)[1], path.suffix.lower() == ".tga"
        try:
            with open_regular(path) as file:
                content = hash_of(file)
        except OSError as error:
            # What opens images says what is wrong; it opens the file just when this could not only if it changes now.
            judge_image(ref, root)
            raise BadRecord("image_unreadable", f"{os.fspath(path)}: {error.strerror}") from error
    facts = (content, page, is_tga, reading, *transform.facts, PIL.__version__)
    return sha256(repr(facts).encode()).digest()
