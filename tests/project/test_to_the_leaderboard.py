"""The whole way with the real kernel and the real client: bundle, rehearsal, push, submission, score."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, call_command
from digits import write_competition
from kaggle_server import Competition, KaggleServer
from kaggle_server.desk import talk_to
from rehearsals import SETTINGS, prepare_bundled, small_cases

from src.artifacts import read_json
from src.commands import bundle, push, rehearse, send
from src.kernel.rehearse import CASES
from src.kernel.run import predict_competition
from src.kernel.sandbox import run_kernel

ARGS = (
    *SETTINGS,
    "train.epochs=12",
    "train.early_stopping.enabled=false",
    "competition.kaggle_username=quickfox",
    "kaggle.code_competition=true",
    "kaggle.machine_shape=cpu",
)


def sandboxed(project: Path):
    """A runner for the server: the kernel without network, and without the project in sight."""

    def run(script: Path, inputs: Path, working: Path, variables: dict[str, str]) -> tuple[int, str]:
        done = run_kernel(script, inputs, working.with_name("sandbox"), project, 300, **variables)
        shutil.copytree(done.working, working, dirs_exist_ok=True)
        return done.status, done.said

    return run


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A trained competition of classes."""
    made = prepare_bundled(tmp_path_factory.mktemp("made"), "multiclass", *ARGS[len(SETTINGS) :])
    shutil.copytree(ROOT / "kernel", made.root / "kernel")
    return made


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_a_trained_run_reaches_the_leaderboard(config, tmp_path, monkeypatch):
    root = config.root
    write_competition(tmp_path / "hidden", tmp_path / "solution.csv", n_train=80, n_test=70, seed=5)
    solution = table(tmp_path / "solution.csv").set_index("id")["label"]
    small_cases(monkeypatch)
    monkeypatch.setenv("SUBMIT", "1")
    with KaggleServer(tmp_path / "kaggle.com", sandboxed(root)) as server:
        talk_to(server, tmp_path / "home", monkeypatch)
        competition = Competition("digits", root / "data/raw", solution.to_dict(), hidden=tmp_path / "hidden")
        server.store.competitions["digits"] = competition
        said = {}
        for command in (bundle, rehearse, push, send):
            done = call_command(command, root, *ARGS)
            assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
            said[command] = done.stdout
    assert server.store.bugs == []

    whole = read_json(root / "kaggle/bundle/manifest.json")["bundle_hash"]
    receipt = read_json(root / "kaggle/receipts/rehearsal.json")
    assert receipt["cases"] == dict.fromkeys(CASES, "good")
    assert (receipt["bundle_hash"], receipt["passed"]) == (whole, True)
    assert " of 9 h: an image takes " in said[rehearse]
    assert "a hidden test of 24 images" in said[rehearse]

    kernel = server.store.kernels["quickfox/digits-infer"]
    assert kernel.saved["text"] == (ROOT / "kernel/infer.py").read_text()
    public = table(root / "kaggle/output/submission.csv")
    assert public["id"].tolist() == table(root / "data/raw/sample_submission.csv")["id"].tolist()

    (row,) = competition.submissions
    hidden = table(kernel.runs[0].folder.with_name(f"1-hidden{row['ref']}") / "working/submission.csv")
    assert hidden["id"].tolist() == table(tmp_path / "hidden/sample_submission.csv")["id"].tolist()
    (tmp_path / "here").mkdir()
    predict_competition(root / "kaggle/bundle", tmp_path / "hidden", tmp_path / "here")
    pd.testing.assert_frame_equal(hidden, table(tmp_path / "here/submission.csv"))
    right = float(np.mean(hidden["label"].to_numpy() == solution[hidden["id"]].to_numpy()))
    assert right > 0.3  # of ten classes: it learned something
    with open(root / "submissions/log.csv", newline="") as handle:
        (noted,) = csv.DictReader(handle)
    assert float(noted["public"]) == pytest.approx(right, abs=1e-5)
    assert float(noted["cv"]) == read_json(root / "runs/baseline/metrics.json")["cv"]
    assert (noted["name"], noted["kind"]) == ("digits-infer v1", "code")
