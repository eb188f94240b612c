"""Masks and probability maps of images, kept as PNGs: a thousand masks of photographs do not fit into memory
as arrays.

A map is uint8: a probability in steps of 1/255, or a mask with 0 and 255.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

UNSURE = 128  # in a target map: unknown whether the pixel belongs to the class (ignored by the loss)
MapCells = tuple[bytes, ...]  # of one image, one PNG per class


def encode_map(level: np.ndarray) -> bytes:
    """Encode (H, W) uint8 as a lossless PNG."""
    import cv2

    # For probabilities OpenCV's default is slower in both directions, and no smaller.
    way = [cv2.IMWRITE_PNG_COMPRESSION, 2, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    return cv2.imencode(".png", np.ascontiguousarray(level), way)[1].tobytes()


def decode_map(cell: bytes) -> np.ndarray:
    """Decode a PNG of `encode_map` to (H, W) uint8. Raises ValueError for bytes that are no image."""
    import cv2

    level = cv2.imdecode(np.frombuffer(cell, np.uint8), cv2.IMREAD_GRAYSCALE) if cell else None
    if level is None:
        raise ValueError(f"a packed map of {len(cell)} bytes cannot be decoded")
    return level


class Maps(Sequence):
    """Sequence of N images with C maps each: `maps[i]` is (C, H, W) uint8, decoded on access.

    With `sizes`, (height, width) of each image, maps are resized on access.
    """

    def __init__(self, cells: Sequence[MapCells], sizes: Sequence[tuple[int, int]] | None = None):
        if sizes is not None and len(sizes) != len(cells):
            raise ValueError(f"{len(cells)} images, but sizes of {len(sizes)}")
        self.cells, self.sizes = cells, sizes

    @classmethod
    def of(cls, arrays: Iterable[np.ndarray]) -> Maps:
        """Encode (C, H, W) uint8 arrays, one at a time."""
        return cls([tuple(encode_map(level) for level in array) for array in arrays])

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, i: int) -> np.ndarray:
        stack = np.stack([decode_map(cell) for cell in self.cells[i]])  # (C, H, W)
        return stack if self.sizes is None else resize_maps(stack, self.sizes[i])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def take(self, rows: Any) -> Maps:
        """The given images, selected by any numpy index: numbers, a slice, (N,) bool."""
        places = np.arange(len(self))[rows].tolist()
        sizes = None if self.sizes is None else [self.sizes[i] for i in places]
        return Maps([self.cells[i] for i in places], sizes)

    def resized(self, sizes: Sequence[tuple[int, int]] | None) -> Maps:
        """The same maps with other access sizes; None: as stored."""
        return Maps(self.cells, sizes)

    @staticmethod
    def joined(several: Sequence[Maps]) -> Maps:
        """Concatenate the images of several `Maps`; all have sizes, or none has."""
        cells = [cell for maps in several for cell in maps.cells]
        if all(maps.sizes is None for maps in several):
            return Maps(cells)
        return Maps(cells, [size for maps in several for size in maps.sizes])

    @staticmethod
    def mean(several: list[Maps]) -> Maps:
        """The mean over the ensemble members, image by image, rounded to the nearest level."""
        return Maps.weighted(several, np.full((len(several), 1), 1 / len(several)))

    @staticmethod
    def weighted(several: list[Maps], weights: np.ndarray) -> Maps:
        """Weighted mean over the members, with weights (M, C) that sum to 1 over members. It is stored at the
        size of the largest member, and has the `sizes` of the first."""
        weights = np.asarray(weights, dtype=np.float64)[:, :, None, None]  # (M, C, 1, 1)
        # round half up, with a tolerance for rounding errors
        levels = (np.floor((weights * s).sum(0) + 0.5 + 1e-9).astype(np.uint8) for s in stacked_maps(several))
        return Maps.of(levels).resized(several[0].sizes)


def stacked_maps(several: list[Maps]) -> Iterator[np.ndarray]:
    """Iterate over images: the stored maps of all members, resized to the largest, (M, C, H, W) uint8."""
    for stacks in zip(*(maps.resized(None) for maps in several), strict=True):
        size = max((stack.shape[1:] for stack in stacks), key=lambda size: size[0] * size[1])
        yield np.stack([resize_maps(stack, size) for stack in stacks])


def resize_maps(stack: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (C, H, W) uint8 to (C, height, width) bilinearly; unchanged if it already has that size."""
    import cv2

    height, width = size
    if stack.shape[1:] == (height, width):
        return stack
    return np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in stack])
