"""Training augmentation by albumentations: uint8 (H, W, 3) in, uint8 (S, S, 3) out, masks beside them."""

from __future__ import annotations

import os

import numpy as np

from src.config import Augment

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network at import
import albumentations as A
import cv2

cv2.setNumThreads(0)


def create_augmentation(settings: Augment, image_size: int) -> A.Compose:
    """The pipeline the settings describe; `strict` makes an argument albumentations does not know an
    error."""
    steps: list[A.BasicTransform] = []
    if settings.rotate or settings.shift or settings.zoom:
        steps.append(
            A.Affine(
                rotate=(-settings.rotate, settings.rotate),
                translate_percent=(-settings.shift, settings.shift),
                scale=(1 - settings.zoom, 1 + settings.zoom),
                border_mode=cv2.BORDER_REFLECT_101,  # black wedges would teach the network the angle
                p=1.0,
                strict=True,
            )
        )
    if tuple(settings.crop_scale) != (1.0, 1.0):
        steps.append(
            A.RandomResizedCrop(
                (image_size, image_size),
                scale=settings.crop_scale,
                ratio=settings.crop_ratio,
                mask_interpolation=cv2.INTER_NEAREST_EXACT,  # plain INTER_NEAREST moves masks by half a pixel
                p=1.0,
                strict=True,
            )
        )
    if settings.hflip:
        steps.append(A.HorizontalFlip(p=settings.hflip, strict=True))
    if settings.vflip:
        steps.append(A.VerticalFlip(p=settings.vflip, strict=True))
    if settings.brightness or settings.contrast:
        limits = (settings.brightness, settings.contrast)
        steps.append(A.RandomBrightnessContrast(*((-x, x) for x in limits), p=1.0, strict=True))
    if settings.cutout:
        side = max(1, image_size // 4)
        hole = {
            "num_holes_range": (1, 1),
            "hole_height_range": (side, side),
            "hole_width_range": (side, side),
        }
        steps.append(A.CoarseDropout(**hole, fill=0, p=settings.cutout, strict=True))
    return A.Compose(steps)


def augment_batch(pipeline: A.Compose, images: np.ndarray, seed: int) -> np.ndarray:
    """(B, H, W, 3) uint8 to the same, drawn from `seed` alone.

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
