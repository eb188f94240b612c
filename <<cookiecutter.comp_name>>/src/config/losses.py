"""Losses: which, and their own knobs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.section import Positive, Section, Share

LOSSES = {  # what `train.loss` may be for each task
    "multiclass": ("cross_entropy",),
    "binary": ("bce",),
    "multilabel": ("bce",),
    "regression": ("mse", "mae", "huber"),
    "segmentation": ("bce_dice", "ce_dice"),
    "retrieval": ("arcface_triplet", "arcface"),
}


class Margin(Section):
    """ArcFace and the batch-hard triplet beside it."""

    scale: Positive | None = None  # of the cosines; null: a rule on the number of classes
    angle: Annotated[float, Field(ge=0, lt=1.57)] = 0.3  # radians; 0.5 is for faces, with many images each
    triplet_weight: Annotated[float, Field(ge=0)] = 1.0
    triplet: Literal["soft"] | Positive = "soft"  # a distance, or soft: no margin to choose


class Losses(Section):
    """The part of `train` that is about losses."""

    loss: str | None = None  # one of LOSSES for the task; null: its first
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    huber_delta: Positive = 1.0  # in standard deviations of the target
    dice_weight: Share = 0.5  # segmentation: of the Dice part; the rest is BCE or CE
    margin: Margin = Margin()
