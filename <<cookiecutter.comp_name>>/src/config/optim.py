"""The optimiser, its learning rate over time, and which parameters it may move."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.section import Count, Positive, Section, Switch

Factor = Annotated[float, Field(gt=0, lt=1)]
_EpochCount = Annotated[float, Field(ge=0)]

USES = {  # the schedules that a key means something to
    "cycles": ("cosine",),
    "cycle_decay": ("cosine",),
    "steps": ("step", "piecewise"),
    "step_lrs": ("step", "piecewise"),
    "lr_decay": ("step", "plateau", "exponential", "inverse_time"),
    "plateau_patience": ("plateau",),
}


class Optim(Section):
    """The part of `train` that is about optimisation. Null switches off, or takes the number in the
    comment."""

    optimizer: Literal["adam", "adamw", "sgd", "lion", "nadam", "radam"] = "adam"
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    momentum: Factor | None = None  # sgd, with Nesterov's look ahead; null: 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_grad: Positive | None = None  # largest gradient norm; history.csv shows the usual one

    # The rate over time: epochs of a frozen backbone at the peak, a line up, a hold, then the schedule.
    schedule: Literal[
        "cosine", "constant", "step", "plateau", "onecycle", "exponential", "inverse_time", "piecewise"
    ] = "cosine"
    warmup_epochs: _EpochCount = 1.0  # a fresh head's first gradients are large
    hold_epochs: _EpochCount | None = None  # at the peak, between warm-up and schedule
    min_lr: _EpochCount = 1e-6  # below it no schedule falls
    cycles: Count | None = None  # cosine: warm restarts; each cycle ends with an epoch. null: 1
    cycle_decay: Annotated[float, Field(gt=0, le=1)] | None = None  # peak of a cycle to the last; null: 1
    steps: tuple[Positive, ...] | None = None  # step, piecewise: epochs of a change, counted from the start
    step_lrs: tuple[Positive, ...] | None = None  # the rates from (step) or at (piecewise) these epochs on
    lr_decay: Factor | None = None  # step, plateau: a drop's factor, null: 0.1. exponential: an epoch's,
    # null: ends at min_lr. inverse_time: the k of lr / (1 + k * epochs), null: 0.5
    plateau_patience: Count | None = None  # looks at the stopping rows without a better score; null: 4

    # What is trained. The head is all that is not the backbone; new, it needs other rates than old layers.
    backbone_lr: Annotated[float, Field(gt=0, le=1)] | None = None  # times lr, such as 0.1; null: 1
    layer_decay: Factor | None = None  # times lr a layer down from the head, such as 0.75 for a ViT
    freeze_epochs: Count | None = None  # the head alone at first, at the peak rate; then all, warmed up
    freeze_stages: Count | None = None  # so many of the backbone's shallow stages never move; 1 is the stem
    freeze_bn: Switch = None  # the backbone's batch norms stay as pretrained: for batches of a few images


def check_optim(train: Optim, pretrained: bool) -> None:
    """Raise ValueError for knobs that mean nothing together, with the reason."""
    if train.min_lr > train.lr:
        raise ValueError(f"train.min_lr={train.min_lr} lies above train.lr={train.lr}")
    for key, schedules in USES.items():
        if getattr(train, key) is not None and train.schedule not in schedules:
            raise ValueError(
                f"train.{key} is for train.schedule={' or '.join(schedules)}, and it is {train.schedule}"
            )
    if train.momentum is not None and train.optimizer != "sgd":
        raise ValueError(f"train.momentum is for train.optimizer=sgd, and it is {train.optimizer}")
    if train.momentum is not None and train.schedule == "onecycle":
        raise ValueError("train.momentum: onecycle moves the momentum itself; set it to null")
    if train.cycle_decay is not None and (train.cycles or 1) == 1:
        raise ValueError("train.cycle_decay needs two train.cycles or more")
    if train.schedule == "exponential" and train.min_lr == 0 and train.lr_decay is None:
        raise ValueError(
            "train.min_lr=0 is never reached by an exponential schedule; give train.lr_decay, such as 0.9"
        )
    frozen = [key for key in ("freeze_epochs", "freeze_stages", "freeze_bn") if getattr(train, key)]
    if frozen and not pretrained:
        raise ValueError(
            f"train.{frozen[0]} would keep a backbone of random weights as it is; "
            f"set model.pretrained=true or give model.weights"
        )


def check_epochs(train: Optim, epochs: int) -> None:
    """Raise ValueError where what is told in epochs does not fit into `epochs` of them."""
    if (train.freeze_epochs or 0) >= epochs:
        raise ValueError(
            f"train.freeze_epochs={train.freeze_epochs} leaves none of {epochs} epochs for the backbone"
        )
    front = (train.freeze_epochs or 0) + train.warmup_epochs + (train.hold_epochs or 0)
    if train.hold_epochs and front >= epochs:
        raise ValueError(
            f"train.hold_epochs={train.hold_epochs:g} leaves none of {epochs} epochs for the schedule"
        )
    if train.cycles is not None and train.cycles > 1 and epochs - front < train.cycles:
        raise ValueError(
            f"train.cycles={train.cycles} do not fit into the {epochs - front:g} epochs that are left of "
            f"{epochs} after warm-up; each takes one or more"
        )
    if train.schedule in USES["steps"]:
        _check_steps(train, epochs, front)


def _check_steps(train: Optim, epochs: int, front: float) -> None:
    steps, rates = train.steps or (), train.step_lrs
    if not steps:
        raise ValueError(
            f"train.schedule={train.schedule} needs train.steps, the epochs of a change, such as [8, 12]"
        )
    if list(steps) != sorted(set(steps)) or steps[0] <= front or steps[-1] > epochs:
        raise ValueError(
            f"train.steps={list(steps)} must rise, from after warm-up (epoch {front:g}) to {epochs} at most"
        )
    if rates is None and train.schedule == "piecewise":
        raise ValueError(f"train.schedule=piecewise needs train.step_lrs, a rate at each of {list(steps)}")
    if rates is not None and len(rates) != len(steps):
        raise ValueError(
            f"train.step_lrs={list(rates)} has {len(rates)} rates for the {len(steps)} train.steps; "
            f"before the first it is train.lr"
        )
    if rates is not None and train.lr_decay is not None:
        raise ValueError("train.lr_decay and train.step_lrs both say how far the rate drops: give one")
