"""Every task from raw files to a checked submission, in seconds, and honest all the way.

The made data set: digits, and whether they are above four (binary), whether they have a loop, are even, are
above four (multilabel), how much ink they took (regression, of one number and of two).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import BASELINE, ROOT, call_stage, forget_the_listings, write_config
from digits import write_competition
from sklearn.metrics import roc_auc_score

from src.configfile import load_config
from src.data.prepare import prepare
from src.decisions import nested
from src.steps import folds_step
from src.tasks import create_task

STAGES = [path.name for path in sorted(ROOT.glob("0?_*.py"))]
SETTINGS = """\
train:
  epochs: 2
  batch_size: 16
  lr: 4e-3
  warmup_epochs: 0
  ema: {enabled: false}
inference:
  tta: [identity, left]
pseudo:
  rounds: 1
  threshold: 0.55
"""
TASKS = {  # by the name of the made data set: its targets' names, and what the config says of them
    "binary": (["label"], "task: {name: binary}\npseudo: {threshold: 0.51}\n"),
    "multilabel": (
        ["loop", "even", "above four"],
        "task: {name: multilabel, metric: f1_macro}\ndata: {target: [loop, even, above four]}\n",
    ),
    "regression": (["target"], "task: {name: regression}\ndata: {target: target}\n"),
    "numbers": (
        ["ink", "value"],
        "task: {name: regression, metric: mae}\ndata: {target: [ink, value]}\ntrain: {target_log: true}\n",
    ),
}
RUNS = ("baseline", "baseline-round1")
OUTPUTS = {
    "binary": ["yes"],
    "multilabel": ["loop", "even", "above four"],
    "regression": ["prediction"],  # a column of the OOF table is called `target` already
    "numbers": ["ink", "value"],
}


@pytest.fixture(scope="module", params=TASKS)
def made(request, tmp_path_factory) -> tuple[str, Path, Path]:
    """The task's data set, the project after stage 01, and the same after all six stages."""
    folder = tmp_path_factory.mktemp(request.param)
    fresh, done = folder / "fresh", folder / "done"
    write_competition(fresh / "data" / "raw", n_train=80, n_test=40, task=request.param)
    write_config(fresh, "common", BASELINE)
    write_config(fresh, "settings", "base: common\n" + SETTINGS)
    write_config(fresh, "baseline", "base: settings\n" + TASKS[request.param][1])
    forget_the_listings()
    prepare(load_config(fresh / "configs" / "baseline.yaml"))
    shutil.copytree(fresh, done)
    for script in STAGES:
        stage = call_stage(done, script)
        assert (stage.returncode, stage.stderr) == (0, ""), stage.stderr
    return request.param, fresh, done


def task_of(project: Path):
    return create_task(load_config(project / "configs" / "baseline.yaml"))


