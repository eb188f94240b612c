"""What a network is made of, in plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the network again; stored inside the weights file."""

    backbone: str
    n_outputs: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    target_mean: tuple[float, ...] | None = None  # of targets that were standardised for training, else null
    target_std: tuple[float, ...] | None = None
    target_log: bool = False  # whether log(1 + target) was what was standardised
    decoder: str | None = None  # of logits a pixel, "unet" or "fpn"; null: logits an image
    head: str = "linear"  # or "cosine", which the losses with a margin want
    logit_scale: float | None = None  # of a cosine head: its logits are cosines times this; null: 1
    embedding: int | None = None  # length that features are projected to; null: as the backbone has them
    pooling: str | None = None  # a name of pooling.py; null: the backbone's own
    neck: str | None = None  # "bnneck"
    dropout_samples: int | None = None  # masks that logits are averaged over in training; null: one
    ibn: str | None = None  # "a" or "b", of a ResNet
    parts: str | None = None  # "pcb" or "mgn"
    stripes: int | None = None  # of pcb
    subcenters: int | None = None  # directions an output of a cosine head; null: one

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
