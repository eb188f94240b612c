"""One batch learned by heart, for every task; and what is said where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASELINE, forget_the_listings, write_config
from digits import write_competition
from trainers import make_trainer, read

from src.commands import overfit
from src.config import Augment, Train
from src.data.prepare import prepare_dataset
from src.training.overfit import (
    FixedBatch,
    OverfitResult,
    gap_closed,
    learn_by_heart,
    near_zero,
    without_regularisation,
)

TASKS = {
    "binary": "task: {name: binary}\n",
    "multilabel": "task: {name: multilabel, metric: f1_macro}\ndata: {target: [loop, even, above four]}\n",
    "regression": "task: {name: regression}\ndata: {target: target}\n",
    "segmentation": "task: {name: segmentation}\ndata: {rle: rle, image_size: 32}\n",
    "masks": "task: {name: segmentation}\ndata: {train_masks: train_masks, mask_classes: [plain, loop], "
    "image_size: 32}\n",
    "retrieval": "task: {name: retrieval}\ndata: {target: Id, new_label: new_id}\n",
}
REGULARISED = """\
train: {label_smoothing: 0.2, weight_decay: 0.1}
model: {drop_rate: 0.5}
augment: {hflip: 0.5, cutout: 1}
"""


@pytest.fixture(scope="module", params=TASKS)
def competition(request, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    write_competition(folder / "data" / "raw", n_train=80, n_test=8, task=request.param)
    write_config(folder, "common", BASELINE)
    write_config(folder, "regularised", "base: common\n" + REGULARISED)
    write_config(folder, "baseline", "base: regularised\n" + TASKS[request.param])
    forget_the_listings()
    prepare_dataset(read(folder))
    return request.param, folder


def test_every_task_learns_a_batch_by_heart(competition, command, snapshot):
    _, project = competition
    before = snapshot(project)
    done = command(overfit, project)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "learned by heart" in done.stdout
    assert snapshot(project) == before


def test_a_rate_at_which_nothing_moves_ends_with_status_1_and_where_to_look(prepared, command, monkeypatch):
    monkeypatch.setattr(learn_by_heart, "__defaults__", (20, lambda steps: None))
    done = command(overfit, prepared, "train.lr=1e-9", "train.min_lr=0")
    assert done.returncode == 1
    assert "NOT learned by heart" in done.stdout
    assert "it hardly moves: try train.lr=1e-08; then look at the targets" in done.stdout


def test_targets_of_noise_for_one_image_cannot_be_learned(prepared):
    """The same picture under many labels: no network can, and the command says so."""
    trainer = make_trainer(prepared, "train.label_smoothing=0")
    trainer.data.store.__dict__["pixels"] = np.repeat(trainer.data.store.pixels[:1], 120, axis=0)
    trainer.loader.dataset.store = trainer.data.store
    assert not learn_by_heart(trainer, steps=40).learned


# --- what is in the way -------------------------------------------------------------------------------------


def test_all_that_keeps_from_learning_by_heart_is_off_and_the_problem_is_the_same(project):
    config = read(
        project,
        "augment.cutout=0.5",
        "model.drop_rate=0.5",
        "train.label_smoothing=0.3",
        "train.optimizer=adamw",
        "train.weight_decay=0.1",
        "train.lr=1e-3",
        "train.batch_size=12",
        "distill.teacher=other",
    )
    bare = without_regularisation(config)
    assert bare.augment == Augment(hflip=0, crop_scale=(1, 1))
    assert (bare.model.drop_rate, bare.model.drop_path_rate, bare.distill.teacher) == (0, 0, None)
    train = bare.train
    assert (train.label_smoothing, train.weight_decay, train.ema.enabled) == (0, 0, False)
    assert (train.schedule, train.warmup_epochs, train.early_stopping.enabled) == ("constant", 0, False)
    assert (train.optimizer, train.lr, train.batch_size, train.loss) == ("adamw", 1e-3, 12, None)
    assert (bare.task, bare.data, bare.model.backbone) == (config.task, config.data, config.model.backbone)


def test_the_batch_is_the_first_one_as_it_lies_in_the_cache(prepared):
    from src.tasks import create_task
    from src.training.trainer import Trainer

    config = without_regularisation(read(prepared))
    whole = make_trainer(prepared)
    trainer = Trainer(config, create_task(config), whole.data, whole.data.train, 0, torch.device("cpu"))
    batch = FixedBatch(trainer)
    rows = trainer.sampler.batches()[0]
    expected = trainer.data.store.pixels[trainer.rows.positions[rows]]
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), expected)
    assert batch.truth().tolist() == trainer.rows.targets[rows].argmax(1).tolist()
    assert batch.perfect() == 1.0


def test_near_zero_is_a_twentieth_of_the_first_loss_for_three_steps():
    assert not near_zero([2.0, 0.1, 0.1])  # too few to tell
    assert near_zero([2.0, 1.0, 0.1, 0.09, 0.1])
    assert not near_zero([2.0, 0.01, 0.2, 0.09, 0.1])


@pytest.mark.parametrize(
    ("first", "last", "perfect", "enough"),
    [
        (0.1, 1.0, 1.0, True),
        (0.1, 0.96, 1.0, True),
        (0.1, 0.9, 1.0, False),
        (5.0, 0.2, 0.0, True),
        (5.0, 0.3, 0.0, False),
        (0.5, float("nan"), 1.0, False),
        (0.5, 1.0, float("nan"), False),
    ],
)
def test_a_score_counts_by_how_much_of_what_it_lacked_is_gone(first, last, perfect, enough):
    assert gap_closed(first, last, perfect) == enough


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([2.0, 2.0, 1.9], "it hardly moves: try train.lr=0.01; then look at the targets"),
        ([2.0, 1.5, 1.0], "it falls, but slowly: raise the rate to train.lr=0.01"),
        ([2.0, 0.4, 1.5], "it falls and comes back: the rate is too high, try train.lr=0.0001"),
        ([2.0, 9.0, 50.0], "it blows up: lower the rate to train.lr=0.0001"),
        ([2.0, float("nan")], "it blows up"),
    ],
)
def test_the_advice_goes_by_how_the_loss_went(losses, told):
    assert OverfitResult(losses, 0.5, learned=False).advice(Train(lr=1e-3)).startswith(told)


def test_the_curve_is_told_in_words():
    words = OverfitResult([1 / n for n in range(1, 31)], 1.0, learned=True).words
    assert words == (
        "1 at step 1, 0.5 at step 2, 0.2 at step 5, 0.1 at step 10, 0.05 at step 20, 0.0333 at step 30"
    )
