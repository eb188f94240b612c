"""Under the versions of Kaggle's image a kernel says what it says under ours.

`build/kaggle-image` is an environment of the project's `requirements/kaggle.lock`, kept between runs;
the first takes a minute and 8 GB.
"""

import hashlib
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import processes
import pytest
from conftest import PROJECT, ROOT

LOCK = ROOT / PROJECT / "requirements" / "kaggle.lock"
IMAGE = ROOT / "build" / "kaggle-image"
SPACE = (
    20 * 10**9
)  # 8 for the environment, as much in uv's cache where that is another disk, and for the rest
NO_NETWORK = (
    r"error sending request|dns error|failed to fetch|failed to download|network|connection|timed out"
)
CASES = ("binary", "multiclass", "multilabel", "regression", "segmentation", "retrieval")


@pytest.fixture(scope="module")
def image() -> Path:
    """The Python of an environment with Kaggle's versions; skips where they cannot be had."""
    ready, wanted = IMAGE / "ready", hashlib.sha256(LOCK.read_bytes()).hexdigest()
    python = IMAGE / "bin" / "python"
    if ready.exists() and ready.read_text() == wanted:
        return python
    shutil.rmtree(IMAGE, ignore_errors=True)
    if (free := shutil.disk_usage(ROOT).free) < SPACE:
        pytest.skip(
            f"Kaggle's versions were not tried: that takes {SPACE >> 30} GB of disk, {free >> 30} are free"
        )
    make_environment()
    install = [sys.executable, "-m", "uv", "pip", "install", "--python", str(python), "-r", str(LOCK)]
    done = processes.run(install)
    if done.returncode:
        shutil.rmtree(IMAGE, ignore_errors=True)
        if "No module named uv" in done.stderr:
            pytest.skip(
                "Kaggle's versions were not tried: uv, which installs them, is not here (`make setup`)"
            )
        if re.search(NO_NETWORK, done.stderr, re.IGNORECASE):
            last = done.stderr.strip().splitlines()[-1].strip()
            pytest.skip(f"Kaggle's versions were not tried: their packages cannot be fetched here ({last})")
        pytest.fail(done.stderr)
    ready.write_text(wanted)
    return python


def make_environment() -> None:
    """An empty environment of a Python that Kaggle's versions have wheels for; skips where there is none."""
    if sys.version_info < (3, 13):
        processes.run([sys.executable, "-m", "venv", "--without-pip", IMAGE], check=True)
        return
    done = processes.run([sys.executable, "-m", "uv", "venv", "--python", ">=3.11,<3.13", IMAGE])
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1].strip()
        pytest.skip(f"Kaggle's versions were not tried: they need Python 3.12 or 3.11 ({last})")


def run(*command: object, cwd: Path = ROOT) -> str:
    done = processes.run(list(command), cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def both(*command: object) -> None:
    """Run it for either half of the cases, side by side."""
    halves = CASES[::2], CASES[1::2]
    with ThreadPoolExecutor() as pool:
        for said in [pool.submit(run, *command, *half) for half in halves]:
            said.result()


@pytest.fixture(scope="module")
def asked(image, tmp_path_factory) -> Path:
    """Every case, made here and asked there."""
    folder = tmp_path_factory.mktemp("image")
    both(sys.executable, ROOT / "tests" / "template" / "kaggle_image.py", "make", folder)
    both(image, ROOT / "tests" / "template" / "kaggle_image.py", "ask", folder)
    return folder


def apart(task: str, found: pd.DataFrame, stored: pd.DataFrame) -> float:
    """How far two prediction tables are apart at most, numbers with units as a share of their spread."""
    assert found["id"].tolist() == stored["id"].tolist()
    if task == "retrieval":
        assert found["candidates"].str[0].tolist() == stored["candidates"].str[0].tolist()
        pairs = zip(found["similarity"], stored["similarity"], strict=True)
        return max(np.abs(np.sort(one) - np.sort(other)).max() for one, other in pairs)
    if task == "segmentation":
        pairs = zip(found["mask"], stored["mask"], strict=True)
        return max(np.abs(pixels(one) - pixels(other)).mean() for one, other in pairs)
    one, other = (table.drop(columns="id").to_numpy(dtype=float) for table in (found, stored))
    return np.abs(one - other).max() / (other.std(0).max() if task == "regression" else 1.0)


def pixels(cell: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(cell, np.uint8), cv2.IMREAD_GRAYSCALE) / 255


@pytest.mark.parametrize("task", CASES)
def test_a_kernel_says_the_same_under_kaggles_versions(asked, task):
    found, stored = (
        pd.read_parquet(asked / task / name) for name in ("out/predictions.parquet", "expected.parquet")
    )
    assert apart(task, found, stored) < (1e-2 if task == "binary" else 1e-3)


def test_the_list_of_backbones_that_kaggles_timm_lacks_is_whole(image):
    script = ROOT / "requirements" / "kaggle_timm.py"
    made = run(
        sys.executable,
        "-c",
        f"import runpy; print(runpy.run_path({str(script)!r})['lacking']({str(image)!r}))",
    )
    assert made.strip() == (ROOT / PROJECT / "requirements" / "kaggle-timm.txt").read_text().strip()


def test_every_second_level_is_read_under_kaggles_versions(asked):
    blenders = sorted(asked.glob("stack by *"))
    assert {"stack by lightgbm", "stack by mlp", "stack by mean"} <= {path.name for path in blenders}
    for case in blenders:
        found, stored = (
            pd.read_parquet(case / name) for name in ("out/predictions.parquet", "expected.parquet")
        )
        assert apart("multilabel", found, stored) < 1e-3, case.name


def test_the_kernels_file_runs_under_kaggles_versions(asked, image, tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input/bundle").symlink_to(asked / "binary/bundle")
    (tmp_path / "input/digits").symlink_to((asked / "binary/mount").resolve())
    places = [f"KAGGLE_INPUT_DIR={tmp_path / 'input'}", f"KAGGLE_WORKING_DIR={tmp_path}"]
    said = run("env", *places, image, ROOT / PROJECT / "kernel" / "infer.py")
    assert re.search(r"torch 2\.10\.0[+\w]* \(bundle: ", said)
    assert (tmp_path / "submission.csv").read_text() == (asked / "binary/out/submission.csv").read_text()


@pytest.mark.parametrize("task", ["segmentation", "multiclass"])
def test_stage_01_leaves_the_folds_alone_under_kaggles_versions(asked, image, tmp_path, task):
    """A training there has the folds of home, and packs images and masks anew."""
    made = asked / "projects" / task
    for name in ("folds.csv", "dataset.json", "summary.md", "folds.stamp.json"):
        (tmp_path / "data").mkdir(exist_ok=True)
        shutil.copy(made / "data" / name, tmp_path / "data")
    (tmp_path / "data/raw").symlink_to(made / "data/raw")
    shutil.copytree(made / "configs", tmp_path / "configs")
    script = ROOT / PROJECT / "01_folds.py"
    said = run(image, script, "--config", "configs/baseline.yaml", cwd=tmp_path)
    assert re.search(r"01 folds \(.*\): up to date", said), said
    for name in ("statistics.json", "masks.json") if task == "segmentation" else ("statistics.json",):
        (here,) = made.glob(f"data/cache/*/{name}")
        (there,) = tmp_path.glob(f"data/cache/*/{name}")
        assert here.read_text() == there.read_text()
