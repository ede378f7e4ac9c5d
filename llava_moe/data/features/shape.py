"""What the features of one image are: so many vectors of numbers, as the projector reads them.

Shape letters: I images, T vectors of an image, W their width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FeatureShape:
    """Features of an image, ``[T, W]`` numbers of one dtype.

    Attributes:
        num_vectors: T; one a patch where the class token is dropped.
        width: W.
        num_dropped: vectors that the tower has in front and the projector does not read.
    """

    num_vectors: int
    width: int
    dtype: torch.dtype
    num_dropped: int = 0

    @property
    def num_bytes(self) -> int:
        """Of one image."""
        return self.num_vectors * self.width * self.dtype.itemsize

    def empty(self, num_images: int) -> torch.Tensor:
        """``[I, T, W]`` to be filled, with the strides that the tower's own output has.

        Trap: where vectors are dropped, what the projector reads has gaps between its images, and a linear with a bias
        rounds otherwise on a tensor without gaps.
        """
        whole = torch.empty(num_images, self.num_dropped + self.num_vectors, self.width, dtype=self.dtype)
        return whole[:, self.num_dropped :]
