"""The second levels of numbers: each against an independent reference, and what all of them must keep."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import lightgbm as lgb
import numpy as np
import processes
import pytest
from conftest import ROOT
from scipy.optimize import minimize, minimize_scalar, nnls
from scipy.special import expit, log_softmax, softmax
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from src.config import Stack, UserError
from src.ensemble.blenders import base, calibration, fitter, linear, networks, restored
from src.ensemble.blenders.base import LevelData, apply_blender, fit_blender, nested_oof
from src.ensemble.blenders.networks import train
from src.ensemble.blenders.trees import examples

BLENDERS = ["mean", "rank_mean", "hill_climbing", "linear", "lightgbm", "mlp", "cnn", "calibration"]
LEARNERS = BLENDERS[2:]
KINDS = ["classes", "labels", "values"]
QUICK = Stack(max_rounds=40, patience=5)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    """Enough to go somewhere."""
    monkeypatch.setattr(networks, "EPOCHS", 12)


def level(
    kind: str, n: int = 160, outputs: int = 3, noises=(1.0, 0.5, 2.0), settings=QUICK, seed=7
) -> LevelData:
    """Members of several noises."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=(n, outputs))
    said = np.stack([signal + noise * random.normal(size=signal.shape) for noise in noises])
    oof, targets = {
        "classes": (softmax(2 * said, axis=2), np.eye(outputs)[signal.argmax(1)]),
        "labels": (expit(said), (signal > 0.3).astype(float)),
        "values": (50 + 20 * said, 50 + 20 * signal),
    }[kind]
    return LevelData(oof, targets, np.arange(n) % 4, kind, settings, seed)


def loss(rows: LevelData, p: np.ndarray) -> float:
    if rows.kind == "values":
        return ((p - rows.targets) ** 2).mean()
    if rows.kind == "classes":
        return log_loss(rows.targets.argmax(1), p)
    return np.mean([log_loss(t, q) for t, q in zip(rows.targets.T, p.T, strict=True)])


