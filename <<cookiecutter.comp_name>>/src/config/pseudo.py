"""Pseudo-labels: which unlabelled rows a round learns from, and when the rounds end."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from src.config.section import Count, Positive, Section, Share, Switch, Text

Chance = Annotated[float, Field(gt=0, lt=1)]


class Pseudo(Section):
    rounds: Annotated[int, Field(ge=0, le=10)] = 2
    """Pseudo-label rounds (self-training) at most; they end as soon as a round does not help. 0: stage 04
    does nothing."""

    threshold: Chance | tuple[float, ...] = 0.9
    """Confidence threshold for a pseudo-label; a list gives each round its own."""

    source: Literal["fold", "ensemble"] = "fold"
    """Which models label: `fold` uses only fold k's own model for fold k (honest CV); `ensemble` uses all
    folds (better labels, optimistic CV)."""

    external: Text | tuple[Text, ...] | None = None
    """Folders below `data.raw` with more unlabelled images. `null`: the test images only."""

    labels: Literal["soft", "hard"] = "soft"
    """Soft labels (probabilities) or hard ones; hard labels strengthen the majority class."""

    calibrate: Switch = None
    """`true`: temperature scaling per fold before the threshold, fitted on the early-stopping rows. `null`:
    off."""

    cap: int | float | tuple[int | float, ...] | None = None
    """Cap per class: rows, or a share of all candidates; a list gives each round its own. `null`: none."""

    prior: Literal["keep", "quota", "weight"] | None = None
    """Class prior: `keep` the training proportions, fill per-class quotas (`quota`), or re-weight (`weight`).
    `null`: whatever the threshold selects."""

    pixels: Share = 0.8
    """Segmentation: an image is used if this share of its pixels reaches the threshold."""

    quantile: Share = 0.5
    """Regression, which has no probability: share of the test rows used, those whose TTA views agree best."""

    weight: Positive = 1.0
    """Weight of a pseudo-labelled row's loss relative to a labelled row's."""

    epochs: Count | None = None
    """Epochs of a round. `null`: `train.epochs`."""

    start: Literal["scratch", "continue"] = "scratch"
    """Start of a round: from `scratch`, or `continue` from the fold's weights of the round before."""

    @field_validator("threshold", "cap")
    @classmethod
    def _each_makes_sense(cls, value: Any, info: ValidationInfo) -> Any:
        """Every value of a list, and a cap that is neither rows nor a share."""
        for one in value if isinstance(value, tuple) else (() if value is None else (value,)):
            if info.field_name == "threshold" and not 0 < one < 1:
                raise ValueError(f"{one:g} is no probability between 0 and 1")
            if info.field_name == "cap" and not (0 < one < 1 or (isinstance(one, int) and one >= 1)):
                raise ValueError("give rows, such as 500, or a share of the rows asked, such as 0.1")
        return value

    def of_round(self, number: int) -> Pseudo:
        """The settings of round `number` (1, 2, ...): of a list its own value, or the last."""
        own = {
            key: value[min(number, len(value)) - 1]
            for key in ("threshold", "cap")
            if isinstance(value := getattr(self, key), tuple)
        }
        return self.model_copy(update=own)


def check_pseudo(pseudo: Pseudo, task: str, stopping: bool) -> None:
    """Raise ValueError for keys of `pseudo` that exclude each other, or the task; `stopping`: whether there
    are early-stopping rows."""
    for key in ("threshold", "cap"):
        _check_rounds(key, getattr(pseudo, key), pseudo.rounds)
    if pseudo.prior is not None and task in CLASSLESS:
        raise ValueError(
            f"pseudo.prior={pseudo.prior} is about shares of classes, and {CLASSLESS[task]}; leave it null"
        )
    if pseudo.prior == "weight" and task == "multilabel":
        raise ValueError(
            "pseudo.prior=weight weighs whole rows, and a row of multilabel has a prior a label; set it to "
            "keep or quota"
        )
    if pseudo.calibrate and task == "regression":
        raise ValueError("pseudo.calibrate mends probabilities, and a regression has none; leave it null")
    if pseudo.calibrate and not stopping and pseudo.source == "fold":
        raise ValueError(
            "pseudo.calibrate fits a temperature on the rows that decide when to stop; set "
            "train.early_stopping.enabled=true"
        )


def _check_rounds(key: str, value: Any, rounds: int) -> None:
    if isinstance(value, tuple) and not 1 <= len(value) <= max(rounds, 1):
        raise ValueError(
            f"pseudo.{key}={list(value)} names {len(value)} rounds, and pseudo.rounds is {rounds}: give one "
            f"value for all, or one a round"
        )


CLASSLESS = {  # what has no classes to keep shares of
    "regression": "a number has none",
    "segmentation": "an image of pixels has many at once",
}
