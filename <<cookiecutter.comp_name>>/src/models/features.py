"""Feature maps (B, C, H, W) of a backbone's last stage, for custom pooling, whatever its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from src.config import UserError


@dataclass(frozen=True)
class FeatureLayout:
    """Layout of a backbone's features: (B, C, H, W), (B, H, W, C), or tokens (B, N, C).

    The first `prefix` tokens (class token, registers) have no position in the image.
    """

    layout: Literal["NCHW", "NHWC", "tokens"]
    stride: int  # pixels between neighbouring positions
    prefix: int
    channels: int  # C of the map
    length: int  # length of a pooled vector after the family's own final layers, such as a norm
    rows: int  # H of the map at the architecture's image size

    @classmethod
    def of(cls, backbone: nn.Module, raw: Any, size: int, key: str, name: str) -> FeatureLayout:
        """The layout of `raw`, the result of `backbone.forward_features` for one image of `size` x `size`.

        Raises `UserError`, naming the config key `key`, if `raw` is neither a map nor a grid of tokens.
        """

        def refuse(why: str) -> UserError:
            return UserError(
                f"{key}: the features of {name} cannot be pooled ({why}); set {key}=null, "
                f"or another model.backbone"
            )

        if not isinstance(raw, torch.Tensor) or raw.ndim not in (3, 4):
            kind = f"{raw.ndim} axes" if isinstance(raw, torch.Tensor) else f"a {type(raw).__name__}"
            raise refuse(f"they are {kind}, not one map")
        stride = backbone.feature_info[-1]["reduction"]
        rows, prefix = -(-size // stride), 0
        layout = "tokens" if raw.ndim == 3 else str(getattr(backbone, "output_fmt", "NCHW"))[-4:]
        channels = raw.shape[1 if layout == "NCHW" else -1]
        if channels != backbone.num_features:
            raise refuse(f"their shape is {tuple(raw.shape[1:])}, without {backbone.num_features} channels")
        if layout == "tokens":
            prefix = raw.shape[1] - rows**2
            if prefix < getattr(backbone, "num_prefix_tokens", 0) or prefix > rows**2 > 1:
                raise refuse(f"{raw.shape[1]} tokens are no grid of {rows} x {rows}")
        else:
            rows = raw.shape[2 if layout == "NCHW" else 1]
        found = cls(layout, stride, prefix, channels, 0, rows)
        pooled = found.finish(backbone, found.maps(raw, (size, size)).mean((2, 3)))
        if pooled.ndim != 2:
            raise refuse(f"a vector becomes {tuple(pooled.shape[1:])} in its head")
        return cls(layout, stride, prefix, channels, pooled.shape[1], rows)

    def maps(self, raw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Feature maps (B, C, H, W) from `forward_features` of images of `size` (height, width)."""
        if self.layout == "NCHW":
            return raw
        if self.layout == "NHWC":
            return raw.permute(0, 3, 1, 2)
        height, width = (-(-side // self.stride) for side in size)
        return raw[:, self.prefix :].transpose(1, 2).unflatten(2, (height, width))

    def finish(self, backbone: nn.Module, pooled: torch.Tensor) -> torch.Tensor:
        """Apply the family's layers between pooling and classifier (a norm, a wider layer) to pooled vectors.

        (B, times C) to (B, times length): each vector goes through `forward_head` as a map with one position,
        whose mean and maximum are the vector itself.
        """
        vectors = pooled.split(self.channels, dim=1)
        return torch.cat([backbone.forward_head(self._one_place(vector)) for vector in vectors], dim=1)

    def _one_place(self, vector: torch.Tensor) -> torch.Tensor:
        """A vector (B, C) as a feature map with one position, in the backbone's layout."""
        if self.layout == "NCHW":
            return vector[:, :, None, None]
        if self.layout == "NHWC":
            return vector[:, None, None, :]
        return vector[:, None].expand(-1, self.prefix + 1, -1)  # for any token that the head reads
