"""Code competitions that hide their test set: the public one has no row or one, and all stages run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from competitions import TASKS
from conftest import BASELINE, ROOT, forget_the_listings, write_config
from digits import write_competition
from rehearsals import run_in_process, small_cases

from src.artifacts import read_json
from src.config import UserError
from src.configfile import load_config
from src.data.prepare import prepare_dataset
from src.data.tables import load_tables, read_table
from src.ensemble.members import find_members
from src.ensemble.report import stack_runs
from src.inference.oof import predict_run
from src.kernel import rehearse
from src.kernel.bundle import build_bundle
from src.pseudo.rounds import label_recursively
from src.steps import run_of, stack_step, submission_source, submit_step
from src.submission.table import write_submission
from src.training.launch import train_run

HIDDEN = ("kaggle.code_competition=true", "competition.slug=digits", "train.epochs=1")


def write_project(folder: Path, rows: int, task: str = "multiclass") -> Path:
    """A competition with so many public test rows, unpacked from a zip, which holds no empty folder."""
    made, text = TASKS[task]
    write_competition(folder / "data/raw", n_train=60, n_test=rows, task=made)
    if not rows:
        shutil.rmtree(folder / "data/raw/test_images")
    write_config(folder, "common", BASELINE)
    forget_the_listings()
    return write_config(folder, "baseline", f"base: common\n{text}")


@pytest.mark.parametrize(("rows", "task"), [(0, "multiclass"), (1, "multiclass"), (0, "retrieval")])
def test_a_public_test_set_of_few_rows_goes_the_whole_way(tmp_path, monkeypatch, rows, task):
    config = load_config(write_project(tmp_path, rows, task), [*HIDDEN])
    prepare_dataset(config)
    train_run(run_of(config), (0, 1))
    predict_run(run_of(config), (0, 1))
    label_recursively(
        config.model_copy(update={"pseudo": config.pseudo.model_copy(update={"threshold": 1.0})})
    )
    stack_runs(stack_step(config, find_members(config)[0]), config, find_members(config)[0])
    source, name = submission_source(config)
    write_submission(submit_step(config, source, name), config, source)
    sample = read_table(config.root / "data/raw/sample_submission.csv", may_be_empty=True)
    made = pd.read_csv(config.root / f"submissions/{name}.csv", dtype=str)
    assert list(made.columns) == list(sample.columns)
    assert made.iloc[:, 0].tolist() == sample.iloc[:, 0].tolist()
    assert len(made) == rows
    build_bundle(config, config.root / "kaggle/bundle")
    small_cases(monkeypatch)
    monkeypatch.setattr(rehearse, "run_kernel", run_in_process)
    cases = {case.name: case for case in rehearse.rehearse(config, ROOT)}
    assert {case.wrong for case in cases.values()} == {None}
    counts = {name: case.images for name, case in cases.items()}
    assert (counts["public"], counts["one row"], counts["broken"], counts["hidden"]) == (rows, 1, 8, 20)
    assert read_json(config.root / "kaggle/receipts/rehearsal.json")["passed"] is True


@pytest.mark.parametrize("text", ["", "id\n"])
def test_an_empty_test_table_is_a_test_set_without_rows(tmp_path, text):
    path = write_project(tmp_path, 0)
    (tmp_path / "data/raw/test.csv").write_text(text)
    tables = load_tables(load_config(path, [*HIDDEN]))
    assert (len(tables.test), tables.images["test"], tables.form.images) == (0, [], ())
    assert list(tables.sample.columns) == ["id", "label"]


def test_elsewhere_a_table_without_rows_is_a_broken_download(tmp_path):
    path = write_project(tmp_path, 0)
    with pytest.raises(UserError, match=r"sample_submission\.csv: .*kaggle\.code_competition=true"):
        load_tables(load_config(path))
