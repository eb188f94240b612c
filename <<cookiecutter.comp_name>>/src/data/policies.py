"""Augmentation policies of torchvision (AutoAugment, RandAugment, TrivialAugment) as one step of the
pipeline."""

from __future__ import annotations

import albumentations as A
import numpy as np
import torch
from PIL import Image

from src.config import Augment

GREY = 128  # fill for uncovered areas, as in the authors' own code


class PolicyTransform(A.ImageOnlyTransform):
    """A torchvision transform for an image (H, W, 3) uint8, seeded by the pipeline.

    torchvision draws from torch's global generator, which dropout uses too; its state is restored afterwards.
    """

    def __init__(self, transform: torch.nn.Module):
        super().__init__(p=1.0)
        self.transform = transform

    def get_params(self) -> dict[str, int]:
        return {"seed": int(self.random_generator.integers(2**32))}

    def apply(self, img: np.ndarray, seed: int, **_: object) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(img))  # Pillow is faster than tensors here
        with torch.random.fork_rng(devices=[]):
            # seeds only the CPU generator; torch.manual_seed would also seed every GPU
            torch.default_generator.manual_seed(seed)
            return np.array(self.transform(image))


def create_policy(settings: Augment) -> PolicyTransform:
    """Create AutoAugment with the ImageNet policy (Cubuk et al. 2019, AutoAugment: Learning Augmentation
    Strategies from Data), RandAugment (Cubuk et al. 2020, RandAugment: Practical Automated Data Augmentation)
    or TrivialAugment (Müller, Hutter 2021, TrivialAugment: Tuning-free Yet State-of-the-Art)."""
    from torchvision.transforms import v2  # slow to import, and not every run uses a policy

    if settings.policy == "autoaugment":
        return PolicyTransform(v2.AutoAugment(fill=GREY))
    if settings.policy == "trivialaugment":
        return PolicyTransform(v2.TrivialAugmentWide(fill=GREY))
    operations = 2 if settings.operations is None else settings.operations
    magnitude = 9 if settings.magnitude is None else settings.magnitude
    return PolicyTransform(v2.RandAugment(operations, magnitude, fill=GREY))
