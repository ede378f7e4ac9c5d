"""Names of colours, measured from pixels."""

from __future__ import annotations

import numpy as np

NAMES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "grey", "white", "black")


def color_names(rgb: np.ndarray) -> np.ndarray:
    """The index in NAMES of every pixel of `rgb` (uint8 [..., 3]), by HSV: hue in degrees, the rest in [0, 1]."""
    pixels = rgb.astype(np.float64) / 255
    value, lowest = pixels.max(-1), pixels.min(-1)
    spread = value - lowest
    saturation = np.where(value > 0, spread / np.maximum(value, 1e-9), 0)
    red, green, blue = (pixels[..., channel] for channel in range(3))
    safe = np.maximum(spread, 1e-9)
    hue = (
        np.select(
            [value == red, value == green],
            [(green - blue) / safe % 6, (blue - red) / safe + 2],
            (red - green) / safe + 4,
        )
        * 60
    )
    names = np.select(
        [hue < 14, hue < 40, hue < 68, hue < 165, hue < 255, hue < 295, hue < 340], [0, 1, 2, 3, 4, 5, 6], 0
    )
    is_warm = (names == 0) | (names == 1)
    names = np.where(is_warm & (value < 0.68) & (hue > 10) & (hue < 45), 7, names)
    names = np.where((names == 0) & (saturation < 0.55) & (value > 0.75), 6, names)
    names = np.where(saturation < 0.15, np.where(value > 0.88, 9, 8), names)
    return np.where(value < 0.22, 10, names)


def color_shares(rgb: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """Share of each named colour among the pixels (those of `mask`, bool, when given)."""
    names = color_names(rgb)
    chosen = names[mask] if mask is not None else names.reshape(-1)
    counts = np.bincount(chosen.reshape(-1), minlength=len(NAMES))
    return {name: float(count) / max(1, chosen.size) for name, count in zip(NAMES, counts, strict=True)}


def main_color(shares: dict[str, float], least: float, lead: float) -> str | None:
    """The colour with the largest share if it has at least `least` and leads the second by `lead`, else None."""
    (first, share), (_, second) = sorted(shares.items(), key=lambda pair: -pair[1])[:2]
    return first if share >= least and share - second >= lead else None
