"""A cache of the image features of a frozen vision tower."""