# --- what all of them keep ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLENDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_nested_predictions_are_those_of_a_loop_over_the_folds_by_hand(name, kind):
    rows = level(kind)
    found = nested_oof(fitter(name), rows)
    assert found.shape == rows.targets.shape
    for k in range(4):
        own, others = np.flatnonzero(rows.fold == k), np.flatnonzero(rows.fold != k)
        part = LevelData(rows.oof[:, others], rows.targets[others], rows.fold[others], kind, QUICK, 7)
        np.testing.assert_allclose(found[own], fitter(name)(part).apply(rows.oof[:, own]), rtol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_folds_own_labels_do_not_touch_its_predictions(name, kind):
    rows = level(kind)
    changed = rows.targets.copy()
    changed[rows.fold == 2] = np.random.default_rng(1).permutation(changed[rows.fold == 2])
    before, after = (nested_oof(fitter(name), rows.but(targets=y)) for y in (rows.targets, changed))
    np.testing.assert_array_equal(before[rows.fold == 2], after[rows.fold == 2])
    assert not np.array_equal(before[rows.fold == 1], after[rows.fold == 1])


@pytest.mark.parametrize("name", BLENDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_as_json_predicts_the_very_same(name, kind):
    rows = level(kind)
    fitted = fitter(name)(rows)
    again = restored(name, json.loads(json.dumps(fitted.as_json(), allow_nan=False)))
    np.testing.assert_array_equal(again.apply(rows.oof), fitted.apply(rows.oof))


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_output_falls_when_a_member_says_more_of_it(name, kind):
    rows = level(kind)
    fitted, before = fitter(name)(rows), rows.oof
    for member in range(3):
        said = before.copy()
        if kind == "values":
            said[member, :, 1] += 15.0
        else:
            said[member, :, 1] = expit(np.log(before[member, :, 1] / (1 - before[member, :, 1])) + 1.0)
            if kind == "classes":  # the others share what is left
                rest = 1 - said[member, :, 1]
                for c in (0, 2):
                    said[member, :, c] *= rest / (1 - before[member, :, 1])
        assert (fitted.apply(said)[:, 1] >= fitted.apply(before)[:, 1] - 1e-6).all(), (name, member)


@pytest.mark.parametrize("name", BLENDERS[2:-1])
@pytest.mark.parametrize("kind", KINDS)
def test_on_members_of_unlike_skill_every_learner_beats_the_mean(name, kind):
    rows = level(kind, n=600, noises=(0.6, 2.0, 3.0))
    assert loss(rows, nested_oof(fitter(name), rows)) < loss(rows, nested_oof(fitter("mean"), rows))


@pytest.mark.parametrize("name", LEARNERS)
def test_rows_whose_answer_is_not_known_teach_nothing(name):
    for kind in ("labels", "values"):
        rows = level(kind, outputs=3)
        unknown = np.random.default_rng(1).random(rows.targets.shape) < 0.3
        holes = rows.but(targets=np.where(unknown, np.nan, rows.targets))
        found = nested_oof(fitter(name), holes)
        assert np.isfinite(found).all()
        if name not in ("mlp", "cnn"):  # their scale is that of all words
            shouted = holes.but(oof=np.where(unknown, rows.oof.max(), rows.oof))
            first, second = (fitter(name)(one).as_json() for one in (holes, shouted))
            assert first == second


@pytest.mark.parametrize("name", LEARNERS)
def test_two_folds_leave_one_to_learn_from_which_stops_nobody(name):
    rows = level("labels")
    found = nested_oof(fitter(name), rows.but(fold=rows.fold % 2))
    assert np.isfinite(found).all()
    assert loss(rows, found) < np.log(2)


# --- one by one ---------------------------------------------------------------------------------------------


def test_ranks_are_scipys_among_the_rows_that_are_asked_together():
    rows = level("labels")
    found = fitter("rank_mean")(rows).apply(rows.oof)
    by_hand = np.mean([rankdata(one, axis=0) - 0.5 for one in rows.oof], axis=0) / 160
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)


def test_the_calibration_of_a_label_is_scikit_learns_logistic_regression_of_its_log_odds(monkeypatch):
    monkeypatch.setattr(calibration, "PENALTY", 0.0)
    rows = level("labels")
    found = calibration.fit(rows)
    for c in range(3):
        x = np.log(rows.oof / (1 - rows.oof)).mean(0)[:, c : c + 1]
        theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, rows.targets[:, c])
        assert found.slope[c] == pytest.approx(theirs.coef_[0, 0], rel=1e-3)
        assert found.bias[c] == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_the_calibration_of_numbers_is_the_least_squares_line(monkeypatch):
    monkeypatch.setattr(calibration, "PENALTY", 0.0)
    rows = level("values")
    found = calibration.fit(rows)
    for c in range(3):
        line = np.polyfit(rows.oof.mean(0)[:, c], rows.targets[:, c], 1)
        np.testing.assert_allclose([found.slope[c], found.bias[c]], line, rtol=1e-8)


def test_the_calibration_of_classes_finds_the_temperature_of_sharpened_logits(monkeypatch):
    monkeypatch.setattr(calibration, "PENALTY", 0.0)
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3))
    truth = np.array([random.choice(3, p=p) for p in softmax(logits, axis=1)])
    rows = LevelData(
        softmax(3 * logits, axis=1)[None], np.eye(3)[truth], np.arange(4000) % 4, "classes", QUICK, 0
    )
    found = calibration.fit(rows)
    alone = minimize_scalar(
        lambda t: -log_softmax(t * 3 * logits, axis=1)[np.arange(4000), truth].sum(), (0, 1)
    )
    assert found.slope[0] == pytest.approx(alone.x, abs=0.02)
    assert found.slope[0] == pytest.approx(1 / 3, abs=0.03)
    assert np.ptp(found.bias) < 0.1


def test_a_member_that_is_wrong_is_never_turned_round():
    for kind in KINDS:
        rows = level(kind, noises=(0.5,))
        against = {
            "values": lambda p: 100 - p,
            "labels": lambda p: 1 - p,
            "classes": lambda p: softmax(-np.log(p), axis=2),
        }
        found = calibration.fit(rows.but(oof=against[kind](rows.oof)))
        np.testing.assert_allclose(found.slope, calibration.SMALLEST_SLOPE)


