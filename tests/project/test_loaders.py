"""What a model learns from: the rows of a fold, the batches of an epoch, augmentation."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from trainers import fold_data, make_trainer, one_image_many_times, read, rows_of, store_of

from src.config import Augment, UserError
from src.data.augment import augment_batch, create_augmentation
from src.data.loaders import (
    EpochSampler,
    evaluation_batches,
    load_pseudo_rows,
    read_folds,
    training_loader,
)
from src.tasks import create_task

# --- the rows of a fold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [0, 1])
def test_no_validation_row_trains_its_fold_or_decides_when_it_stops(prepared, fold):
    data, table = fold_data(read(prepared), fold), read_folds(read(prepared))
    valid, stop, train = (set(rows.positions) for rows in (data.valid, data.stop, data.train))
    assert not valid & train
    assert not valid & stop
    assert not stop & train
    assert valid | stop | train == set(data.store.train)
    assert np.array_equal(data.valid_index, np.flatnonzero(table["fold"] == fold))


@pytest.mark.parametrize("fold", [0, 1])
def test_the_stopping_rows_are_those_that_folds_csv_names(prepared, fold):
    data, table = fold_data(read(prepared), fold), read_folds(read(prepared))
    named = table[(table["fold"] != fold) & (table["stop"] == fold)]
    assert len(named) > 0
    place = dict(zip(data.store.train_ids, data.store.train, strict=True))
    assert data.stop.positions.tolist() == [place[name] for name in named["id"]]
    assert data.stop_truth.tolist() == [data.outputs.index(label) for label in named["target"]]


def test_folds_csv_is_obeyed_and_never_computed_again(prepared):
    path = prepared / "data" / "folds.csv"
    table = pd.read_csv(path, dtype=str)
    table["fold"] = table["fold"].map({"0": "1", "1": "0"})
    before = fold_data(read(prepared), 0).valid.positions
    table.to_csv(path, index=False)
    assert np.array_equal(fold_data(read(prepared), 1).valid.positions, before)


def test_without_early_stopping_no_row_is_set_aside(prepared):
    data = fold_data(read(prepared, "train.early_stopping.enabled=false"))
    assert len(data.stop) == 0
    assert len(data.train) + len(data.valid) == 80


def test_targets_and_pixels_belong_to_the_id_that_folds_csv_gives_them(prepared):
    data, table = fold_data(read(prepared), 1), read_folds(read(prepared))
    index = pd.read_parquet(prepared / "data/cache/16px-stretch/index.parquet").set_index("id")
    for row, position, target in zip(data.valid_index, data.valid.positions, data.valid.targets, strict=True):
        assert index.loc[table["id"][row], "position"] == position
        assert data.outputs[target.argmax()] == table["target"][row]
        assert target.sum() == 1


def test_other_rows_in_folds_csv_than_in_the_cache_are_refused(prepared):
    path = prepared / "data" / "folds.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match="list different rows; run `make folds` again"):
        fold_data(read(prepared))


def test_pseudo_labelled_rows_join_with_their_own_targets_and_weight(prepared, tmp_path):
    data = fold_data(read(prepared))
    chosen = [data.store.test_ids[i] for i in (7, 3)]
    targets = np.random.default_rng(0).dirichlet(np.ones(len(data.outputs)), 2).astype(np.float32)
    table = pd.DataFrame(targets, columns=data.outputs).assign(confidence=1.0, id=chosen)
    table.to_parquet(tmp_path / "pseudo.parquet")
    extra = load_pseudo_rows(
        tmp_path / "pseudo.parquet",
        create_task(read(prepared)),
        data.store,
        data.outputs,
        read(prepared, "pseudo.weight=0.25"),
    )
    assert extra.positions.tolist() == data.store.test[[7, 3]].tolist()
    assert np.array_equal(extra.targets, targets)
    both = data.train + extra
    assert len(both) == len(data.train) + 2
    assert both.weights.tolist() == [1.0] * len(data.train) + [0.25] * 2


# --- batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size", "batches"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 8, [3])])
def test_every_row_comes_once_an_epoch(n, size, batches):
    sampler = EpochSampler(n, size, seed=1)
    cut = sampler.batches()
    assert [len(rows) for rows in cut] == batches
    assert len(sampler) == len(batches)
    assert sorted(np.concatenate(cut)) == list(range(n))


def test_a_last_batch_of_one_row_which_batch_norm_cannot_take_is_left_out():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(3).train()(torch.zeros(1, 3))
    sampler, left_out = EpochSampler(9, 4, seed=1), set()
    for sampler.epoch in range(20):
        cut = sampler.batches()
        assert [len(rows) for rows in cut] == [4, 4]
        left_out |= set(range(9)) - set(np.concatenate(cut))
    assert len(left_out) > 5  # another row each time


def orders(seed: int, epochs: int = 3) -> list[list[int]]:
    sampler, found = EpochSampler(30, 8, seed), []
    for sampler.epoch in range(epochs):
        found.append(np.concatenate(sampler.batches()).tolist())
    return found


def test_the_order_differs_between_epochs_and_seeds_and_repeats_for_the_same_two():
    assert orders(1) == orders(1)
    assert len({tuple(order) for order in orders(1) + orders(2)}) == 6


def test_an_epoch_is_the_same_whichever_came_before_it():
    sampler = EpochSampler(30, 8, seed=1)
    sampler.epoch = 2
    assert np.concatenate(sampler.batches()).tolist() == orders(1)[2]


def test_every_batch_of_every_epoch_and_seed_has_a_seed_of_its_own():
    seeds = []
    for seed in (1, 2):
        sampler = EpochSampler(40, 8, seed)
        for sampler.epoch in range(3):
            seeds += [number for number, _ in sampler]
    assert len(set(seeds)) == 2 * 3 * 5
    assert all(0 <= number < 2**32 for number in seeds)


@pytest.mark.parametrize("size", [1, 7, 21, 64])
def test_evaluation_shows_every_row_once_in_order_and_pads_none(size):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    positions = np.random.default_rng(1).permutation(30)[:22]
    batches = list(evaluation_batches(store_of(pixels), positions, size))
    assert sum(len(batch) for batch in batches) == 22
    assert all(batch.dtype == torch.uint8 and len(batch) <= size for batch in batches)
    assert np.array_equal(torch.cat(batches).numpy(), pixels[positions].transpose(0, 3, 1, 2))


def test_a_training_batch_brings_each_rows_own_image_target_and_weight(prepared):
    config = read(prepared, "augment.crop_scale=[1,1]")
    data = fold_data(config)
    rows = dataclasses.replace(data.train, weights=np.arange(len(data.train), dtype=np.float32))
    loader, sampler = training_loader(rows, data.store, config, workers=0, seed=3)
    for (images, targets, weights), taken in zip(loader, sampler.batches(), strict=True):
        assert np.array_equal(images.numpy().transpose(0, 2, 3, 1), data.store.pixels[rows.positions[taken]])
        assert np.array_equal(targets.numpy(), rows.targets[taken])
        assert weights.tolist() == taken.tolist()


# --- augmentation -------------------------------------------------------------------------------------------

EVERYTHING = {
    "hflip": 0.5,
    "vflip": 0.5,
    "rotate": 20,
    "shift": 0.1,
    "zoom": 0.2,
    "brightness": 0.2,
    "contrast": 0.2,
    "cutout": 0.5,
    "crop_scale": (0.5, 1.0),
}
OFF = {"hflip": 0.0, "crop_scale": (1.0, 1.0)}


def augmented(project: Path, workers: int, seed: int, epochs: list[int]) -> list[list[torch.Tensor]]:
    """The batches of the epochs, images alone, of a store that holds one image 48 times."""
    config = read(project, "train.batch_size=12", "augment.hflip=0.5", "augment.rotate=20")
    store, found = one_image_many_times(48), []
    loader, sampler = training_loader(rows_of(48), store, config, workers, seed)
    for sampler.epoch in epochs:
        found.append([images for images, _, _ in loader])
    return found


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_augmentation_is_the_same_for_any_number_of_workers_and_never_repeats(project):
    """albumentations 2.0.8 alone gives all workers one stream, and every epoch the same draws."""
    here = augmented(project, 0, seed=1, epochs=[0, 1])
    persistent = augmented(project, 2, seed=1, epochs=[0, 1])
    assert all(same(a, b) for a, b in zip(here, persistent, strict=True))
    started_again = augmented(project, 2, seed=1, epochs=[1])  # workers of their own, as after a resume
    assert same(started_again[0], here[1])
    images = torch.cat([batch for epoch in persistent for batch in epoch]).flatten(1).numpy()
    assert len(np.unique(images, axis=0)) == len(images)  # no two rows, batches or epochs are alike


def test_augmentation_differs_between_folds(prepared):
    sampled = [make_trainer(prepared, fold=fold).sampler for fold in (0, 1)]
    assert {seed for seed, _ in sampled[0]}.isdisjoint({seed for seed, _ in sampled[1]})
    same_again = make_trainer(prepared, fold=0).sampler
    assert [seed for seed, _ in same_again] == [seed for seed, _ in sampled[0]]


@pytest.mark.parametrize("size", [16, 33])
@pytest.mark.parametrize("settings", [{}, OFF, EVERYTHING], ids=["defaults", "off", "everything"])
def test_augmentation_takes_and_gives_whole_uint8_images(size, settings):
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    found = augment_batch(create_augmentation(Augment(**settings), size), images, seed=1)
    assert found.shape == (5, size, size, 3)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    "name", ["hflip", "vflip", "rotate", "shift", "zoom", "brightness", "contrast", "cutout"]
)
def test_each_setting_changes_the_images_and_all_off_changes_nothing(name):
    images = one_image_many_times(6).pixels
    plain = augment_batch(create_augmentation(Augment(**OFF), 16), images, seed=1)
    assert np.array_equal(plain, images)
    one = augment_batch(create_augmentation(Augment(**{**OFF, name: EVERYTHING[name]}), 16), images, seed=1)
    assert not np.array_equal(one, images)


@pytest.mark.parametrize(("name", "axis"), [("hflip", 2), ("vflip", 1)])
def test_a_flip_that_is_certain_is_the_exact_mirror_image(name, axis):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    found = augment_batch(create_augmentation(Augment(**{**OFF, name: 1.0}), 16), images, seed=1)
    assert np.array_equal(found, np.flip(images, axis))


def test_a_flip_comes_as_often_as_asked_for():
    images = one_image_many_times(2000, 8).pixels
    found = augment_batch(create_augmentation(Augment(**{**OFF, "hflip": 0.3}), 8), images, seed=1)
    flipped = (found != images).any((1, 2, 3)).mean()
    assert flipped == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 2000))


@pytest.mark.parametrize("size", [16, 32, 50])
def test_cutout_blackens_one_square_of_a_quarter_of_the_side(size):
    images = np.full((20, size, size, 3), 200, np.uint8)
    found = augment_batch(create_augmentation(Augment(**OFF, cutout=1.0), size), images, seed=1)
    side, places = size // 4, set()
    for image in found:
        ys, xs = np.nonzero((image == 0).all(2))
        assert len(ys) == side**2
        assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (side, side)
        places.add((ys.min(), xs.min()))
    assert len(places) > 5


def test_a_crop_is_enlarged_from_the_share_of_the_area_asked_for():
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))  # brightness says which column it was
    images = np.repeat(np.stack([ramp, ramp.T, ramp], axis=2)[None], 40, axis=0)
    settings = Augment(**{**OFF, "crop_scale": (0.25, 0.25), "crop_ratio": (1.0, 1.0)})
    found = augment_batch(create_augmentation(settings, 64), images, seed=1).astype(int)
    width = (found[:, 32, -1, 0] - found[:, 32, 0, 0]) / 4
    height = (found[:, -1, 32, 1] - found[:, 0, 32, 1]) / 4
    np.testing.assert_allclose(width, 31, atol=1.5)
    np.testing.assert_allclose(height, 31, atol=1.5)
    assert np.ptp(found[:, 32, 0, 0]) > 32  # from many places


def test_the_corners_of_a_turned_image_are_filled_from_the_image():
    images = np.full((10, 32, 32, 3), 180, np.uint8)
    found = augment_batch(create_augmentation(Augment(**OFF, rotate=45, shift=0.2), 32), images, seed=1)
    assert (found == 180).all()


def test_a_seed_decides_every_draw():
    images, pipeline = one_image_many_times(6).pixels, create_augmentation(Augment(**EVERYTHING), 16)
    first = augment_batch(pipeline, images, seed=1)
    assert not np.array_equal(augment_batch(pipeline, images, seed=2), first)
    assert np.array_equal(augment_batch(pipeline, images, seed=1), first)


def test_an_argument_that_albumentations_has_dropped_is_an_error_where_strict_is_set():
    with pytest.raises(ValueError, match="always_apply"):
        A.HorizontalFlip(always_apply=True, strict=True)
    with pytest.warns(UserWarning, match="always_apply"):
        A.HorizontalFlip(always_apply=True)
