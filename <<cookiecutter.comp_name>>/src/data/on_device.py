"""Batch augmentation on the GPU: the data loaders only read, so that few CPU cores can feed several GPUs.

The random draws equal those of augment.py, so a run may switch between both; the pixels are equal up to the
rounding of two interpolations. Augmentations that use albumentations are not available here.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from src.config import Config
from src.data.augment import CUTOUT, GEOMETRY, LIGHT, create_augmentation
from src.data.geometry import Transforms
from src.maps import UNSURE


class OnDevice:
    """Geometry, brightness, contrast and cutout for a batch on a device."""

    def __init__(self, config: Config, channels: int):
        data, self.settings = config.data, config.augment
        self.pipeline = create_augmentation(self.settings, data.image_size, data.cached_size, channels)
        self.geometry = self.pipeline.geometry

    def __call__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        seed: int,
        part: tuple[int, int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment images (B, C, H, W) uint8 to (B, C, S, S), and target masks (B, K, H, W) uint8 with them;
        other targets are unchanged. For `part` see `augment.Pipeline`."""
        first, whole = part or (0, len(images))
        mine = slice(first, first + len(images))

        def stream(name: int) -> np.random.Generator:
            return np.random.default_rng([seed, name])

        maps = targets.ndim == 4
        if not self.geometry.fixed or images.shape[-1] != self.geometry.size:
            grid = self._grid(self.geometry.draw(stream(GEOMETRY), whole)[mine], images)
            images = warped(images, grid, "bilinear")
            targets = warped(targets, grid, "nearest") if maps else targets
        settings = self.settings
        if settings.brightness or settings.contrast:
            draws = stream(LIGHT).uniform(-1, 1, (whole, 2))[mine] * (settings.brightness, settings.contrast)
            bright, strong = _to_device(images, draws).T[:, :, None, None, None]  # (B, 1, 1, 1) each
            images = rounded(images * (1 + strong) + 255 * bright)
        if settings.cutout:
            hole = self._holes(stream(CUTOUT).random((whole, 3))[mine], images)
            images = images.masked_fill(hole, 0)
            targets = targets.masked_fill(hole, UNSURE) if maps else targets
        return images, targets

    def _grid(self, moves: Transforms, images: torch.Tensor) -> torch.Tensor:
        """Sampling grid (B, S, S, 2) for `grid_sample`: coordinates from -1 to 1 between the outermost pixel
        centres."""
        if moves.turns is None:
            n = len(moves.windows)
            moves = Transforms(moves.windows, np.broadcast_to(np.eye(3), (n, 3, 3)), moves.symmetries)
        size, side = self.geometry.size, self.geometry.cached
        matrices = _to_device(images, self.geometry.matrices(moves))  # (B, 2, 3)
        line = torch.arange(size, device=images.device, dtype=torch.float32)
        y, x = torch.meshgrid(line, line, indexing="ij")
        places = torch.stack([x, y, torch.ones_like(x)], -1) @ matrices[:, None].mT  # (B, S, S, 2)
        return places * (2 / (side - 1)) - 1

    def _holes(self, draws: np.ndarray, images: torch.Tensor) -> torch.Tensor:
        """Cutout holes (B, 1, S, S) bool: one square in a random share of the images."""
        size, side = images.shape[-1], self.pipeline.side
        corners = (draws[:, 1:] * (size - side + 1)).astype(int)
        corners[draws[:, 0] >= self.settings.cutout] = size  # outside the image
        line = torch.arange(size, device=images.device)
        y, x = (line - _to_device(images, corner, torch.long)[:, None] for corner in corners.T)  # (B, S) each
        inside = [(place >= 0) & (place < side) for place in (y, x)]
        return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def warped(pixels: torch.Tensor, grid: torch.Tensor, way: str) -> torch.Tensor:
    """Sample (B, C, H, W) uint8 at a grid (B, S, S, 2) with reflection padding; the result is channels-last
    uint8."""
    made = F.grid_sample(pixels.float(), grid, way, padding_mode="reflection", align_corners=True)
    return rounded(made).contiguous(memory_format=torch.channels_last)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Round to uint8 levels from 0 to 255, halves to even, as OpenCV does."""
    return values.round().clamp(0, 255).to(torch.uint8)


def _to_device(images: torch.Tensor, values: np.ndarray, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """Copy numbers to the images' device without synchronising."""
    sent = torch.from_numpy(np.ascontiguousarray(values)).to(kind)
    if images.device.type == "cuda":
        sent = sent.pin_memory()  # a copy from pageable memory would wait for all work before it
    return sent.to(images.device, non_blocking=True)