@pytest.mark.parametrize("penalty", [1e-6, 30.0, 1e7])
@pytest.mark.parametrize("kind", KINDS)
def test_linear_shares_are_the_minimum_that_a_general_solver_finds(kind, penalty):
    rows = level(kind, noises=(1.0, 0.7, 3.0, 5.0))
    start, found = calibration.fit(rows), linear.fit_one(rows, penalty)
    x = calibration.terms(rows.oof, kind) * start.slope

    def value(raw, c=None):
        shares = softmax(raw)
        score = np.tensordot(shares, x, axes=1) + start.bias
        if kind == "classes":
            lost = -log_softmax(score, axis=1)[rows.targets > 0.5].sum()
        elif kind == "labels":
            lost = (np.logaddexp(0, score) - rows.targets * score)[:, c].sum()
        else:
            lost = ((score - rows.targets)[:, c] ** 2).sum() / rows.targets[:, c].var() / 2
        return lost + penalty / 2 * ((shares - 0.25) ** 2).sum()

    for c in range(1 if kind == "classes" else 3):
        theirs = minimize(value, np.zeros(4), args=(c,), tol=1e-10)
        ours = found.weights[:, c] / start.slope[c]
        assert value(np.log(ours + 1e-300), c) <= theirs.fun + 1e-6 * abs(theirs.fun)
        if penalty > 1:  # else it is flat near the edge
            np.testing.assert_allclose(ours, softmax(theirs.x), atol=3e-3)
        assert ours.sum() == pytest.approx(1)
        if penalty == 1e7:
            np.testing.assert_allclose(ours, 0.25, atol=1e-3)


def test_shares_of_numbers_are_non_negative_least_squares_with_a_row_that_wants_their_sum_to_be_one():
    rows = level("values", outputs=1, noises=(1.0, 0.7, 3.0))
    start, found = calibration.fit(rows), linear.fit_one(rows, 1e-9)
    x, y = (rows.oof[:, :, 0] * start.slope).T, rows.targets[:, 0] - start.bias
    theirs, _ = nnls(np.vstack([x, 1e7 * np.ones((1, 3))]), np.append(y, 1e7))
    np.testing.assert_allclose(found.weights[:, 0] / start.slope, theirs, atol=1e-4)


def test_the_penalty_is_the_one_that_loses_least_on_the_watched_folds():
    rows = level("labels")
    losses = []
    for penalty in linear.PENALTIES:
        fitted = [
            (linear.fit_one(rows.take(np.flatnonzero(rows.fold != k)), penalty), rows.fold == k)
            for k in range(4)
        ]
        losses.append(
            sum(loss(rows.take(np.flatnonzero(own)), one.apply(rows.oof[:, own])) for one, own in fitted)
        )
    best = linear.PENALTIES[int(np.argmin(losses))]
    np.testing.assert_array_equal(linear.fit(rows).weights, linear.fit_one(rows, best).weights)


