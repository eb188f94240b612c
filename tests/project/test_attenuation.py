"""What a stack is worth once each run's folds are averaged, which OOF rows do not show: against simulations
in which all is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_stack import write_runs

from src.config import Config
from src.ensemble.attenuation import (
    FEWEST_TEST_ROWS,
    NOISE_ROWS,
    AveragedScore,
    correlation,
    variance_between_folds,
)
from src.ensemble.choice import against_default, choose_candidate, holds_when_averaged
from src.ensemble.members import find_members
from src.ensemble.stack import build_stack
from src.ensemble.tables import read_fold_predictions
from src.steps import stack_step
from src.tasks import create_task

FOLDS = 4


def run_of(rng, signal: np.ndarray, noise: float, bias: float, models: int) -> np.ndarray:
    """(models, N): what each model says. The run's own mistake they share, the noise is each one's own."""
    shared = signal + bias * rng.normal(size=len(signal))
    return shared + noise * rng.normal(size=(models, len(signal)))


def test_the_correlation_of_a_mean_is_told_from_one_model_a_row():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40_000)
    models = run_of(rng, truth, noise=1.5, bias=0.7, models=FOLDS)
    alone, mean = models[0], models.mean(0)
    told = correlation(alone, truth, variance_between_folds([m[:, None] for m in models])[0], FOLDS)
    assert told == pytest.approx(np.corrcoef(mean, truth)[0, 1], abs=0.01)
    assert told > np.corrcoef(alone, truth)[0, 1] + 0.15
    # in closed form: signal 1, the run's mistake .49, noise 2.25 / 4
    assert told == pytest.approx(1 / np.sqrt(1 + 0.49 + 2.25 / 4), abs=0.01)


def test_without_noise_it_is_the_plain_correlation_of_what_is_known():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=200)
    said = truth + rng.normal(size=200)
    assert correlation(said, truth, 0.0, FOLDS) == pytest.approx(np.corrcoef(said, truth)[0, 1])
    known = truth.copy()
    known[::3] = np.nan
    rest = np.isfinite(known)
    assert correlation(said, known, 0.0, FOLDS) == pytest.approx(np.corrcoef(said[rest], truth[rest])[0, 1])
    assert correlation(np.ones(200), truth, 0.0, FOLDS) is None
    assert correlation(said, np.ones(200), 0.0, FOLDS) is None


def test_more_noise_than_there_is_to_see_leaves_the_share_of_a_mean():
    """Test rows may be noisier than OOF rows; no correlation is divided by nothing."""
    rng = np.random.default_rng(2)
    truth = rng.normal(size=500)
    said = truth + rng.normal(size=500)
    noise = 3 * said.var()
    plain = np.corrcoef(said, truth)[0, 1]
    assert correlation(said, truth, noise, FOLDS) == pytest.approx(plain * np.sqrt(FOLDS / 3))


def test_between_is_the_unbiased_variance_of_the_folds_at_the_mean_of_the_rows():
    rng = np.random.default_rng(3)
    parts = list(rng.normal(size=(FOLDS, 30, 2)).astype(np.float32))
    by_hand = [[np.var([part[row, c] for part in parts], ddof=1) for row in range(30)] for c in range(2)]
    np.testing.assert_allclose(variance_between_folds(parts), np.mean(by_hand, axis=1), rtol=1e-5)


@pytest.fixture(scope="module")
def scene():
    """A run whose models are noisy but share few mistakes, and one of less noise and more mistakes: a blend
    of them is better a model at a time, and worse once each run's folds are averaged."""
    rng = np.random.default_rng(4)
    truth = rng.normal(size=4000)
    noisy, steady = run_of(rng, truth, 1.0, 0.3, FOLDS), run_of(rng, truth, 0.4, 1.3, FOLDS)
    weights = {"best single": 1.0, "mean": 0.5, "linear": 0.6}
    test = {name: share * noisy + (1 - share) * steady for name, share in weights.items()}
    oof = {name: models[0][:, None] for name, models in test.items()}
    noise = {name: variance_between_folds([m[:, None] for m in models]) for name, models in test.items()}
    fold = np.arange(4000) % FOLDS
    return truth[:, None], fold, oof, test, AveragedScore(oof, truth[:, None], fold, noise)


