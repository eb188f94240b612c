"""Pseudo-labels: which unlabelled rows a round learns from, and when the rounds end."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from src.config.section import Count, Positive, Section, Share, Switch, Text

Chance = Annotated[float, Field(gt=0, lt=1)]


class Pseudo(Section):
    rounds: Annotated[int, Field(ge=0, le=10)] = 2  # at most; they end when one does not help
    threshold: Chance | tuple[float, ...] = 0.9  # how sure a model must be; a list: a round each
    source: Literal["fold", "ensemble"] = "fold"  # ensemble: better labels, a CV that flatters
    external: Text | tuple[Text, ...] | None = None  # folders below data.raw with more unlabelled images
    labels: Literal["soft", "hard"] = "soft"  # hard ones harden the majority class
    calibrate: Switch = None  # true: a temperature, fitted on the stopping rows, before the threshold
    cap: int | float | tuple[int | float, ...] | None = None  # a class: rows, or a share of all asked
    prior: Literal["keep", "quota", "weight"] | None = None  # of classes; null: as the threshold leaves it
    pixels: Share = 0.8  # segmentation: an image needs this share of pixels that reach the threshold
    quantile: Share = 0.5  # of the test rows, those whose views agree best; a regression has no probability
    weight: Positive = 1.0  # of a pseudo-labelled row's loss against a labelled one's
    epochs: Count | None = None  # of a round; null: train.epochs
    start: Literal["scratch", "continue"] = "scratch"  # continue: from the fold's weights of the round before

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
    """Raise ValueError for knobs of `pseudo` that exclude each other, or the task; `stopping`: whether there
    are stopping rows."""
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
