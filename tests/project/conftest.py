"""Shared fixtures: a small real competition in a folder of its own, and two ways to run a stage."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from processes import isolate, run  # noqa: E402

isolate()  # before numpy, torch or albumentations is imported, which read the environment


def baked_project() -> Path:
    """The project under test: the one that BAKED_PROJECT names, else one baked now, for a single file of
    tests."""
    if "BAKED_PROJECT" not in os.environ:
        from cookiecutter.main import cookiecutter

        folder = tempfile.mkdtemp(prefix="nntricks-baked-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        options = {"no_input": True, "default_config": True, "output_dir": folder}
        os.environ["BAKED_PROJECT"] = cookiecutter(str(HERE.parents[1]), **options)
    return Path(os.environ["BAKED_PROJECT"]).resolve()


ROOT = baked_project()
for folder in (ROOT / "tests", HERE.parent, ROOT, HERE):  # searched from the last to the first
    sys.path.insert(0, str(folder))

import contextlib  # noqa: E402
import hashlib  # noqa: E402
import importlib.util  # noqa: E402
import io  # noqa: E402
import subprocess  # noqa: E402
from collections.abc import Callable  # noqa: E402
from unittest import mock  # noqa: E402

import pytest  # noqa: E402

BASELINE = """\
competition:
  slug: digits
  title: Digits
data:
  image_size: 16
cv:
  n_folds: 2
model:
  backbone: test_resnet
  pretrained: false
augment:
  hflip: 0.0
train:
  epochs: 1
  batch_size: 16
  lr: 4e-3
  warmup_epochs: 0
inference:
  tta: [identity]
tracking:
  wandb: disabled
runtime:
  device: cpu
  jobs: 1
  threads: 1
"""


def write_config(project: Path, name: str, text: str) -> Path:
    """Write `configs/<name>.yaml` and return its path."""
    path = project / "configs" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def forget_the_listings() -> None:
    """Clear the cache of raw folder listings, which a process makes once; a test may change files."""
    from src import rawfiles

    rawfiles.listing.cache_clear()


@pytest.fixture(scope="session")
def untouched_project(tmp_path_factory) -> Path:
    """The competition as Kaggle provides it: 80 training rows, 40 test rows. Tests only copy it."""
    from digits import write_competition

    folder = tmp_path_factory.mktemp("untouched") / "project"
    write_competition(folder / "data" / "raw", folder.parent / "solution.csv", n_train=80, n_test=40)
    write_config(folder, "baseline", BASELINE)
    return folder


@pytest.fixture(scope="session")
def untouched_prepared_project(untouched_project, tmp_path_factory) -> Path:
    """The same project after stage 01. Tests only copy it."""
    from src.configfile import load_config
    from src.data.prepare import prepare_dataset

    folder = tmp_path_factory.mktemp("prepared") / "project"
    shutil.copytree(untouched_project, folder)
    prepare_dataset(load_config(folder / "configs" / "baseline.yaml"))
    return folder


@pytest.fixture
def project(untouched_project, tmp_path) -> Path:
    """A private copy of the project, before stage 01."""
    return Path(shutil.copytree(untouched_project, tmp_path / "project"))


@pytest.fixture
def prepared(untouched_prepared_project, tmp_path) -> Path:
    """A private copy of the project, after stage 01; copying keeps the file times that stamps rely on."""
    return Path(shutil.copytree(untouched_prepared_project, tmp_path / "prepared"))


@pytest.fixture
def stage():
    """`stage(project, "01_folds.py", *args)` runs a stage in its own process and waits for it."""

    def run_stage(
        project: Path, script: str, *args: str, config: str = "baseline"
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / script, "--config", f"configs/{config}.yaml", *args]
        return run(command, cwd=project, timeout=600)

    return run_stage


def call_stage(
    project: Path, script: str, *args: str, config: str = "baseline"
) -> subprocess.CompletedProcess[str]:
    """Run a stage within this process, which saves seconds of imports; the result has the same form."""
    spec = importlib.util.spec_from_file_location(f"stage_{script[:2]}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return call_command(module, project, *args, config=config)


def call_command(
    module, project: Path, *args: str, config: str = "baseline"
) -> subprocess.CompletedProcess[str]:
    """Run a module with a `run(config, force)`, such as those in src/commands, within this process."""
    from src.cli import main

    argv = [module.__name__, "--config", f"configs/{config}.yaml", *args]
    return called(lambda: main(module.run, module.__doc__), project, argv)


def call_all(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run all stages within this process; each argument is an experiment's name or a `key=value` override."""
    from src.commands import all

    configs = [part for name in args if "=" not in name for part in ("--config", f"configs/{name}.yaml")]
    return called(all.main, project, ["all", *configs, *(change for change in args if "=" in change)])


def called(main: Callable[[], None], project: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Call a command's `main` in a project with these arguments; returns its output and exit status."""
    forget_the_listings()
    code, out, err = 0, io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(project),
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = 0 if stop.code is None else stop.code
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


@pytest.fixture
def stage_here():
    """The function `call_stage`, as a fixture."""
    return call_stage


@pytest.fixture
def command():
    """The function `call_command`, as a fixture."""
    return call_command


@pytest.fixture
def snapshot():
    """`snapshot(folder)` gives the content hash of every file below a folder, for comparisons."""

    def take(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    return take
