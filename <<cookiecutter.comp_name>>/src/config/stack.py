"""Stacking: members, blenders and their settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.data import Data
from src.config.section import Count, Name, Section, Text

Blender = Literal["rank_mean", "hill_climbing", "linear", "lightgbm", "mlp", "cnn", "xgboost"]


class Stack(Section):
    """Beside the mean and the best single run, see src/ensemble/blenders; maps and rankings have their
    own."""

    name: Name = "stack"
    """Name of the stack: its folder below `stacks/`."""

    members: tuple[str, ...] = ("*",)
    """Names or patterns of the runs to stack; `*` takes every finished run on the same folds."""

    blenders: tuple[Blender, ...] = (
        "rank_mean",
        "hill_climbing",
        "linear",
        "lightgbm",
        "mlp",
        "cnn",
    )
    """Blenders that compete with the plain mean and the best single run; each is scored by nested CV."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Learning rate of the LightGBM and XGBoost blenders."""

    num_leaves: Annotated[int, Field(ge=2, le=256)] = 4
    """Leaves per tree; a few OOF columns overfit at LightGBM's default of 31."""

    min_data_in_leaf: Count = 20
    """Smallest number of rows in a leaf."""

    max_rounds: Count = 300
    """Boosting rounds at most; how many is chosen by inner folds."""

    patience: Count = 20
    """Boosting rounds without a gain before boosting stops."""

    monotone: bool = True
    """Monotone constraints: a prediction may only rise with a member's. `false`: trees can fit noise in
    either direction."""

    features: tuple[Text, ...] | None = None
    """Columns of train.csv and test.csv, and `height`, `width` or `aspect` of the image, as extra features of
    the tree blenders. `null`: none."""

    calibrate: bool = True
    """Calibrate the stack (temperature, Platt scaling or a line) where its nested score improves by more than
    its error."""


def check_stack(stack: Stack, data: Data, task: str) -> None:
    """Raise ValueError for keys of the stack that exclude each other, or the task, and for a feature that
    would give the answer away."""
    for key in ("blenders", "features"):
        given = getattr(stack, key) or ()
        twice = [name for name in given if given.count(name) > 1]
        if twice:
            raise ValueError(f"stack.{key} names {twice[0]!r} twice; name each once")
    if stack.features is None:
        return
    if not stack.features:
        raise ValueError("stack.features is empty: name columns, such as [age, height], or leave it null")
    if task in ("segmentation", "retrieval"):
        raise ValueError(
            f"stack.features stand beside predictions of an image, one row each; {task} stacks "
            f"{'pixels' if task == 'segmentation' else 'pairs of images'}; leave it null"
        )
    if not {"lightgbm", "xgboost"} & set(stack.blenders):
        raise ValueError(
            "stack.features are looked at by trees alone: add lightgbm to stack.blenders, or leave them null"
        )
    targets = (data.target,) if isinstance(data.target, str) else data.target
    for key, columns, why in (
        ("id", (data.id, data.image), "which names a row and says nothing of it"),
        ("target", (*targets, data.long, data.rle, data.mask), "which is the answer"),
        ("group", (data.group,), "whose values the test rows do not share"),
    ):
        given = [name for name in stack.features if name in columns]
        if given:
            raise ValueError(
                f"stack.features: {given[0]!r} is the column of data.{key}, {why}; take it out: a feature is "
                f"what train.csv and test.csv both tell of an image, such as its site"
            )
