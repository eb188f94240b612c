"""Honest validation, proven: no score may depend on the label of the row it is computed on, anywhere
upstream."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import BASELINE, forget_the_listings, write_config
from digits import write_competition
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from src.artifacts import write_json, write_parquet
from src.config import Config, Stack
from src.configfile import load_config
from src.data.prepare import prepare_dataset
from src.ensemble.blenders import fitter
from src.ensemble.blenders.base import LevelData, nested_oof
from src.pseudo.labels import label_round
from src.steps import folds_step, round_of
from src.tasks import create_task

SETTINGS = ("train.epochs=2", "train.ema.enabled=false", "pseudo.threshold=0.104", "pseudo.rounds=1")
STUDENT = """\
base: baseline
model: {backbone: test_efficientnet}
distill: {teacher: baseline, weight: 0.7, features: 1.0}
consistency: {threshold: 0.0, ramp_epochs: 0}
"""


def test_a_folds_labels_change_nothing_that_its_rows_are_scored_by(prepared, stage_here, tmp_path):
    """Permute the labels of fold 0's rows: fold 0's teacher, pupil and pseudo-label round must not move a
    bit.

    Early stopping on the fold itself, a teacher of another fold, or pseudo-labels of all folds would each
    move them.
    """
    permuted = shutil.copytree(prepared, tmp_path / "permuted")
    config = load_config(permuted / "configs/baseline.yaml", list(SETTINGS))
    forget_the_listings()
    step = folds_step(config)
    table = pd.read_csv(permuted / "data/folds.csv", dtype=str)
    mine = table["fold"] == "0"
    table.loc[mine, "target"] = np.random.default_rng(0).permutation(table.loc[mine, "target"])
    table.to_csv(permuted / "data/folds.csv", index=False, lineterminator="\n")
    step.done()
    tables = []
    for project in (prepared, permuted):
        write_config(project, "student", STUDENT)
        for script, name in (
            ("02_train.py", "baseline"),
            ("03_oof_predict.py", "baseline"),
            ("02_train.py", "student"),
            ("03_oof_predict.py", "student"),
            ("04_pseudo_label.py", "baseline"),
        ):
            own = ("train.ema.enabled=true",) if name == "student" else ()  # whom it is taught by, too
            done = stage_here(project, script, *SETTINGS, *own, config=name)
            assert done.returncode == 0, done.stderr
        runs = ("baseline", "student", "baseline-round1")
        tables.append(
            {
                run: pd.read_parquet(project / f"runs/{run}/fold0/oof.parquet").drop(columns="target")
                for run in runs
            }
        )
        others = pd.read_parquet(project / "runs/baseline/fold1/oof.parquet").drop(columns="target")
        tables[-1]["other fold"] = others
    for run in ("baseline", "student", "baseline-round1"):
        pd.testing.assert_frame_equal(tables[0][run], tables[1][run], check_exact=True)
    # the permutation was felt where it should be: by the model that learned from those rows
    assert not tables[0]["other fold"].equals(tables[1]["other fold"])


BALANCED = (
    "cv.stop_parts=2",
    "train.epochs=6",
    "train.ema.enabled=false",
    "pseudo.rounds=1",
    "pseudo.threshold=0.11",
    "pseudo.calibrate=true",
    "pseudo.cap=6",
    "pseudo.prior=weight",
)


def test_a_temperature_a_cap_and_the_class_prior_know_nothing_of_the_folds_labels(tmp_path, stage_here):
    """Give fold 0's rows other labels, and other shares of them: not a bit of what fold 0 does may move.

    A temperature fitted on all OOF rows would, and a prior counted over all rows.
    """
    project = tmp_path / "project"
    write_competition(project / "data" / "raw", n_train=140, n_test=60)
    write_config(project, "baseline", BASELINE)
    config = load_config(project / "configs/baseline.yaml", list(BALANCED))
    forget_the_listings()
    prepare_dataset(config)
    changed = Path(shutil.copytree(project, tmp_path / "changed"))
    forget_the_listings()
    step = folds_step(config.model_copy(update={"root": changed}))
    table = pd.read_csv(changed / "data/folds.csv", dtype=str)
    mine = table["fold"] == "0"
    table.loc[mine, "target"] = np.random.default_rng(0).choice(list("0123456789"), mine.sum(), p=SKEWED)
    table.to_csv(changed / "data/folds.csv", index=False, lineterminator="\n")
    step.done()
    for folder in (project, changed):
        for script in ("02_train.py", "03_oof_predict.py", "04_pseudo_label.py"):
            done = stage_here(folder, script, *BALANCED)
            assert done.returncode == 0, done.stderr

    def read(folder: Path, name: str) -> pd.DataFrame:
        return pd.read_parquet(folder / f"runs/{name}.parquet").drop(columns="target", errors="ignore")

    same = ("baseline/fold0/stop", "baseline-round1/fold0.pseudo", "baseline-round1/fold0/oof")
    for name in same:
        pd.testing.assert_frame_equal(read(project, name), read(changed, name), check_exact=True)
        assert not read(project, name.replace("fold0", "fold1")).equals(
            read(changed, name.replace("fold0", "fold1"))
        )
    # and all three did something: rows weigh differently, none has more than six, none is as sure as said
    told, said = read(project, "baseline-round1/fold0.pseudo"), read(project, "baseline/fold0/test")
    outputs = list("0123456789")
    assert told["pseudo.weight"].nunique() > 1
    assert told[outputs].idxmax(axis=1).value_counts().max() == 6
    before = said.set_index("id").loc[told["id"], outputs].max(axis=1)
    assert (np.abs(told["confidence"].to_numpy() - before.to_numpy()) > 1e-4).all()


SKEWED = np.array([0.5, 0.3, *[0.025] * 8])

# --- on pure noise, where any score above chance is a leak ---


def noise(seed: int, n: int = 300, features: int = 60):
    """Labels and features that have nothing to do with each other, folds, and unlabelled rows of the same
    kind."""
    random = np.random.default_rng(seed)
    y = random.permutation(np.arange(n) % 2)
    fold = np.zeros(n, int)
    for k, (_, rows) in enumerate(StratifiedKFold(5, shuffle=True, random_state=seed).split(y, y)):
        fold[rows] = k
    return y, random.normal(size=(n, features)), random.normal(size=(n, features)), fold


def learn(x, y, weights=None):
    return LogisticRegression(C=1.0, max_iter=500).fit(x, y, sample_weight=weights)


def beyond_chance(scores) -> float:
    """How many standard errors the mean AUC lies above one half."""
    return (np.mean(scores) - 0.5) / (np.std(scores, ddof=1) / np.sqrt(len(scores)))


def pseudo_label_oof(tmp_path, seed: int, everybody: bool) -> float:
    """AUC of a pseudo-label round on noise, labels chosen by our own stage; `everybody` asks for the usual
    leak."""
    y, x, unlabelled, fold = noise(seed)
    root = tmp_path / f"{seed}{everybody}"
    source = "ensemble" if everybody else "fold"
    config = Config(root=root, name="base", pseudo={"threshold": 0.6, "source": source})  # noise: none surer
    outputs, ids = ["a", "b"], [f"t{i}" for i in range(len(unlabelled))]
    write_json(root / "data/dataset.json", {"outputs": outputs})
    models = [learn(x[fold != k], y[fold != k]) for k in range(5)]
    said = [model.predict_proba(unlabelled) for model in models]
    for k in range(5):
        table = pd.DataFrame(said[k], columns=outputs)
        table.insert(0, "id", ids)
        write_parquet(root / f"runs/base/fold{k}/test.parquet", table)
    run = round_of(config, 1)
    label_round(run, create_task(config), tuple(range(5)))
    oof = np.zeros(len(y))
    for k in range(5):
        chosen = pd.read_parquet(run.pseudo_labels(k))
        rows = chosen["id"].str[1:].astype(int).to_numpy()
        both = np.vstack([x[fold != k], unlabelled[rows]])
        labels = np.concatenate([y[fold != k], chosen[outputs].to_numpy().argmax(1)])
        oof[fold == k] = learn(both, labels).predict_proba(x[fold == k])[:, 1]
    return roc_auc_score(y, oof)


def test_pseudo_labels_of_the_same_fold_stay_at_chance_on_noise(tmp_path):
    honest = [pseudo_label_oof(tmp_path, seed, everybody=False) for seed in range(12)]
    assert abs(beyond_chance(honest)) < 3


def test_pseudo_labels_of_all_folds_would_not(tmp_path):
    """With the ensemble's labels the same round scores far above chance on noise: hence the mark of
    `pseudo.source=ensemble`."""
    leaking = [pseudo_label_oof(tmp_path, seed, everybody=True) for seed in range(12)]
    assert np.mean(leaking) > 0.55
    assert beyond_chance(leaking) > 5


@cache
def ignorant(seed: int, classes: int):
    """(4, N, C) OOF predictions of four members that know nothing, labels and folds."""
    random = np.random.default_rng(1000 + seed)
    y, fold = np.random.default_rng(seed).permutation(np.arange(300) % classes), np.zeros(300, int)
    for k, (_, rows) in enumerate(StratifiedKFold(5, shuffle=True, random_state=seed).split(y, y)):
        fold[rows] = k
    oof = np.zeros((4, len(y), classes))
    for member in range(4):
        x = random.normal(size=(len(y), 60))
        for k in range(5):
            oof[member, fold == k] = learn(x[fold != k], y[fold != k]).predict_proba(x[fold == k])
    return oof, y, fold


def level_two(seed: int, stack, classes: int = 2) -> float:
    """AUC of a stack over members that know nothing, at the mean of the folds and of several classes."""
    oof, y, fold = ignorant(seed, classes)
    said = stack(oof, y, fold)
    said = said[:, -1:] if classes == 2 else said
    which = [1] if classes == 2 else range(classes)
    parts = [(y[fold == k], said[fold == k]) for k in range(5)]
    return np.mean([roc_auc_score(t == c, p[:, i]) for t, p in parts for i, c in enumerate(which)])


def of(name: str, kind: str, monotone: bool = True):
    """A blender's nested predictions."""

    def stack(oof, y, fold):
        targets = np.eye(oof.shape[2])[y]
        if kind != "classes":
            oof, targets = oof[:, :, 1:], targets[:, 1:]
        return nested_oof(fitter(name), LevelData(oof, targets, fold, kind, Stack(monotone=monotone), 0))

    return stack


