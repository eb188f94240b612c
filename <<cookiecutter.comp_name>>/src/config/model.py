"""The network."""

from __future__ import annotations

from typing import Literal

from src.config.section import Count, Section, Share


class Model(Section):
    backbone: str = "resnet18"  # any timm name; fast enough to find bugs with, strong enough to rank ideas
    pretrained: bool = True
    weights: str | None = None  # local .safetensors or .pth for the backbone, in place of a download
    drop_rate: Share = 0.0
    drop_path_rate: Share = 0.0
    decoder: Literal["unet", "fpn"] = "unet"  # segmentation: U-Net keeps fine edges, FPN is lighter
    embedding: Count | None = None  # retrieval: length of the embedding; null: the backbone's own features
