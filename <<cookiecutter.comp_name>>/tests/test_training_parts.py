"""The parts of training, each alone: rows, batches, augmentation, optimiser, schedule, average, stopping,
teachers, and the predictions at the end."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import src.machine
from src.artifacts import digest, write_json
from src.config import Augment, Config, Ema, Inference, Train, UserError
from src.configfile import load_config
from src.data import augment
from src.data.augment import augment_batch, create_augmentation
from src.data.images import ImageStore
from src.data.loaders import (
    Epochs,
    Rows,
    evaluation_batches,
    load_fold,
    load_pseudo_rows,
    read_folds,
    training_loader,
)
from src.data.prepare import prepare
from src.data.views import VIEWS
from src.inference.predict import predict
from src.models.build import Architecture, create_model
from src.models.output import Output
from src.models.scale import TargetScale
from src.models.weights import save_model
from src.tasks import create_task
from src.training.averaging import Average, copy_state
from src.training.devices import Precision, devices, loader_workers
from src.training.fit import Best, Trainer
from src.training.optim import create_optimizer
from src.training.schedule import create_schedule, factor
from src.training.teachers import Teacher

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def read(project: Path, *overrides: str) -> Config:
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


def fold_data(config: Config, fold: int = 0):
    return load_fold(config, create_task(config), fold)


def make_trainer(project: Path, *overrides: str, fold: int = 0) -> Trainer:
    config = read(project, *overrides)
    data = fold_data(config, fold)
    return Trainer(config, create_task(config), data, data.train, fold, CPU)


def store_of(pixels: np.ndarray) -> ImageStore:
    """A store of (N, S, S, 3) images, all of them training rows."""
    everything = np.arange(len(pixels))
    return ImageStore(
        pixels, everything, everything[:0], [str(i) for i in everything], [], (0.5,) * 3, (1,) * 3
    )


def one_image_many_times(n: int, size: int = 16) -> ImageStore:
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    return store_of(np.repeat(image, n, axis=0))


def rows_of(n: int) -> Rows:
    return Rows(np.arange(n), np.eye(n, dtype=np.float32), np.ones(n, np.float32))


def silent(*_: object, **__: object) -> None:
    """A report that nobody reads."""


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
    sampler = Epochs(n, size, seed=1)
    cut = sampler.batches()
    assert [len(rows) for rows in cut] == batches
    assert len(sampler) == len(batches)
    assert sorted(np.concatenate(cut)) == list(range(n))


def test_a_last_batch_of_one_row_which_batch_norm_cannot_take_is_left_out():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(3).train()(torch.zeros(1, 3))
    sampler, left_out = Epochs(9, 4, seed=1), set()
    for sampler.epoch in range(20):
        cut = sampler.batches()
        assert [len(rows) for rows in cut] == [4, 4]
        left_out |= set(range(9)) - set(np.concatenate(cut))
    assert len(left_out) > 5  # another row each time


def orders(seed: int, epochs: int = 3) -> list[list[int]]:
    sampler, found = Epochs(30, 8, seed), []
    for sampler.epoch in range(epochs):
        found.append(np.concatenate(sampler.batches()).tolist())
    return found


def test_the_order_differs_between_epochs_and_seeds_and_repeats_for_the_same_two():
    assert orders(1) == orders(1)
    assert len({tuple(order) for order in orders(1) + orders(2)}) == 6


def test_an_epoch_is_the_same_whichever_came_before_it():
    sampler = Epochs(30, 8, seed=1)
    sampler.epoch = 2
    assert np.concatenate(sampler.batches()).tolist() == orders(1)[2]


def test_every_batch_of_every_epoch_and_seed_has_a_seed_of_its_own():
    seeds = []
    for seed in (1, 2):
        sampler = Epochs(40, 8, seed)
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


def test_every_step_of_the_pipeline_is_strict(monkeypatch):
    built = {}

    class Recorder:
        def __getattr__(self, name):
            def build(*args, **options):
                built[name] = options
                return getattr(A, name)(*args, **options)

            return build

    monkeypatch.setattr(augment, "A", Recorder())
    create_augmentation(Augment(**EVERYTHING), 16)
    assert built.pop("Compose") == {}
    assert len(built) == 6
    assert all(options["strict"] is True for options in built.values())


# --- the learning rate --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "warmup", "floor"), [(100, 10, 0.0), (37, 0, 0.1), (50, 7, 0.01), (5, 4, 0.0)]
)
def test_the_rate_rises_in_a_line_to_its_peak_and_falls_along_a_cosine_to_its_floor(total, warmup, floor):
    found = np.array([factor(step, total, warmup, "cosine", floor) for step in range(total)])
    np.testing.assert_allclose(found[:warmup], np.arange(1, warmup + 1) / (warmup + 1))
    assert found[warmup] == 1.0  # the peak itself is reached
    along = np.linspace(0, np.pi, total - warmup) if total - warmup > 1 else np.zeros(1)
    np.testing.assert_allclose(found[warmup:], floor + (1 - floor) * (1 + np.cos(along)) / 2, atol=1e-12)
    assert (np.diff(found[warmup:]) <= 0).all()
    if total - warmup > 1:
        assert found[-1] == pytest.approx(floor)


def test_past_the_end_it_stays_at_the_floor_where_torchs_cosine_rises_again():
    assert [factor(step, 20, 2, "cosine", 0.05) for step in (20, 25, 60)] == pytest.approx([0.05] * 3)
    plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=20)
    for _ in range(30):
        plain.step()
        torchs.step()
    assert torchs.get_last_lr()[0] > 0.4


def test_a_constant_rate_is_warmed_up_and_then_constant():
    assert [factor(step, 10, 3, "constant", 0.0) for step in range(12)] == [0.25, 0.5, 0.75] + [1.0] * 9


@pytest.mark.parametrize(
    ("settings", "steps", "peak_at"),
    [
        ({"epochs": 4, "warmup_epochs": 1.0}, 5, 5),
        ({"epochs": 4, "warmup_epochs": 0.5}, 10, 5),
        ({"epochs": 3, "warmup_epochs": 0}, 5, 0),
        ({"epochs": 1, "warmup_epochs": 1.0}, 5, 4),  # a warm-up as long as the training still peaks
        ({"epochs": 1, "warmup_epochs": 3.0}, 1, 0),
    ],
)
def test_the_optimiser_is_given_the_schedules_rates_step_by_step(settings, steps, peak_at):
    train = Train(lr=0.2, min_lr=0.002, **settings)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=train.lr)
    schedule = create_schedule(optimizer, train, steps)
    seen = []
    for _ in range(train.epochs * steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert np.argmax(seen) == peak_at
    assert max(seen) == pytest.approx(0.2)
    if peak_at < len(seen) - 1:
        assert seen[-1] == pytest.approx(0.002)


# --- the optimiser ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lion", "nadam", "radam"])
def test_weight_decay_spares_biases_and_norm_layers(name):
    model = create_model(Architecture("test_resnet", 4, 32, (0.5,) * 3, (0.2,) * 3))
    optimizer = create_optimizer(model, Train(optimizer=name, lr=0.01, weight_decay=0.05))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for layer in model.modules():
        for kind, parameter in layer.named_parameters(recurse=False):
            spared = kind == "bias" or not isinstance(layer, (nn.Conv2d, nn.Linear))
            assert decay[id(parameter)] == (0.0 if spared else 0.05)
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_fused_step_is_the_step_of_torchs_own_loop(name):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    first = create_optimizer(ours, Train(optimizer=name, lr=0.01))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    more = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {"weight_decay": 0.0}
    second = kind(theirs.parameters(), lr=0.01, foreach=False, **more)
    x = torch.randn(8, 5)
    for _ in range(5):
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)


# --- mixed precision and devices ----------------------------------------------------------------------------


def test_a_cpu_trains_in_full_precision_unless_told_otherwise():
    assert Precision("auto", CPU).dtype is None
    assert not Precision("auto", CPU).scaler.is_enabled()
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    with Precision("auto", CPU).autocast():
        assert layer(x).dtype == torch.float32
    with Precision("bf16", CPU).autocast():
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_a_gpu_gets_bfloat16_where_it_has_it_and_else_float16_with_loss_scaling(
    monkeypatch, capability, dtype
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    precision = Precision("auto", torch.device("cuda"))
    assert precision.dtype is dtype
    assert precision.scaler.is_enabled() == (dtype is torch.float16)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradients_are_clipped_to_the_largest_norm_and_forgotten_after_the_step(clip):
    layer = nn.Linear(4, 1, bias=False)
    before = layer.weight.detach().clone()
    precision, optimizer = Precision("auto", CPU), torch.optim.SGD(layer.parameters(), lr=1.0)
    precision.backward(layer(torch.full((1, 4), 3.0)).sum())  # a gradient of norm 6
    precision.step(optimizer, layer, clip)
    assert (before - layer.weight).norm().item() == pytest.approx(clip or 6.0, rel=1e-4)
    assert layer.weight.grad is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gpu", "is no device; a good one is auto, cpu, cuda"),
        ("cuda", "PyTorch finds no 'cuda' on this machine"),
        ("cuda:3", "PyTorch finds no 'cuda:3' on this machine"),
        ("mps", "PyTorch finds no 'mps' on this machine"),
        ("meta", "PyTorch finds no 'meta' on this machine"),
    ],
)
def test_a_device_that_is_none_or_not_there_is_refused(project, monkeypatch, name, what):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if ":" in name else 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"^runtime.device: .*{what}"):
        devices(read(project, f"runtime.device={name}"))


@pytest.mark.parametrize(
    ("overrides", "gpus", "places"),
    [
        (["cv.n_folds=5", "runtime.device=auto"], 0, ["cpu"] * 4),
        (["cv.n_folds=3", "runtime.device=auto"], 0, ["cpu"] * 3),
        (["cv.n_folds=5", "runtime.device=cpu", "fold=1"], 2, ["cpu"]),
        (["cv.n_folds=5", "runtime.device=auto"], 2, ["cuda:0", "cuda:1"]),
        (["cv.n_folds=5", "runtime.device=auto", "runtime.jobs=4"], 2, ["cuda:0", "cuda:1"] * 2),
        (["cv.n_folds=5", "runtime.device=auto", "folds=[0]"], 2, ["cuda:0"]),
        (["cv.n_folds=5", "runtime.device=cuda:1"], 2, ["cuda:1"]),
    ],
)
def test_each_job_has_a_device_and_no_fold_is_without_work(project, monkeypatch, overrides, gpus, places):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(src.machine, "cpu_count", lambda: 4)
    jobs = [] if any("jobs" in item for item in overrides) else ["runtime.jobs=null"]
    assert [str(device) for device in devices(read(project, *overrides, *jobs))] == places


def test_a_cpu_job_has_no_loader_processes_unless_asked_for(project):
    assert loader_workers(read(project), CPU) == 0
    assert loader_workers(read(project, "runtime.workers=3"), CPU) == 3


# --- averaged weights ---------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self, value: float):
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)
        nn.init.constant_(self.layer.weight, value)

    def set(self, value: float) -> None:
        nn.init.constant_(self.layer.weight, value)
        self.norm.running_mean.fill_(value)
        self.norm.num_batches_tracked.fill_(int(value))


def test_after_twenty_steps_at_a_decay_of_9999_little_of_where_it_started_is_left():
    model = Small(0.0)
    average = Average(model, Ema(decay=0.9999))
    average.update()  # timm copies the weights of the first step, as good as random
    model.set(1.0)
    for _ in range(19):
        average.update()
    assert average.model.layer.weight.min() > 0.99  # 0.002 without the warm-up


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_the_warmed_up_closed_form_for_weights_and_batch_norm_statistics(decay):
    model, expected = Small(5.0), 5.0
    average = Average(model, Ema(decay=decay))
    for step in range(1, 31):
        model.set(float(step))
        average.update()
        keep = min(decay, 1 - step ** (-2 / 3))  # timm's warm-up; 0 at the first step
        expected = keep * expected + (1 - keep) * step
    assert average.model.layer.weight.mean().item() == pytest.approx(expected, rel=1e-5)
    assert average.model.norm.running_mean.mean().item() == pytest.approx(expected, rel=1e-5)
    assert average.model.norm.num_batches_tracked.item() == 30  # a whole number is copied
    assert model.layer.weight.mean().item() == 30  # the live weights are left alone


def test_a_switched_off_average_is_the_live_network():
    model = Small(0.0)
    average = Average(model, Ema(enabled=False))
    model.set(2.0)
    average.update()
    assert average.model is model
    assert average.state_dict() == {"steps": 1, "ema": None}


def test_an_average_goes_on_from_its_state_as_if_never_interrupted():
    def run(interrupted: bool) -> torch.Tensor:
        model = Small(0.0)
        average = Average(model, Ema(decay=0.9))
        for step in range(1, 9):
            if interrupted and step == 5:
                state, average = average.state_dict(), Average(model, Ema(decay=0.9))
                average.load_state_dict(state)
            model.set(float(step))
            average.update()
        return average.model.layer.weight.detach()

    assert torch.equal(run(True), run(False))


def test_a_copied_state_is_not_changed_by_later_steps():
    model = Small(1.0)
    state = copy_state(model)
    model.set(9.0)
    assert state["layer.weight"].unique().tolist() == [1.0]


# --- when to stop -------------------------------------------------------------------------------------------


def waited(epochs: int, best: int, patience: int = 3, enabled: bool = True) -> bool:
    stopping = SimpleNamespace(enabled=enabled, patience=patience)
    config = SimpleNamespace(train=SimpleNamespace(early_stopping=stopping))
    return Trainer.exhausted(SimpleNamespace(config=config, epoch=epochs, best=Best(epoch=best)))


def test_patience_counts_epochs_since_the_best_one():
    assert [waited(epochs, best=1) for epochs in range(2, 7)] == [False, False, False, True, True]
    assert [waited(epochs, best=1, patience=1) for epochs in (2, 3)] == [False, True]


def test_without_early_stopping_or_without_a_best_epoch_nothing_runs_out():
    assert not waited(50, best=0, enabled=False)
    assert not waited(50, best=-1)


def seen(trainer: Trainer, predictions: np.ndarray):
    """What a look at the stopping rows would find if these were the predictions: those, and their mean
    cross-entropy."""
    truth = trainer.data.stop_truth
    loss = float(-np.log(predictions[np.arange(len(truth)), truth]).mean())
    return lambda *_: (predictions, loss)


def looks(project: Path, monkeypatch, predictions: list[np.ndarray], *overrides: str) -> list[int]:
    """The best epoch after each of several looks at the stopping rows."""
    trainer = make_trainer(project, *overrides)
    found = []
    for epoch, given in enumerate(predictions):
        monkeypatch.setattr(trainer, "look_at", seen(trainer, given))
        trainer.look(epoch)
        found.append(trainer.best.epoch)
    return found


def sure(project: Path, right: int, confidence: float) -> np.ndarray:
    """Predictions for the stopping rows of fold 0, `right` of them right, all with that confidence."""
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


def test_the_weights_of_the_best_epoch_are_kept_not_those_of_the_last(prepared, monkeypatch):
    trainer = make_trainer(prepared, "train.ema.enabled=false")
    monkeypatch.setattr(trainer, "look_at", seen(trainer, sure(prepared, 3, 0.9)))
    nn.init.constant_(trainer.model.head.linear.weight, 1.0)
    trainer.look(0)
    nn.init.constant_(trainer.model.head.linear.weight, 2.0)
    monkeypatch.setattr(trainer, "look_at", seen(trainer, sure(prepared, 1, 0.9)))
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
    rows = Rows(trainer.rows.positions[:25], trainer.rows.targets[:25], weights)
    trainer.rows, trainer.model, trainer.loss = rows, Linear64(3 * 16 * 16, 10), loss64
    trainer.loader, trainer.sampler = training_loader(rows, trainer.data.store, trainer.config, 0, seed=5)
    trainer.schedule = SimpleNamespace(step=lambda: None, get_last_lr=lambda: [0.0])
    trainer.average, taken = SimpleNamespace(update=lambda: None, model=trainer.model), []

    def keep_gradient(optimizer, model, clip):
        taken.append(model.layer.weight.grad.clone())
        model.zero_grad()

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
    with pytest.raises(
        UserError, match=r"^epoch 1: .* lower train.lr=0.004 to 0.0004, or set train.clip_grad"
    ):
        trainer.train_epoch(0, silent)


def test_the_loss_in_the_history_is_the_weighted_mean_over_the_rows(prepared):
    trainer = make_trainer(prepared, "augment.crop_scale=[1,1]")
    trainer.model = Linear64(3 * 16 * 16, len(trainer.data.outputs))
    trainer.loss = loss64
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.0)
    trainer.schedule = SimpleNamespace(step=lambda: None, get_last_lr=lambda: [0.0])
    row = trainer.train_epoch(0, silent)
    seen = np.concatenate(trainer.sampler.batches())
    images = torch.from_numpy(trainer.data.store.pixels[trainer.rows.positions[seen]]).permute(0, 3, 1, 2)
    expected = loss64(trainer.model(images), torch.from_numpy(trainer.rows.targets[seen])).mean()
    assert row["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_one_row_is_not_enough_to_train_on(prepared):
    config = read(prepared)
    data = fold_data(config)
    one = Rows(data.train.positions[:1], data.train.targets[:1], data.train.weights[:1])
    with pytest.raises(UserError, match=r"fold 1: only 1 row\(s\) left to learn from; lower cv.n_folds"):
        Trainer(config, create_task(config), data, one, 1, CPU)


# --- teachers -----------------------------------------------------------------------------------------------


def make_teacher(project: Path, size: int = 16, outputs: int = 10, folds: str | None = None) -> dict:
    """A finished run `teacher` with another network in each fold; gives them."""
    models = {}
    for fold in (0, 1):
        torch.manual_seed(fold)
        model = create_model(Architecture("test_resnet", outputs, size, (0.4,) * 3, (0.3,) * 3)).eval()
        folder = project / "runs" / "teacher" / f"fold{fold}"
        save_model(folder / "model.safetensors", model.architecture, model.state_dict())
        known = folds or digest(project / "data" / "folds.csv")
        recipe = {"inputs": {"folds": known}}
        write_json(folder / "train.stamp.json", {"fingerprint": "", "outputs": {}, "recipe": recipe})
        models[fold] = model
    return models


def teacher_of(project: Path, fold: int, outputs: int = 10) -> Teacher:
    pupil = Architecture("test_resnet", outputs, 16, (0.5,) * 3, (0.5,) * 3)
    return Teacher(read(project, "distill.teacher=teacher"), fold, pupil, CPU)


def some_images(size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)


def test_the_teacher_of_a_fold_is_the_teacher_runs_model_of_that_fold_and_of_no_other(prepared):
    models, images = make_teacher(prepared), some_images()
    with torch.no_grad():
        said = {fold: models[fold](images).logits for fold in (0, 1)}
    for fold in (0, 1):
        assert torch.equal(teacher_of(prepared, fold)(images).logits, said[fold])
        assert not torch.equal(teacher_of(prepared, fold)(images).logits, said[1 - fold])


def test_training_asks_the_teacher_of_its_own_fold(prepared):
    make_teacher(prepared)
    for fold in (0, 1):
        trainer = make_trainer(prepared, "distill.teacher=teacher", fold=fold)
        weight = trainer.teacher.model.head.linear.weight
        assert torch.equal(weight, teacher_of(prepared, fold).model.head.linear.weight)


def test_a_teacher_trained_on_other_folds_is_refused(prepared):
    make_teacher(prepared)
    path = prepared / "data" / "folds.csv"
    path.write_text(path.read_text().replace(",0,", ",1,", 1))
    with pytest.raises(
        UserError, match=r"teacher was trained on other folds .* run `make train EXP=teacher`"
    ):
        teacher_of(prepared, 0)


def test_a_teacher_that_is_not_finished_is_refused(prepared):
    make_teacher(prepared)
    (prepared / "runs" / "teacher" / "fold1" / "train.stamp.json").unlink()
    with pytest.raises(UserError, match=r"fold1 is not finished; run `make train EXP=teacher` first"):
        teacher_of(prepared, 1)


def test_a_teacher_of_other_outputs_is_refused(prepared):
    make_teacher(prepared, outputs=7)
    with pytest.raises(UserError, match="teacher has 7 outputs, this task has 10"):
        teacher_of(prepared, 0)


def test_a_teacher_of_another_size_is_shown_the_same_view_resized(prepared):
    models = make_teacher(prepared, size=32)
    images = some_images(16)
    resized = F.interpolate(images.float(), size=(32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = models[0](resized).logits
    assert torch.equal(teacher_of(prepared, 0)(images).logits, expected)


def test_a_teacher_learns_nothing(prepared):
    make_teacher(prepared)
    trainer = make_trainer(prepared, "distill.teacher=teacher")
    before = {name: tensor.clone() for name, tensor in trainer.teacher.model.state_dict().items()}
    assert not trainer.teacher(some_images()).logits.requires_grad
    trainer.train_epoch(0, silent)
    assert all(p.grad is None for p in trainer.teacher.model.parameters())
    assert all(torch.equal(before[name], t) for name, t in trainer.teacher.model.state_dict().items())
    taught = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert taught.isdisjoint(id(p) for p in trainer.teacher.model.parameters())


def test_pupil_and_teacher_see_the_very_same_pixels_and_only_the_pupils_labels_are_smoothed(prepared):
    make_teacher(prepared)
    overrides = (
        "distill.teacher=teacher",
        "distill.weight=0.3",
        "distill.temperature=3",
        "augment.hflip=0.5",
    )
    trainer = make_trainer(prepared, *overrides, "train.label_smoothing=0.2")
    model, teacher, shown = trainer.model, trainer.teacher, []

    class Watch(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.scale = network, model.scale

        def forward(self, images):
            shown.append(images)
            return self.network(images)

    trainer.model, trainer.teacher = Watch(model.eval()), Watch(teacher)
    images, targets, _ = next(iter(trainer.loader))
    losses = trainer.sample_losses(images, targets)
    assert shown[0] is shown[1] is images
    with torch.no_grad():
        pupil, told = model(images).logits, teacher(images).logits
    label = F.cross_entropy(pupil, targets, reduction="none", label_smoothing=0.2)
    softened = (told / 3).softmax(1)
    word = 9 * (softened * (softened.log() - (pupil / 3).log_softmax(1))).sum(1)
    torch.testing.assert_close(losses, 0.3 * word + 0.7 * label, rtol=1e-5, atol=1e-6)


# --- predictions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize("views", [("identity",), ("identity", "hflip", "rot90", "up")])
def test_a_prediction_is_the_average_over_the_views_in_the_rows_own_order(project, views, average):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)
    positions = np.random.default_rng(1).permutation(11)[:9]
    torch.manual_seed(0)
    model = create_model(Architecture("test_resnet", 4, 16, (0.5,) * 3, (0.05,) * 3))
    task, settings = create_task(read(project)), Inference(tta=views, average=average, batch_size=4)
    found, spread = predict(model, task, store_of(pixels), positions, settings, CPU)
    images = torch.from_numpy(pixels[positions]).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = torch.stack([model.eval()(VIEWS[view](images)).logits for view in views])
    expected = logits.mean(0).softmax(1) if average == "logit" else logits.softmax(2).mean(0)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert found.dtype == np.float32
    if len(views) == 1:
        assert spread is None
    else:  # how far the views of a row are apart
        apart = logits.softmax(2).numpy().std(axis=0).mean(axis=1)
        np.testing.assert_allclose(spread, apart, rtol=1e-4, atol=1e-6)
        assert apart.min() > 0


@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize("log", [False, True])
def test_a_predicted_number_and_its_spread_are_in_the_targets_own_units(log, average):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    scale = {"target_mean": (3.0, -1.0), "target_std": (0.5, 2.0), "target_log": log}
    torch.manual_seed(0)
    model = create_model(Architecture("test_resnet", 2, 16, (0.5,) * 3, (0.05,) * 3, **scale)).eval()
    task, views = create_task(Config(task={"name": "regression"})), ("identity", "vflip", "rot90")
    settings = Inference(tta=views, average=average, batch_size=4)
    found, spread = predict(model, task, store_of(pixels), np.arange(7), settings, CPU)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        raw = np.stack([model(VIEWS[view](images)).logits.double().numpy() for view in views])
    numbers = raw * np.array([0.5, 2.0]) + np.array([3.0, -1.0])
    numbers = np.expm1(numbers) if log else numbers
    np.testing.assert_allclose(found, numbers.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(spread, numbers.std(0).mean(1), rtol=1e-3, atol=1e-5)


# --- numbers: standardised by the rows that train, and by no others -----------------------------------------


@pytest.fixture
def numbers(prepared) -> Path:
    """The same competition with the digit's value, a hundred times over, as a number to be learned."""
    path = prepared / "configs" / "baseline.yaml"
    path.write_text(path.read_text() + "task: {name: regression}\n")
    train = pd.read_csv(prepared / "data/raw/train.csv", dtype=str)
    train["label"] = (train["label"].astype(int) * 100 + 7).astype(str)
    train.to_csv(prepared / "data/raw/train.csv", index=False)
    prepare(read(prepared))
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
    extra = Rows(
        data.store.test[:3], np.array([[7.0], [507.0], [5000.0]], np.float32), np.ones(3, np.float32)
    )
    trainer = Trainer(config, create_task(config), data, data.train + extra, 0, CPU)
    assert trainer.architecture.target_mean == make_trainer(numbers).architecture.target_mean
    (mean,), (std,) = trainer.architecture.target_mean, trainer.architecture.target_std
    np.testing.assert_allclose(
        trainer.rows.targets[-3:, 0], (np.array([7, 507, 5000]) - mean) / std, rtol=1e-5
    )
