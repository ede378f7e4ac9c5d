"""Image files of strangers to pixels: found, opened within bounds, turned upright, made square, normalised."""
