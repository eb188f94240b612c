"""What a backbone's last stage gives, whatever the family: a map (B, C, H, W) to pool in our own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from src.config import UserError


@dataclass(frozen=True)
class FeatureLayout:
    """How one backbone lays out its features: (B, C, H, W), (B, H, W, C), or tokens (B, N, C), the first
    `prefix` of which (a class token, registers) have no place in the image."""

    layout: Literal["NCHW", "NHWC", "tokens"]
    stride: int  # pixels from one place to the next
    prefix: int
    channels: int  # C of the map
    length: int  # of a pooled vector after what the family does to one, as a norm
    rows: int  # H of the map of an image as large as the architecture says

    @classmethod
    def of(cls, backbone: nn.Module, raw: Any, size: int, key: str, name: str) -> FeatureLayout:
        """The layout of `raw`, which `backbone.forward_features` gave for one image of `size` x `size`.
        Raises `UserError` with `key` where it is no map and no grid of tokens."""

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
        """(B, C, H, W) of what `forward_features` gave for images of `size`."""
        if self.layout == "NCHW":
            return raw
        if self.layout == "NHWC":
            return raw.permute(0, 3, 1, 2)
        height, width = (-(-side // self.stride) for side in size)
        return raw[:, self.prefix :].transpose(1, 2).unflatten(2, (height, width))

    def finish(self, backbone: nn.Module, pooled: torch.Tensor) -> torch.Tensor:
        """(B, times C) pooled vectors to (B, times length): what the family does between its own pooling and
        its classifier, as a norm or a wider layer, done to each vector. It is shown a map of one place, which
        is its own mean and maximum."""
        vectors = pooled.split(self.channels, dim=1)
        return torch.cat([backbone.forward_head(self._one_place(vector)) for vector in vectors], dim=1)

    def _one_place(self, vector: torch.Tensor) -> torch.Tensor:
        if self.layout == "NCHW":
            return vector[:, :, None, None]
        if self.layout == "NHWC":
            return vector[:, None, None, :]
        return vector[:, None].expand(-1, self.prefix + 1, -1)  # whichever token the head reads
