"""Mixup and CutMix: mix two images of a batch, with soft targets and weights.

Mixing runs on the device in the training loop, not in the data loader: there it costs one multiply-add per
batch, the loaders stay simple (uint8, one image at a time), and a teacher in distillation sees the same mixed
images. Every random draw derives from the seed of the batch, so mixing needs no state and gives the same
result on any device.

The partner of a row is the row before it; batches are shuffled. Linear targets (classes, labels, standardised
numbers) mix so that the loss equals the mixed loss of both rows. Whether an interpolated number describes an
interpolated image is another question: see Yao et al. 2022, C-Mixup: Improving Generalization in Regression.
"""

from __future__ import annotations

import numpy as np
import torch

from src.config import Mixing

_STREAM = 1  # combined with the seed: a random stream separate from augmentation and multi-scale training
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Mixer:
    """Applies mixup or CutMix to a share of the batches; the last `off_epochs` of `epochs` are not mixed."""

    def __init__(self, settings: Mixing, epochs: int):
        self.settings, self.until = settings, epochs - settings.off_epochs
        self.kinds = [kind for kind in ("mixup", "cutmix") if getattr(settings, kind) is not None]

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, epoch: int, seed: int
    ) -> Batch:
        """Images (B, C, H, W); targets (B, C) or (B, C, H, W), with NaN for unknown ones; weights (B,)."""
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
    """Mixup: `share` of each row plus 1 - `share` of the row before it, for pixels, targets and weights.

    Pixels become floats from 0 to 255. A target that is NaN in either row is NaN. Zhang et al. 2018, mixup:
    Beyond Empirical Risk Minimization.
    """
    return tuple(blend(x, share) for x in (images.float(), targets, weights))


def cutmix(
    images: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, box: tuple[int, int, int, int]
) -> Batch:
    """CutMix: paste the box (top, left, bottom, right) of the row before into each image. Targets and weights
    mix in proportion to the area; masks are pasted like their images.

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
    """`share` of each row plus 1 - `share` of the row before it; the sum over the rows does not change."""
    return share * values + (1 - share) * values.roll(1, 0)


def paste(values: torch.Tensor, box: tuple[int, int, int, int]) -> torch.Tensor:
    """(B, C, H, W) with the box of the row before pasted in."""
    top, left, bottom, right = box
    pasted = values.clone()
    pasted[:, :, top:bottom, left:right] = values.roll(1, 0)[:, :, top:bottom, left:right]
    return pasted


def draw_box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random box with 1 - `share` of the area, the aspect ratio of the image and a uniform centre. It is
    clipped at the edges, as in the CutMix paper, so its area may be smaller."""
    half = 0.5 * np.sqrt(1 - share)
    y, x = rng.random(2)
    top, bottom = (round(float(np.clip(y + way * half, 0, 1)) * height) for way in (-1, 1))
    left, right = (round(float(np.clip(x + way * half, 0, 1)) * width) for way in (-1, 1))
    return top, left, bottom, right
