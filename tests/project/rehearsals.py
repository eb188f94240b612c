"""A bundled competition for rehearsal tests, and a kernel run within this process."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import shutil
import sys
import traceback
from pathlib import Path
from unittest import mock

from competitions import prepare_competition

from src.config import Config
from src.configfile import load_config
from src.inference.oof import predict_run
from src.kernel import rehearse
from src.kernel.bundle import build_bundle
from src.kernel.sandbox import KernelResult
from src.steps import run_of
from src.training.launch import train_run

SETTINGS = ("submit.source=run:baseline", "competition.slug=digits", "train.epochs=2")
FEW = {"PUBLIC": 8, "HIDDEN": 20, "REPLAYED": 12}  # images per case; starting takes most of the time
FEW |= {"SECONDS": 0.1}  # of the speed measurement

ALL = rehearse.CASES


def prepare_bundled(folder: Path, task: str, *settings: str) -> Config:
    """A trained and predicted competition of the task, with its bundle."""
    config = load_config(prepare_competition(folder, task), [*SETTINGS, *settings])
    train_run(run_of(config), (0, 1))
    predict_run(run_of(config), (0, 1))
    build_bundle(config, config.root / "kaggle" / "bundle")
    return config


def small_cases(monkeypatch, *names: str) -> None:
    """Make rehearsals use small cases, and only the named ones if names are given."""
    for name, count in FEW.items():
        monkeypatch.setattr(rehearse, name, count)
    if names:
        monkeypatch.setattr(rehearse, "CASES", {name: ALL[name] for name in names})
        monkeypatch.setattr(rehearse, "projection", lambda *_: ([], True))  # it needs cases that are not run


def run_in_process(script: Path, mount: Path, out: Path, *_: object, **more: object) -> KernelResult:
    """A stand-in for `sandbox.run_kernel`, without isolation but faster, to test the content of a bundle."""
    shutil.rmtree(out, ignore_errors=True)
    working, said, status = out / "working", io.StringIO(), 0
    working.mkdir(parents=True)
    variables = {name: str(value) for name, value in more.items() if name.isupper()}
    variables |= {"KAGGLE_INPUT_DIR": str(mount), "KAGGLE_WORKING_DIR": str(working)}
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.object(sys, "path", [*sys.path]),
        contextlib.redirect_stdout(said),
    ):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            status = int(stop.code is not None and stop.code != 0)
            print(stop.code)
        except Exception:
            status = 1
            traceback.print_exc(file=said)
    (out / "log.txt").write_text(said.getvalue(), encoding="utf-8")
    return KernelResult(status, said.getvalue(), 1.0, 100.0, 0.1, working)
