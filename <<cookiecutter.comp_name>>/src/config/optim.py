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
    """The part of `train` that is about optimisation."""

    optimizer: Literal["adam", "adamw", "sgd", "lion", "nadam", "radam"] = "adam"
    """Optimiser, by its timm or torch name."""

    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    """Peak learning rate. `make lr-find` looks for a good one."""

    momentum: Factor | None = None
    """Momentum of SGD, with Nesterov's correction. `null`: 0.9."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay; biases, norms and position embeddings are left out."""

    clip_grad: Positive | None = None
    """Gradient clipping: largest norm of a step's gradient. history.csv shows the usual norm. `null`: off."""

    # The rate over time: epochs of a frozen backbone at the peak, a line up, a hold, then the schedule.
    schedule: Literal[
        "cosine", "constant", "step", "plateau", "onecycle", "exponential", "inverse_time", "piecewise"
    ] = "cosine"
    """Learning-rate schedule after warm-up and hold: cosine annealing, constant, step, reduce on plateau,
    one-cycle, exponential, inverse time, or piecewise linear."""

    warmup_epochs: _EpochCount = 1.0
    """Linear warm-up in epochs: the first gradients of a new head are large."""

    hold_epochs: _EpochCount | None = None
    """Epochs at the peak between warm-up and schedule. `null`: none."""

    min_lr: _EpochCount = 1e-6
    """Learning rate below which no schedule falls."""

    cycles: Count | None = None
    """Warm restarts (SGDR): number of cosine cycles, each ending with an epoch. `null`: one."""

    cycle_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak of a cycle relative to the one before. `null`: 1."""

    steps: tuple[Positive, ...] | None = None
    """Step and piecewise schedules: epochs of a change, counted from the start. `null`: none."""

    step_lrs: tuple[Positive, ...] | None = None
    """Learning rates from (step) or at (piecewise) these epochs on. `null`: `lr_decay` per step."""

    lr_decay: Factor | None = None
    """Decay factor: per drop for step and plateau (`null`: 0.1), per epoch for exponential (`null`: ends at
    `min_lr`), k of lr / (1 + k * epochs) for inverse time (`null`: 0.5)."""

    plateau_patience: Count | None = None
    """Reduce on plateau: epochs without a better early-stopping score before a drop. `null`: 4."""

    # What is trained. The head is all that is not the backbone; new, it needs other rates than old layers.
    backbone_lr: Annotated[float, Field(gt=0, le=1)] | None = None
    """Discriminative learning rates: the backbone's rate as a factor of `lr`, such as 0.1. `null`: 1."""

    layer_decay: Factor | None = None
    """Layer-wise learning-rate decay (LLRD): factor per layer down from the head, such as 0.75 for a ViT.
    `null`: off."""

    freeze_epochs: Count | None = None
    """Epochs in which only the head is trained, at the peak rate (linear probing before fine-tuning). `null`:
    none."""

    freeze_stages: Count | None = None
    """Number of shallow backbone stages that never move; 1 is the stem. `null`: none."""

    freeze_bn: Switch = None
    """`true`: the backbone's batch norms keep their pretrained weights and statistics, for small batches.
    `null`: trained."""


def check_optim(train: Optim, pretrained: bool) -> None:
    """Raise ValueError for keys that mean nothing together, with the reason."""
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
