"""Unlabelled images beside the test rows: which are taken, what is said of them, where they may never be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from competitions import prepare_competition
from conftest import call_stage, forget_the_listings

from src.config import UserError
from src.configfile import load_config
from src.data.decode import decode
from src.data.extra import JoinedStores, external_files, with_extra
from src.data.images import open_images
from src.data.loaders import load_fold, training_rows
from src.data.prepare import prepare_dataset
from src.inference.fold_tables import TABLES_BY_KIND, FoldPredictor
from src.inference.snapshots import load_models
from src.pseudo.predictions import predict_positions, predict_rows
from src.steps import extra_step, folds_step, images_step, round_of, run_of, train_step
from src.tasks import create_task

EXTERNAL = "pseudo.external=[more]"
SETTINGS = ("pseudo.threshold=0.104", "pseudo.rounds=1", "train.ema.enabled=false")


def write_images(folder: Path, n: int = 12, seed: int = 0) -> list[Path]:
    """Noise, of which no two look alike; half of it in a folder below."""
    random, paths = np.random.default_rng(seed), []
    for i in range(n):
        path = folder / (f"deep/{i:02d}.png" if i % 2 else f"{i:02d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        tiles = random.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(path), cv2.resize(tiles, (32, 32), interpolation=cv2.INTER_NEAREST))
        paths.append(path)
    return paths


def read(project: Path, *more: str):
    forget_the_listings()
    return load_config(project / "configs/baseline.yaml", [*SETTINGS, *more])


@pytest.fixture
def packed(prepared):
    """A prepared project with external images, packed."""
    write_images(prepared / "data/raw/more")
    config = read(prepared, EXTERNAL)
    prepare_dataset(config)
    return prepared, config


def test_external_images_are_packed_beside_the_cache_which_stays_as_it_is(prepared, snapshot):
    before = snapshot(prepared / "data")
    write_images(prepared / "data/raw/more")
    config = read(prepared, EXTERNAL)
    prepare_dataset(config)
    after = snapshot(prepared / "data")
    assert {name: after[name] for name in before} == before
    step = extra_step(config)
    made = {(step.folder / name).relative_to(prepared / "data").as_posix() for name in step.outputs}
    assert made < after.keys()
    assert images_step(read(prepared)).fresh()
    assert folds_step(read(prepared)).fresh()


def test_their_ids_name_the_folder_and_their_pixels_are_the_files(packed):
    project, config = packed
    store = with_extra(open_images(config), config)
    assert len(store.extra) == 12
    assert store.extra_ids[:2] == ["extra/more/00.png", "extra/more/02.png"]
    assert store.extra_ids[-1] == "extra/more/deep/11.png"
    files = external_files(config)
    for place, name in zip(store.extra, store.extra_ids, strict=True):
        assert np.array_equal(store.pixels[place], decode(files[name], config.data).pixels)
    mixed = np.array([store.extra[3], store.train[0], store.extra[0], store.test[5]])
    plain = open_images(config).pixels
    assert np.array_equal(store.pixels[mixed][[1, 3]], plain[mixed[[1, 3]]])
    assert np.array_equal(store.pixels[mixed][2], store.pixels[int(mixed[2])])
    assert with_extra(open_images(config), read(project)).extra_ids == []


def test_two_arrays_are_looked_at_as_one():
    random = np.random.default_rng(0)
    whole = random.integers(0, 256, (9, 4, 4, 3)).astype(np.uint8)
    joined = JoinedStores(whole[:5], whole[5:])
    assert (joined.shape, len(joined)) == ((9, 4, 4, 3), 9)
    for positions in (np.array([8, 0, 4, 5, 5]), np.array([1, 2]), np.array([6]), np.array([], int)):
        assert np.array_equal(joined[positions], whole[positions])


def test_copies_and_look_alikes_of_the_competitions_images_are_left_out_and_counted(prepared, capsys):
    folder = prepared / "data/raw/more"
    mine = write_images(folder)
    raw = prepared / "data/raw"
    trained = sorted((raw / "train_images").iterdir())
    shutil.copy(trained[0], folder / "copy_of_train.png")
    shutil.copy(sorted((raw / "test_images").iterdir())[0], folder / "copy_of_test.png")
    shutil.copy(mine[0], folder / "z_copy_of_mine.png")
    almost = cv2.imread(str(trained[1]))
    almost[0, 0] ^= 1
    cv2.imwrite(str(folder / "almost.png"), almost)
    config = read(prepared, EXTERNAL)
    prepare_dataset(config)
    assert "12 of 16 files; 4 left out" in capsys.readouterr().out
    names = {Path(name).name for name in with_extra(open_images(config), config).extra_ids}
    assert names == {path.name for path in mine}
    # bytes alone are compared where looks are not to be
    exact = read(prepared, EXTERNAL, "data.near_duplicates=-1")
    prepare_dataset(exact)
    assert "13 of 16 files; 3 left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "the folder of external images is not there"),
        (lambda folder: [path.unlink() for path in folder.rglob("*.png")], "holds no image"),
        (lambda folder: (folder / "03.png").write_bytes(b"no"), r"03\.png.*take it out of the folder"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(prepared, spoil, said):
    write_images(prepared / "data/raw/more")
    spoil(prepared / "data/raw/more")
    with pytest.raises(UserError, match=said):
        prepare_dataset(read(prepared, EXTERNAL))


def test_stage_04_asks_for_stage_01_where_they_are_not_packed(prepared, stage_here):
    for script in ("02_train.py", "03_oof_predict.py"):
        assert stage_here(prepared, script, *SETTINGS).returncode == 0
    write_images(prepared / "data/raw/more")
    done = stage_here(prepared, "04_pseudo_label.py", *SETTINGS, EXTERNAL)
    assert done.returncode == 2
    assert (
        "pseudo.external: the images are not packed yet; run `make folds EXP=baseline` first" in done.stderr
    )


def test_a_round_learns_from_them_and_no_prediction_table_or_submission_holds_one(prepared, stage_here):
    for script in ("02_train.py", "03_oof_predict.py"):
        assert stage_here(prepared, script, *SETTINGS).returncode == 0
    write_images(prepared / "data/raw/more")
    stamps = [train_step(run_of(read(prepared, *more)), 0).fingerprint for more in ((), (EXTERNAL,))]
    assert stamps[0] == stamps[1]  # the run that it starts from is not made again
    for script in ("01_folds.py", "04_pseudo_label.py", "05_stack.py", "06_submit.py"):
        done = stage_here(prepared, script, *SETTINGS, EXTERNAL)
        assert done.returncode == 0, done.stderr
        if script == "04_pseudo_label.py":
            assert "52 unlabelled rows a fold, 12 of them external" in done.stdout
    config = read(prepared, EXTERNAL)
    run, task = round_of(config, 1), create_task(config)
    for k in (0, 1):
        told = pd.read_parquet(run.pseudo_labels(k))
        assert told["id"].str.startswith("extra/more/").sum() == 12
        data = load_fold(config, task, k)
        rows = training_rows(run, task, k, data)
        assert rows.positions[-12:].tolist() == data.store.extra.tolist()
        np.testing.assert_array_equal(rows.targets[-12:], told[data.outputs].to_numpy(np.float32)[-12:])
        score = json.loads((run.fold_folder(k) / "score.json").read_text())
        assert score["train"] == len(data.train) + len(told)
        tables = [pd.read_parquet(run.fold_folder(k) / f"{name}.parquet") for name in ("test", "oof")]
        assert not any(table["id"].str.contains("extra").any() for table in tables)
    assert pd.read_parquet(run.folder / "labels.parquet")["id"].str.startswith("extra/").sum() == 24
    assert "extra" not in (prepared / "submissions/stack.csv").read_text()
    # other images make other labels, and the round again
    write_images(prepared / "data/raw/more", seed=1)
    assert stage_here(prepared, "01_folds.py", *SETTINGS, EXTERNAL).returncode == 0
    done = stage_here(prepared, "04_pseudo_label.py", *SETTINGS, EXTERNAL)
    assert "04 pseudo-label baseline: up to date" not in done.stdout


@pytest.mark.parametrize("task", ["multiclass", "regression", "segmentation", "retrieval"])
def test_they_are_asked_as_test_rows_are(task, tmp_path):
    """The same images taken for the test rows get the same answers."""
    project = prepare_competition(tmp_path, task).parents[1]
    write_images(project / "data/raw/more", n=5)
    views = ("inference.tta=[identity,hflip]", "data.image_size=16")
    assert call_stage(project, "01_folds.py", *SETTINGS, EXTERNAL, *views).returncode == 0
    assert call_stage(project, "02_train.py", *SETTINGS, EXTERNAL, *views, "fold=0").returncode == 0
    assert call_stage(project, "03_oof_predict.py", *SETTINGS, EXTERNAL, *views, "fold=0").returncode == 0
    config = read(project, EXTERNAL, *views)
    predict_rows(run_of(config), (0,), "extra")
    found = pd.read_parquet(run_of(config).fold_folder(0) / "extra.parquet")
    made, data = create_task(config), load_fold(config, create_task(config), 0)
    model = load_models(run_of(config).fold_folder(0))[0]
    store = replace(
        data.store, test=data.store.extra, test_ids=data.store.extra_ids, test_sizes=data.store.extra_sizes
    )
    asked = FoldPredictor(
        config, made, replace(data, store=store), model, torch.device("cpu"), lambda *_, **__: None
    )
    wanted = TABLES_BY_KIND[made.kind](asked)["blind" if task == "retrieval" else "test"]
    pd.testing.assert_frame_equal(found, wanted, check_exact=False, rtol=1e-5)
    if task in ("multiclass", "segmentation"):  # early-stopping rows, which 04 asks the same way
        index = data.stop_index
        store = replace(store, test=data.store.train[index], test_sizes=[store.train_sizes[i] for i in index])
        sizes = store.test_sizes
        said = predict_positions(asked, store.test, sizes)
        as_test = TABLES_BY_KIND[made.kind](
            replace(asked, data=replace(data, store=replace(store, test_ids=[str(i) for i in index])))
        )["test"]
        pd.testing.assert_frame_equal(said, as_test.drop(columns="id"), rtol=1e-5)
        predict_rows(run_of(config), (0,), "stop")
        stop = pd.read_parquet(run_of(config).fold_folder(0) / "stop.parquet")
        assert stop["id"].tolist() == [data.store.train_ids[i] for i in index]
        pd.testing.assert_frame_equal(stop[list(said.columns)], said, rtol=1e-5)
