"""Decoders: a pyramid of feature maps, finest first, to a map of logits at the image's own size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

FPN_STRIDE = 3  # finest stride an FPN reads, 4 in the papers; patches of 14 pixels give 3.5


@dataclass(frozen=True)
class FeatureLevels:
    """Which feature maps of a backbone a decoder reads, finest first: their indices and strides, and the
    factor that each is enlarged by before."""

    indices: list[int]
    strides: list[float]
    enlarge: list[int]

    @classmethod
    def of(cls, backbone: nn.Module) -> FeatureLevels:
        """The last map of every stride. A plain transformer has one stride: three of its depths are taken,
        and the shallower ones enlarged (Ranftl, Bochkovskiy, Koltun 2021, Vision Transformers for Dense
        Prediction).
        """
        strides = [level["reduction"] for level in backbone.feature_info]
        last = {stride: index for index, stride in enumerate(strides)}
        if len(last) > 1:
            return cls(list(last.values()), list(last), [1] * len(last))
        depth, stride = len(strides), strides[0]
        # nothing coarser than its own stride: attention sees the whole image already
        return cls(
            [depth // 3 - 1, 2 * depth // 3 - 1, depth - 1], [stride / 4, stride / 2, stride], [4, 2, 1]
        )

    def read(self, backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
        """(B, channels, H / stride, W / stride) for each level.

        timm's whole network is asked for what lies between its layers. `features_only=True` would rename
        some families' tensors, differently in each; so a checkpoint fits here as it fits a classifier, and
        the layers that only classify stay along unused, so that either can start from the other.
        """
        maps = backbone.forward_intermediates(
            images, indices=self.indices, intermediates_only=True, output_fmt="NCHW"
        )
        return [
            x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear")
            for x, factor in zip(maps, self.enlarge, strict=True)
        ]


class UNet(nn.Module):
    """Upwards from the deepest map, each finer one joined on the way (Ronneberger, Fischer, Brox 2015,
    U-Net), to logits (B, outputs, H, W) of the `size` asked for."""

    def __init__(self, channels: list[int], outputs: int, drop_rate: float = 0.0):
        super().__init__()
        self.blocks, below = nn.ModuleList(), channels[-1]
        for step, skip in enumerate(reversed(channels[:-1])):
            width = max(256 >> step, 16)  # halved as the side doubles: each block costs about the same
            self.blocks.append(nn.Sequential(_convolution(below + skip, width), _convolution(width, width)))
            below = width
        self.head = MapHead(below, outputs, drop_rate)

    def forward(self, maps: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        x, *skips = reversed(maps)
        for block, skip in zip(self.blocks, skips, strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return self.head(x, size)


class FPN(nn.Module):
    """A feature pyramid (Lin et al. 2017, Feature Pyramid Networks) and the branch that sums its levels
    (Kirillov et al. 2019, Panoptic FPN), to logits (B, outputs, H, W) of the `size` asked for."""

    def __init__(self, channels: list[int], strides: list[float], outputs: int, drop_rate: float = 0.0):
        super().__init__()
        self.skipped = sum(stride < FPN_STRIDE for stride in strides)
        channels = channels[self.skipped :]
        # normalised, which the paper has no need of: raw maps of ConvNeXt and Swin differ in size by orders
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 256, 1, bias=False), nn.GroupNorm(32, 256)) for c in channels
        )
        self.branches = nn.ModuleList()  # a convolution for every doubling of the side, and at least one
        for level in range(len(channels)):
            widths = [256, *[128] * (level - 1)]
            self.branches.append(
                nn.ModuleList(_convolution(width, 128, nn.GroupNorm(32, 128)) for width in widths)
            )
        self.head = MapHead(128, outputs, drop_rate)

    def forward(self, maps: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        maps = maps[self.skipped :]
        sizes = [x.shape[-2:] for x in maps]
        pyramid = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for level in range(len(maps) - 1, 0, -1):
            above = F.interpolate(pyramid[level], size=sizes[level - 1], mode="nearest")
            pyramid[level - 1] = pyramid[level - 1] + above
        total = 0
        for level, (x, branch) in enumerate(zip(pyramid, self.branches, strict=True)):
            for step, convolution in enumerate(branch, start=1):
                x = _resize(convolution(x), sizes[max(level - step, 0)])
            total = total + x  # (B, 128, H / 4, W / 4)
        return self.head(total, size)


class MapHead(nn.Module):
    """Whole channels dropped, one linear layer a pixel, and up to the size asked for, in float32: bfloat16
    keeps too few digits to place an edge between two pixels."""

    def __init__(self, features: int, outputs: int, drop_rate: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout2d(drop_rate)
        self.linear = nn.Conv2d(features, outputs, 1)
        nn.init.normal_(self.linear.weight, std=0.01)  # undecided everywhere (Lin et al. 2017, Focal Loss)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return _resize(self.linear(self.dropout(x)).float(), size)


def create_decoder(
    name: str, channels: list[int], strides: list[float], outputs: int, drop_rate: float = 0.0
) -> UNet | FPN:
    """The decoder of that name for maps of these channels and strides, finest first; its new layers start
    with the variance of He et al. 2015, Delving Deep into Rectifiers."""
    if name == "unet":
        return _started(UNet(channels, outputs, drop_rate))
    if name == "fpn":
        return _started(FPN(channels, strides, outputs, drop_rate))
    raise ValueError(f"no decoder is called {name!r}; there are unet, fpn")


def _convolution(inputs: int, outputs: int, norm: nn.Module | None = None) -> nn.Sequential:
    """3 x 3, a norm (batch norm unless given), ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(layer, norm or nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _started(decoder: UNet | FPN) -> UNet | FPN:
    for layer in decoder.modules():
        if isinstance(layer, nn.Conv2d) and layer is not decoder.head.linear:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return decoder


def _resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear")
