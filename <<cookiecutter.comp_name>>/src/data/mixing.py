"""Two images in one: (images, soft targets, weights) of a batch to the same, mixed.

On the device, in the training loop, and not in the loader: there it is one multiply-add of a batch that is
there anyway, loaders stay what they are (uint8, one image at a time), and whoever else looks at the batch, a
teacher say, sees the mixed view. Every draw comes from the batch's own seed, so it needs no state and is the
same on any device.

A row's partner is the row before it; batches are shuffled. Targets that are linear mix to what the loss of
both would be: classes, labels, standardised numbers. Whether a number halfway is true of an image halfway is
another matter: see Yao et al. 2022, C-Mixup: Improving Generalization in Regression.
"""

from __future__ import annotations

import numpy as np
import torch

from src.config import Mixing

_STREAM = 1  # beside the seed: draws of their own, unlike those of augmentation and scales
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Mixer:
    """Mixes the share of the batches that the settings ask for, up to the last `off_epochs` of `epochs`."""

    def __init__(self, settings: Mixing, epochs: int):
        self.settings, self.until = settings, epochs - settings.off_epochs
        self.kinds = [kind for kind in ("mixup", "cutmix") if getattr(settings, kind) is not None]

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, epoch: int, seed: int
    ) -> Batch:
        """Images (B, C, H, W), targets (B, C) or (B, C, H, W) with NaN for what is unknown, weights (B,)."""
        rng = np.random.default_rng([seed, _STREAM])
        if not self.kinds or epoch >= self.until or rng.random() >= self.settings.share:
            return images, targets, weights
        kind = self.kinds[rng.integers(len(self.kinds))]
        alpha = getattr(self.settings, kind)
        share = float(rng.beta(alpha, alpha))
        if kind == "mixup":
            return mixup(images, targets, weights, share)
        return cutmix(images, targets, weights, draw_box(*images.shape[-2:], share, rng))


def mixup(images: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, share: float) -> Batch:
    """`share` of each row and the rest of the row before it, in pixels, targets and weight.

    Pixels come as float, 0 to 255. What is NaN in either row is NaN. Zhang et al. 2018, mixup: Beyond
    Empirical Risk Minimization.
    """
    return tuple(blend(x, share) for x in (images.float(), targets, weights))


def cutmix(
    images: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, box: tuple[int, int, int, int]
) -> Batch:
    """Each image with the box (top, left, bottom, right) of the one before it, its targets and weight in the
    shares of the area; masks are pasted as their images are.

    Yun et al. 2019, CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features.
    """
    top, left, bottom, right = box
    height, width = images.shape[-2:]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    if share == 1:
        return images, targets, weights
    mixed = paste(targets, box) if targets.ndim == 4 else blend(targets, share)
    return paste(images, box), mixed, blend(weights, share)


def blend(values: torch.Tensor, share: float) -> torch.Tensor:
    """`share` of each row, the rest of the row before it: the sum over the rows stays what it was."""
    return share * values + (1 - share) * values.roll(1, 0)


def paste(values: torch.Tensor, box: tuple[int, int, int, int]) -> torch.Tensor:
    """(B, C, H, W) with the box of the row before."""
    top, left, bottom, right = box
    pasted = values.clone()
    pasted[:, :, top:bottom, left:right] = values.roll(1, 0)[:, :, top:bottom, left:right]
    return pasted


def draw_box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of 1 - `share` of the area, in the image's proportions, its centre anywhere; cut off at the
    edges, as in the paper, so that what is left of it may be less."""
    half = 0.5 * np.sqrt(1 - share)
    y, x = rng.random(2)
    top, bottom = (round(float(np.clip(y + way * half, 0, 1)) * height) for way in (-1, 1))
    left, right = (round(float(np.clip(x + way * half, 0, 1)) * width) for way in (-1, 1))
    return top, left, bottom, right
