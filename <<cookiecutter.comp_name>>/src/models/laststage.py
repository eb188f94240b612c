"""The last stage of a backbone, separated from the rest so that it can be copied (as MGN does)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from src.config import UserError


@dataclass(frozen=True)
class LastStage:
    """Names of the layers between a backbone's last two feature maps, and whether they need (B, H, W, C)."""

    names: tuple[str, ...]
    channels_last: bool

    @classmethod
    def of(cls, backbone: nn.Module, image: torch.Tensor, name: str) -> LastStage:
        """Find the last stage from timm's `feature_info`, and verify it with `image` (1, C, H, W).

        A copy must compute the last feature map from the one before. Raises `UserError` if it does not.
        """
        for channels_last in (False, True):
            try:
                found = cls(_between(backbone), channels_last)
                if found._makes_the_last_map(backbone, image):
                    return found
            except (RuntimeError, TypeError, AttributeError, LookupError, ValueError, AssertionError):
                continue  # families lack different things
        raise UserError(
            f"model.parts=mgn copies a backbone's last stage, and that of {name} cannot be taken apart; set "
            f"model.parts=pcb, or a backbone such as resnet50"
        )

    @staticmethod
    def read(backbone: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The result of `forward_features`, and the map (B, C, H, W) that enters the last stage."""
        raw, (before, _) = backbone.forward_intermediates(images, indices=[-2, -1])  # -1: some stop early
        return raw, before

    def copied(self, backbone: nn.Module, finer: bool = False) -> Stage:
        """A copy with the current weights; with `finer`, a ResNet's does not downsample (stride 1)."""
        layers = [copy.deepcopy(backbone.get_submodule(name)) for name in self.names]
        first = layers[0][0] if isinstance(layers[0], nn.Sequential) else None
        if finer and isinstance(first, BasicBlock | Bottleneck) and isinstance(first.aa, nn.Identity):
            _keep_size(first)
        return Stage(layers, self.channels_last)

    @torch.no_grad()
    def _makes_the_last_map(self, backbone: nn.Module, image: torch.Tensor) -> bool:
        """Whether a copy of the stage computes the backbone's last map from the one before."""
        raw, (before, last) = backbone.forward_intermediates(image, indices=[-2, -1])
        stage = self.copied(backbone).eval()
        same = torch.allclose(stage(before), last, rtol=1e-3, atol=1e-4)
        same = same and torch.allclose(raw, backbone.forward_features(image), rtol=1e-3, atol=1e-4)
        return same and next(stage.parameters(), None) is not None


class Stage(nn.Module):
    """Layers in sequence, from a feature map (B, C, H, W) to the next."""

    def __init__(self, layers: list[nn.Module], channels_last: bool):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.channels_last = channels_last

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if not self.channels_last:
            return self.layers(maps)
        return self.layers(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _between(backbone: nn.Module) -> tuple[str, ...]:
    """Names of the layers after the second-last feature map, up to that of the last."""
    before, last = (level["module"].split(".") for level in backbone.feature_info[-2:])
    names: list[str] = []
    while before:
        *parent, own = before
        children = [child for child, _ in backbone.get_submodule(".".join(parent)).named_children()]
        inside = last[: len(parent)] == parent
        stop = children.index(last[len(parent)]) + 1 if inside else len(children)
        names += [".".join([*parent, child]) for child in children[children.index(own) + 1 : stop]]
        before = [] if inside else parent
    return tuple(names)


def _keep_size(block: nn.Module) -> None:
    """Set all strides of a ResNet block to 1."""
    for name, layer in list(block.named_modules()):
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
        elif isinstance(layer, nn.AvgPool2d):  # in the shortcut of ResNet-D
            block.set_submodule(name, nn.Identity())
