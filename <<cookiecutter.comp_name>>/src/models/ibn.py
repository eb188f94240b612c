"""IBN-Net (IBN-a, IBN-b): instance normalisation inside a ResNet, for generalisation to other domains.

Instance norm removes the contrast and tint of an image, so that an unseen style costs less (Pan, Luo, Shi,
Tang 2018, Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from timm.models.resnet import ResNet
from torch import nn

from src.config import UserError


class IBN(nn.Module):
    """IBN layer, (B, C, H, W): instance norm on the first half of the channels, batch norm on the rest.

    The submodule names are those of the authors' weights.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    @classmethod
    @torch.no_grad()
    def of(cls, norm: nn.BatchNorm2d) -> IBN:
        """An IBN layer with the scale and shift of `norm`, and its statistics for the batch-norm half."""
        made = cls(norm.num_features)
        for name in ("weight", "bias"):
            getattr(made.IN, name).copy_(getattr(norm, name)[: made.half])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(made.BN, name).copy_(getattr(norm, name)[made.half :])
        made.BN.num_batches_tracked.copy_(norm.num_batches_tracked)
        made.BN.eps, made.BN.momentum = norm.eps, norm.momentum
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], dim=1)


def add_ibn(backbone: nn.Module, kind: str, name: str) -> None:
    """Add IBN-a or IBN-b to a timm ResNet in place, after its weights are loaded; matching tensors are kept.

    `a`: the first norm of each block of the first three stages becomes `IBN`. `b`: the stem's norm becomes an
    instance norm, and another one follows the last residual sum of the first two stages. Raises `UserError`
    for other families or other norms.
    """
    if not isinstance(backbone, ResNet):
        raise _refused(kind, name)
    stages = [backbone.layer1, backbone.layer2, backbone.layer3]
    if kind == "a":
        blocks = [block for stage in stages for block in stage]
        if any(type(getattr(block, "bn1", None)) is not nn.BatchNorm2d for block in blocks):
            raise _refused(kind, name)
        for block in blocks:
            block.bn1 = IBN.of(block.bn1)
        return
    blocks = [stage[-1] for stage in stages[:2]]
    lasts = [next((a for a in ("act3", "act2") if hasattr(block, a)), None) for block in blocks]
    if type(backbone.bn1) is not nn.BatchNorm2d or None in lasts:
        raise _refused(kind, name)
    stem = nn.InstanceNorm2d(backbone.bn1.num_features, affine=True)
    stem.load_state_dict({key: getattr(backbone.bn1, key).detach() for key in ("weight", "bias")})
    backbone.bn1 = stem
    for block, act, level in zip(blocks, lasts, backbone.feature_info[1:3], strict=True):
        norm = nn.InstanceNorm2d(level["num_chs"], affine=True)
        setattr(block, act, nn.Sequential(OrderedDict(IN=norm, act=getattr(block, act))))


def has_ibn(state: dict[str, Any]) -> bool:
    """Whether a checkpoint already contains IBN layers: ours, or the authors' IBN-a."""
    return any(key.endswith(".IN.weight") for key in state)


def _refused(kind: str, name: str) -> UserError:
    """The error for a backbone that IBN cannot be added to."""
    return UserError(
        f"model.ibn={kind} changes the batch norms of a ResNet's blocks, which {name} has not; set "
        f"model.ibn=null, or a backbone such as resnet50, resnext50_32x4d, seresnet50"
    )
