"""The keys of `train`: what means nothing together is refused with the reason, and what is off leaves no
trace in a fingerprint."""

from __future__ import annotations

import pytest
from conftest import write_config

from src.artifacts import Step
from src.config import Config, EarlyStopping, Ema, Swa, Train, UserError, with_epochs
from src.config.train import check_train
from src.configfile import load_config

NO_STOP = "early_stopping: {patience: null}"
NO_EMA = "ema: {enabled: false}"


def load(tmp_path, train: str, model: str = "") -> Config:
    return load_config(write_config(tmp_path, "experiment", f"train: {{{train}}}\n{model}"))


REFUSED = [
    ("lr: 1e-7", "train.min_lr=1e-06 lies above train.lr=1e-07"),
    ("cycles: 2, schedule: step, steps: [3]", "train.cycles is for train.schedule=cosine, and it is step"),
    ("step_lrs: [1e-4]", "train.step_lrs is for train.schedule=step or piecewise, and it is cosine"),
    ("lr_decay: 0.5", "train.lr_decay is for train.schedule=step or plateau or exponential or inverse_time"),
    ("plateau_patience: 2", "train.plateau_patience is for train.schedule=plateau, and it is cosine"),
    ("momentum: 0.8", "train.momentum is for train.optimizer=sgd, and it is adam"),
    ("momentum: 0.8, optimizer: sgd, schedule: onecycle", "onecycle moves the momentum itself"),
    ("cycle_decay: 0.5", "train.cycle_decay needs two train.cycles or more"),
    ("schedule: exponential, min_lr: 0", "train.min_lr=0 is never reached by an exponential schedule"),
    ("hold_epochs: 14", "train.hold_epochs=14 leaves none of 15 epochs for the schedule"),
    ("cycles: 15", "train.cycles=15 do not fit into the 14 epochs that are left of 15"),
    ("schedule: step", "train.schedule=step needs train.steps"),
    ("schedule: step, steps: [8, 4]", "train.steps=[8.0, 4.0] must rise"),
    (
        "schedule: step, steps: [4, 16]",
        "train.steps=[4.0, 16.0] must rise, from after warm-up (epoch 1) to 15",
    ),
    ("schedule: step, steps: [1]", "train.steps=[1.0] must rise, from after warm-up"),
    ("schedule: piecewise, steps: [4]", "needs train.step_lrs, a rate at each of [4.0]"),
    ("schedule: step, steps: [4, 8], step_lrs: [1e-4]", "has 1 rates for the 2 train.steps"),
    ("schedule: step, steps: [4], step_lrs: [1e-4], lr_decay: 0.1", "both say how far the rate drops"),
    ("schedule: plateau", "train.early_stopping.patience=5 ends the training when the plateau"),
    (
        "schedule: plateau, early_stopping: {enabled: false}",
        "train.schedule=plateau watches the early-stopping rows; set train.early_stopping.enabled=true",
    ),
    ("freeze_epochs: 15", "train.freeze_epochs=15 leaves none of 15 epochs for the backbone"),
    ("swa: {lr: 1e-3}", "mean nothing without train.swa.start"),
    (f"swa: {{start: 0.5, anneal_epochs: 2}}, {NO_EMA}, {NO_STOP}", "leads to train.swa.lr, which is null"),
    (f"swa: {{start: 0.5}}, {NO_STOP}", "both average the weights; set train.ema.enabled=false"),
    (f"swa: {{start: 0.5}}, {NO_EMA}", "so all must run: set train.early_stopping.patience=null"),
    (f"swa: {{start: 0.5}}, {NO_EMA}, {NO_STOP}, cycles: 2, snapshots: 2", "give one of them"),
    (f"swa: {{start: 0.5}}, {NO_EMA}, {NO_STOP}, soup: 2", "train.soup and train.swa both mix"),
    (f"snapshots: 3, cycles: 2, {NO_STOP}", "train.snapshots=3 are the ends of cosine cycles, and train.cyc"),
    ("snapshots: 2, cycles: 2", "train.snapshots wants every cycle whole"),
    ("soup: 2, early_stopping: {enabled: false}", "train.soup is chosen by the early-stopping rows"),
    ("soup: 16", "train.soup=16 is mixed from train.epochs=15"),
    (f"soup: 4, cycles: 3, snapshots: 3, {NO_STOP}", "train.soup=4 is mixed from train.snapshots=3"),
]


@pytest.mark.parametrize(("train", "told"), REFUSED)
def test_what_means_nothing_together_is_refused_with_the_reason(tmp_path, train, told):
    with pytest.raises(UserError) as caught:
        load(tmp_path, train)
    assert told in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "configs" / "experiment.yaml"))