@pytest.mark.parametrize("kind", KINDS)
def test_trees_are_lightgbm_called_as_its_manual_says_from_what_is_linear_on(kind):
    rows = level(kind)
    fitted = fitter("lightgbm")(rows)
    parameters = {
        "objective": "regression" if kind == "values" else "binary",
        "learning_rate": QUICK.learning_rate,
        "num_leaves": QUICK.num_leaves,
        "min_data_in_leaf": QUICK.min_data_in_leaf,
        "lambda_l2": 1.0,
        "monotone_constraints": [1, 1, 1],
        "seed": 7,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }

    def sets(part: LevelData, start) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        said = start.apply(part.oof)
        if kind == "classes":
            said = np.clip(said, 1e-5, 1 - 1e-5)
        first = said if kind == "values" else np.log(said / (1 - said))
        if kind == "classes":
            p = np.clip(part.oof, 1e-5, 1 - 1e-5)
            x = np.log(p / (1 - p)).reshape(3, -1).T
            return [(x, part.targets.ravel(), first.ravel())]
        words = part.oof if kind == "values" else np.log(part.oof / (1 - part.oof))
        return [(words[:, :, c].T, part.targets[:, c], first[:, c]) for c in range(3)]

    stopped = []
    for k in range(4):
        learned, watched = (rows.take(np.flatnonzero(w)) for w in (rows.fold != k, rows.fold == k))
        start = linear.start(learned)
        stopped.append([])
        for (x, y, first), (wx, wy, wfirst) in zip(sets(learned, start), sets(watched, start), strict=True):
            data = lgb.Dataset(x, y, init_score=first)
            watch = lgb.Dataset(wx, wy, reference=data, init_score=wfirst)
            stop = lgb.early_stopping(QUICK.patience, verbose=False)
            one = lgb.train(parameters, data, 40, valid_sets=[watch], callbacks=[stop])
            metric = "l2" if kind == "values" else "binary_logloss"
            before = ((wy - wfirst) ** 2).mean() if kind == "values" else log_loss(wy, expit(wfirst))
            stopped[-1].append(one.best_iteration if one.best_score["valid_0"][metric] < before else 0)
    rounds = np.median(stopped, axis=0).astype(int).tolist()
    assert list(fitted.rounds) == rounds
    assert max(rounds) > 0
    found = fitted.apply(rows.oof)
    raw = []
    for (x, y, first), n in zip(sets(rows, linear.start(rows)), rounds, strict=True):
        trees = (
            lgb.train(parameters, lgb.Dataset(x, y, init_score=first), n).predict(x, raw_score=True)
            if n
            else 0
        )
        raw.append(first + trees)
    if kind == "classes":
        p = expit(raw[0]).reshape(-1, 3)
        expected = p / p.sum(1, keepdims=True)
    else:
        expected = np.stack(raw, 1) if kind == "values" else expit(np.stack(raw, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_on_a_few_hundred_rows_lightgbms_own_defaults_lose_to_the_mean_and_ours_do_not():
    """Six columns that know little: 31 leaves and a hundred rounds learn the rows by heart."""
    rows = level("labels", n=300, outputs=1, noises=(2.5,) * 6, settings=Stack())

    def defaults(part: LevelData):
        x, y = part.oof[:, :, 0].T, part.targets[:, 0]
        booster = lgb.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lgb.Dataset(x, y), 100)
        return SimpleNamespace(apply=lambda said, extra=None: booster.predict(said[:, :, 0].T)[:, None])

    plain, theirs = (loss(rows, nested_oof(fit, rows)) for fit in (fitter("mean"), defaults))
    assert theirs > 1.1 * plain
    assert loss(rows, nested_oof(fitter("lightgbm"), rows)) < 1.01 * plain


def test_trees_that_gain_nothing_are_none_and_leave_what_is_linear():
    rows = level(
        "labels", settings=Stack(learning_rate=1.0, num_leaves=64, min_data_in_leaf=1, monotone=False)
    )
    rows = rows.but(targets=(np.random.default_rng(0).random(rows.targets.shape) < 0.5).astype(float))
    fitted = fitter("lightgbm")(rows)
    assert fitted.boosters == [None, None, None]
    np.testing.assert_array_equal(fitted.apply(rows.oof), linear.start(rows).apply(rows.oof))


def test_trees_may_fall_with_a_member_only_where_they_are_let_go():
    rows = level("labels", n=400)
    backward = rows.but(oof=np.concatenate([rows.oof, 1 - rows.oof[1:2]]))
    falls = {}
    for monotone in (True, False):
        fitted = fitter("lightgbm")(backward.but(settings=Stack(monotone=monotone)))
        said = backward.oof.copy()
        said[3] = expit(np.log(said[3] / (1 - said[3])) + 1.5)
        change = fitted.apply(said) - fitted.apply(backward.oof)
        falls[monotone] = (
            change - (fitted.start.apply(said) - fitted.start.apply(backward.oof)) < -1e-3
        ).any()
    assert falls[False]
    found = fitter("lightgbm")(backward)
    assert (found.apply(said) >= found.apply(backward.oof) - 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_extra_features_are_used_with_the_members_and_free_to_speak_either_way(kind):
    """A site where the members are always far off, and a number that lowers the target."""
    random = np.random.default_rng(0)
    rows = level(kind, n=800, settings=Stack(), noises=(1.0, 1.2))
    site, falling = random.integers(0, 2, 800), random.normal(size=800)
    if kind == "values":
        targets = rows.targets + 30 * site[:, None] - 15 * falling[:, None]
    else:
        targets = rows.targets.copy()
        targets[site == 1] = [1, 0, 0]
    rows = rows.but(targets=targets)
    with_extra = rows.but(extra=np.stack([site, falling], axis=1).astype(float), categories=(0,))
    blind, seeing = (nested_oof(fitter("lightgbm"), one) for one in (rows, with_extra))
    assert loss(with_extra, seeing) < 0.9 * loss(rows, blind)
    x, *_ = examples(with_extra, linear.start(with_extra))[0]
    columns = x.shape[1]
    assert columns == (2 + 2 + 1 if kind == "classes" else 2 + 2)
    if kind == "classes":
        np.testing.assert_array_equal(x[:6, 2:], [[site[i // 3], falling[i // 3], i % 3] for i in range(6)])
    fitted = fitter("lightgbm")(with_extra)
    again = restored("lightgbm", json.loads(json.dumps(fitted.as_json())))
    np.testing.assert_array_equal(
        again.apply(rows.oof, with_extra.extra), fitted.apply(rows.oof, with_extra.extra)
    )


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_without_an_epoch_is_what_is_linear_and_the_same_seed_trains_the_same(name, kind):
    from src.ensemble.blenders.cnn import CNN
    from src.ensemble.blenders.mlp import MLP

    rows = level(kind)
    cls = {"mlp": MLP, "cnn": CNN}[name]
    untrained = train(cls, rows, 0)
    np.testing.assert_allclose(untrained.apply(rows.oof), linear.start(rows).apply(rows.oof), rtol=1e-5)
    first, second = (train(cls, rows, 3).as_json() for _ in range(2))
    assert first == second
    assert first != train(cls, rows.but(seed=8), 3).as_json()
    watched = train(
        cls,
        rows.take(np.flatnonzero(rows.fold != 0)),
        networks.EPOCHS,
        rows.take(np.flatnonzero(rows.fold == 0)),
    )
    assert fitter(name)(rows).epochs == watched.epochs


def test_a_convolution_sees_its_neighbours_and_never_heeds_them_more_than_its_own():
    from src.ensemble.blenders.cnn import CNN

    rows = level("labels", n=400, outputs=5)
    targets = rows.targets.copy()
    targets[:, 1:] = np.maximum(targets[:, 1:], rows.targets[:, :-1])  # a label brings the next with it
    network = train(CNN, rows.but(targets=targets), 15)
    kernel = network.bend_in.detach().numpy()  # (H, M, 3)
    assert (kernel[:, :, 1] >= 0).all()
    assert (np.abs(kernel[:, :, [0, 2]]).sum(2) <= kernel[:, :, 1] + 1e-6).all()
    assert np.abs(kernel[:, :, 0]).max() > 0.01
    said = rows.oof.copy()
    said[:, :, 0] = 0.99
    change = np.abs(network.apply(said) - network.apply(rows.oof)).max(0)
    assert change[1] > 1e-4
    assert (change[2:] == 0).all()


def test_many_rows_are_learned_from_a_sample_and_predicted_in_parts(monkeypatch):
    monkeypatch.setattr(base, "_LEARNED", 9 * 100)
    monkeypatch.setattr(base, "_CHUNK", 9 * 7)
    rows, seen = level("values"), []

    def fit(part):
        seen.append(part)
        return fitter("mean")(part)

    fitted = fit_blender(fit, rows, np.arange(20, 160))
    assert len(seen[0].fold) == 100
    places = [int(np.flatnonzero((rows.targets == one).all(1))[0]) for one in seen[0].targets]
    assert places == sorted(places)
    assert min(places) >= 20
    np.testing.assert_allclose(apply_blender(fitted, rows, np.arange(160)), rows.oof.mean(0), rtol=1e-6)
    ranked = apply_blender(fitter("rank_mean")(rows), rows, np.arange(160))
    np.testing.assert_array_equal(ranked, fitter("rank_mean")(rows).apply(rows.oof))


def test_xgboost_that_is_not_there_is_asked_for_with_a_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xgboost", None)
    with pytest.raises(UserError, match="xgboost, which is not installed here; run `pip install xgboost`"):
        fitter("xgboost")(level("labels"))


@pytest.mark.parametrize("kind", KINDS)
def test_xgboost_where_it_is_installed_starts_from_what_is_linear_and_is_stored_as_json(kind):
    pytest.importorskip("xgboost", reason="no requirement of the project; Kaggle's image has it")
    rows = level(kind, n=400)
    fitted = fitter("xgboost")(rows)
    again = restored("xgboost", json.loads(json.dumps(fitted.as_json())))
    np.testing.assert_allclose(again.apply(rows.oof), fitted.apply(rows.oof), rtol=1e-6)
    assert loss(rows, nested_oof(fitter("xgboost"), rows)) < loss(rows, nested_oof(fitter("mean"), rows))


def test_a_kernel_imports_what_applies_a_stack_without_anything_heavy():
    heavy = ["torch", "pandas", "sklearn", "lightgbm", "scipy", "cv2"]
    code = f"import sys, src.ensemble.apply; print([name for name in {heavy!r} if name in sys.modules])"
    done = processes.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr
