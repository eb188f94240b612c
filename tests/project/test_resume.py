"""Killed at any moment and started again, a stage gives byte for byte what it would have given
undisturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import processes
import pytest
from conftest import ROOT

SETTINGS = ("train.epochs=3", "runtime.jobs=2", "model.drop_rate=0.2")  # dropout: the random state matters
ALL = "train.early_stopping.patience=null"
TABLES = ("oof.parquet", "test.parquet")


def run(project, script):
    return processes.run([sys.executable, ROOT / script, *SETTINGS], cwd=project)


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
    stage = processes.start(
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

    state = torch.load(checkpoint, weights_only=True)
    seconds = state["values"]["history"][0]["seconds"]
    # a mark that only a run which goes on would carry into its history
    state["values"]["history"][0]["seconds"] = seconds + 1000
    torch.save(state, checkpoint)
    assert run(prepared, "02_train.py").returncode == 0
    import pandas as pd

    history = pd.read_csv(prepared / "runs/baseline/fold0/history.csv")
    assert history["seconds"][0] == pytest.approx(seconds + 1000)
    assert not checkpoint.exists()


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(prepared):
    assert kill_when(prepared, "02_train.py", "runs/baseline/fold0/checkpoint.pt")
    command = [sys.executable, str(ROOT / "02_train.py"), *SETTINGS, "train.lr=1e-3"]
    assert processes.run(command, cwd=prepared).returncode == 0
    clean = [sys.executable, str(ROOT / "02_train.py"), *SETTINGS, "train.lr=1e-3", "name=clean"]
    assert processes.run(clean, cwd=prepared).returncode == 0
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


@pytest.mark.parametrize("send", [os.kill, os.killpg])  # a notebook's stop; a terminal's Ctrl-C
def test_an_interrupted_stage_ends_at_once_and_says_how_it_goes_on(prepared, send):
    command = [sys.executable, str(ROOT / "02_train.py"), *SETTINGS, "train.epochs=100000", ALL]
    stage = processes.start(
        command, cwd=prepared, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(prepared.glob("runs/baseline/fold?/checkpoint.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    send(stage.pid, signal.SIGINT)
    try:
        said = stage.communicate(timeout=60)[1].decode()
    except subprocess.TimeoutExpired:
        os.killpg(stage.pid, signal.SIGKILL)
        raise
    assert stage.returncode == 130
    assert said.endswith("interrupted; the same command goes on from where it stopped\n")
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(stage.pid, 0)  # nobody of it is left


def test_one_job_and_two_jobs_give_the_same_weights(undisturbed, prepared):
    command = [sys.executable, str(ROOT / "02_train.py"), *SETTINGS, "runtime.jobs=1"]
    assert processes.run(command, cwd=prepared).returncode == 0
    for k in range(2):
        name = f"runs/baseline/fold{k}/model.safetensors"
        assert (prepared / name).read_bytes() == (undisturbed / name).read_bytes()


def train_and_die_once(run, fold, step, device, report):
    """Fold 1's worker is killed in its second epoch, the first time."""
    from src.training.fold import train_fold

    marker = run.config.root / "died"

    def last_words(steps=0, line="", **what):
        report(steps, line=line, **what)
        if fold == 1 and "epoch 2/" in line and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    train_fold(run, fold, step, device, last_words)


def test_the_fold_of_a_killed_worker_is_run_again_to_the_same_bytes(
    undisturbed, prepared, monkeypatch, capsys
):
    from src.configfile import load_config
    from src.steps import run_of
    from src.training import launch

    monkeypatch.setattr(launch, "train_fold", train_and_die_once)
    config = load_config(prepared / "configs/baseline.yaml", list(SETTINGS))
    launch.train_run(run_of(config), (0, 1))
    assert (prepared / "died").exists()
    assert "a process was killed" in "".join(capsys.readouterr())
    for k in range(2):
        name = f"runs/baseline/fold{k}/model.safetensors"
        assert (prepared / name).read_bytes() == (undisturbed / name).read_bytes()


# --- every trick that has a state, within one process -------------------------------------------------------

