"""The six stages on a small sample: complete, quiet the second time, raw data untouched, and no leak."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

STAGES = sorted(path.name for path in ROOT.glob("0[1-6]_*.py"))


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def raw_before(competition) -> dict[str, str]:
    return hashes(competition / "data" / "raw")


@pytest.fixture(scope="module")
def finished(competition, raw_before, run) -> Path:
    """The competition after all stages."""
    for script in STAGES:
        run(competition, script)
    return competition


def test_the_submission_has_the_rows_of_the_sample_in_its_order(finished):
    tables = []
    for path in (finished / "data/raw/sample_submission.csv", finished / "submissions/stack.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    sample, written = tables
    assert [row["id"] for row in written] == [row["id"] for row in sample]
    assert list(written[0]) == list(sample[0])
    assert {row["label"] for row in written} <= set("0123456789")


def test_every_training_row_is_predicted_once_out_of_fold(finished):
    oof = pd.read_parquet(finished / "runs/baseline/oof.parquet")
    train = pd.read_csv(finished / "data/raw/train.csv", dtype=str)
    assert oof["id"].tolist() == train["id"].tolist()
    np.testing.assert_allclose(oof[list("0123456789")].sum(axis=1), 1, atol=1e-5)


def test_the_raw_files_are_as_they_were(finished, raw_before):
    assert hashes(finished / "data" / "raw") == raw_before


def test_a_second_run_does_nothing(finished, run):
    before = hashes(finished / "runs") | hashes(finished / "submissions")
    for script in (STAGES[0], STAGES[1], STAGES[-1]):
        assert "up to date" in run(finished, script).stdout
    assert hashes(finished / "runs") | hashes(finished / "submissions") == before


def test_the_labels_of_a_fold_change_nothing_that_it_is_predicted_with(finished, run, tmp_path):
    """Permute the labels of fold 0 in folds.csv: the model of fold 0 must not change by a bit, that of fold 1
    must."""
    permuted = tmp_path / "permuted"
    shutil.copytree(finished / "data", permuted / "data")
    shutil.copytree(finished / "configs", permuted / "configs")
    path = permuted / "data" / "folds.csv"
    table = pd.read_csv(path, dtype=str)
    mine = table["fold"] == "0"
    table.loc[mine, "target"] = np.random.default_rng(0).permutation(table.loc[mine, "target"])
    table.to_csv(path, index=False, lineterminator="\n")
    restamp(permuted)
    run(permuted, "02_train.py")
    weights = [
        [(folder / f"runs/baseline/fold{k}/model.safetensors").read_bytes() for k in (0, 1)]
        for folder in (finished, permuted)
    ]
    assert weights[0][0] == weights[1][0], "fold 0's model has used labels of its own validation rows"
    assert weights[0][1] != weights[1][1]


def restamp(folder: Path) -> None:
    """Accept the changed folds.csv as the output of stage 01."""
    from src.configfile import load_config
    from src.steps import folds_step

    folds_step(load_config(folder / "configs" / "baseline.yaml")).done()
