"""Helpers for network tests: small architectures, images for them, and a foreign checkpoint."""

from __future__ import annotations

import timm
import torch

from src.models.architecture import Architecture

MEAN, STD = (0.2, 0.5, 0.7), (0.1, 0.2, 0.3)


def architecture(backbone: str = "test_resnet", size: int = 32, outputs: int = 5, **more) -> Architecture:
    """A small `Architecture` with these options."""
    return Architecture(backbone, outputs, size, MEAN, STD, **more)


def images(size: int = 32, n: int = 3, seed: int = 0, channels: int = 3) -> torch.Tensor:
    """Random images (n, channels, size, size) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def trained(backbone: str = "test_resnet", seed: int = 1, **options) -> torch.nn.Module:
    """A timm network with every float tensor away from its initial value, like a foreign checkpoint."""
    model = timm.create_model(backbone, **options)
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model


def shaken(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """The network with every float tensor slightly perturbed, so that none has its initial value."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.mul_(0.9 + 0.2 * noise).add_(0.01 * noise)
    return model
