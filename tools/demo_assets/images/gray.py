"""From measured intensities to a square grey picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIZE = 128


def gray_image(values_HW: np.ndarray, low: float, high: float, aspect: float = 1.0) -> Image.Image:
    """Values from `low` (black) to `high` (white) on a black square of SIZE; `aspect` is pixel height over width."""
    scaled = np.clip((np.asarray(values_HW, np.float64) - low) / (high - low), 0, 1)
    picture = Image.fromarray((scaled * 255).round().astype(np.uint8))
    height, width = picture.height * aspect, float(picture.width)
    scale = SIZE / max(height, width)
    picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (SIZE, SIZE), 0)
    canvas.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return canvas
