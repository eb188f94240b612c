"""Geometric augmentation: shift, scale and rotation (ShiftScaleRotate), then a crop (RandomResizedCrop), then
a flip or quarter turn (D4). It is drawn for a whole batch and applied with one resampling per image.

Applied one after the other these transforms would be three or four resamplings, each of which blurs. Without
rotation, scale or shift a crop is a view of the cached image that `cv2.resize` reads in place; without
resizing it is a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from src.config import Augment

_TRIES = 10  # attempts at a crop that fits, as in torchvision; then the whole image is used
AT_ONCE = 4  # channels that OpenCV resamples together
_LEAST = 1e-3  # minimum scale: at 0 an image has no pixel


@dataclass(frozen=True)
class Transforms:
    """Sampled geometric transforms of n images: an affine transform, then a crop window, then a flip."""

    windows: np.ndarray  # (n, 4) int: top, left, height, width
    turns: np.ndarray | None  # (n, 3, 3) on pixels (x, y, 1) of the cached image; None: no affine transform
    symmetries: np.ndarray  # (n, 3) bool: transpose, then vertical flip, then horizontal flip

    def __getitem__(self, part: slice) -> Transforms:
        turns = None if self.turns is None else self.turns[part]
        return Transforms(self.windows[part], turns, self.symmetries[part])


class Geometry:
    """Samples and applies the geometric augmentations of the config: from images of `cached_size` to
    `image_size`."""

    def __init__(self, settings: Augment, image_size: int, cached_size: int):
        self.settings, self.size, self.cached = settings, image_size, cached_size
        self.crop = settings.crop or ("resized" if cached_size == image_size else "random")
        if self.crop == "resized" and tuple(settings.crop_scale) == (1.0, 1.0) and cached_size == image_size:
            self.crop = "centre"  # the centre crop of the whole image is the image
        self.turned = bool(settings.rotate or settings.shift or settings.zoom)

    @property
    def fixed(self) -> bool:
        """Whether the output is the same for every draw."""
        mirrors = (self.settings.d4, self.settings.hflip, self.settings.vflip)
        return self.crop == "centre" and not self.turned and not any(mirrors)

    def draw(self, rng: np.random.Generator, n: int) -> Transforms:
        """Sample the transforms of n images. Each kind has its own random stream, so enabling one does not
        change the others."""
        windows, turns, mirrors = rng.spawn(3)
        return Transforms(
            self._windows(windows, n),
            self._turns(turns, n) if self.turned else None,
            self._mirrors(mirrors, n),
        )

    def _windows(self, rng: np.random.Generator, n: int) -> np.ndarray:
        side = self.cached
        sizes = self._resized(rng, n) if self.crop == "resized" else np.full((n, 2), self.size)
        room = side - sizes
        if self.crop == "centre":
            return np.concatenate([room // 2, sizes], axis=1)
        return np.concatenate([(rng.random((n, 2)) * (room + 1)).astype(np.int64), sizes], axis=1)

    def _resized(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """RandomResizedCrop: heights and widths (n, 2) from a random area and aspect ratio, the first of ten
        draws that fits (Szegedy et al. 2015, Going Deeper with Convolutions)."""
        settings, side = self.settings, self.cached
        areas = side**2 * rng.uniform(*settings.crop_scale, (n, _TRIES))
        ratios = np.exp(rng.uniform(*np.log(settings.crop_ratio), (n, _TRIES)))
        sizes = np.rint(np.sqrt(np.stack([areas / ratios, areas * ratios], axis=2))).astype(np.int64)
        fits = ((sizes > 0) & (sizes <= side)).all(2)  # (n, TRIES)
        chosen = sizes[np.arange(n), fits.argmax(1)]
        low, high = settings.crop_ratio
        ratio = min(max(1.0, low), high)  # width to height, as close to a square as the settings allow
        whole = np.rint([side / max(ratio, 1), side * min(ratio, 1)]).astype(np.int64)
        return np.where(fits.any(1)[:, None], chosen, whole)

    def _turns(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Affine matrices (n, 3, 3) from a pixel of the output to a pixel of the cached image, about the
        centre."""
        settings, middle = self.settings, (self.cached - 1) / 2
        angle = np.deg2rad(rng.uniform(-settings.rotate, settings.rotate, n))
        scale = rng.uniform(max(_LEAST, 1 - settings.zoom), 1 + settings.zoom, (n, 2))  # of x and of y
        shift = self.cached * rng.uniform(-settings.shift, settings.shift, (n, 2))
        cos, sin = np.cos(angle), np.sin(angle)
        back = np.zeros((n, 3, 3))
        back[:, :2, :2] = np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1) / scale[:, :, None]
        back[:, :2, 2] = middle - np.einsum("nij,nj->ni", back[:, :2, :2], middle + shift)
        back[:, 2, 2] = 1
        return back

    def _mirrors(self, rng: np.random.Generator, n: int) -> np.ndarray:
        settings, eighths = self.settings, rng.integers(8, size=n)
        turned = rng.random(n) < (settings.d4 or 0)
        found = (eighths[:, None] >> np.arange(3) & 1).astype(bool) & turned[:, None]
        found[:, 1] ^= rng.random(n) < settings.vflip
        found[:, 2] ^= rng.random(n) < settings.hflip
        return found

    def __call__(
        self, images: np.ndarray | Sequence[np.ndarray], moves: Transforms, mask: bool = False
    ) -> np.ndarray:
        """Transform images (n, side, side, C) uint8 to (n, size, size, C); masks are sampled with
        nearest-neighbour.

        Images may be memory-mapped: only the pixels that are used are read.
        """
        n, channels = len(moves.windows), images[0].shape[2]
        made = np.empty((n, self.size, self.size, channels), np.uint8)
        matrices = None if moves.turns is None else self.matrices(moves)
        for i, (image, out) in enumerate(zip(images, made, strict=True)):
            for c in range(0, channels, AT_ONCE):
                few = channels <= AT_ONCE
                part = image if few else np.ascontiguousarray(image[:, :, c : c + AT_ONCE])
                to = out if few else np.empty((*out.shape[:2], part.shape[2]), np.uint8)
                if matrices is None:
                    _cut(part, moves.windows[i].tolist(), moves.symmetries[i].tolist(), to, mask)
                else:
                    _warp(part, matrices[i], to, mask)
                if not few:
                    out[:, :, c : c + AT_ONCE] = to
        return made

    def matrices(self, moves: Transforms) -> np.ndarray:
        """(n, 2, 3) from a pixel of the output to a pixel of the cached image."""
        n, share = len(moves.windows), moves.windows[:, :1:-1] / self.size  # (n, 2) in x and y
        transposed, upside, mirrored = moves.symmetries.T
        symmetry = np.zeros((n, 3, 3))  # inverted from the last transform to the first
        symmetry[:, 0, 0], symmetry[:, 0, 2] = np.where(mirrored, -1, 1), np.where(mirrored, self.size - 1, 0)
        symmetry[:, 1, 1], symmetry[:, 1, 2] = np.where(upside, -1, 1), np.where(upside, self.size - 1, 0)
        symmetry[:, 2, 2] = 1
        symmetry[transposed, :2] = symmetry[transposed, 1::-1]
        window = np.zeros((n, 3, 3))
        window[:, [0, 1], [0, 1]], window[:, 2, 2] = share, 1
        window[:, :2, 2] = moves.windows[:, 1::-1] + (share - 1) / 2  # pixel centres as in cv2.resize
        return (moves.turns @ window @ symmetry)[:, :2]