def text(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def truth_of(name: str, table: pd.DataFrame) -> np.ndarray:
    """(N, C) what train.csv says, read without anything of ours."""
    columns = table[TASKS[name][0]]
    return (columns == "yes").to_numpy(float) if name == "binary" else columns.to_numpy(float)


def prefixed(names: list[str]) -> list[str]:
    """How the targets are called in folds.csv and OOF tables."""
    return ["target"] if len(names) == 1 else [f"target.{name}" for name in names]


# --- what the stages write ----------------------------------------------------------------------------------


def test_folds_csv_holds_every_target_of_every_row_as_train_csv_does(made):
    name, _, project = made
    folds, train = text(project / "data/folds.csv"), text(project / "data/raw/train.csv")
    targets = TASKS[name][0]
    assert list(folds.columns) == ["id", "fold", "stop", "group", *prefixed(targets)]
    assert (
        folds[["id", *prefixed(targets)]].to_numpy().tolist() == train[["id", *targets]].to_numpy().tolist()
    )
    assert read_json(project / "data/dataset.json")["outputs"] == OUTPUTS[name]
    sizes = folds["fold"].value_counts()
    assert sizes.max() - sizes.min() <= 4


def test_oof_tables_hold_each_row_once_predicted_by_the_fold_that_did_not_learn_it(made):
    name, _, project = made
    folds, outputs = text(project / "data/folds.csv"), OUTPUTS[name]
    for run in RUNS:
        oof = pd.read_parquet(project / f"runs/{run}/oof.parquet")
        assert list(oof.columns) == ["id", "fold", *prefixed(TASKS[name][0]), *outputs]
        assert oof["id"].tolist() == folds["id"].tolist()
        assert oof["fold"].astype(str).tolist() == folds["fold"].tolist()
        for k in range(2):
            part = pd.read_parquet(project / f"runs/{run}/fold{k}/oof.parquet")
            pd.testing.assert_frame_equal(part, oof[oof["fold"] == k].reset_index(drop=True))
        assert np.isfinite(oof[outputs].to_numpy()).all()
        if name in ("binary", "multilabel"):
            assert ((oof[outputs] >= 0) & (oof[outputs] <= 1)).all(axis=None)


def test_test_tables_are_the_mean_of_the_folds_and_only_numbers_come_with_a_spread(made):
    name, _, project = made
    ids = text(project / "data/raw/test.csv")["id"].tolist()
    test = pd.read_parquet(project / "runs/baseline/test.parquet")
    assert list(test.columns) == ["id", *OUTPUTS[name]]
    assert test["id"].tolist() == ids
    folds = [pd.read_parquet(project / f"runs/baseline/fold{k}/test.parquet") for k in range(2)]
    for table in folds:
        more = ["spread"] if name in ("regression", "numbers") else []
        assert list(table.columns) == ["id", *OUTPUTS[name], *more]
        assert table["id"].tolist() == ids
    mean = np.mean([table[OUTPUTS[name]].to_numpy(float) for table in folds], axis=0)
    np.testing.assert_allclose(test[OUTPUTS[name]], mean, rtol=1e-5, atol=1e-6)


def test_the_printed_cv_is_the_metric_of_the_oof_table(made):
    name, _, project = made
    metrics = read_json(project / "runs/baseline/metrics.json")
    oof = pd.read_parquet(project / "runs/baseline/oof.parquet")
    truth, said = truth_of(name, text(project / "data/raw/train.csv")), oof[OUTPUTS[name]].to_numpy(float)
    fold = oof["fold"].to_numpy()
    expected = {
        "binary": lambda t, p: roc_auc_score(t, p),
        "regression": lambda t, p: np.sqrt(((t - p) ** 2).mean()),
        "numbers": lambda t, p: np.abs(t - p).mean(),  # the mean of the two columns' means
    }
    if name == "multilabel":  # each fold decided by thresholds of the other; tests/test_decisions.py has more
        found = nested(task_of(project).metric, truth, said, fold)
        assert (metrics["cv"], metrics["folds"]) == (pytest.approx(found.score), pytest.approx(found.folds))
    else:
        assert metrics["cv"] == pytest.approx(expected[name](truth, said), rel=1e-6)
        parts = [expected[name](truth[fold == k], said[fold == k]) for k in range(2)]
        assert metrics["folds"] == pytest.approx(parts, rel=1e-6)


def test_pseudo_labels_are_what_the_fold_itself_was_sure_of(made):
    name, _, project = made
    for k in range(2):
        said = pd.read_parquet(project / f"runs/baseline/fold{k}/test.parquet")
        told = pd.read_parquet(project / f"runs/baseline-round1/fold{k}.pseudo.parquet")
        values = said[OUTPUTS[name]].to_numpy()
        assert list(told.columns) == ["id", "confidence", *OUTPUTS[name]]
        if name in ("regression", "numbers"):
            sure = (said["spread"] <= said["spread"].quantile(0.5)).to_numpy()
            expected = values[sure]
            assert sure.sum() == 20
        else:
            threshold = {"binary": 0.51, "multilabel": 0.55}[name]
            known = (values >= np.float32(threshold)) | (values <= np.float32(1 - threshold))
            sure = known.any(1)
            expected = np.where(known, values, np.nan)[sure]
        assert told["id"].tolist() == said["id"][sure].tolist()
        np.testing.assert_array_equal(told[OUTPUTS[name]].to_numpy(), expected)
        assert len(told) > 0
        assert told.isna().any(axis=None) == (name == "multilabel")


def test_a_round_learned_from_the_selected_rows_too(made):
    _, _, project = made
    for k in range(2):
        told = pd.read_parquet(project / f"runs/baseline-round1/fold{k}.pseudo.parquet")
        rows = [read_json(project / f"runs/{run}/fold{k}/score.json")["train"] for run in RUNS]
        assert rows[1] == rows[0] + len(told)
        models = [(project / f"runs/{run}/fold{k}/model.safetensors").read_bytes() for run in RUNS]
        assert models[0] != models[1]


def test_the_stack_has_the_members_outputs_and_scores_what_it_says(made):
    name, _, project = made
    metrics = read_json(project / "stacks/stack/metrics.json")
    kept = read_json(project / "runs/baseline/pseudo.json")["rounds"]
    assert sorted(metrics["members"]) == [row["run"] for row in kept if row["kept"]]
    assert set(metrics["candidates"]) == {"mean", "best single", "lightgbm"}
    assert metrics["candidates"][metrics["kept"]]["cv"] == metrics["cv"]
    oof = pd.read_parquet(project / "stacks/stack/oof.parquet")
    assert list(oof.columns) == ["id", "fold", *prefixed(TASKS[name][0]), *OUTPUTS[name]]
    assert read_json(project / "stacks/stack/stacker.json")["kind"] == task_of(project).stacking


def test_the_submission_is_what_the_stack_said_in_the_samples_rows_and_columns(made):
    name, _, project = made
    sample = text(project / "data/raw/sample_submission.csv")
    table = text(project / "submissions/stack.csv")
    assert list(table.columns) == list(sample.columns) == ["id", *TASKS[name][0]]
    assert table["id"].tolist() == sample["id"].tolist()
    said = pd.read_parquet(project / "stacks/stack/test.parquet").set_index("id").loc[sample["id"]]
    written, said = table[TASKS[name][0]].to_numpy(float), said[OUTPUTS[name]].to_numpy(float)
    if name == "multilabel":
        rule = read_json(project / "stacks/stack/metrics.json")["rule"]
        thresholds = np.array([value for (value,) in rule["values"]])
        np.testing.assert_array_equal(written, said >= thresholds)
    else:
        np.testing.assert_allclose(written, said, rtol=1e-12)


def test_the_summary_tells_of_the_targets(made):
    name, _, project = made
    summary = (project / "data/summary.md").read_text()
    train = text(project / "data/raw/train.csv")
    truth = truth_of(name, train)
    if name in ("regression", "numbers"):
        quarters = np.quantile(truth[:, 0], [0, 0.25, 0.5, 0.75, 1])
        assert all(f"{value:g}" in summary for value in quarters)
    elif name == "binary":
        assert f"- 2 classes: no {int((truth == 0).sum())}, yes {int(truth.sum())}" in summary
    else:
        shown = ", ".join(f"{n} {int(c)}" for n, c in zip(OUTPUTS[name], truth.sum(0), strict=True))
        assert f"- 3 classes: {shown}" in summary
    assert summary.count("\n| 0 |") == summary.count("\n| 1 |") == 1


def test_every_stage_run_again_is_up_to_date_and_writes_nothing(made, snapshot):
    _, _, project = made
    before = snapshot(project)
    for script in STAGES:
        again = call_stage(project, script)
        assert again.returncode == 0, again.stderr
        assert "up to date" in again.stdout
    assert snapshot(project) == before


# --- honesty ------------------------------------------------------------------------------------------------


def test_a_folds_labels_change_nothing_that_its_rows_are_scored_by(made, tmp_path):
    """Permute the labels of fold 0's rows: its model and its pseudo-label round must not move a bit.

    Numbers are standardised by the mean of the rows that train; with all rows they would move.
    """
    name, fresh, done = made
    permuted = Path(shutil.copytree(fresh, tmp_path / "permuted"))
    config = load_config(permuted / "configs" / "baseline.yaml")
    forget_the_listings()
    step, path = folds_step(config), permuted / "data" / "folds.csv"
    table, columns = text(path), prefixed(TASKS[name][0])
    mine = np.flatnonzero(table["fold"] == "0")
    other = np.random.default_rng(0).permutation(mine)
    table.loc[mine, columns] = table.loc[other, columns].to_numpy()
    if name in ("regression", "numbers"):  # another mean and spread too, not only another order
        table.loc[mine, columns] = (table.loc[mine, columns].astype(float) * 3 + 50).astype(str).to_numpy()
    table.to_csv(path, index=False, lineterminator="\n")
    step.done()
    for script in STAGES[1:4]:
        stage = call_stage(permuted, script)
        assert stage.returncode == 0, stage.stderr

    def said(project: Path, run: str, fold: int) -> pd.DataFrame:
        return pd.read_parquet(project / f"runs/{run}/fold{fold}/oof.parquet").drop(columns=columns)

    for run in RUNS:
        pd.testing.assert_frame_equal(said(done, run, 0), said(permuted, run, 0), check_exact=True)
    # the permutation was felt where it should be: by the model that learned from those rows
    assert not said(done, "baseline", 1).equals(said(permuted, "baseline", 1))
