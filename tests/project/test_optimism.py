"""Rounds labelled by all folds' models: their CV flatters, and that is said wherever it is shown."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from conftest import write_config

from src.artifacts import write_json, write_parquet
from src.config import Config
from src.optimism import optimism_flag, optimism_note, why_optimistic
from src.pseudo.labels import label_round, unlabelled_predictions
from src.pseudo.steps import calibrated_on, unlabelled
from src.pseudo.verdict import round_verdict
from src.steps import round_of
from src.tasks import create_task

OUTPUTS = ["a", "b", "c"]
ENSEMBLE = ("pseudo.source=ensemble", "pseudo.threshold=0.104", "pseudo.rounds=1", "train.ema.enabled=false")


def config_of(tmp_path, **more) -> Config:
    return Config(root=tmp_path, name="base", cv={"n_folds": 3}, **more)


def test_every_fold_is_labelled_by_the_mean_of_all_folds_models(tmp_path):
    config = config_of(tmp_path, pseudo={"source": "ensemble", "threshold": 0.6})
    write_json(tmp_path / "data/dataset.json", {"outputs": OUTPUTS})
    random, said = np.random.default_rng(0), []
    for k in range(3):
        said.append(random.dirichlet([0.3] * 3, 80).astype(np.float32))
        table = pd.DataFrame({"id": [f"{i:02d}" for i in range(80)]}).join(
            pd.DataFrame(said[-1], columns=OUTPUTS)
        )
        write_parquet(tmp_path / f"runs/base/fold{k}/test.parquet", table)
    run, task, mean = round_of(config, 1), create_task(config), np.mean(said, axis=0)
    np.testing.assert_allclose(unlabelled_predictions(run, 1, task, OUTPUTS)[OUTPUTS], mean, rtol=1e-6)
    label_round(run, task, (0, 1, 2))
    sure = mean.max(1) >= 0.6
    assert 5 < sure.sum() < 75
    for k in range(3):
        found = pd.read_parquet(run.pseudo_labels(k))
        assert found["id"].tolist() == [f"{i:02d}" for i in np.flatnonzero(sure)]


def test_a_fold_reads_its_own_models_files_and_an_ensemble_all_and_the_oof_rows(tmp_path):
    task = {"name": "retrieval"}
    for source, name, folds, known in (
        ("fold", "blind", [1], "runs/base/fold1/stop.parquet"),
        ("ensemble", "test", [0, 1, 2], "runs/base/oof.parquet"),
    ):
        run = round_of(config_of(tmp_path, task=task, pseudo={"source": source}), 1)
        tables = [tmp_path / f"runs/base/fold{k}/{name}.parquet" for k in folds]
        assert unlabelled(run, 1) == {"test": tables}
        assert calibrated_on(run, 1) == tmp_path / known
    plain = round_of(config_of(tmp_path), 1)
    assert calibrated_on(plain, 1) is None


def test_what_learns_from_an_optimistic_run_is_optimistic_too(tmp_path):
    honest = config_of(tmp_path)
    ensemble = config_of(tmp_path, pseudo={"source": "ensemble"})
    assert why_optimistic(honest, None, 0) is None
    assert why_optimistic(honest, "base", 0) is None
    assert why_optimistic(ensemble, None, 0) is None  # the run that it starts from
    assert "pseudo.source=ensemble" in why_optimistic(ensemble, "base", 0)
    stamp = {"fingerprint": "", "outputs": {}, "recipe": {"optimistic": "because"}}
    write_json(tmp_path / "runs/base-round1/fold0/train.stamp.json", stamp)
    pupil = config_of(tmp_path, distill={"teacher": "base-round1"})
    told = "it learned from base-round1, whose CV is optimistic"
    assert why_optimistic(pupil, None, 0) == told
    assert why_optimistic(honest, "base-round1", 0) == told


def test_the_mark_is_said_behind_a_cv_and_nothing_behind_an_honest_one():
    assert optimism_flag(None) == {}
    assert optimism_note({"cv": 0.9}) == ""
    assert optimism_flag("why") == {"optimistic": True, "why_optimistic": "why"}
    assert optimism_note({"cv": 0.9} | optimism_flag("why")) == " (OPTIMISTIC: why)"


def test_an_optimistic_cv_keeps_no_round():
    best = {"cv": 0.5, "folds": [0.5, 0.5]}
    row = round_verdict({"cv": 0.99, "folds": [0.99, 0.99]} | optimism_flag("why"), best, 1)
    assert (row["kept"], row["gain"]) == (False, None)


@pytest.fixture(scope="module")
def flattered(untouched_prepared_project, tmp_path_factory):
    """A project after stages 02 to 05 with one round of an ensemble's labels; and what 04 and 05 said."""
    import shutil

    from conftest import call_stage

    folder = tmp_path_factory.mktemp("flattered") / "project"
    shutil.copytree(untouched_prepared_project, folder)
    said = {}
    for script in ("02_train.py", "03_oof_predict.py", "04_pseudo_label.py", "05_stack.py"):
        done = call_stage(folder, script, *ENSEMBLE)
        assert done.returncode == 0, done.stderr
        said[script[:2]] = done.stdout
    return folder, said


