"""The loop: when it stops, what a step and an epoch are, and targets on a scale of the training rows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from trainers import CPU, fold_data, make_trainer, read, silent

from src.artifacts import digest, write_json
from src.config import EarlyStopping, Train, UserError
from src.data.loaders import (
    TrainingRows,
    read_folds,
    training_loader,
)
from src.data.prepare import prepare_dataset
from src.models.build import Architecture, create_model
from src.models.output import Output
from src.models.scale import TargetScale
from src.models.weights import save_model
from src.tasks import create_task
from src.training.averaging import copy_state
from src.training.trainer import Best, Trainer

# --- when to stop -------------------------------------------------------------------------------------------


def waited(epochs: int, best: int, patience: int | None = 3, enabled: bool = True) -> bool:
    config = SimpleNamespace(train=Train(early_stopping=EarlyStopping(enabled=enabled, patience=patience)))
    return Trainer.should_stop(SimpleNamespace(config=config, epoch=epochs, best=Best(epoch=best)))


def test_patience_counts_epochs_since_the_best_one():
    assert [waited(epochs, best=1) for epochs in range(2, 7)] == [False, False, False, True, True]
    assert [waited(epochs, best=1, patience=1) for epochs in (2, 3)] == [False, True]


def test_without_early_stopping_or_without_a_best_epoch_nothing_runs_out():
    assert not waited(50, best=0, enabled=False)
    assert not waited(50, best=-1)
    assert not waited(50, best=0, patience=None)


def seen(trainer: Trainer, predictions: np.ndarray):
    """What a look at the early-stopping rows would find if these were the predictions: those, and their mean
    cross-entropy."""
    truth = trainer.data.stop_truth
    loss = float(-np.log(predictions[np.arange(len(truth)), truth]).mean())
    return lambda *_: (predictions, loss)


def looks(project: Path, monkeypatch, predictions: list[np.ndarray], *overrides: str) -> list[int]:
    """The best epoch after each of several looks at the early-stopping rows."""
    trainer = make_trainer(project, *overrides)
    found = []
    for epoch, given in enumerate(predictions):
        monkeypatch.setattr(trainer, "evaluate", seen(trainer, given))
        trainer.look(epoch)
        found.append(trainer.best.epoch)
    return found


def sure(project: Path, right: int, confidence: float) -> np.ndarray:
    """Predictions for the early-stopping rows of fold 0, `right` of them right, all with that confidence."""
    data = fold_data(read(project))
    n, classes = len(data.stop), len(data.outputs)
    guess = np.where(np.arange(n) < right, data.stop_truth, (data.stop_truth + 1) % classes)
    values = np.full((n, classes), (1 - confidence) / (classes - 1))
    values[np.arange(n), guess] = confidence
    return values.astype(np.float32)


def test_the_score_decides_and_the_loss_where_scores_tie(prepared, monkeypatch):
    n = len(fold_data(read(prepared)).stop)
    steps = [(n - 1, 0.5), (n - 1, 0.6), (n - 1, 0.6), (n - 2, 0.99), (n, 0.4), (n, 0.3), (n, 0.5)]
    predictions = [sure(prepared, *step) for step in steps]
    assert looks(prepared, monkeypatch, predictions) == [0, 1, 1, 1, 4, 4, 6]


def test_where_lower_is_better_the_lower_one_is_kept(prepared, monkeypatch):
    n = len(fold_data(read(prepared)).stop)
    predictions = [sure(prepared, n, confidence) for confidence in (0.5, 0.4, 0.7)]
    assert looks(prepared, monkeypatch, predictions, "task.metric=log_loss") == [0, 0, 2]


def test_where_the_metric_is_undefined_the_loss_decides(prepared, monkeypatch):
    n = len(fold_data(read(prepared)).stop)
    predictions = [sure(prepared, n, confidence) for confidence in (0.5, 0.4, 0.7)]
    monkeypatch.setattr("src.tasks.base.Task.score", lambda *_: float("nan"))
    assert looks(prepared, monkeypatch, predictions) == [0, 0, 2]


def test_a_first_score_that_is_undefined_holds_back_no_later_one(prepared, monkeypatch):
    n, nan = len(fold_data(read(prepared)).stop), float("nan")
    scores = iter([nan, 0.5, nan, 0.6, 0.6])
    predictions = [sure(prepared, n, confidence) for confidence in (0.6, 0.3, 0.9, 0.4, 0.3)]
    monkeypatch.setattr("src.tasks.base.Task.score", lambda *_: next(scores))
    assert looks(prepared, monkeypatch, predictions) == [0, 1, 1, 3, 3]


def test_a_soup_begins_with_a_score_before_none(prepared, monkeypatch):
    """Where lower is better, 0 would be the best of all."""
    trainer = make_trainer(prepared, "task.metric=log_loss")
    monkeypatch.setattr("src.tasks.base.Task.score", lambda *_: next(scores))
    scores, state = iter([float("nan"), 0.7]), copy_state(trainer.average.model)
    undefined, defined = trainer.score_soup(state)[0], trainer.score_soup(state)[0]
    assert defined > undefined


def test_the_weights_of_the_best_epoch_are_kept_not_those_of_the_last(prepared, monkeypatch):
    trainer = make_trainer(prepared, "train.ema.enabled=false")
    monkeypatch.setattr(trainer, "evaluate", seen(trainer, sure(prepared, 3, 0.9)))
    nn.init.constant_(trainer.model.head.linear.weight, 1.0)
    trainer.look(0)
    nn.init.constant_(trainer.model.head.linear.weight, 2.0)
    monkeypatch.setattr(trainer, "evaluate", seen(trainer, sure(prepared, 1, 0.9)))
    trainer.look(1)
    assert trainer.best.state["head.linear.weight"].unique().tolist() == [1.0]


# --- the loop -----------------------------------------------------------------------------------------------


class Linear64(nn.Module):
    """A softmax regression in float64: its gradients can be told from rounding."""

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.layer = nn.Linear(features, outputs, dtype=torch.float64)
        self.scale = TargetScale()

    def forward(self, x: torch.Tensor) -> Output:
        x = x.flatten(1).double() / 255
        return Output(self.layer(x), x)


def loss64(output: Output, targets: torch.Tensor) -> torch.Tensor:
    return -(targets.double() * output.logits.log_softmax(1)).sum(1)


def test_every_window_has_the_gradient_of_its_rows_at_once_also_a_short_last_one(prepared):
    trainer = make_trainer(prepared, "train.batch_size=10", "train.accumulate=2", "augment.crop_scale=[1,1]")
    weights = np.random.default_rng(0).uniform(0.1, 2, 25).astype(np.float32)
    rows = TrainingRows(trainer.rows.positions[:25], trainer.rows.targets[:25], weights)
    trainer.rows, trainer.model, trainer.loss = rows, Linear64(3 * 16 * 16, 10), loss64
    trainer.loader, trainer.sampler = training_loader(rows, trainer.data.store, trainer.config, 0, seed=5)
    trainer.schedule = SimpleNamespace(step=lambda: None, look=lambda score: None, rate=0.0)
    trainer.average, taken = SimpleNamespace(update=lambda: None, model=trainer.model), []

    def keep_gradient(optimizer, model, clip):
        taken.append(model.layer.weight.grad.clone())
        model.zero_grad()
        return taken[-1].norm()

    trainer.precision.step = keep_gradient
    trainer.train_epoch(0, silent)

    def mean_gradient(taken_rows: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(trainer.data.store.pixels[rows.positions[taken_rows]]).permute(0, 3, 1, 2)
        losses = loss64(trainer.model(images), torch.from_numpy(rows.targets[taken_rows]))
        weight = torch.from_numpy(rows.weights[taken_rows]).double()
        mean = (losses * weight).sum() / weight.sum()
        return torch.autograd.grad(mean, trainer.model.layer.weight)[0]

    batches = trainer.sampler.batches()
    assert [len(batch) for batch in batches] == [10, 10, 5]
    windows = [np.concatenate(batches[:2]), batches[2]]
    assert len(taken) == len(windows)
    for found, window in zip(taken, windows, strict=True):
        torch.testing.assert_close(found, mean_gradient(window), rtol=1e-6, atol=1e-9)
    usual = mean_gradient(batches[2]) / 2  # each batch's mean over a constant number of batches
    assert (usual - taken[1]).norm() > 0.4 * taken[1].norm()


def test_a_loss_that_is_no_number_ends_with_what_to_change(prepared):
    trainer = make_trainer(prepared)
    nn.init.constant_(trainer.model.head.linear.weight, float("nan"))
    with pytest.raises(UserError, match=r"^epoch 1, step 1: .* lower train.lr=0.004 to 0.0004, or set train"):
        trainer.train_epoch(0, silent)


def test_a_single_target_that_is_no_number_is_named_by_its_id(prepared):
    trainer = make_trainer(prepared, "train.accumulate=2", "train.batch_size=6")
    batches = trainer.sampler.batches()
    row, table = batches[4][2], pd.read_csv(prepared / "data/folds.csv", dtype=str)
    targets = np.asarray(trainer.rows.targets)
    targets[row] = np.inf  # NaN would be unknown, and cost nothing
    object.__setattr__(trainer.rows, "targets", targets)
    position = trainer.rows.positions[row]
    name = table["id"][np.flatnonzero(trainer.data.store.train == position)[0]]
    told = rf"^epoch 1, step 3: .* in 1 of 6 rows of batch 5 \({name}\); .*look at the targets of these rows"
    with pytest.raises(UserError, match=told):
        trainer.train_epoch(0, silent)


def test_the_gradient_norm_in_the_history_is_the_median_over_the_steps_before_clipping(prepared):
    trainer, norms = make_trainer(prepared, "train.clip_grad=0.01"), []
    step = trainer.precision.step

    def remember(optimizer, model, clip):
        gradients = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        norms.append(torch.cat(gradients).norm())
        return step(optimizer, model, clip)

    trainer.precision.step = remember
    row = trainer.train_epoch(0, silent)
    assert len(norms) == trainer.steps_per_epoch
    assert row["grad_norm"] == pytest.approx(torch.stack(norms).median().item(), rel=1e-4)
    assert row["grad_norm"] > 0.01


def test_the_loss_in_the_history_is_the_weighted_mean_over_the_rows(prepared):
    trainer = make_trainer(prepared, "augment.crop_scale=[1,1]")
    trainer.model = Linear64(3 * 16 * 16, len(trainer.data.outputs))
    trainer.loss = loss64
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.0)
    trainer.schedule = SimpleNamespace(step=lambda: None, look=lambda score: None, rate=0.0)
    row = trainer.train_epoch(0, silent)
    seen = np.concatenate(trainer.sampler.batches())
    images = torch.from_numpy(trainer.data.store.pixels[trainer.rows.positions[seen]]).permute(0, 3, 1, 2)
    expected = loss64(trainer.model(images), torch.from_numpy(trainer.rows.targets[seen])).mean()
    assert row["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_one_row_is_not_enough_to_train_on(prepared):
    config = read(prepared)
    data = fold_data(config)
    one = TrainingRows(data.train.positions[:1], data.train.targets[:1], data.train.weights[:1])
    with pytest.raises(UserError, match=r"fold 1: only 1 row\(s\) left to learn from; lower cv.n_folds"):
        Trainer(config, create_task(config), data, one, 1, CPU)


# --- numbers: standardised by the rows that train, and by no others -----------------------------------------


@pytest.fixture
def numbers(prepared) -> Path:
    """The same competition with the digit's value, a hundred times over, as a number to be learned."""
    path = prepared / "configs" / "baseline.yaml"
    path.write_text(path.read_text() + "task: {name: regression}\n")
    train = pd.read_csv(prepared / "data/raw/train.csv", dtype=str)
    train["label"] = (train["label"].astype(int) * 100 + 7).astype(str)
    train.to_csv(prepared / "data/raw/train.csv", index=False)
    prepare_dataset(read(prepared))
    return prepared