def free_logistic(oof, y, fold):
    """The usual second level: any weights, either sign, cross-validated on the same folds."""
    columns = np.log(oof[:, :, 1] / oof[:, :, 0]).T
    result = np.zeros(oof.shape[1:])
    for k in np.unique(fold):
        result[fold == k] = learn(columns[fold != k], y[fold != k]).predict_proba(columns[fold == k])
    return result


LEARNERS = ["hill_climbing", "linear", "lightgbm", "mlp"]


@pytest.mark.parametrize(
    ("name", "kind", "classes"),
    [
        *((name, "labels", 2) for name in LEARNERS),
        *((name, "values", 2) for name in LEARNERS),
        *((name, "classes", 3) for name in [*LEARNERS, "cnn"]),
    ],
)
def test_every_rival_stays_at_chance_on_members_that_know_nothing(name, kind, classes):
    assert beyond_chance([level_two(seed, of(name, kind), classes) for seed in range(24)]) < 2.5


def test_a_free_second_level_would_not():
    """The plant: OOF columns know the labels of the fold that is scored, and a free second level learns just
    that."""
    assert beyond_chance([level_two(seed, free_logistic) for seed in range(36)]) > 3.5


@pytest.mark.parametrize("changed", [1, 2])
def test_the_selection_of_a_fold_reads_that_folds_predictions_alone(changed, tmp_path):
    config = Config(root=tmp_path, name="base", cv={"n_folds": 3})
    outputs, ids = ["a", "b"], [f"t{i}" for i in range(50)]
    write_json(tmp_path / "data/dataset.json", {"outputs": outputs})

    def write(k, seed):
        p = np.random.default_rng(seed).random(50)
        write_parquet(
            tmp_path / f"runs/base/fold{k}/test.parquet", pd.DataFrame({"id": ids, "a": p, "b": 1 - p})
        )

    for k in range(3):
        write(k, k)
    run = round_of(config, 1)
    label_round(run, create_task(config), (0, 1, 2))
    before = [run.pseudo_labels(k).read_bytes() for k in range(3)]
    write(changed, 100)
    label_round(run, create_task(config), (0, 1, 2))
    same = [run.pseudo_labels(k).read_bytes() == before[k] for k in range(3)]
    assert same == [k != changed for k in range(3)]
