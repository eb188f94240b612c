"""wandb: which mode, and that nothing it does costs a training."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
from conftest import ROOT

from src import tracking
from src.configfile import load_config
from src.tracking import NoTracker, create_tracker, tracking_mode

ROW = {"epoch": 1, "lr": 1e-3, "train_loss": 0.5}
SORRY = "history.csv is written all the same"


def read(project: Path, wandb: str = "offline", *overrides: str):
    return load_config(project / "configs" / "baseline.yaml", [f"tracking.wandb={wandb}", *overrides])


@pytest.mark.parametrize(
    ("variable", "key", "wanted", "mode"),
    [
        (None, None, "auto", "offline"),
        (None, "secret", "auto", "online"),
        (None, None, "online", "online"),
        (None, "secret", "offline", "offline"),
        (None, "secret", "disabled", "disabled"),
        ("disabled", "secret", "online", "disabled"),
        ("offline", "secret", "auto", "offline"),
        ("online", None, "disabled", "online"),
        ("", None, "auto", "offline"),
        ("", "", "auto", "offline"),
    ],
)
def test_the_environment_goes_before_the_config_and_auto_goes_by_the_key(
    project, monkeypatch, variable, key, wanted, mode
):
    for name, value in (("WANDB_MODE", variable), ("WANDB_API_KEY", key)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert tracking_mode(read(project, wanted)) == mode


class FakeRun:
    """A wandb run that breaks where it is told to."""

    def __init__(self, breaks: str | None):
        self.breaks, self.logged, self.finished = breaks, [], False
        self.summary = SimpleNamespace(update=self.update)

    def fail(self, where: str) -> None:
        if self.breaks == where:
            raise RuntimeError(f"{where} broke\nwith a second line")

    def log(self, row, step):
        self.fail("log")
        self.logged.append((step, row))

    def update(self, summary):
        self.fail("summary")

    def finish(self):
        self.fail("finish")
        while self.breaks == "the network":
            time.sleep(0.01)
        self.finished = True


@pytest.fixture
def fake(monkeypatch):
    """`fake(where)` puts a wandb in place that breaks there, and gives what it was asked."""

    def install(breaks: str | None = None) -> SimpleNamespace:
        asked = SimpleNamespace(run=FakeRun(breaks), options=None)

        def init(**options):
            asked.options = options
            asked.run.fail("init")
            return asked.run

        module = SimpleNamespace(init=init, Settings=lambda **options: options)
        monkeypatch.setitem(sys.modules, "wandb", module)
        monkeypatch.setenv("WANDB_MODE", "offline")
        return asked

    return install


def train(config) -> None:
    """What the loop does with its tracker."""
    tracker = create_tracker(config, "baseline", fold=1)
    for epoch in (1, 2, 3):
        tracker.log({**ROW, "epoch": epoch})
    tracker.finish({"accuracy": 0.9})


def test_a_run_a_fold_is_grouped_by_experiment_and_told_every_row(project, fake, capsys):
    asked = fake()
    train(read(project))
    assert asked.options["name"] == "baseline-fold1"
    assert asked.options["group"] == "baseline"
    assert asked.options["project"] == "digits"
    assert asked.options["mode"] == "offline"
    assert asked.options["config"]["train"]["lr"] == 4e-3
    assert asked.run.logged == [(epoch, {**ROW, "epoch": epoch}) for epoch in (1, 2, 3)]
    assert asked.run.finished
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("breaks", ["init", "log", "summary", "finish"])
def test_whatever_breaks_in_wandb_is_said_once_and_training_goes_on(project, fake, capsys, breaks):
    fake(breaks)
    train(read(project))
    assert capsys.readouterr().out == f"wandb is off for this fold ({breaks} broke); {SORRY}\n"


def test_after_the_first_failure_wandb_is_left_alone(project, fake):
    asked = fake("log")
    train(read(project))
    assert not asked.run.finished


def test_a_run_that_cannot_be_sent_does_not_keep_the_next_fold(project, fake, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "_PATIENCE", 0.2)
    asked = fake("the network")
    train(read(project))
    why = "not all was sent after 0.2 s; `wandb sync` sends it later"
    assert capsys.readouterr().out == f"wandb is off for this fold ({why}); {SORRY}\n"
    assert len(asked.run.logged) == 3
    asked.run.breaks = None  # so that its thread ends


def test_without_wandb_installed_training_goes_on(project, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(read(project))
    said = capsys.readouterr().out
    assert said.startswith("wandb is off for this fold (")
    assert said.count(SORRY) == 1


def test_the_null_object_takes_the_same_calls_and_says_nothing(project, fake, monkeypatch, capsys):
    asked = fake()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(read(project))
    assert type(create_tracker(read(project), "baseline", 0)) is NoTracker
    assert asked.options is None
    assert capsys.readouterr().out == ""


SCRIPT = """
import json, sys
from src.configfile import load_config
from src.tracking import create_tracker
config = load_config("configs/baseline.yaml", ["tracking.wandb=auto"])
tracker = create_tracker(config, "baseline", 0)
tracker.log({"epoch": 1, "train_loss": 0.5})
tracker.finish({"accuracy": 0.9})
print(json.dumps({"tracker": type(tracker).__name__, "imported": "wandb" in sys.modules}))
"""


def track_in_a_process(project: Path, mode: str) -> dict:
    env = processes.environment(WANDB_MODE=mode, PYTHONPATH=str(ROOT), HOME=str(project))
    done = processes.run([sys.executable, "-c", SCRIPT], cwd=project, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_offline_writes_a_run_that_can_be_synced_later(project):
    pytest.importorskip("wandb", reason="wandb is optional")
    assert track_in_a_process(project, "offline") == {"tracker": "WandbTracker", "imported": True}
    (folder,) = (project / "wandb").glob("offline-run-*")
    (written,) = folder.glob("run-*.wandb")
    assert written.stat().st_size > 0


def test_disabled_does_not_even_import_wandb(project):
    assert track_in_a_process(project, "disabled") == {"tracker": "NoTracker", "imported": False}
    assert not (project / "wandb").exists()
