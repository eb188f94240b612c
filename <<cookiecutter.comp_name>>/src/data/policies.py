"""Augmentation policies that others have searched for or that need no search, by torchvision, as one step of
our pipeline."""

from __future__ import annotations

import albumentations as A
import numpy as np
import torch
from PIL import Image

from src.config import Augment

GREY = 128  # where a turned image uncovers nothing of itself, as in the authors' own code


class PolicyTransform(A.ImageOnlyTransform):
    """A torchvision transform of an image (H, W, 3) uint8, drawn from the pipeline's own seed.

    torchvision draws from torch's global stream, which dropout draws from too; it is left as it was.
    """

    def __init__(self, transform: torch.nn.Module):
        super().__init__(p=1.0)
        self.transform = transform

    def get_params(self) -> dict[str, int]:
        return {"seed": int(self.random_generator.integers(2**32))}

    def apply(self, img: np.ndarray, seed: int, **_: object) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(img))  # Pillow is faster than tensors here
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone; torch.manual_seed is every GPU's too
            return np.array(self.transform(image))


def create_policy(settings: Augment) -> PolicyTransform:
    """AutoAugment, the policy searched on ImageNet (Cubuk et al. 2019, AutoAugment: Learning Augmentation
    Strategies from Data), RandAugment (Cubuk et al. 2020, RandAugment: Practical Automated Data Augmentation)
    or TrivialAugment (Müller, Hutter 2021, TrivialAugment: Tuning-free Yet State-of-the-Art)."""
    from torchvision.transforms import v2  # slow to import; not every run has a policy

    if settings.policy == "autoaugment":
        return PolicyTransform(v2.AutoAugment(fill=GREY))
    if settings.policy == "trivialaugment":
        return PolicyTransform(v2.TrivialAugmentWide(fill=GREY))
    operations = 2 if settings.operations is None else settings.operations
    magnitude = 9 if settings.magnitude is None else settings.magnitude
    return PolicyTransform(v2.RandAugment(operations, magnitude, fill=GREY))
