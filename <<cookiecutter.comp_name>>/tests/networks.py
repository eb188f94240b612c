"""What the tests of networks share: small ones, images for them, and a checkpoint of a stranger's."""

from __future__ import annotations

import timm
import torch

from src.models.architecture import Architecture

MEAN, STD = (0.2, 0.5, 0.7), (0.1, 0.2, 0.3)


def architecture(backbone: str = "test_resnet", size: int = 32, outputs: int = 5, **more) -> Architecture:
    return Architecture(backbone, outputs, size, MEAN, STD, **more)


def images(size: int = 32, n: int = 3, seed: int = 0, channels: int = 3) -> torch.Tensor:
    """(n, channels, size, size) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def trained(backbone: str = "test_resnet", seed: int = 1, **options) -> torch.nn.Module:
    """timm's own network with nothing at its starting value, as a stranger's checkpoint would have it."""
    model = timm.create_model(backbone, **options)
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model


def shaken(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """The network with every float tensor moved a little, none of them still where it starts."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.mul_(0.9 + 0.2 * noise).add_(0.01 * noise)
    return model
