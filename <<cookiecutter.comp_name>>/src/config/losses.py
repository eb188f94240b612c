"""Losses: which one, and the settings of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from src.config.section import Positive, Section, Share

MARGINS = ("arcface", "cosface", "sphereface", "normface")  # of cosines: these want a head that gives them
LOSSES = {  # what `train.loss` may be for each task, its usual one first
    "multiclass": (
        "cross_entropy",
        "focal",
        "hinge",
        "symmetric_cross_entropy",
        "generalized_cross_entropy",
        *MARGINS,
    ),
    "binary": ("bce", "focal", "asymmetric", "hinge", "fbeta"),
    "multilabel": ("bce", "focal", "asymmetric", "hinge", "fbeta", "lovasz"),
    "regression": ("mse", "mae", "huber"),
    "segmentation": ("bce_dice", "ce_dice", "focal_dice", "focal", "fbeta", "lovasz", "lovasz_softmax"),
    "retrieval": (*MARGINS, "cross_entropy"),
}
EXCLUSIVE = ("ce_dice", "lovasz_softmax")  # masks: a pixel has one class at most
KNOBS = {  # keys of `train` that are about these losses alone, see effects.py
    "train.focal.gamma train.focal.alpha": ("focal", "focal_dice"),
    "train.asymmetric.gamma_positive train.asymmetric.gamma_negative train.asymmetric.shift": ("asymmetric",),
    "train.fbeta": ("fbeta",),
    "train.symmetric.alpha train.symmetric.beta": ("symmetric_cross_entropy",),
    "train.generalized_q": ("generalized_cross_entropy",),
}
SIZES = {  # bounds of `margin.size`, what it is, and a good one
    "arcface": (0.0, math.pi / 2, "radians added to the angle", 0.5),
    "cosface": (0.0, 1.0, "what is taken off the cosine", 0.35),
    "sphereface": (1.0, 4.0, "what the angle is multiplied by", 1.5),
}


def _zero_or_from_one(value: float) -> float:
    if 0 < value < 1:
        raise ValueError("between 0 and 1 the gradient where a row is certain is infinite; give 0, or 1 up")
    return value


def _by_class(value: Any) -> Any:
    """Classes are text everywhere: YAML reads 3 as a number, and yes as true."""
    if value in (None, "inverse", "effective"):
        return value
    if not isinstance(value, Mapping) or not value:
        raise ValueError("it is inverse, effective, or a weight for some of the classes, such as {cat: 2}")
    if any(isinstance(name, bool) for name in value):
        raise ValueError("a class called yes, no, on or off is read as true or false; quote it")
    for name, weight in value.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (number and 0 < weight < math.inf):
            raise ValueError(f"the weight of {name} is a number above 0, such as 2")
    return {str(name): weight for name, weight in value.items()}


Weight = Annotated[float, Field(ge=0)]
Focusing = Annotated[float, Field(ge=0), AfterValidator(_zero_or_from_one)]


class Focal(Section):
    gamma: Focusing = 2.0
    """Focusing parameter of focal loss: how fast easy rows stop counting. 2 is the paper's best."""

    alpha: Share | None = None
    """Weight of positives against 1 - alpha for negatives. `null`: both weigh 1."""