@pytest.mark.parametrize("fold", [0, 1])
def test_the_scale_of_a_fold_is_that_of_the_rows_that_train_it(numbers, fold):
    trainer, table = make_trainer(numbers, fold=fold), read_folds(read(numbers))
    mine = (table["fold"] != fold) & (table["stop"] != fold)
    values = table.loc[mine, "target"].astype(float)
    assert trainer.architecture.target_mean == (pytest.approx(values.mean()),)
    assert trainer.architecture.target_std == (pytest.approx(values.std(ddof=0)),)
    np.testing.assert_allclose(trainer.rows.targets.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(trainer.rows.targets.std(), 1, rtol=1e-6)
    stops = table.loc[(table["fold"] != fold) & (table["stop"] == fold), "target"].astype(float)
    expected = (stops - values.mean()) / values.std(ddof=0)
    np.testing.assert_allclose(trainer.stop.targets[:, 0], expected, rtol=1e-5)


def test_a_look_at_the_stopping_rows_scores_in_their_own_units_and_their_loss_is_that_of_training(numbers):
    trainer = make_trainer(numbers, "train.loss=mae")
    row = trainer.look(0)
    images = torch.from_numpy(trainer.data.store.pixels[trainer.stop.positions]).permute(0, 3, 1, 2)
    with torch.no_grad():
        raw = trainer.average.model.eval()(images).logits[:, 0].double().numpy()
    (mean,), (std,) = trainer.architecture.target_mean, trainer.architecture.target_std
    truth = trainer.data.stop_truth[:, 0]
    assert row["stop_rmse"] == pytest.approx(np.sqrt(((raw * std + mean - truth) ** 2).mean()), rel=1e-5)
    assert row["stop_loss"] == pytest.approx(np.abs(raw - (truth - mean) / std).mean(), rel=1e-4)


@pytest.mark.parametrize("log", ["false", "true"])
def test_a_teacher_and_a_pupil_of_other_scales_talk_in_the_targets_units(numbers, log):
    scale = {"target_mean": (400.0,), "target_std": (50.0,)}
    architecture = Architecture("test_resnet", 1, 16, (0.4,) * 3, (0.3,) * 3, **scale)
    model = create_model(architecture).eval()
    folder = numbers / "runs" / "teacher" / "fold0"
    save_model(folder / "model.safetensors", architecture, model.state_dict())
    recipe = {"inputs": {"folds": digest(numbers / "data" / "folds.csv")}}
    write_json(folder / "train.stamp.json", {"fingerprint": "", "outputs": {}, "recipe": recipe})
    trainer = make_trainer(
        numbers, "distill.teacher=teacher", "distill.weight=0.3", f"train.target_log={log}"
    )
    trainer.model.eval()
    images, targets, _ = next(iter(trainer.loader))
    with torch.no_grad():
        losses = trainer.sample_losses(images, targets).numpy()
        said = model(images).logits[:, 0].double().numpy() * 50 + 400
        raw = trainer.model(images).logits[:, 0].double().numpy()
    said = np.log1p(said) if log == "true" else said
    told = (said - trainer.architecture.target_mean[0]) / trainer.architecture.target_std[0]
    expected = 0.3 * (raw - told) ** 2 + 0.7 * (raw - targets[:, 0].double().numpy()) ** 2
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_a_pseudo_labelled_number_is_put_on_the_scale_of_the_labelled_rows(numbers):
    config = read(numbers)
    data = fold_data(config)
    extra = TrainingRows(
        data.store.test[:3], np.array([[7.0], [507.0], [5000.0]], np.float32), np.ones(3, np.float32)
    )
    trainer = Trainer(config, create_task(config), data, data.train + extra, 0, CPU)
    assert trainer.architecture.target_mean == make_trainer(numbers).architecture.target_mean
    (mean,), (std,) = trainer.architecture.target_mean, trainer.architecture.target_std
    np.testing.assert_allclose(
        trainer.rows.targets[-3:, 0], (np.array([7, 507, 5000]) - mean) / std, rtol=1e-5
    )
