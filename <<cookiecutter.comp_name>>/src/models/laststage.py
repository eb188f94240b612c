"""The last stage of a backbone, apart from what comes before it: copies of it can go their own ways."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from src.config import UserError


@dataclass(frozen=True)
class LastStage:
    """The layers of a backbone between its last two maps, and whether they want (B, H, W, C)."""

    names: tuple[str, ...]
    channels_last: bool

    @classmethod
    def of(cls, backbone: nn.Module, image: torch.Tensor, name: str) -> LastStage:
        """Found by timm's names of the maps, and tried: a copy must make the last map of `image`
        (1, C, H, W) out of the one before. Raises `UserError` where that cannot be."""
        for channels_last in (False, True):
            try:
                found = cls(_between(backbone), channels_last)
                if found._makes_the_last_map(backbone, image):
                    return found
            except (RuntimeError, TypeError, AttributeError, LookupError, ValueError, AssertionError):
                continue  # families differ in what they lack
        raise UserError(
            f"model.parts=mgn copies a backbone's last stage, and that of {name} cannot be taken apart; set "
            f"model.parts=pcb, or a backbone such as resnet50"
        )

    @staticmethod
    def read(backbone: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward_features` gives, and the map that enters the last stage, (B, C, H, W)."""
        raw, (before, _) = backbone.forward_intermediates(images, indices=[-2, -1])  # some stop early
        return raw, before

    def copied(self, backbone: nn.Module, finer: bool = False) -> Stage:
        """A copy with the weights of now. With `finer`, that of a ResNet does not halve the map."""
        layers = [copy.deepcopy(backbone.get_submodule(name)) for name in self.names]
        first = layers[0][0] if isinstance(layers[0], nn.Sequential) else None
        if finer and isinstance(first, BasicBlock | Bottleneck) and isinstance(first.aa, nn.Identity):
            _keep_size(first)
        return Stage(layers, self.channels_last)

    @torch.no_grad()
    def _makes_the_last_map(self, backbone: nn.Module, image: torch.Tensor) -> bool:
        raw, (before, last) = backbone.forward_intermediates(image, indices=[-2, -1])
        stage = self.copied(backbone).eval()
        same = torch.allclose(stage(before), last, rtol=1e-3, atol=1e-4)
        same = same and torch.allclose(raw, backbone.forward_features(image), rtol=1e-3, atol=1e-4)
        return same and next(stage.parameters(), None) is not None


class Stage(nn.Module):
    """Layers one after another, from a map (B, C, H, W) to the next."""

    def __init__(self, layers: list[nn.Module], channels_last: bool):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.channels_last = channels_last

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if not self.channels_last:
            return self.layers(maps)
        return self.layers(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _between(backbone: nn.Module) -> tuple[str, ...]:
    """The layers after that of the last map but one, up to that of the last."""
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
    for name, layer in list(block.named_modules()):
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
        elif isinstance(layer, nn.AvgPool2d):  # of the shortcut, in ResNet-D
            block.set_submodule(name, nn.Identity())
