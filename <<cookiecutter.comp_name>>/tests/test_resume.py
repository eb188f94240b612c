"""Killed at any moment and started again, a stage gives byte for byte what it would have given
undisturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

SETTINGS = ("train.epochs=3", "runtime.jobs=2", "model.drop_rate=0.2")  # dropout: the random state matters
TABLES = ("oof.parquet", "test.parquet")


def run(project, script):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *SETTINGS], cwd=project, capture_output=True, text=True
    )


def predictions(project):
    return {str(p.relative_to(project)): p.read_bytes() for name in TABLES for p in project.rglob(name)}


@pytest.fixture(scope="module")
def undisturbed(untouched_prepared_project, tmp_path_factory):
    """The project after 02 and 03, never killed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(untouched_prepared_project, folder)
    for script in ("02_train.py", "03_oof_predict.py"):
        done = run(folder, script)
        assert done.returncode == 0, done.stderr
    return folder


def kill_when(project, script, appears):
    """Start a stage and kill it with SIGKILL once the file `appears` is there; True unless it had ended
    before."""
    stage = subprocess.Popen(
        [sys.executable, str(ROOT / script), *SETTINGS],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while stage.poll() is None and not list(project.glob(appears)) and time.monotonic() < deadline:
        time.sleep(0.005)
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    return stage.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "moment",
    [
        "runs/baseline/config.yaml",  # before the first epoch
        "runs/baseline/fold?/checkpoint.pt",  # between the first epochs
        "runs/baseline/fold?/history.csv",  # while the outputs are being written
    ],
)
def test_training_killed_and_started_again_gives_the_same_predictions(moment, undisturbed, prepared):
    assert kill_when(prepared, "02_train.py", moment)
    for script in ("02_train.py", "03_oof_predict.py"):
        done = run(prepared, script)
        assert done.returncode == 0, done.stderr
    assert predictions(prepared) == predictions(undisturbed)


@pytest.mark.parametrize(
    "moment", ["runs/baseline/fold?/oof.parquet", "runs/baseline/fold?/predict.stamp.json"]
)
def test_predicting_killed_and_started_again_gives_the_same_predictions(moment, undisturbed, tmp_path):
    project = shutil.copytree(undisturbed, tmp_path / "project")
    for pattern in ("oof.parquet", "test.parquet", "predict.stamp.json", "score.stamp.json"):
        for path in project.rglob(pattern):
            path.unlink()
    assert kill_when(project, "03_oof_predict.py", moment)
    done = run(project, "03_oof_predict.py")
    assert done.returncode == 0, done.stderr
    assert predictions(project) == predictions(undisturbed)


def test_resuming_goes_on_from_the_checkpoint_and_does_not_start_over(undisturbed, prepared):
    assert kill_when(prepared, "02_train.py", "runs/baseline/fold0/checkpoint.pt")
    checkpoint = prepared / "runs/baseline/fold0/checkpoint.pt"
    import torch

    seconds = torch.load(checkpoint, weights_only=True)["history"][0]["seconds"]
    # a mark that only a run which goes on would carry into its history
    state = torch.load(checkpoint, weights_only=True)
    state["history"][0]["seconds"] = seconds + 1000
    torch.save(state, checkpoint)
    assert run(prepared, "02_train.py").returncode == 0
    import pandas as pd

    history = pd.read_csv(prepared / "runs/baseline/fold0/history.csv")
    assert history["seconds"][0] == pytest.approx(seconds + 1000)
    assert not checkpoint.exists()


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(prepared):
    assert kill_when(prepared, "02_train.py", "runs/baseline/fold0/checkpoint.pt")
    command = [sys.executable, str(ROOT / "02_train.py"), *SETTINGS, "train.lr=1e-3"]
    assert subprocess.run(command, cwd=prepared, capture_output=True).returncode == 0
    clean = [sys.executable, str(ROOT / "02_train.py"), *SETTINGS, "train.lr=1e-3", "name=clean"]
    assert subprocess.run(clean, cwd=prepared, capture_output=True).returncode == 0
    weights = [
        (prepared / f"runs/{name}/fold0/model.safetensors").read_bytes() for name in ("baseline", "clean")
    ]
    assert weights[0] == weights[1]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc, which Linux alone has")
def test_a_killed_stage_leaves_no_worker_behind(prepared):
    assert kill_when(prepared, "02_train.py", "runs/baseline/fold?/checkpoint.pt")

    def left():
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == str(prepared):
                    found.append(entry)
            except OSError:
                continue
        return found

    deadline = time.monotonic() + 20
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() == []


def test_one_job_and_two_jobs_give_the_same_weights(undisturbed, prepared):
    command = [sys.executable, str(ROOT / "02_train.py"), *SETTINGS, "runtime.jobs=1"]
    assert subprocess.run(command, cwd=prepared, capture_output=True).returncode == 0
    for k in range(2):
        name = f"runs/baseline/fold{k}/model.safetensors"
        assert (prepared / name).read_bytes() == (undisturbed / name).read_bytes()


def die_at_one(number, device, report):
    """A job that its worker does not survive."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_said_in_a_sentence(prepared):
    from src.config import UserError
    from src.configfile import load_config
    from src.training import launch

    config = load_config(prepared / "configs/baseline.yaml", ["runtime.jobs=2"])

    with pytest.raises(UserError, match="a worker was killed"):
        launch.side_by_side(die_at_one, [(0,), (1,)], config, "test", 2)
