"""Multi-scale training: every batch at a size of its own, drawn from its seed, resized on the device.

A network that meets one size alone reads objects of other sizes badly; sizes are those of whole batches, as
one tensor has one size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from src.config import Config, UserError

STREAM = 2  # beside the seed: draws of their own
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
        rng = np.random.default_rng([seed, STREAM])
        size = self.sizes[rng.integers(len(self.sizes))]
        if size == images.shape[-1]:
            return images, targets
        resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
        if targets.ndim == 4:
            targets = F.interpolate(targets, size=(size, size), mode="nearest-exact")
        return resized, targets


def create_scales(config: Config, model: nn.Module) -> Scales:
    """The sizes of `augment.scales`, in whole strides of the backbone.

    Raises `UserError` where the backbone cannot take one of them, or an image of the cached size that a mask
    is wanted of.
    """
    data, shares = config.data, config.augment.scales
    if config.task.name == "segmentation" and data.cache_size is not None:
        why = "masks are predicted for the whole of data.cache_size"
        check_size(model, data.cache_size, why, "data.cache_size=null")
    if shares is None:
        return Scales()
    sizes = sizes_of(shares, data.image_size, stride_of(model))
    for size in sizes:
        check_size(model, size, "augment.scales shows it others than data.image_size", "augment.scales=null")
    return Scales(sizes)


def sizes_of(shares: tuple[float, ...], image_size: int, stride: int) -> tuple[int, ...]:
    """The shares of `image_size` to the nearest whole stride, rising; `image_size` itself stays as it is."""
    near = {share: max(1, round(image_size * share / stride)) * stride for share in shares}
    sizes = tuple(sorted({image_size if share == 1 else size for share, size in near.items()}))
    if len(sizes) < 2:
        raise UserError(
            f"augment.scales={list(shares)} of {image_size} px are all {sizes[0]} px in strides of {stride}; "
            f"take shares further apart, such as [0.75, 1, 1.25], or set it to null"
        )
    return sizes


def stride_of(model: nn.Module) -> int:
    """Pixels a step of the backbone's deepest map."""
    levels = getattr(model.backbone, "feature_info", None)
    return max(int(level["reduction"]) for level in levels) if levels else STRIDE


@torch.no_grad()
def check_size(model: nn.Module, size: int, why: str, instead: str) -> None:
    """Show the network a black image (1, C, size, size); raises `UserError` where it cannot take it."""
    training, weight = model.training, next(model.parameters())
    channels = len(model.architecture.mean)
    model.eval()
    try:
        model(torch.zeros(1, channels, size, size, dtype=torch.uint8, device=weight.device))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        name, built = model.architecture.backbone, model.architecture.image_size
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"model.backbone: {name}, built for {built} px, takes no {size} px ({said}), and {why}; "
            f"take a convolutional one, such as resnet18, or set {instead}"
        ) from error
    finally:
        model.train(training)