class Asymmetric(Section):
    """Focal with the two sides apart."""

    gamma_positive: Focusing = 0.0
    """Focusing parameter of positives; 0, so that the few positives of a row all count."""

    gamma_negative: Focusing = 4.0
    """Focusing parameter of negatives."""

    shift: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Probability margin: a negative predicted below it costs nothing."""


class Symmetric(Section):
    """Cross-entropy and its reverse."""

    alpha: Weight = 0.1
    """Weight of the cross-entropy part; the paper uses 6 for a hundred classes."""

    beta: Weight = 1.0
    """Weight of the reverse cross-entropy part, which tolerates wrong labels; the paper uses 0.1 for a
    hundred classes."""


class Margin(Section):
    """Softmax over cosines with a margin, and the batch-hard triplet beside any loss of classes."""

    scale: Positive | None = None
    """Scale s of the cosines. `null`: a rule on the number of classes."""

    size: Weight | None = None
    """Margin m, in the loss's own unit: radians for ArcFace, cosine for CosFace, a factor for SphereFace.
    `null`: a rule, about 0.3 radians."""

    rarest: Weight | None = None
    """Margin of the rarest class, falling to `size` for the most frequent (dynamic margin). `null`: the same
    for all classes."""

    triplet_weight: Weight | None = None
    """Weight of a batch-hard triplet loss beside the loss. `null`: 1 for retrieval, 0 elsewhere."""

    triplet: Literal["soft"] | Positive = "soft"
    """Margin of the triplet loss as a distance, or `soft` (softplus), which has none to choose."""


class Losses(Section):
    """The part of `train` that is about losses."""

    loss: str | None = None
    """Loss function by name; which ones suit a task is in `LOSSES` of `src/config/losses.py`. `null`: the
    task's usual one."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Label smoothing of cross-entropy and BCE."""

    huber_delta: Positive = 1.0
    """Huber loss (smooth L1): where it turns from squared to absolute, in standard deviations of the
    target."""

    dice_weight: Share = 0.5
    """Segmentation: weight of the Dice part of a combined loss; the rest is BCE, cross-entropy or focal
    loss."""

    lovasz_weight: Weight | None = None
    """Weight of a Lovász loss beside the loss, for segmentation and multilabel. `null`: off."""

    center_weight: Weight | None = None
    """Weight of a center loss beside the loss, for multiclass and retrieval; the paper uses 0.003. `null`:
    off."""

    focal: Focal = Focal()
    """Focal loss (Lin et al. 2017)."""

    asymmetric: Asymmetric = Asymmetric()
    """Asymmetric loss, ASL (Ridnik et al. 2021): focal loss with different focusing for positives and
    negatives."""

    symmetric: Symmetric = Symmetric()
    """Symmetric cross-entropy, SCE (Wang et al. 2019), for noisy labels."""

    generalized_q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """q of generalised cross-entropy, GCE: 0 is cross-entropy, 1 is MAE, which tolerates most wrong
    labels."""

    fbeta: Positive = 1.0
    """Beta of the soft F-beta loss: recall counts this many times as much as precision."""

    margin: Margin = Margin()
    """Margin softmax (ArcFace, CosFace, SphereFace, NormFace) and the batch-hard triplet loss."""

    class_weights: Annotated[
        Literal["inverse", "effective"] | dict[str, float] | None, BeforeValidator(_by_class)
    ] = None
    """Class weights of the loss: `inverse` frequency, `effective` number of samples (class-balanced loss), or
    {class: weight}; scaled to a mean of 1 over the rows. `null`: off."""

    effective_beta: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Beta of the effective number of samples: beyond 1 / (1 - beta) rows a class counts as full."""

    top_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Online hard example mining (OHEM, top-k loss): share of each batch, its hardest rows, that is learned
    from. `null`: all rows."""

    def name(self, task: str) -> str:
        """The loss, or the task's usual one."""
        return self.loss or LOSSES[task][0]

    def triplet_weight(self, task: str) -> float:
        """What the triplet counts for beside the loss."""
        weight = self.margin.triplet_weight
        return float(task == "retrieval") if weight is None else weight

    def check(self, task: str) -> None:
        """Raise ValueError, with the reason, for what means nothing together."""
        name, fits = self.name(task), LOSSES[task]
        if name not in fits:
            raise ValueError(f"train.loss={name} does not suit {task}; good are {', '.join(fits)}")
        self._check_margin(name)
        self._check_additions(task, name)
        self._check_class_weights(task, name)
        if self.focal.alpha is not None and task == "multiclass" and name == "focal":
            raise ValueError(
                f"train.focal.alpha={self.focal.alpha:g} weighs yes against no, and multiclass has neither; "
                f"give each class its own in train.class_weights"
            )

    def _check_margin(self, name: str) -> None:
        sizes = {"size": self.margin.size, "rarest": self.margin.rarest}
        for key, size in sizes.items():
            if name not in MARGINS or size is None:
                continue
            if name == "normface":
                raise ValueError(
                    f"train.margin.{key}={size:g}: normface has no margin; cosface is that with one"
                )
            low, high, what, good = SIZES[name]
            if not low <= size <= high:
                raise ValueError(
                    f"train.margin.{key}={size:g} is, for {name}, {what}: from {low:g} to {high:.3g}, "
                    f"such as {good:g}"
                )

    def _check_additions(self, task: str, name: str) -> None:
        one, several = ("multiclass", "retrieval"), ("multilabel", "segmentation")
        for key, value, tasks, why in (
            ("margin.triplet_weight", self.margin.triplet_weight, one, "one class a row"),
            ("center_weight", self.center_weight, one, "one class a row"),
            ("lovasz_weight", self.lovasz_weight, several, "several labels a row, or pixels"),
        ):
            if value and task not in tasks:
                raise ValueError(
                    f"train.{key}={value:g} needs {why}; it is for {' and '.join(tasks)}, task.name is {task}"
                )
        if self.lovasz_weight and name.startswith("lovasz"):
            raise ValueError(
                f"train.lovasz_weight={self.lovasz_weight:g} stands beside train.loss={name}, which is that "
                f"loss already; set it to null"
            )

    def _check_class_weights(self, task: str, name: str) -> None:
        if self.class_weights is None:
            return
        if task in ("regression", "segmentation"):
            raise ValueError(f"train.class_weights is for rows with classes or labels, task.name is {task}")
        if name in ("fbeta", "lovasz"):
            raise ValueError(
                f"train.class_weights weighs label by label, and train.loss={name} looks at a row's labels "
                f"together; leave one of them out"
            )
        if name == "focal" and self.focal.alpha is not None:
            raise ValueError(
                f"train.class_weights and train.focal.alpha={self.focal.alpha:g} both weigh yes against no; "
                f"together they overshoot: set one of them to null"
            )
