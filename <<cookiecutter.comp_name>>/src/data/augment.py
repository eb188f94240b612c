"""Training augmentation: uint8 (H, W, C) to uint8 (S, S, C), together with masks.

The order is: geometric transforms (which also move masks), colour transforms, erasing. The augmentations of
nearly every run (geometry, brightness and contrast, cutout) are drawn for a whole batch and written by OpenCV
into one array; the others use albumentations, image by image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np

from src.config import Augment, UserError
from src.maps import UNSURE

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise albumentations accesses the network
import albumentations as A
import cv2

from src.data.compression import Jpeg
from src.data.geometry import Geometry

cv2.setNumThreads(0)

# random streams, combined with the seed of the batch; 1 to 3 are used elsewhere
GEOMETRY, LIGHT, LOOKS, CUTOUT, ERASING = range(4, 9)


class Pipeline:
    """The augmentation pipeline of the config. Without `geometry` images keep their size and position;
    without `pixels` there are no colour transforms and no erasing."""

    def __init__(self, settings: Augment, geometry: Geometry | None, image_size: int, pixels: bool = True):
        self.geometry, self.side = geometry, max(1, image_size // 4)  # side of a cutout hole
        self.brightness, self.contrast, self.cutout = (
            (settings.brightness, settings.contrast, settings.cutout) if pixels else (0.0, 0.0, 0.0)
        )
        self.looks = A.Compose([*_colours(settings, image_size)] if pixels else [])
        self.erasing = A.Compose([*_erasing(settings)] if pixels else [])

    @property
    def fixed(self) -> bool:
        """Whether the output does not depend on the seed."""
        steps = (*self.looks.transforms, *self.erasing.transforms)
        changes = (self.brightness, self.contrast, self.cutout, steps)
        return not any(changes) and (self.geometry is None or self.geometry.fixed)

    def __call__(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        seed: int,
        masks: np.ndarray | None = None,
        part: tuple[int, int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Augment (B, H, W, C) uint8 to (B, S, S, C), and masks with them; all draws derive from `seed`.

        With `part` = (first, n) the images are those from number `first` on of a batch of n, and get the
        augmentation that they get in the whole batch.
        """
        first, whole = part or (0, len(images))
        mine = slice(first, first + len(images))

        def stream(name: int) -> np.random.Generator:
            return np.random.default_rng([seed, name])

        if self.geometry is not None:
            moves = self.geometry.draw(stream(GEOMETRY), whole)[mine]
            images = self.geometry(images, moves)
            masks = None if masks is None else self.geometry(masks, moves, mask=True)
        else:
            images, masks = np.array(images), None if masks is None else np.array(masks)
        if self.brightness or self.contrast:
            self._light(images, stream(LIGHT).uniform(-1, 1, (whole, 2))[mine])
        _one_by_one(self.looks, images, masks, stream(LOOKS).integers(2**32, size=whole)[mine])
        if self.cutout:
            self._cut_out(images, masks, stream(CUTOUT).random((whole, 3))[mine])
        _one_by_one(self.erasing, images, masks, stream(ERASING).integers(2**32, size=whole)[mine])
        return images, masks

    def _light(self, images: np.ndarray, draws: np.ndarray) -> None:
        """Contrast (a factor) and brightness (a share of white), in place."""
        for image, (bright, strong) in zip(images, draws * (self.brightness, self.contrast), strict=True):
            flat = image.reshape(len(image), -1)  # addWeighted then takes any number of channels
            cv2.addWeighted(flat, 1 + strong, flat, 0, 255 * bright, flat)

    def _cut_out(self, images: np.ndarray, masks: np.ndarray | None, draws: np.ndarray) -> None:
        """Cutout: one black square per image, in place. In a mask the square is `UNSURE`, because its content
        cannot be seen, and the loss ignores it. DeVries, Taylor 2017, Improved Regularization of
        Convolutional Neural Networks with Cutout."""
        corners = (draws[:, 1:] * (np.array(images.shape[1:3]) - self.side + 1)).astype(int)
        for i in np.flatnonzero(draws[:, 0] < self.cutout):
            y, x = corners[i]
            images[i, y : y + self.side, x : x + self.side] = 0
            if masks is not None:
                masks[i, y : y + self.side, x : x + self.side] = UNSURE


