"""Every task from raw files to a checked submission, in seconds, and honest all the way.

The made data set: digits, and whether they are above four (binary), whether they have a loop, are even, are
above four (multilabel), how much ink they took (regression, of one number and of two), where the ink is
(segmentation, of one class and of two), and which digit it is, or a new one (retrieval). What masks and
rankings have of their own is in test_six_stages_of_masks.py and test_six_stages_of_retrieval.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import call_stage, forget_the_listings
from six_stages import COMPETITIONS, RUNS, STAGES, Made, make, text
from sklearn.metrics import roc_auc_score

from src.configfile import load_config
from src.decisions import nested_score
from src.steps import folds_step, masks_step
from src.tasks import create_task

NUMBERS = [name for name, one in COMPETITIONS.items() if one.kind == "numbers"]


@pytest.fixture(scope="module", params=COMPETITIONS)
def made(request, tmp_path_factory) -> Made:
    return make(request.param, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module", params=NUMBERS)
def numbers(request, tmp_path_factory) -> Made:
    return make(request.param, tmp_path_factory.getbasetemp())


def task_of(made: Made):
    return create_task(load_config(made.done / "configs" / "baseline.yaml"))


def truth_of(made: Made) -> np.ndarray:
    """(N, C) what train.csv says, read without anything of ours."""
    columns = made.raw("train")[made.competition.targets]
    return (columns == "yes").to_numpy(float) if made.name == "binary" else columns.to_numpy(float)


# --- what the stages write ----------------------------------------------------------------------------------


def test_folds_csv_holds_every_row_in_a_fold_and_its_targets_as_train_csv_has_them(made):
    folds, train, competition = text(made.done / "data/folds.csv"), made.raw("train"), made.competition
    assert list(folds.columns) == ["id", "fold", "stop", "group", *competition.in_tables]
    assert folds["id"].tolist() == train["id"].tolist()
    assert set(folds["fold"]) == {"0", "1"}
    if competition.kind != "maps":
        told = train[competition.targets].to_numpy().tolist()
        assert folds[competition.in_tables].to_numpy().tolist() == told
    described = made.json("data/dataset")
    assert described["outputs"] == competition.outputs
    assert described["task"] == task_of(made).name
    if competition.kind != "rankings":  # an identity held out whole goes where it goes
        sizes = folds["fold"].value_counts()
        assert sizes.max() - sizes.min() <= 4


def test_oof_tables_hold_each_row_once_predicted_by_the_fold_that_did_not_learn_it(made):
    folds, competition = text(made.done / "data/folds.csv"), made.competition
    for run in RUNS:
        oof = made.table(f"runs/{run}/oof")
        assert list(oof.columns) == ["id", "fold", *competition.in_tables, *competition.predicted]
        assert oof["id"].tolist() == folds["id"].tolist()
        assert oof["fold"].astype(str).tolist() == folds["fold"].tolist()
        for k in range(2):
            part = made.table(f"runs/{run}/fold{k}/oof")
            pd.testing.assert_frame_equal(part, oof[oof["fold"] == k].reset_index(drop=True))


def test_test_tables_hold_the_test_rows_in_their_order(made):
    ids, more = made.raw("test")["id"].tolist(), []
    assert list(made.table("runs/baseline/test").columns) == ["id", *made.competition.predicted]
    assert made.table("runs/baseline/test")["id"].tolist() == ids
    if task_of(made).scaled:  # of numbers without a probability it is the views that say how sure they are
        more = ["spread"]
    for k in range(2):
        table = made.table(f"runs/baseline/fold{k}/test")
        assert list(table.columns) == ["id", *made.competition.predicted, *more]
        assert table["id"].tolist() == ids


def test_numbers_are_finite_and_the_test_table_is_the_mean_of_the_folds(numbers):
    outputs, oof = numbers.competition.outputs, numbers.table("runs/baseline/oof")
    assert np.isfinite(oof[outputs].to_numpy()).all()
    if not task_of(numbers).scaled:
        assert ((oof[outputs] >= 0) & (oof[outputs] <= 1)).all(axis=None)
    folds = [numbers.table(f"runs/baseline/fold{k}/test")[outputs].to_numpy(float) for k in range(2)]
    test = numbers.table("runs/baseline/test")[outputs]
    np.testing.assert_allclose(test, np.mean(folds, axis=0), rtol=1e-5, atol=1e-6)


def test_the_printed_cv_is_the_metric_of_the_oof_table(numbers):
    metrics, oof = numbers.json("runs/baseline/metrics"), numbers.table("runs/baseline/oof")
    truth, said = truth_of(numbers), oof[numbers.competition.outputs].to_numpy(float)
    fold = oof["fold"].to_numpy()
    expected = {
        "binary": lambda t, p: roc_auc_score(t, p),
        "regression": lambda t, p: np.sqrt(((t - p) ** 2).mean()),
        "numbers": lambda t, p: np.abs(t - p).mean(),  # the mean of the two columns' means
    }
    if numbers.name == "multilabel":  # each fold decided by thresholds of the other, see test_decisions.py
        found = nested_score(task_of(numbers).metric, truth, said, fold)
        assert (metrics["cv"], metrics["folds"]) == (pytest.approx(found.score), pytest.approx(found.folds))
    else:
        score = expected[numbers.name]
        assert metrics["cv"] == pytest.approx(score(truth, said), rel=1e-6)
        parts = [score(truth[fold == k], said[fold == k]) for k in range(2)]
        assert metrics["folds"] == pytest.approx(parts, rel=1e-6)


def test_pseudo_labels_are_what_the_fold_itself_was_sure_of(numbers):
    outputs = numbers.competition.outputs
    for k in range(2):
        said = numbers.table(f"runs/baseline/fold{k}/test")
        told = numbers.table(f"runs/baseline-round1/fold{k}.pseudo")
        values = said[outputs].to_numpy()
        assert list(told.columns) == ["id", "confidence", *outputs]
        if task_of(numbers).scaled:
            sure = (said["spread"] <= said["spread"].quantile(0.5)).to_numpy()
            expected = values[sure]
            assert sure.sum() == 20
        else:
            threshold = {"binary": 0.51, "multilabel": 0.55}[numbers.name]
            known = (values >= np.float32(threshold)) | (values <= np.float32(1 - threshold))
            sure = known.any(1)
            expected = np.where(known, values, np.nan)[sure]
        assert told["id"].tolist() == said["id"][sure].tolist()
        np.testing.assert_array_equal(told[outputs].to_numpy(), expected)
        assert len(told) > 0
        assert told.isna().any(axis=None) == (numbers.name == "multilabel")


def test_a_round_learned_from_the_selected_rows_too(made):
    for k in range(2):
        told = made.table(f"runs/baseline-round1/fold{k}.pseudo")
        rows = [made.json(f"runs/{run}/fold{k}/score")["train"] for run in RUNS]
        assert len(told) > 0
        assert rows[1] == rows[0] + len(told)
        models = [(made.done / f"runs/{run}/fold{k}/model.safetensors").read_bytes() for run in RUNS]
        assert models[0] != models[1]


def test_the_stack_has_the_members_outputs_and_scores_what_it_says(made):
    metrics, kept = made.json("stacks/stack/metrics"), made.json("runs/baseline/pseudo")["rounds"]
    assert sorted(metrics["members"]) == [row["run"] for row in kept if row["kept"]]
    more = {"weights"} if made.competition.kind == "maps" else set()
    if made.competition.kind == "numbers":
        more = {"hill_climbing", "linear", "mlp", "rank_mean", "cnn"} - metrics["left_out"].keys()
        more |= {f"{metrics['kept'].removesuffix(', calibrated')}, calibrated"}
    assert set(metrics["candidates"]) == {"mean", "best single", "lightgbm"} | more
    assert metrics["candidates"][metrics["kept"]]["cv"] == pytest.approx(metrics["cv"], abs=1e-12)
    oof, own = made.table("stacks/stack/oof"), made.competition
    assert list(oof.columns) == ["id", "fold", *own.in_tables, *own.predicted]
    pd.testing.assert_frame_equal(
        oof[["id", "fold", *own.in_tables]], made.table("runs/baseline/oof")[["id", "fold", *own.in_tables]]
    )
    assert made.json("stacks/stack/stacker")["kind"] == task_of(made).stacking


def test_the_submission_has_the_samples_rows_and_columns(made):
    sample, table = made.raw("sample_submission"), text(made.done / "submissions/stack.csv")
    assert list(table.columns) == list(sample.columns)
    assert table["id"].tolist() == sample["id"].tolist()


def test_a_submission_of_numbers_is_what_the_stack_said(numbers):
    table, own = text(numbers.done / "submissions/stack.csv"), numbers.competition
    said = numbers.table("stacks/stack/test").set_index("id").loc[table["id"]]
    written, said = table[own.targets].to_numpy(float), said[own.outputs].to_numpy(float)
    if numbers.name == "multilabel":
        rule = numbers.json("stacks/stack/metrics")["rule"]
        thresholds = np.array([value for (value,) in rule["values"]])
        np.testing.assert_array_equal(written, said >= thresholds)
    else:
        np.testing.assert_allclose(written, said, rtol=1e-12)


def test_the_summary_tells_of_the_targets(made):
    summary = (made.done / "data/summary.md").read_text()
    assert summary.count("\n| 0 |") == summary.count("\n| 1 |") == 1
    if made.competition.kind == "maps":
        return  # checked against the masks in test_six_stages_of_masks.py
    if made.competition.kind == "rankings":
        counts = made.raw("train")["Id"].value_counts()
        spread = f"{counts.min()} to {counts.max()} images each, {counts.median():g} at the median"
        assert f"- 8 identities with {spread}; 0 with one alone" in summary
        return
    truth = truth_of(made)
    if task_of(made).scaled:
        quarters = np.quantile(truth[:, 0], [0, 0.25, 0.5, 0.75, 1])
        assert all(f"{value:g}" in summary for value in quarters)
    elif made.name == "binary":
        assert f"- 2 classes: no {int((truth == 0).sum())}, yes {int(truth.sum())}" in summary
    else:
        counted = zip(made.competition.outputs, truth.sum(0), strict=True)
        assert f"- 3 classes: {', '.join(f'{n} {int(c)}' for n, c in counted)}" in summary


def test_every_stage_run_again_is_up_to_date_and_writes_nothing(made, snapshot):
    before = snapshot(made.done)
    for script in STAGES:
        again = call_stage(made.done, script)
        assert again.returncode == 0, again.stderr
        assert "up to date" in again.stdout
    assert snapshot(made.done) == before


# --- honesty ------------------------------------------------------------------------------------------------


def test_a_folds_labels_change_nothing_that_its_rows_are_scored_by(made, tmp_path):
    """Permute the labels of fold 0's rows: its model and its pseudo-label round must not move a bit.

    Numbers are standardised by the mean of the rows that train; with all rows they would move. The test rows
    are ranked among all identities, fold 0's too: a round that was told so would move.
    """
    permuted = Path(shutil.copytree(made.fresh, tmp_path / "permuted"))
    permute_fold_0(permuted, made)
    for script in STAGES[1:4]:
        stage = call_stage(permuted, script)
        assert stage.returncode == 0, stage.stderr

    def said(project: Path, run: str, fold: int) -> pd.DataFrame:
        table = pd.read_parquet(project / f"runs/{run}/fold{fold}/oof.parquet")
        return table.drop(columns=made.competition.in_tables)

    for run in RUNS:
        models = [project / f"runs/{run}/fold0/model.safetensors" for project in (made.done, permuted)]
        assert models[0].read_bytes() == models[1].read_bytes()
        pd.testing.assert_frame_equal(said(made.done, run, 0), said(permuted, run, 0), check_exact=True)
    told = [pd.read_parquet(p / "runs/baseline-round1/fold0.pseudo.parquet") for p in (made.done, permuted)]
    pd.testing.assert_frame_equal(*told, check_exact=True)
    # the permutation was felt where it should be: by the model that learned from those rows
    assert not said(made.done, "baseline", 1).equals(said(permuted, "baseline", 1))


def permute_fold_0(project: Path, made: Made) -> None:
    """Exchange what fold 0's rows were told among them, in folds.csv and, of masks, in the cache; the stamps
    are written again, so that no stage takes the files for changed."""
    config, columns = load_config(project / "configs" / "baseline.yaml"), made.competition.in_tables
    path = project / "data" / "folds.csv"
    table, order = text(path), np.arange(made.competition.rows)
    mine = np.flatnonzero(table["fold"] == "0")
    forget_the_listings()
    if made.competition.kind == "maps":
        for shape in range(3):  # a mask fits on images of its own shape
            alike = mine[mine % 3 == shape]
            order[alike] = np.roll(alike, 1)
        masks = masks_step(config)
        levels, stored = np.load(masks.folder / "masks.npy"), pd.read_parquet(masks.folder / "masks.parquet")
        np.save(masks.folder / "masks.npy", levels[order])
        stored.iloc[order].assign(id=stored["id"].to_numpy()).to_parquet(masks.folder / "masks.parquet")
        masks.done()
    else:
        order[mine] = np.random.default_rng(0).permutation(mine)
    step = folds_step(config)
    table[columns] = table[columns].to_numpy()[order]
    if made.name in ("regression", "numbers"):  # another mean and spread too, not only another order
        table.loc[mine, columns] = (table.loc[mine, columns].astype(float) * 3 + 50).astype(str).to_numpy()
    table.to_csv(path, index=False, lineterminator="\n")
    step.done()
