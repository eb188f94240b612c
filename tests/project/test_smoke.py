"""A smoke test of an experiment: every stage on a few rows, nothing of the competitor's touched; what the
whole would take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import BASELINE, forget_the_listings, write_config
from digits import write_competition
from trainers import make_trainer, read

from src.commands import smoke
from src.commands.small_copy import ROWS, choose_rows, copy_sample
from src.config import Data
from src.data.tables import load_tables
from src.training import probe
from src.training.probe import fits_on, images_per_second, largest_batch, peak_memory
from src.training.single_steps import windows

TASKS = {
    "multiclass": "",
    "multilabel": "task: {name: multilabel}\ndata: {target: [loop, even, above four]}\n",
    "regression": "task: {name: regression}\ndata: {target: target}\n",
    "segmentation": "task: {name: segmentation}\ndata: {rle: rle}\n",
    "masks": "task: {name: segmentation}\ndata: {train_masks: train_masks, mask_classes: [plain, loop]}\n",
    "retrieval": "task: {name: retrieval}\ndata: {target: Id, new_label: new_id}\n",
}


@pytest.fixture(params=TASKS)
def competition(request, tmp_path) -> tuple[str, Path]:
    folder = tmp_path / "whole"
    write_competition(folder / "data" / "raw", n_train=400, n_test=60, task=request.param)
    write_config(folder, "common", BASELINE)
    write_config(folder, "baseline", "base: common\n" + TASKS[request.param])
    forget_the_listings()
    return request.param, folder


# --- the sample ---------------------------------------------------------------------------------------------


def test_a_sample_is_a_competition_of_its_own_with_every_class_in_it(competition, tmp_path, snapshot):
    task, project = competition
    before = snapshot(project)
    assert copy_sample(read(project), tmp_path / "small") == 400
    assert snapshot(project) == before
    write_config(tmp_path / "small", "common", BASELINE)
    write_config(tmp_path / "small", "baseline", "base: common\n" + TASKS[task])
    forget_the_listings()
    whole, small = load_tables(read(project)), load_tables(read(tmp_path / "small"))
    ids = small.train["id"].tolist()
    assert len(ids) == (128 if task == "retrieval" else ROWS)  # sixteen of each of eight identities
    assert ids == [name for name in whole.train["id"] if name in set(ids)]
    rows = whole.train["id"].isin(ids).to_numpy()
    pd.testing.assert_frame_equal(small.targets, whole.targets[rows].reset_index(drop=True))
    assert [path.resolve() for path in small.images["train"]] == [
        path.resolve() for path, kept in zip(whole.images["train"], rows, strict=True) if kept
    ]
    if task in ("multiclass", "retrieval"):
        counts = small.targets.iloc[:, 0].value_counts()
        assert set(counts.index) == set(whole.targets.iloc[:, 0])
        assert counts.min() >= 4
    if task == "multilabel":
        assert (small.targets.astype(int).sum() >= 4).all()
    assert small.sample["id"].map(small.form.images.__contains__).any() or task == "masks"
    assert set(small.form.images) == set(small.test["id"])
    assert len(small.test) == 24


def rare(n_classes: int, rows: int) -> SimpleNamespace:
    labels = np.arange(rows) % n_classes
    return SimpleNamespace(
        train=pd.DataFrame({"id": np.arange(rows)}), targets=pd.DataFrame({"label": labels.astype(str)})
    )


@pytest.mark.parametrize(("classes", "each"), [(5, 4), (100, 4), (400, 2), (3000, 2)])
def test_many_classes_have_two_rows_each_at_least(project, classes, each):
    tables = rare(classes, 4 * classes)
    chosen = tables.targets["label"][choose_rows(tables, read(project))].value_counts()
    assert len(chosen) == classes
    assert chosen.min() == each


def test_a_class_with_one_row_is_there(project):
    tables = rare(4, 400)
    tables.targets.loc[0, "label"] = "once"
    assert "once" in tables.targets["label"][choose_rows(tables, read(project))].tolist()


def test_of_identities_those_with_the_most_images_are_taken(project):
    labels = np.repeat(np.arange(60), np.arange(1, 61))
    tables = SimpleNamespace(
        train=pd.DataFrame({"id": np.arange(len(labels))}), targets=pd.DataFrame({"Id": labels.astype(str)})
    )
    chosen = labels[choose_rows(tables, read(project, "task.name=retrieval"))]
    assert set(chosen) == set(range(36, 60))
    assert set(np.bincount(chosen)[36:]) == {16}


# --- the run ------------------------------------------------------------------------------------------------


SNAPSHOTS = ("train.epochs=8", "train.cycles=2", "train.snapshots=2", "train.early_stopping.patience=null")


def test_all_six_stages_run_and_nothing_of_the_competitors_is_touched(
    project, command, snapshot, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    before = snapshot(project)
    done = command(smoke, project, *SNAPSHOTS)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-2000:]
    for script in ("01_folds", "02_train", "03_oof_predict", "04_pseudo_label", "05_stack", "06_submit"):
        assert f"smoke: {script}.py took" in done.stdout
    assert "submissions/smoke.csv: 24 rows, checked" in done.stdout
    assert "training images a second on cpu" in done.stdout
    assert "an epoch of one fold over all 80 rows would take 0:00:0" in done.stdout
    assert snapshot(project) == before
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_stage_that_fails_ends_the_smoke_test_and_only_pseudo_labels_may(project, command, monkeypatch):
    from src.config import UserError

    asked = []

    def broken(script):
        def run(config, force):
            asked.append(script.stem)
            if script.stem[:2] in ("04", "05"):
                raise UserError(f"{script.stem} cannot")

        return run

    monkeypatch.setattr(smoke, "stage", broken)
    done = command(smoke, project)
    assert (done.returncode, done.stderr) == (2, "error: 05_stack cannot\n")
    assert asked == ["01_folds", "02_train", "03_oof_predict", "04_pseudo_label", "05_stack"]
    assert "smoke: 04_pseudo_label.py would end with: 04_pseudo_label cannot" in done.stdout


def test_the_small_experiment_keeps_the_tricks_and_needs_nothing_from_elsewhere(project, tmp_path):
    config = read(
        project,
        "cv.kind=group",
        "data.group=who",
        "distill.teacher=other",
        "submit.source=run:x",
        "train.epochs=20",
        "train.schedule=step",
        "train.steps=[10,15]",
        "train.freeze_stages=1",
        "model.weights=mine.pth",
    )
    small = smoke.small_config(config, tmp_path)
    assert (small.root, small.name, small.train.epochs, small.cv.n_folds) == (tmp_path, "smoke", 2, 2)
    assert (small.cv.kind, small.distill.teacher, small.submit.source) == ("plain", None, "stack")
    assert (small.train.schedule, small.train.steps, small.train.freeze_stages) == ("step", (1, 1.5), 1)
    assert small.model.weights == str((project / "mine.pth").resolve())
    assert small.data == config.data
    assert isinstance(small.data, Data)


# --- what it takes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "first", "found"),
    [
        (100, 32, 64),
        (64, 32, 64),
        (31, 32, 16),
        (3, 32, 2),
        (1, 32, None),
        (10**9, 32, 4096),
        (5000, 30, 3840),
    ],
)
def test_the_largest_batch_is_found_by_doubling_up_or_halving_down(limit, first, found):
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert largest_batch(fits, first) == found
    assert len(tried) == len(set(tried)) <= 9


def test_a_device_without_the_memory_does_not_fit_and_is_left_as_it_was(prepared, monkeypatch):
    trainer = make_trainer(prepared)
    batch = next(windows(trainer))[0]
    sizes = []

    def step(trainer, window):
        sizes.append([len(part) for part in window[0]])
        if len(window[0][0]) > 40:
            raise torch.cuda.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(probe, "take_step", step)
    assert largest_batch(fits_on(trainer, batch), 20) == 40
    assert sizes == [[20] * 3, [40] * 3, [80] * 3]
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_images_a_second_are_those_of_the_counted_steps(prepared, monkeypatch):
    clock = iter([10.0, *[10.5] * 6, 12.0])
    trainer = make_trainer(prepared, "train.batch_size=10", "train.accumulate=2")
    monkeypatch.setattr(probe, "MOST", 6)
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(clock))
    images = []
    monkeypatch.setattr(probe, "take_step", lambda _, window: images.append(sum(len(w) for *_, w in window)))
    assert images_per_second(trainer) == pytest.approx(sum(images[probe.WARM :]) / 2.0)
    assert len(images) == probe.WARM + 6


def test_the_memory_of_a_process_is_counted_in_bytes():
    assert 2**26 < peak_memory(torch.device("cpu")) < 2**36


def test_what_the_whole_would_take_is_counted_from_the_pace(prepared, monkeypatch):
    monkeypatch.setattr(probe, "images_per_second", lambda trainer: 36.0)
    config = read(prepared, "train.epochs=5", "runtime.jobs=1")
    lines = smoke.estimate_cost(config, config, rows=7200)
    # half of the rows learn in one of two folds, nine tenths of these: 3,240 images of 36 a second
    assert lines[0].startswith("36 training images a second on cpu, ")
    assert lines[1] == (
        "an epoch of one fold over all 7,200 rows would take 0:01:30, 5 epochs of 2 folds 0:15:00"
    )


@pytest.mark.parametrize("name", ["lr_find", "overfit", "smoke"])
def test_help_imports_nothing_heavy(name, project):
    import sys

    import processes
    from conftest import ROOT

    heavy = ["torch", "timm", "pandas", "sklearn", "albumentations", "cv2", "numpy"]
    code = (
        f"import sys, runpy; sys.argv = ['{name}', '--help']\n"
        f"try: runpy.run_module('src.commands.{name}', run_name='__main__')\n"
        f"except SystemExit as stop: assert not stop.code\n"
        f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = processes.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"], cwd=project
    )
    assert done.stdout.splitlines()[-1:] == ["HEAVY []"], done.stderr
    assert "Writes" in done.stdout
