"""Learning from images that nobody labelled, while the labelled ones are learned from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.section import Positive, Section, Share
from src.config.train import Train

_Policy = Literal["auto", "off", "autoaugment", "randaugment", "trivialaugment"]


class Consistency(Section):
    """A mean teacher, see src/training/consistency.py: what the average of the weights (train.ema) says of a
    plain view of a test image, the network learns to say of a strongly augmented one."""

    weight: Positive = 1.0
    """Weight of the unlabelled loss once ramped up; FixMatch's value."""

    ramp_epochs: Annotated[float, Field(ge=0)] | None = None
    """Epochs until the full weight. `null`: a third of `train.epochs`."""

    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Confidence of the teacher below which an unlabelled row does not count."""

    ratio: Annotated[float, Field(gt=0, le=16)] = 1.0
    """Unlabelled rows per labelled row (mu in FixMatch, which uses 7)."""

    policy: _Policy = "auto"
    """Strong augmentation of the student's view. `auto`: `augment.policy`, else RandAugment where it can be
    applied."""

    cutout: Share = 1.0
    """Probability of cutout in the strong view."""

    def ramp(self, epochs: int) -> float:
        """Epochs until the full weight, in a training of so many."""
        return epochs / 3 if self.ramp_epochs is None else self.ramp_epochs


def check_consistency(settings: Consistency | None, train: Train, task: str) -> None:
    """Raise ValueError where it has no teacher, or nothing that a teacher could be sure of."""
    if settings is None:
        return
    if task == "retrieval":
        raise ValueError(
            "consistency asks how sure a teacher is, and the embeddings of a retrieval have no probability; "
            "set consistency=null"
        )
    if not train.ema.enabled:
        raise ValueError(
            "consistency learns from the average of the weights, which train.ema keeps; set "
            "train.ema.enabled=true, or consistency=null"
        )
    if settings.ramp(train.epochs) > train.epochs:
        raise ValueError(
            f"consistency.ramp_epochs={settings.ramp_epochs:g} ends after train.epochs={train.epochs}, so "
            f"that its weight is never reached; a good value is {train.epochs / 3:.2g}"
        )
    if task == "segmentation" and settings.policy not in ("auto", "off"):
        raise ValueError(
            f"consistency.policy={settings.policy} turns and shears images, and what the teacher says of "
            f"each pixel would stay where it was; for segmentation leave it auto: its strong views differ in "
            f"light, colours and an erased square"
        )
