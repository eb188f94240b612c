"""Multi-scale training: each batch is resized on the device to a size drawn from its seed.

A network trained at one size performs worse on objects of other sizes. The whole batch has one size, because
it is one tensor.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from src.config import Config, UserError
from src.models.network import Network
from src.models.sizes import check_sizes

_STREAM = 2  # combined with the seed: a separate random stream
STRIDE = 32  # assumed for a backbone without `feature_info`


class Scales:
    """Resizes batches to a random one of `sizes`; without sizes batches are unchanged."""

    def __init__(self, sizes: tuple[int, ...] = ()):
        self.sizes = sizes

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, C, S, S) to (B, C, s, s) float, 0 to 255. Masks (B, C, S, S) are resized with
        nearest-neighbour, so no new values arise; other targets are unchanged."""
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
    """The sizes of `augment.scales`, rounded to multiples of the backbone's stride.

    Raises `UserError` if the backbone does not support one of them, or the cached size for which segmentation
    predicts masks.
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
    """The shares of `image_size` rounded to multiples of the stride, ascending; a share of 1 keeps
    `image_size` exactly. Raises `UserError` if fewer than two sizes remain."""
    near = {share: max(1, round(image_size * share / stride)) * stride for share in shares}
    sizes = tuple(sorted({image_size if share == 1 else size for share, size in near.items()}))
    if len(sizes) < 2:
        around = [side / image_size for side in range(image_size - stride, image_size + stride + 1, stride)]
        # 0.25 is the minimum that the config allows
        good = [float(f"{share:.2g}") for share in around if share >= 0.25]
        raise UserError(
            f"augment.scales={list(shares)} of {image_size} px are all {sizes[0]} px in strides of {stride}; "
            f"take shares further apart, such as {good}, or set it to null"
        )
    return sizes


def stride_of(model: Network) -> int:
    """Stride of the backbone's deepest feature map, in pixels."""
    levels = getattr(model.backbone, "feature_info", None)
    return max(int(level["reduction"]) for level in levels) if levels else STRIDE