def test_the_cv_of_an_ensembles_round_is_marked_in_its_metrics_and_in_every_line_that_shows_it(flattered):
    folder, said = flattered
    metrics = json.loads((folder / "runs/baseline-round1/metrics.json").read_text())
    assert metrics["optimistic"] is True
    assert "pseudo.source=ensemble" in metrics["why_optimistic"]
    assert "optimistic" not in json.loads((folder / "runs/baseline/metrics.json").read_text())
    lines = [line for line in said["04"].splitlines() if " accuracy 0." in line]
    assert len(lines) == 4  # two folds, the CV, the round's table
    assert all("OPTIMISTIC: pseudo.source=ensemble" in line for line in lines)
    assert "not kept: its CV flatters" in said["04"]
    assert json.loads((folder / "runs/baseline/pseudo.json").read_text())["best"] == "baseline"


def test_the_stack_leaves_such_a_run_out_unless_it_is_named_in_full_and_is_then_marked_itself(
    flattered, stage_here, tmp_path
):
    import shutil

    folder, said = flattered
    assert "baseline-round1 is left out: its CV is no match for honest ones (OPTIMISTIC" in said["05"]
    metrics = json.loads((folder / "stacks/stack/metrics.json").read_text())
    assert list(metrics["members"]) == ["baseline"]
    assert "optimistic" not in metrics
    copy = shutil.copytree(folder, tmp_path / "copy")
    named = "stack.members=[baseline,baseline-round1]"
    done = stage_here(copy, "05_stack.py", *ENSEMBLE, named)
    assert done.returncode == 0, done.stderr
    assert "(OPTIMISTIC: so is the CV of baseline-round1)" in done.stdout
    metrics = json.loads((copy / "stacks/stack/metrics.json").read_text())
    assert sorted(metrics["members"]) == ["baseline", "baseline-round1"]
    assert metrics["optimistic"] is True
    again = stage_here(copy, "05_stack.py", *ENSEMBLE, named)
    assert "up to date" in again.stdout
    assert "OPTIMISTIC" in again.stdout
    done = stage_here(copy, "06_submit.py", *ENSEMBLE)
    assert "OPTIMISTIC" in done.stdout
    assert json.loads((copy / "submissions/stack.json").read_text())["optimistic"] is True


def test_a_pupil_of_an_optimistic_teacher_is_marked(flattered, stage_here, tmp_path):
    import shutil

    copy = shutil.copytree(flattered[0], tmp_path / "copy")
    write_config(copy, "pupil", "base: baseline\ndistill: {teacher: baseline-round1}\n")
    for script in ("02_train.py", "03_oof_predict.py"):
        done = stage_here(copy, script, "train.ema.enabled=false", config="pupil")
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if " accuracy 0." in line]
        assert lines
        assert all("OPTIMISTIC: it learned from baseline-round1" in line for line in lines)
