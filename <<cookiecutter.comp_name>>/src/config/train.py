"""The training loop, and which weights it keeps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from src.config.losses import Losses
from src.config.optim import Optim, check_epochs, check_optim
from src.config.section import Count, Positive, Section, Switch


class EarlyStopping(Section):
    enabled: bool = True
    """Watch a part of the training rows (`cv.stop_parts`) and keep the best epoch. `false`: train all epochs,
    keep the last weights, set no rows aside."""

    patience: Count | None = 5
    """Epochs without a better score before a fold ends. `null`: all epochs are trained and the best weights
    kept."""


class Ema(Section):
    enabled: bool = True
    """Exponential moving average (EMA) of the weights, which is scored and kept."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay per step; warmed up, since otherwise the random start dominates a short training."""


class Swa(Section):
    """Stochastic weight averaging: the plain mean of the weights at the last epochs' ends."""

    start: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the epochs before averaging starts, such as 0.75. `null`: SWA is off."""

    lr: Positive | None = None
    """Constant learning rate while averaging. `null`: the schedule's."""

    anneal_epochs: Count | None = None
    """Epochs of the linear change to `swa.lr`. `null`: at once."""


class Train(Losses, Optim):
    """How a model is trained: the loop here, losses and optimisation in their own files."""

    epochs: Count = 15
    """Number of epochs, at most, if early stopping is on."""

    batch_size: Annotated[int, Field(ge=2)] = 32
    """Rows per batch, over all devices."""

    accumulate: Count = 1
    """Gradient accumulation: batches per optimiser step."""

    sampling: Literal["balanced", "sqrt"] | None = None
    """Oversampling of rare classes: `balanced` (all classes equally often) or `sqrt` (square root of their
    frequency). `null`: rows as they come."""

    images_per_class: Annotated[int, Field(ge=2)] = 4
    """PK sampling for triplet losses: K images of each identity in a batch; P = `batch_size` / K
    identities."""

    target_log: bool = False
    """Regression: learn log(1 + target), for counts and prices with heavy tails."""

    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """Automatic mixed precision (AMP). `auto`: bf16 where the GPU has it, else fp16; off on a CPU."""

    channels_last: bool = True
    """Channels-last memory format; 0.68 to 1.24 times the time by network, most gain."""

    compile: Switch = None
    """torch.compile, on one device; costs a minute per fold and gains nothing on a CPU. `null`: off."""

    early_stopping: EarlyStopping = EarlyStopping()
    """Early stopping on a part of the training rows, never on the rows a fold is scored on."""

    ema: Ema = Ema()
    """Exponential moving average of the weights (EMA, Polyak averaging)."""

    swa: Swa = Swa()
    """Stochastic weight averaging (SWA): the plain mean of the weights at the ends of the last epochs."""

    snapshots: Annotated[int, Field(ge=2)] | None = None
    """Snapshot ensemble: predict with the weights at the ends of this many last cosine cycles. `null`:
    off."""

    soup: Annotated[int, Field(ge=2)] | None = None
    """Greedy model soup of this many last epochs (or snapshots). `null`: off."""

    @property
    def ends_early(self) -> bool:
        """Whether patience may end it before the last epoch."""
        return self.early_stopping.enabled and self.early_stopping.patience is not None


def snapshot_names(train: Train) -> tuple[str, ...]:
    """The files of weights whose predictions are averaged; none where a soup makes one of them."""
    if train.snapshots is None or train.soup is not None:
        return ()
    return tuple(
        f"snapshot{number}.safetensors"
        for number in range(train.cycles - train.snapshots + 1, train.cycles + 1)
    )


def check_train(train: Train, pretrained: bool) -> None:
    """Raise ValueError for keys of `train` that mean nothing together, with the reason."""
    check_optim(train, pretrained)
    check_epochs(train, train.epochs)
    if train.schedule == "plateau":
        _check_plateau(train)
    _check_weights(train)


def _check_plateau(train: Train) -> None:
    waits, stopping = train.plateau_patience or 4, train.early_stopping
    if not stopping.enabled:
        raise ValueError(
            "train.schedule=plateau watches the early-stopping rows; set train.early_stopping.enabled=true"
        )
    if stopping.patience is not None and stopping.patience <= waits + 1:
        raise ValueError(
            f"train.early_stopping.patience={stopping.patience} ends the training when the plateau schedule "
            f"has just lowered the rate (train.plateau_patience={waits}); {2 * waits + 2} gives it a chance, "
            f"null all of train.epochs"
        )