@pytest.mark.parametrize("key", ["freeze_epochs: 1", "freeze_stages: 1", "freeze_bn: true"])
def test_a_backbone_of_random_weights_is_not_frozen(tmp_path, key):
    with pytest.raises(UserError, match=r"would keep a backbone of random weights as it is; set model.pretr"):
        load(tmp_path, key, "model: {pretrained: false}")
    assert load(tmp_path, key, "model: {pretrained: false, weights: mine.pth}").model.weights == "mine.pth"
    assert load(tmp_path, key).model.pretrained


@pytest.mark.parametrize(
    "train",
    [
        "cycles: 3, cycle_decay: 0.5, hold_epochs: 2",
        "schedule: step, steps: [8, 12], lr_decay: 0.3",
        "schedule: step, lr: 5e-4, steps: [8, 10, 12], step_lrs: [1e-4, 1e-5, 1e-6]",
        "schedule: piecewise, steps: [5, 15], step_lrs: [1e-3, 0.01]",
        "schedule: plateau, early_stopping: {patience: 10}",
        f"schedule: plateau, lr_decay: 0.5, {NO_STOP}",
        "schedule: onecycle, optimizer: sgd",
        "optimizer: sgd, momentum: 0.95",
        "freeze_epochs: 2, freeze_stages: 1, freeze_bn: true, backbone_lr: 0.1, layer_decay: 0.75",
        f"swa: {{start: 0.75, lr: 1e-4, anneal_epochs: 2}}, {NO_EMA}, {NO_STOP}",
        f"swa: {{start: 0.5}}, cycles: 4, {NO_EMA}, early_stopping: {{enabled: false}}",
        f"snapshots: 3, cycles: 5, soup: 2, {NO_STOP}",
        "soup: 4",
        "freeze_bn: off",
    ],
)
def test_what_goes_together_is_taken(tmp_path, train):
    load(tmp_path, train)


def test_a_switch_that_is_off_is_as_good_as_not_there(tmp_path):
    def fingerprint(train: Train) -> str:
        return Step("", tmp_path, (), {"train": train.model_dump(mode="json")}).fingerprint

    assert load(tmp_path, "freeze_bn: false").train == Train()
    assert fingerprint(load(tmp_path, "freeze_bn: false").train) == fingerprint(Train())
    assert fingerprint(load(tmp_path, "freeze_bn: true").train) != fingerprint(Train())
    new = ("momentum", "hold_epochs", "cycles", "cycle_decay", "steps", "step_lrs", "lr_decay", "layer_decay")
    new += ("plateau_patience", "backbone_lr", "freeze_epochs", "freeze_stages", "snapshots", "soup")
    assert {getattr(Train(), key) for key in new} == {None}
    assert set(Swa().model_dump().values()) == {None}


# --- the same training in fewer epochs ----------------------------------------------------------------------


def test_what_is_told_in_epochs_goes_along_with_their_number():
    never = EarlyStopping(patience=None)
    train = Train(
        epochs=20,
        freeze_epochs=4,
        hold_epochs=2,
        cycles=4,
        cycle_decay=0.5,
        snapshots=3,
        early_stopping=never,
    )
    short = with_epochs(train, 10)
    assert (short.epochs, short.freeze_epochs, short.hold_epochs, short.warmup_epochs) == (10, 2, 1, 1)
    assert (short.cycles, short.snapshots) == (4, 3)
    shorter = with_epochs(train, 4)
    assert (shorter.freeze_epochs, shorter.cycles, shorter.cycle_decay, shorter.snapshots) == (
        1,
        1,
        None,
        None,
    )
    step = Train(epochs=20, schedule="step", steps=(4, 10, 15), step_lrs=(1e-4, 1e-5, 1e-6))
    assert with_epochs(step, 10).steps == (2, 5, 7.5)
    assert with_epochs(step, 5).step_lrs == (1e-5, 1e-6)  # the first would lie within warm-up
    assert with_epochs(step, 1).schedule == "constant"
    assert with_epochs(Train(), 5) == Train(epochs=5)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 40])
@pytest.mark.parametrize(
    "more",
    [
        {"freeze_epochs": 3, "hold_epochs": 1.5, "cycles": 4, "cycle_decay": 0.5},
        {"schedule": "step", "steps": (5, 15)},
        {"schedule": "piecewise", "steps": (5, 20), "step_lrs": (1e-4, 1e-5)},
        {"cycles": 5, "snapshots": 3, "soup": 2},
        {"soup": 5},
        {"swa": Swa(start=0.75, lr=1e-4, anneal_epochs=3), "ema": Ema(enabled=False)},
        {"schedule": "plateau"},
    ],
)
def test_in_any_number_of_epochs_it_is_a_training_that_makes_sense(more, epochs):
    train = Train(epochs=20, **more, early_stopping=EarlyStopping(patience=None))
    check_train(train, pretrained=True)
    check_train(with_epochs(train, epochs), pretrained=True)
