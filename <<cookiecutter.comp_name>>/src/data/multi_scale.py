"""Multi-scale training: every batch at a size of its own, drawn from its seed, resized on the device.

A network that meets one size alone reads objects of other sizes badly; sizes are those of whole batches, as
one tensor has one size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from src.config import Config, UserError
from src.models.network import Network
from src.models.sizes import check_sizes

_STREAM = 2  # beside the seed: draws of their own
STRIDE = 32  # of a backbone that does not say its own


class Scales:
    """Resizes batches to one of `sizes`; with none it leaves them as they are."""

    def __init__(self, sizes: tuple[int, ...] = ()):
        self.sizes = sizes

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, C, S, S) to (B, C, s, s) float, 0 to 255; masks (B, C, S, S) too, no level between two
        ever made; other targets stay."""
        if not self.sizes:
            return images, targets
        rng = np.random.default_rng([seed, _STREAM])
        size = self.sizes[rng.integers(len(self.sizes))]
        if size == images.shape[-1]:
            return images, targets
        resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
        if targets.ndim == 4:
            targets = F.interpolate(targets, size=(size, size), mode="nearest-exact")
        return resized, targets


def create_scales(config: Config, model: Network) -> Scales:
    """The sizes of `augment.scales`, in whole strides of the backbone.

    Raises `UserError` where the backbone cannot take one of them, or an image of the cached size that a mask
    is wanted of.
    """
    data, shares = config.data, config.augment.scales
    if config.task.name == "segmentation" and data.cache_size is not None:
        check_sizes(model, [data.cache_size], "data.cache_size", ", the whole, of which masks are predicted")
    if shares is None:
        return Scales()
    sizes = sizes_of(shares, data.image_size, stride_of(model))
    check_sizes(model, sizes, "augment.scales")
    return Scales(sizes)


def sizes_of(shares: tuple[float, ...], image_size: int, stride: int) -> tuple[int, ...]:
    """The shares of `image_size` to the nearest whole stride, rising; `image_size` itself stays as it is."""
    near = {share: max(1, round(image_size * share / stride)) * stride for share in shares}
    sizes = tuple(sorted({image_size if share == 1 else size for share, size in near.items()}))
    if len(sizes) < 2:
        around = [side / image_size for side in range(image_size - stride, image_size + stride + 1, stride)]
        good = [float(f"{share:.2g}") for share in around if share >= 0.25]  # the least that the config takes
        raise UserError(
            f"augment.scales={list(shares)} of {image_size} px are all {sizes[0]} px in strides of {stride}; "
            f"take shares further apart, such as {good}, or set it to null"
        )
    return sizes


def stride_of(model: Network) -> int:
    """Pixels a step of the backbone's deepest map."""
    levels = getattr(model.backbone, "feature_info", None)
    return max(int(level["reduction"]) for level in levels) if levels else STRIDE
