"""JPEG compression augmentation. The transform of albumentations 2.0.8 swaps red and blue when it encodes and
decodes, so its artefacts differ from those of real files."""

from __future__ import annotations

import albumentations as A
import cv2
import numpy as np


class Jpeg(A.ImageOnlyTransform):
    """JPEG compression augmentation: encode an image (H, W, C) uint8 as JPEG and decode it again, at a random
    quality from `low` to `high` (of 100). Images without three channels are compressed channel by channel."""

    def __init__(self, low: int, high: int, p: float):
        super().__init__(p=p)
        self.low, self.high = low, high

    def get_params(self) -> dict[str, int]:
        return {"quality": int(self.random_generator.integers(self.low, self.high + 1))}

    def apply(self, img: np.ndarray, quality: int, **_: object) -> np.ndarray:
        if img.shape[2] == 3:
            return through_jpeg(img[:, :, ::-1], quality)[:, :, ::-1]  # OpenCV encodes BGR
        return np.stack([through_jpeg(img[:, :, c], quality) for c in range(img.shape[2])], axis=2)


def through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Encode and decode an image (H, W) grey or (H, W, 3) BGR, uint8."""
    content = cv2.imencode(".jpg", np.ascontiguousarray(pixels), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