def _check_weights(train: Train) -> None:
    """Averages, snapshots and soups: what they need, and which exclude each other."""
    swa, all_epochs = train.swa, "set train.early_stopping.patience=null, or .enabled=false"
    if swa.start is None and (swa.lr is not None or swa.anneal_epochs is not None):
        raise ValueError(
            "train.swa.lr and train.swa.anneal_epochs mean nothing without train.swa.start, such as 0.75"
        )
    if swa.anneal_epochs is not None and swa.lr is None:
        raise ValueError("train.swa.anneal_epochs leads to train.swa.lr, which is null: give it a rate")
    if swa.start is not None and train.ema.enabled:
        raise ValueError("train.swa and train.ema both average the weights; set train.ema.enabled=false")
    if swa.start is not None and train.ends_early:
        raise ValueError(f"train.swa averages the last epochs, so all must run: {all_epochs}")
    if swa.start is not None and train.snapshots is not None:
        raise ValueError("train.swa makes one model of the epochs, train.snapshots several: give one of them")
    if train.snapshots is not None and (train.cycles or 1) < train.snapshots:
        raise ValueError(
            f"train.snapshots={train.snapshots} are the ends of cosine cycles, and train.cycles is "
            f"{train.cycles or 1}; give as many cycles or more"
        )
    if train.snapshots is not None and train.ends_early:
        raise ValueError(f"train.snapshots wants every cycle whole, so all epochs must run: {all_epochs}")
    if train.soup is None:
        return
    if swa.start is not None:
        raise ValueError("train.soup and train.swa both mix the weights of the last epochs: give one of them")
    if not train.early_stopping.enabled:
        raise ValueError(
            "train.soup is chosen by the early-stopping rows; set train.early_stopping.enabled=true "
            "(patience=null runs all epochs)"
        )
    there, what = (
        (train.epochs, "train.epochs") if train.snapshots is None else (train.snapshots, "train.snapshots")
    )
    if train.soup > there:
        raise ValueError(f"train.soup={train.soup} is mixed from {what}={there}; lower the one or raise it")


def with_epochs(train: Train, epochs: int) -> Train:
    """The same training in another number of epochs: what is told in epochs goes along, but not the warm-up,
    which a head of any training needs."""
    share, changed = epochs / train.epochs, {"epochs": epochs}
    if train.freeze_epochs is not None:
        changed["freeze_epochs"] = min(max(1, round(train.freeze_epochs * share)), epochs - 1) or None
    if train.hold_epochs is not None:
        room = epochs - (changed.get("freeze_epochs") or 0) - train.warmup_epochs
        changed["hold_epochs"] = min(train.hold_epochs * share, room / 2) if room > 0 else None
    front = sum(
        changed.get(key, getattr(train, key)) or 0
        for key in ("freeze_epochs", "warmup_epochs", "hold_epochs")
    )
    changed |= _steps_with(train, epochs, share, front) if train.steps is not None else {}
    if train.cycles is not None:
        cycles = changed["cycles"] = max(1, min(train.cycles, int(epochs - front)))
        changed["cycle_decay"] = train.cycle_decay if cycles > 1 else None
        kept = min(train.snapshots or 0, cycles)
        changed["snapshots"] = kept if kept > 1 else None
    if train.soup is not None:
        there = min(train.soup, changed.get("snapshots") or epochs)
        changed["soup"] = there if there > 1 else None
    if train.swa.anneal_epochs is not None:
        anneal = max(1, round(train.swa.anneal_epochs * share))
        changed["swa"] = train.swa.model_copy(update={"anneal_epochs": anneal})
    return train.model_copy(update=changed)


def _steps_with(train: Train, epochs: int, share: float, front: float) -> dict[str, Any]:
    """The steps that still lie after the warm-up; without any of them the rate is constant."""
    steps = [step * share for step in train.steps]
    kept = [i for i, step in enumerate(steps) if step > front]
    if not kept:
        return {"schedule": "constant", "steps": None, "step_lrs": None, "lr_decay": None}
    rates = train.step_lrs
    return {
        "steps": tuple(steps[i] for i in kept),
        "step_lrs": None if rates is None else tuple(rates[i] for i in kept),
    }
