"""Segmentation decoders (U-Net, FPN): feature maps, finest first, to logits at the image's own size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

FPN_STRIDE = 3  # finest stride that an FPN reads: 4 in the papers, 3.5 for patches of 14 pixels


@dataclass(frozen=True)
class FeatureLevels:
    """The feature maps of a backbone that a decoder reads, finest first.

    Their indices, their strides after upsampling, and the factors by which they are upsampled first.
    """

    indices: list[int]
    strides: list[float]
    enlarge: list[int]

    @classmethod
    def of(cls, backbone: nn.Module) -> FeatureLevels:
        """The last feature map of every stride.

        A plain vision transformer has a single stride: three of its depths are used, and the shallower two
        upsampled (DPT: Ranftl, Bochkovskiy, Koltun 2021, Vision Transformers for Dense Prediction).
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
        """The feature maps (B, channels, H / stride, W / stride), one per level.

        It uses timm's full network with `forward_intermediates`. `features_only=True` would rename tensors,
        differently in each family. So a checkpoint fits here as it fits a classifier, and the unused
        classifier layers are kept, so that either network can start from the other's weights.
        """
        maps = backbone.forward_intermediates(
            images, indices=self.indices, intermediates_only=True, output_fmt="NCHW"
        )
        return [
            x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear")
            for x, factor in zip(maps, self.enlarge, strict=True)
        ]


class UNet(nn.Module):
    """U-Net decoder (Ronneberger, Fischer, Brox 2015), to logits (B, outputs, H, W) of the given `size`.

    It upsamples from the deepest map and concatenates each finer one as a skip connection.
    """

    def __init__(self, channels: list[int], outputs: int, drop_rate: float = 0.0):
        super().__init__()
        self.blocks, below = nn.ModuleList(), channels[-1]
        for step, skip in enumerate(reversed(channels[:-1])):
            width = max(256 >> step, 16)  # halved as resolution doubles: each block costs about the same
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
    """FPN decoder: feature pyramid with summed levels, to logits (B, outputs, H, W) of the requested `size`.

    Lin et al. 2017, Feature Pyramid Networks; the summing branch is that of Kirillov et al. 2019, Panoptic
    FPN.
    """

    def __init__(self, channels: list[int], strides: list[float], outputs: int, drop_rate: float = 0.0):
        super().__init__()
        self.skipped = sum(stride < FPN_STRIDE for stride in strides)
        channels = channels[self.skipped :]
        # normalised, unlike in the paper: the scales of ConvNeXt's and Swin's raw maps differ by orders of
        # magnitude
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 256, 1, bias=False), nn.GroupNorm(32, 256)) for c in channels
        )
        self.branches = nn.ModuleList()  # one convolution per doubling of the resolution, at least one
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
    """Segmentation head: channel dropout, a 1 x 1 convolution, and bilinear upsampling to the requested size.

    Upsampling is in float32: bfloat16 has too few digits to place an edge between two pixels.
    """

    def __init__(self, features: int, outputs: int, drop_rate: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout2d(drop_rate)
        self.linear = nn.Conv2d(features, outputs, 1)
        nn.init.normal_(self.linear.weight, std=0.01)  # all logits near zero (Lin et al. 2017, Focal Loss)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return _resize(self.linear(self.dropout(x)).float(), size)


def create_decoder(
    name: str, channels: list[int], strides: list[float], outputs: int, drop_rate: float = 0.0
) -> UNet | FPN:
    """Create a decoder, "unet" or "fpn", for feature maps with these channels and strides, finest first.

    New layers have Kaiming initialisation (He et al. 2015, Delving Deep into Rectifiers). Raises `ValueError`
    for another name.
    """
    if name == "unet":
        return _started(UNet(channels, outputs, drop_rate))
    if name == "fpn":
        return _started(FPN(channels, strides, outputs, drop_rate))
    raise ValueError(f"no decoder is called {name!r}; there are unet, fpn")


def _convolution(inputs: int, outputs: int, norm: nn.Module | None = None) -> nn.Sequential:
    """3 x 3 convolution, norm (batch norm by default), ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(layer, norm or nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _started(decoder: UNet | FPN) -> UNet | FPN:
    """The decoder after Kaiming initialisation of all convolutions but the head's."""
    for layer in decoder.modules():
        if isinstance(layer, nn.Conv2d) and layer is not decoder.head.linear:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return decoder


def _resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear resize to `size`, if needed."""
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear")
