"""Fixtures of the project's own tests: a small competition of real digits, and a way to run commands in
it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import pytest  # noqa: E402

# One thread per process: several small processes with many threads each are slower, not faster.
QUIET = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
    "WANDB_MODE": "disabled",
}
DIGITS = """\
competition: {slug: digits, title: Digits}
data: {image_size: 16}
cv: {n_folds: 2}
model: {backbone: test_resnet, pretrained: false}
augment: {hflip: 0.0}
train: {epochs: 2, batch_size: 16, lr: 4e-3, warmup_epochs: 0, ema: {enabled: false}}
inference: {tta: [identity]}
pseudo: {rounds: 1, threshold: 0.104}
tracking: {wandb: disabled}
runtime: {device: cpu, jobs: 1, threads: 1}
"""


@pytest.fixture(scope="session")
def competition(tmp_path_factory) -> Path:
    """A folder with the raw files of 80 training and 40 test digits, and one config."""
    from digits import write_competition

    folder = tmp_path_factory.mktemp("digits")
    write_competition(folder / "data" / "raw", n_train=80, n_test=40)
    (folder / "configs").mkdir()
    (folder / "configs" / "baseline.yaml").write_text(DIGITS, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run(folder, "01_folds.py", "train.epochs=1")` runs a script of this project in a competition's
    folder."""

    def call(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / script), *arguments]
        environment = {**os.environ, **QUIET}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return call