TASK = create_task(Config(task={"name": "regression", "metric": "spearman"}))


def test_a_gain_that_averaging_the_folds_brings_anyway_is_none(scene):
    truth, fold, oof, test, averaged = scene

    def score(said: np.ndarray) -> float:
        return float(np.corrcoef(said, truth[:, 0])[0, 1])

    one = {name: score(said[:, 0]) for name, said in oof.items()}
    all_folds = {name: score(models.mean(0)) for name, models in test.items()}
    assert one["linear"] > one["mean"] > one["best single"] + 0.01  # what CV sees
    assert all_folds["best single"] > all_folds["linear"] + 0.01 > all_folds["mean"] + 0.01  # what is sent
    for name, value in all_folds.items():
        assert np.mean(averaged(name)) == pytest.approx(value, abs=0.01)
    assert choose_candidate(TASK, oof, truth, fold)[0] == "linear"
    assert choose_candidate(TASK, oof, truth, fold, averaged=averaged)[0] == "best single"
    assert against_default(TASK, oof, truth, fold)[0] == "mean"
    assert against_default(TASK, oof, truth, fold, averaged)[0] == "best single"


def test_what_is_better_by_both_is_kept(scene):
    truth, fold, oof, *_ = scene
    both = AveragedScore(oof, truth, fold, dict.fromkeys(oof, np.zeros(1)))  # folds that say the same
    assert choose_candidate(TASK, oof, truth, fold, averaged=both)[0] == "linear"
    unknown = AveragedScore(oof, truth, fold, {})
    assert unknown("linear") == []
    assert choose_candidate(TASK, oof, truth, fold, averaged=unknown) == choose_candidate(
        TASK, oof, truth, fold
    )


def test_of_one_run_its_mean_is_kept(scene):
    truth, fold, oof, *_ = scene
    same = {"mean": oof["linear"], "best single": oof["linear"]}
    known = AveragedScore(same, truth, fold, dict.fromkeys(same, np.full(1, 0.1)))
    assert choose_candidate(TASK, same, truth, fold, averaged=known)[0] == "mean"


def test_what_is_worse_by_less_than_an_error_is_not_refused():
    base = [0.50, 0.60, 0.55, 0.65]
    little, much = np.array([0.04, -0.03, 0.02, 0.0]), np.array([0.02, 0.01, 0.02, 0.01])
    assert little.mean() < little.std(ddof=1) / 2
    assert much.mean() > much.std(ddof=1) / 2
    assert holds_when_averaged({"base": base, "blender": list(base - little)}, "blender", "base")
    assert not holds_when_averaged({"base": base, "blender": list(base - much)}, "blender", "base")
    assert holds_when_averaged({"base": base, "blender": []}, "blender", "base")  # not known of the blender


def test_of_other_rows_nothing_is_told(scene):
    """The choice of a fold goes by the others alone: labels of its own rows change nothing."""
    truth, fold, oof, _, averaged = scene
    others, other = np.flatnonzero(fold != 0), truth.copy()
    other[fold == 0] = 99.0
    changed = AveragedScore(oof, other, fold, averaged.noise)
    assert changed("linear", others) == averaged("linear", others)
    assert changed("linear") != averaged("linear")


