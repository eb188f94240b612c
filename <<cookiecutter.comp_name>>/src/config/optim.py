"""The optimiser, its learning rate over time, and which parameters it may move."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.section import Positive, Section


class Optim(Section):
    """The part of `train` that is about optimisation."""

    optimizer: Literal["adam", "adamw", "sgd", "lion", "nadam", "radam"] = "adam"
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0  # a fresh head's first gradients are large
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    clip_grad: Positive | None = None  # largest gradient norm
