"""Training augmentation by albumentations: uint8 (H, W, C) in, uint8 (S, S, C) out, masks beside them.

First what moves pixels, so that masks move along, then what changes colours, last what erases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from src.config import Augment, UserError
from src.maps import UNSURE

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network at import
import albumentations as A
import cv2

from src.data.compression import Jpeg

cv2.setNumThreads(0)


def create_augmentation(
    settings: Augment, image_size: int, cached_size: int | None = None, channels: int = 3
) -> A.Compose:
    """The pipeline the settings describe, from images of `cached_size` (None: `image_size`) to `image_size`.

    `strict` makes an argument albumentations does not know an error. Raises `UserError` for what only
    pictures of three channels have.
    """
    moves, looks = _steps(settings, image_size, cached_size, channels)
    return A.Compose([*moves, *looks])


def create_halves(
    settings: Augment, image_size: int, cached_size: int | None = None, channels: int = 3
) -> tuple[A.Compose, A.Compose]:
    """The same in two pipelines, one after the other: what moves pixels, and what changes or erases them
    where they are."""
    moves, looks = _steps(settings, image_size, cached_size, channels)
    return A.Compose(moves), A.Compose(looks)


def _steps(
    settings: Augment, image_size: int, cached_size: int | None, channels: int
) -> tuple[list[A.BasicTransform], list[A.BasicTransform]]:
    coloured = {"policy": settings.policy, "hue": settings.hue, "saturation": settings.saturation}
    wants = [name for name, value in coloured.items() if value]
    if wants and channels != 3:
        raise UserError(
            f"augment.{wants[0]} is for RGB pictures, these images have {channels} channel(s); set it to null"
        )
    moves = [*_moves(settings, image_size, cached_size or image_size)]
    return moves, [*_colours(settings, image_size), *_erasures(settings, image_size)]


def _moves(settings: Augment, image_size: int, cached_size: int) -> Iterator[A.BasicTransform]:
    if settings.rotate or settings.shift or settings.zoom:
        yield A.Affine(
            rotate=(-settings.rotate, settings.rotate),
            translate_percent=(-settings.shift, settings.shift),
            scale=(1 - settings.zoom, 1 + settings.zoom),
            border_mode=cv2.BORDER_REFLECT_101,  # black wedges would teach the network the angle
            p=1.0,
            strict=True,
        )
    size = (image_size, image_size)
    crop = settings.crop or ("resized" if cached_size == image_size else "random")
    if crop == "random":
        yield A.RandomCrop(*size, p=1.0, strict=True)
    elif crop == "centre":
        yield A.CenterCrop(*size, p=1.0, strict=True)
    elif tuple(settings.crop_scale) != (1.0, 1.0) or cached_size != image_size:
        yield A.RandomResizedCrop(
            size,
            scale=settings.crop_scale,
            ratio=settings.crop_ratio,
            mask_interpolation=cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST is half a pixel off what images get
            p=1.0,
            strict=True,
        )
    if settings.d4:
        yield A.D4(p=settings.d4, strict=True)
    if settings.hflip:
        yield A.HorizontalFlip(p=settings.hflip, strict=True)
    if settings.vflip:
        yield A.VerticalFlip(p=settings.vflip, strict=True)


def _colours(settings: Augment, image_size: int) -> Iterator[A.BasicTransform]:
    if settings.brightness or settings.contrast:
        limits = (settings.brightness, settings.contrast)
        yield A.RandomBrightnessContrast(*((-x, x) for x in limits), p=1.0, strict=True)
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
        most = max(1.0, image_size / 112)  # 2 at 224 pixels, as in SimCLR; below 0.3 nothing changes
        yield A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, most), p=settings.blur, strict=True)
    if settings.noise:
        yield A.GaussNoise(std_range=(0.01, 0.05), p=settings.noise, strict=True)
    if settings.compression:
        yield Jpeg(40, 90, p=settings.compression)


def _erasures(settings: Augment, image_size: int) -> Iterator[A.BasicTransform]:
    """What was there cannot be seen: of a mask it is unsure, and the loss leaves it out."""
    if settings.cutout:
        side = max(1, image_size // 4)
        hole = {
            "num_holes_range": (1, 1),
            "hole_height_range": (side, side),
            "hole_width_range": (side, side),
        }
        yield A.CoarseDropout(**hole, fill=0, fill_mask=UNSURE, p=settings.cutout, strict=True)
    if settings.erasing:
        # Zhong et al. 2020, Random Erasing Data Augmentation: its ranges, its noise
        shape = {"scale": (0.02, 0.33), "ratio": (0.3, 3.3)}
        yield A.Erasing(**shape, fill="random", fill_mask=UNSURE, p=settings.erasing, strict=True)


def is_fixed(pipeline: A.Compose) -> bool:
    """Whether it makes the same of an image every time."""
    return all(isinstance(step, A.CenterCrop) for step in pipeline.transforms)


def augment_batch(pipeline: A.Compose, images: np.ndarray, seed: int) -> np.ndarray:
    """(B, H, W, C) uint8 to (B, S, S, C), drawn from `seed` alone.

    Seeding by the batch, not by the worker, makes the draw the same for any number of workers and after a
    resume; albumentations' own streams repeat every epoch and are shared by all workers.
    """
    pipeline.set_random_seed(seed)
    return np.stack([pipeline(image=image)["image"] for image in images])


def augment_with_masks(
    pipeline: A.Compose, images: np.ndarray, masks: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same with masks (B, H, W, C) uint8 that move with their images, no level between two ever made."""
    pipeline.set_random_seed(seed)
    done = [pipeline(image=image, mask=mask) for image, mask in zip(images, masks, strict=True)]
    return np.stack([one["image"] for one in done]), np.stack([one["mask"] for one in done])
