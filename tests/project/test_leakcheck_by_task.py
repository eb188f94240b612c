"""make leakcheck on a competition each of many labels, of numbers and of masks; that of classes is in
test_leakcheck.py. Smaller than what a competitor runs, and for each a plant says that it is large enough."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import forget_the_listings
from leakchecks import check, check_again, copy_of, leaks

from src import scoring
from src.commands import permuted_labels
from src.decisions import Nested, fit_rule, take_rows
from src.inference import oof, snapshots
from src.inference.oof import predict_run
from src.steps import run_of

SMALL = {"ROWS": 96, "TEST_ROWS": 48, "FOLDS": 2}
STEPS = {"epochs": 15, "batch_size": 16}  # enough to learn 48 rows by heart
STAGES = {"rare": {"02", "03", "04", "05"}, "regression": {"02", "03", "04", "05"}}  # 02: of numbers alone


@pytest.fixture(scope="module", params=["rare", "regression", "segmentation"])
def checked(request, tmp_path_factory):
    """The command on a made competition, with fewer rows, folds and epochs."""
    quiet = permuted_labels.noise_config
    forget_the_listings()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(permuted_labels, name, value)

        def quieter(config, root):
            small = quiet(config, root)
            return small.model_copy(update={"train": small.train.model_copy(update=STEPS)})

        patch.setattr(permuted_labels, "noise_config", quieter)
        patch.setitem(permuted_labels.SHUFFLES, "numbers", 60)
        yield request.param, check(tmp_path_factory.mktemp(request.param), request.param)


def test_the_command_finds_no_leak(checked):
    made, found = checked
    assert (found.done.returncode, found.done.stderr) == (0, "")
    lines = [line.split() for line in found.done.stdout.splitlines() if " chance " in line]
    assert {line[1] for line in lines} == STAGES.get(made, {"03", "04", "05"})
    assert {"noise", "student", "noise-round1", "mean"} <= {line[2] for line in lines}


def test_a_model_that_has_learned_the_rows_it_predicts_is_caught(checked, tmp_path, monkeypatch):
    """Each fold is predicted by the other's model, as if folds had been mixed up: what it learned by heart
    must be enough to stand out."""
    _, found = checked
    planted = copy_of(found, tmp_path / "planted")
    forget_the_listings()
    load = snapshots.load_models
    monkeypatch.setattr(
        oof, "load_models", lambda folder: load(folder.with_name(f"fold{1 - int(folder.name[-1])}"))
    )
    for path in (planted.root / "runs/noise").glob("fold*/predict.stamp.json"):
        path.unlink()
    predict_run(run_of(planted), (0, 1))
    done = check_again(found, planted)
    assert done.returncode == 1
    assert ("03", "noise") in leaks(done), done.stdout


def test_thresholds_fitted_on_the_rows_they_decide_are_caught(checked, tmp_path, monkeypatch):
    made, found = checked
    if made != "rare":
        pytest.skip("its metric needs no threshold of each label")

    def in_sample(metric, truth, said, fold):
        rule = fit_rule(metric, truth, said)
        rows = {int(k): np.flatnonzero(fold == k) for k in np.unique(fold)}
        folds = [metric(take_rows(truth, own), rule.apply(take_rows(said, own))) for own in rows.values()]
        return Nested(metric(truth, rule.apply(said)), folds, dict.fromkeys(rows, rule))

    planted = copy_of(found, tmp_path / "planted")
    forget_the_listings()
    monkeypatch.setattr(scoring, "nested_score", in_sample)
    (planted.root / "runs/noise/score.stamp.json").unlink()
    predict_run(run_of(planted), (0, 1))
    monkeypatch.undo()
    done = check_again(found, planted)
    assert done.returncode == 1
    assert leaks(done) == [("03", "noise")], done.stdout