LIVE = "train.ema.enabled=false"
TRICKS = {
    "constant": ["train.schedule=constant"],
    "warm restarts": ["train.cycles=2", "train.cycle_decay=0.5"],
    "step": ["train.schedule=step", "train.steps=[1.5,3]"],
    "plateau": ["train.schedule=plateau", "train.plateau_patience=1", ALL],
    "one cycle and its momentum": ["train.schedule=onecycle", "train.optimizer=sgd"],
    "exponential": ["train.schedule=exponential"],
    "inverse time": ["train.schedule=inverse_time"],
    "piecewise": ["train.schedule=piecewise", "train.steps=[2,4]", "train.step_lrs=[1e-3,1e-4]"],
    "warm-up and hold": ["train.warmup_epochs=1.5", "train.hold_epochs=1"],
    "lion": ["train.optimizer=lion", "train.lr=1e-4"],
    "layer decay": ["train.layer_decay=0.7", "train.backbone_lr=0.5", "train.clip_grad=1"],
    "frozen at first": ["train.freeze_epochs=2", "train.freeze_stages=1"],
    "frozen norms, thawed by sgd": ["train.freeze_epochs=2", "train.freeze_bn=true", "train.optimizer=sgd"],
    "swa": ["train.swa.start=0.25", "train.swa.lr=1e-3", "train.swa.anneal_epochs=1", ALL, LIVE],
    "snapshots": ["train.cycles=2", "train.snapshots=2", ALL],
    "soup": ["train.soup=3", ALL],
    "soup of snapshots": ["train.cycles=4", "train.snapshots=3", "train.soup=2", ALL],
    "windows of several batches": ["train.accumulate=3", "train.batch_size=8"],
    "mixing": ["mixing.mixup=0.4", "mixing.cutmix=1"],
    "a mean teacher": ["consistency={}"],
    "loaders of their own": ["runtime.workers=2", "augment.policy=randaugment"],
    "balanced rows": ["train.sampling=balanced", "augment.scales=[0.75,1]"],
}


class Killed(BaseException):
    """Nothing of ours catches it."""


def trained(project, name, overrides, killed=None, damage=None):
    """The files of fold 0 after training; `killed` is where the first try ends: "epoch 2/" for the line that
    comes after its checkpoint, the number of an epoch whose checkpoint is never written, or (1.5) the epochs
    that are done when a checkpoint within one is the last. `damage` is then done to the fold's folder."""
    import torch
    from trainers import CPU, read

    from src.steps import run_of, train_step
    from src.training.fold import LEARNED, train_fold
    from src.training.trainer import Trainer

    settings = ["fold=0", "train.epochs=4", "model.drop_rate=0.2", "runtime.save_minutes=0", *overrides]
    run = run_of(read(project, f"name={name}", *settings))
    step, save = train_step(run, 0), Trainer.save

    def report(*_, line="", **__):
        if isinstance(killed, str) and killed in line:
            raise Killed

    def save_or_die(trainer, *arguments):
        if trainer.epoch == killed:
            raise Killed
        save(trainer, *arguments)
        if isinstance(killed, float) and trainer.begun and trainer.steps >= killed * trainer.steps_per_epoch:
            raise Killed

    if killed is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "save", save_or_die)
            with pytest.raises(Killed):
                train_fold(run, 0, step, CPU, report)
    if isinstance(killed, float):
        left = torch.load(step.folder / "checkpoint.pt", weights_only=True)["values"]
        assert (len(left["history"]), left["begun"]["batches"] > 0) == (int(killed), True)
    if damage is not None:
        damage(step.folder)
    train_fold(run, 0, step, CPU, lambda *_, **__: None)
    import pandas as pd

    files = {path.name: path.read_bytes() for path in step.folder.glob("*.safetensors")}
    history = pd.read_csv(step.folder / "history.csv").drop(columns="seconds").to_dict()
    assert sorted(files) == sorted(name for name in step.outputs if name.endswith(".safetensors"))
    assert {path.name for path in step.folder.iterdir()} == {*step.outputs, "train.stamp.json", LEARNED}
    return files, history


@pytest.fixture(scope="module")
def tricky(untouched_prepared_project, tmp_path_factory):
    """A project with weights to start from, for what freezes a backbone."""
    import timm
    import torch

    folder = tmp_path_factory.mktemp("tricky") / "project"
    shutil.copytree(untouched_prepared_project, folder)
    torch.manual_seed(3)
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "weights.pth")
    path = folder / "configs" / "baseline.yaml"
    path.write_text(path.read_text().replace("pretrained: false", "weights: weights.pth"))
    return folder


@pytest.mark.parametrize("trick", TRICKS)
def test_every_trick_goes_on_bit_for_bit_wherever_it_is_killed(tricky, trick):
    expected = trained(tricky, "undisturbed", TRICKS[trick])
    assert trained(tricky, "after", TRICKS[trick], killed="epoch 2/") == expected
    assert trained(tricky, "before", TRICKS[trick], killed=3) == expected
    assert trained(tricky, "within", TRICKS[trick], killed=1.5) == expected


def cut(folder):
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_the_last_part(folder):
    """The parts before it, the model among them, are read without an error."""
    import torch

    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["parts"][list(state["parts"])[-1]] = {}
    torch.save(state, folder / "checkpoint.pt")


def lose_an_ingredient(folder):
    next(folder.glob("ingredients/*.safetensors")).write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "trick"), [(cut, "constant"), (lose_the_last_part, "constant"), (lose_an_ingredient, "soup")]
)
def test_a_fold_whose_checkpoint_cannot_be_used_begins_anew_to_the_same_bits(tricky, damage, trick):
    settings, name = TRICKS[trick], damage.__name__
    expected = trained(tricky, f"{name}-expected", settings)
    assert trained(tricky, name, settings, killed="epoch 2/", damage=damage) == expected
