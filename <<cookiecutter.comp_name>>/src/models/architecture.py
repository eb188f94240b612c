"""`Architecture`: the description of a network in plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Everything needed to rebuild a network; stored in the metadata of its weights file."""

    backbone: str
    n_outputs: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    target_mean: tuple[float, ...] | None = None  # mean of the targets if they are standardised, else null
    target_std: tuple[float, ...] | None = None
    target_log: bool = False  # whether log(1 + target) is what is standardised
    decoder: str | None = None  # segmentation decoder, "unet" or "fpn"; null: one output per image
    head: str = "linear"  # or "cosine", for margin losses such as ArcFace
    logit_scale: float | None = None  # scale s of a cosine head's logits; null: 1
    embedding: int | None = None  # length of the projected embedding; null: the backbone's own
    pooling: str | None = None  # a key of POOLINGS in pooling.py; null: the backbone's own
    neck: str | None = None  # "bnneck" or null
    dropout_samples: int | None = None  # masks of multi-sample dropout; null: plain dropout
    ibn: str | None = None  # IBN-Net "a" or "b", for a ResNet
    parts: str | None = None  # "pcb" or "mgn"
    stripes: int | None = None  # number of stripes of PCB
    subcenters: int | None = None  # sub-centers per output of a cosine head; null: one

    def as_dict(self) -> dict[str, Any]:
        """The fields as a plain dictionary, for JSON."""
        return asdict(self)