def tables(folder, members=2, folds=FOLDS, rows=FEWEST_TEST_ROWS, seed=0):
    """Runs with a test table a fold; gives their folders and what they say (K, M, T, C)."""
    rng, task = np.random.default_rng(seed), create_task(Config())
    said = rng.dirichlet(np.ones(3), size=(folds, members, rows)).astype(np.float32)
    paths = [folder / f"run{m}" for m in range(members)]
    for m, path in enumerate(paths):
        for k in range(folds):
            (path / f"fold{k}").mkdir(parents=True)
            ids = pd.DataFrame({"id": [str(i) for i in range(rows)]})
            table = ids.join(task.write(said[k, m], list("abc")))
            table.to_parquet(path / f"fold{k}" / "test.parquet")
    return paths, said


def test_the_first_test_rows_of_every_fold_are_read(tmp_path):
    paths, said = tables(tmp_path, rows=NOISE_ROWS + 7)
    found = read_fold_predictions(paths, np.arange(FOLDS), create_task(Config()), list("abc"))
    assert len(found) == FOLDS
    for mine, theirs in zip(found, said, strict=True):
        np.testing.assert_array_equal(mine, theirs[:, :NOISE_ROWS])


def test_too_few_rows_and_a_table_that_is_not_there_tell_nothing(tmp_path):
    few, _ = tables(tmp_path / "few", rows=FEWEST_TEST_ROWS - 1)
    assert read_fold_predictions(few, np.arange(FOLDS), create_task(Config()), list("abc")) == []
    lost, _ = tables(tmp_path / "lost")
    (lost[1] / "fold2" / "test.parquet").unlink()
    assert read_fold_predictions(lost, np.arange(FOLDS), create_task(Config()), list("abc")) == []


@pytest.mark.parametrize("told", [True, False], ids=["fold tables", "no fold tables"])
def test_a_stack_of_runs_reads_the_noise_off_their_fold_tables(tmp_path, told):
    """From the files of stage 03 to metrics.json; without the tables CV alone is asked."""
    rng = np.random.default_rng(5)
    signal = rng.normal(size=800)
    runs = [run_of(rng, signal, noise, bias, FOLDS) for noise, bias in ((1.0, 0.3), (0.4, 1.3))]
    fold, seen, unseen = np.arange(400) % FOLDS, slice(400), slice(400, 800)
    config = Config(
        root=tmp_path,
        task={"name": "regression", "metric": "spearman"},
        stack={"blenders": ("linear",), "calibrate": False},
    )
    task, labels = create_task(config), pd.DataFrame({"target": signal[seen].astype(str)})
    oof = [np.choose(fold, run[:, seen])[:, None] for run in runs]  # each row by its own fold's model
    test = [run[:, unseen].mean(0)[:, None] for run in runs]
    write_runs(tmp_path, task, ["y"], labels, fold, oof, test)
    for run, name in zip(runs, "ab" if told else "", strict=False):
        for k in range(FOLDS):
            folder = tmp_path / "runs" / name / f"fold{k}"
            folder.mkdir()
            ids = pd.DataFrame({"id": [f"t{i}" for i in range(400)]})
            ids.join(task.write(run[k, unseen][:, None], ["y"])).to_parquet(folder / "test.parquet")
    folders, _ = find_members(config)
    metrics = build_stack(stack_step(config, folders), config, task, folders, ["y"])
    rows = metrics["candidates"]
    assert rows["linear"]["cv"] > rows["best single"]["cv"] + 0.02
    assert metrics["kept"] == ("best single" if told else "linear")
    if not told:
        assert {row["averaged"] for row in rows.values()} == {None}
        return
    assert rows["linear"]["verdict"] == "worse than the best single once the folds are averaged"
    blends = {"best single": oof[0], "mean": (oof[0] + oof[1]) / 2}
    noises = {"best single": runs[0], "mean": (runs[0] + runs[1]) / 2}
    noise = {
        name: variance_between_folds([one[unseen][:, None] for one in run]) for name, run in noises.items()
    }
    by_hand = AveragedScore(blends, signal[seen][:, None], fold, noise)
    for name in blends:
        assert rows[name]["averaged"] == pytest.approx(np.mean(by_hand(name)), abs=1e-4)
