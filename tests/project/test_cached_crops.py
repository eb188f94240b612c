"""A cache larger than what is trained at: random crops to learn from, the centre to be scored on; masks are
predicted for the whole image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import BASELINE, call_stage, forget_the_listings, write_config
from digits import write_competition

from src.config import Config, UserError
from src.configfile import load_config
from src.data.images import open_images
from src.data.loaders import evaluation_batches, load_fold, training_loader
from src.data.masks import open_masks
from src.steps import images_step, masks_step, run_of, train_step
from src.tasks import create_task
from src.training.trainer import Trainer

LARGER = ("data.image_size=12", "data.cache_size=16")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def read(project: Path, *overrides: str) -> Config:
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


def fold_of(config: Config):
    return load_fold(config, create_task(config), 0)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory) -> Path:
    """Run-length masks on images of three shapes, after stage 01 with a larger cache."""
    project = tmp_path_factory.mktemp("pictured")
    write_competition(project / "data" / "raw", n_train=40, n_test=10, task="segmentation")
    task = "task: {name: segmentation}\ndata: {rle: rle, image_size: 16, cache_size: 24, fit: pad}\n"
    write_config(project, "common", BASELINE)
    write_config(project, "baseline", "base: common\n" + task)
    forget_the_listings()
    done = call_stage(project, "01_folds.py")
    assert (done.returncode, done.stderr) == (0, "")
    return project


# --- the cache ----------------------------------------------------------------------------------------------


def test_the_cache_of_a_size_is_one_whatever_is_cropped_from_it(prepared):
    """`prepared` was cached at 16 px for training at 16 px."""
    plain, larger = (images_step(read(prepared, *more)) for more in ((), LARGER))
    assert larger.folder == plain.folder
    assert larger.fingerprint == plain.fingerprint
    assert larger.fresh()


def test_a_run_depends_on_what_is_cropped(prepared):
    steps = [
        train_step(run_of(read(prepared, *more)), 0)
        for more in ((), LARGER, ("data.image_size=14", "data.cache_size=16"))
    ]
    assert len({step.fingerprint for step in steps}) == 3
    assert steps[0].recipe["inputs"]["crop"] is None  # which counts as not there: older runs stay good


@pytest.mark.parametrize("cache", [12, 8])
def test_a_cache_that_is_not_larger_is_refused(prepared, cache):
    with pytest.raises(UserError, match=f"data.cache_size={cache} must be larger than data.image_size=12"):
        read(prepared, "data.image_size=12", f"data.cache_size={cache}")


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_a_crop_from_a_cache_of_the_same_size_is_refused(prepared, crop):
    with pytest.raises(UserError, match=f"augment.crop={crop} needs data.cache_size"):
        read(prepared, f"augment.crop={crop}")


# --- what is shown ------------------------------------------------------------------------------------------


def test_evaluation_shows_the_centre_of_every_row(prepared):
    config = read(prepared, *LARGER)
    data, whole = fold_of(config), fold_of(read(prepared)).store.pixels
    shown = torch.cat(list(evaluation_batches(data.store, data.valid.positions, 7)))
    expected = whole[data.valid.positions][:, 2:14, 2:14]
    assert np.array_equal(shown.permute(0, 2, 3, 1).numpy(), expected)


def test_training_shows_crops_from_anywhere(prepared):
    config = read(prepared, *LARGER, "train.batch_size=8")
    data = fold_of(config)
    loader, sampler = training_loader(data.train, data.store, config, 0, seed=1)
    places = set()
    for (images, _, _), rows in zip(loader, sampler.batches(), strict=True):
        for image, row in zip(images.permute(0, 2, 3, 1).numpy(), rows, strict=True):
            cached = data.store.pixels[data.train.positions[row]]
            found = [
                (y, x)
                for y in range(5)
                for x in range(5)
                if np.array_equal(cached[y : y + 12, x : x + 12], image)
            ]
            assert found
            places.add(found[0])
    assert len(places) > 8


def test_three_stages_run_with_it(prepared):
    for script in ("02_train.py", "03_oof_predict.py"):
        done = call_stage(prepared, script, *LARGER)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert len(pd.read_parquet(prepared / "runs/baseline/oof.parquet")) == 80


# --- masks --------------------------------------------------------------------------------------------------


def test_masks_are_cached_with_their_images_and_cropped_with_them(pictured):
    config = read(pictured, "train.batch_size=8", "augment.hflip=0.5")
    store, masks = open_images(config), open_masks(masks_step(config).folder)
    assert store.pixels.shape[1:3] == masks.shape[1:3] == (24, 24)
    data = fold_of(config)
    loader, sampler = training_loader(data.train, data.store, config, 0, seed=1)
    for (images, targets, _), rows in zip(loader, sampler.batches(), strict=True):
        assert images.shape[-2:] == targets.shape[-2:] == (16, 16)
        for image, target, row in zip(images.numpy(), targets.numpy(), rows, strict=True):
            position = data.train.positions[row]
            cached, mask = store.pixels[position], masks[int(np.flatnonzero(store.train == position)[0])]
            ways = [(cached, mask), (cached[:, ::-1], mask[:, ::-1])]
            assert any(
                np.array_equal(c[y : y + 16, x : x + 16].transpose(2, 0, 1), image)
                and np.array_equal(m[y : y + 16, x : x + 16].transpose(2, 0, 1), target)
                for c, m in ways
                for y in range(9)
                for x in range(9)
            )


def test_a_mask_is_predicted_and_scored_for_the_whole_image(pictured):
    config = read(pictured)
    data = fold_of(config)
    (shown,) = evaluation_batches(data.store, data.valid.positions[:3], 3)
    assert shown.shape[-2:] == (24, 24)
    for script in ("02_train.py", "03_oof_predict.py"):
        done = call_stage(pictured, script)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    oof = pd.read_parquet(pictured / "runs/baseline/oof.parquet")
    task = create_task(config)
    maps = task.read(oof, ["mask"]).resized(None)  # as the model saw them, without the padding
    sizes = {maps[i].shape[1:] for i in range(len(maps))}
    assert sizes == {(24, 24), (14, 24), (24, 19)}  # of images 32 x 32, 24 high and 40 wide, 36 and 28


def test_a_transformer_that_cannot_see_the_whole_is_refused(pictured):
    config = read(pictured, "model.backbone=test_vit")
    task = create_task(config)
    data = load_fold(config, task, 0)
    with pytest.raises(
        UserError, match=r"data.cache_size: .* built for 16 px and cannot look at 24, the whole"
    ):
        Trainer(config, task, data, data.train, 0, torch.device("cpu"))