def _cut(image: np.ndarray, window: list[int], symmetry: list[bool], out: np.ndarray, mask: bool) -> None:
    """Crop a window of an image, resize it into `out` and flip it there."""
    top, left, height, width = window
    part = image[top : top + height, left : left + width]
    transposed, upside, mirrored = symmetry
    if part.shape != out.shape:
        # INTER_NEAREST is half a pixel off the sampling of the images
        way = cv2.INTER_NEAREST_EXACT if mask else cv2.INTER_LINEAR
        cv2.resize(part, out.shape[1::-1], out, interpolation=way)
        part = out
    if transposed:
        part = np.ascontiguousarray(part.transpose(1, 0, 2))
    if upside or mirrored:
        cv2.flip(part, -1 if upside and mirrored else int(mirrored), out)
    elif part is not out:
        out[...] = part


def _warp(image: np.ndarray, matrix: np.ndarray, out: np.ndarray, mask: bool) -> None:
    """Affine warp of an image into `out` with a matrix (2, 3) from output pixels to input pixels. The border
    is reflected, because black wedges would reveal the angle to the network."""
    four = image.shape[2] == 3  # OpenCV 5 warps four channels faster than three, with identical results
    source, to = (cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), None) if four else (image, out)
    way = (cv2.INTER_NEAREST if mask else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        source, matrix, out.shape[1::-1], to, flags=way, borderMode=cv2.BORDER_REFLECT_101
    )
    if four:
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, out)