def _one_by_one(pipeline: A.Compose, images: np.ndarray, masks: np.ndarray | None, seeds: np.ndarray) -> None:
    """Apply the albumentations transforms in place, with a separate seed for each image and each transform.

    The random stream of albumentations repeats every epoch and is the same for all workers, and
    `Compose.set_random_seed` gives every transform the same seed, which correlates them: every blurred image
    would also be noisy. The seed includes the name of the transform, so adding a transform does not change
    the others.
    """
    names = [crc32(type(step).__name__.encode()) for step in pipeline.transforms]
    for i, seed in enumerate(seeds.tolist() if names else ()):
        for step, name in zip(pipeline.transforms, names, strict=True):
            step.set_random_seed(seed ^ name)
        done = pipeline(image=images[i]) if masks is None else pipeline(image=images[i], mask=masks[i])
        images[i] = done["image"]
        if masks is not None:
            masks[i] = done["mask"]


def create_augmentation(
    settings: Augment, image_size: int, cached_size: int | None = None, channels: int = 3
) -> Pipeline:
    """Create the augmentation pipeline of the config, from images of `cached_size` (None: `image_size`) to
    `image_size`.

    With `strict` albumentations raises for an unknown argument. Raises `UserError` for a colour transform if
    the images do not have three channels.
    """
    _check_channels(settings, channels)
    return Pipeline(settings, Geometry(settings, image_size, cached_size or image_size), image_size)


def create_halves(
    settings: Augment, image_size: int, cached_size: int | None = None, channels: int = 3
) -> tuple[Pipeline, Pipeline]:
    """The same pipeline as two consecutive ones: geometric transforms, then colour transforms and erasing."""
    _check_channels(settings, channels)
    geometry = Geometry(settings, image_size, cached_size or image_size)
    return Pipeline(settings, geometry, image_size, pixels=False), Pipeline(settings, None, image_size)


def _check_channels(settings: Augment, channels: int) -> None:
    coloured = {"policy": settings.policy, "hue": settings.hue, "saturation": settings.saturation}
    wants = [name for name, value in coloured.items() if value]
    if wants and channels != 3:
        raise UserError(
            f"augment.{wants[0]} is for RGB pictures, these images have {channels} channel(s); set it to null"
        )


def _colours(settings: Augment, image_size: int) -> Iterator[A.BasicTransform]:
    if settings.hue or settings.saturation:
        hue, saturation, same = settings.hue or 0.0, settings.saturation or 0.0, (1.0, 1.0)
        yield A.ColorJitter(
            brightness=same,
            contrast=same,
            saturation=(1 - saturation, 1 + saturation),
            hue=(-hue, hue),
            p=1.0,
            strict=True,
        )
    if settings.gamma:
        most = 100 * (1 + settings.gamma)  # in percent
        yield A.RandomGamma((100 * 100 / most, most), p=1.0, strict=True)
    if settings.policy:
        from src.data.policies import create_policy

        yield create_policy(settings)
    if settings.blur:
        most = max(1.0, image_size / 112)  # 2 at 224 pixels, as in SimCLR; a sigma below 0.3 has no effect
        yield A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, most), p=settings.blur, strict=True)
    if settings.noise:
        yield A.GaussNoise(std_range=(0.01, 0.05), p=settings.noise, strict=True)
    if settings.compression:
        yield Jpeg(40, 90, p=settings.compression)


def _erasing(settings: Augment) -> Iterator[A.BasicTransform]:
    if settings.erasing:
        # Random erasing with the ranges and the noise fill of Zhong et al. 2020, Random Erasing Data
        # Augmentation.
        shape = {"scale": (0.02, 0.33), "ratio": (0.3, 3.3)}
        yield A.Erasing(**shape, fill="random", fill_mask=UNSURE, p=settings.erasing, strict=True)


def augment_batch(
    pipeline: Pipeline,
    images: np.ndarray | Sequence[np.ndarray],
    seed: int,
    part: tuple[int, int] | None = None,
) -> np.ndarray:
    """Augment (B, H, W, C) uint8 to (B, S, S, C); all draws derive from `seed`. For `part` see `Pipeline`.

    The seed belongs to the batch, not to the worker, so the result is the same for any number of workers and
    after a resume.
    """
    return pipeline(images, seed, part=part)[0]


def augment_with_masks(
    pipeline: Pipeline,
    images: np.ndarray | Sequence[np.ndarray],
    masks: np.ndarray,
    seed: int,
    part: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Augment images and masks (B, H, W, C) uint8 together; masks use nearest-neighbour, so no new values
    arise."""
    return pipeline(images, seed, masks, part)
