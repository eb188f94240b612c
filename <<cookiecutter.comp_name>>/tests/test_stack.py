"""The stack against loops done by hand, and which runs may be members."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from src.artifacts import digest
from src.config import Config, Stack, UserError
from src.ensemble.boosting import Stacker, column, examples, features, fit, stack_oof
from src.ensemble.choice import against_mean, best_member, best_single_oof, choose
from src.ensemble.members import find_members
from src.ensemble.stack import build_stack, load_tables
from src.steps import stack_step
from src.tasks import create_task

TASK = create_task(Config())


def members(n: int = 240, classes: int = 3, skills: tuple[float, ...] = (1.0, 2.0, 0.5), seed: int = 0):
    """(M, N, C) probabilities of members of several skills, labels and folds."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.arange(n) % classes)
    logits = random.normal(size=(len(skills), n, classes))
    for m, skill in enumerate(skills):
        logits[m, np.arange(n), truth] += skill
    oof = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    return oof, truth, np.arange(n) % 4


def one_hot(truth: np.ndarray) -> np.ndarray:
    """(N, 3) targets of class numbers."""
    return np.eye(3)[truth]


def test_features_are_each_members_log_odds_of_each_class_of_each_row():
    oof, truth, _ = members(n=5)
    ((x, y),) = examples(oof, one_hot(truth), "classes")
    np.testing.assert_array_equal(x, features(oof))
    for row in range(5):
        for c in range(3):
            odds = [np.log(oof[m, row, c] / (1 - oof[m, row, c])) for m in range(3)]
            np.testing.assert_allclose(x[row * 3 + c], odds)
            assert y[row * 3 + c] == (truth[row] == c)


def test_a_certain_member_gives_no_infinite_feature():
    oof, _, _ = members(n=5)
    oof[0, 0] = [1.0, 0.0, 0.0]
    assert np.isfinite(features(oof)).all()
    assert np.isfinite(column(oof, 0, "labels")).all()


def test_stacked_predictions_equal_a_loop_over_the_folds_by_hand():
    oof, truth, fold = members()
    settings = Stack(max_rounds=40)
    targets = one_hot(truth)
    result, _ = stack_oof(oof, targets, fold, "classes", settings, seed=0)
    for k in range(4):
        watch, scored = fold == (k + 1) % 4, fold == k
        learned = ~(watch | scored)
        stopper = oof[:, watch], targets[watch]
        first = fit(oof[:, learned], targets[learned], "classes", settings, 0, None, stopper)
        rounds = [first.boosters[0].best_iteration or 40]
        last = fit(oof[:, ~scored], targets[~scored], "classes", settings, 0, rounds)
        np.testing.assert_array_equal(result[scored], last.apply(oof[:, scored]))


def test_a_folds_labels_do_not_touch_its_stacked_predictions():
    oof, truth, fold = members()
    changed = truth.copy()
    changed[fold == 2] = np.random.default_rng(1).permutation(changed[fold == 2])
    before, after = (
        stack_oof(oof, one_hot(y), fold, "classes", Stack(max_rounds=40), 0)[0] for y in (truth, changed)
    )
    np.testing.assert_array_equal(before[fold == 2], after[fold == 2])
    assert not np.array_equal(before[fold == 1], after[fold == 1])


def test_the_booster_never_falls_when_a_member_grows_surer():
    oof, truth, _ = members()
    booster = fit(oof, one_hot(truth), "classes", Stack(), 0, [60]).boosters[0]
    grid = np.linspace(-8, 8, 50)
    for member in range(3):
        x = np.zeros((50, 3))
        x[:, member] = grid
        values = booster.predict(x)
        assert (np.diff(values) >= 0).all()
        assert values[-1] > values[0]


def test_stacked_rows_are_probabilities():
    oof, truth, fold = members()
    result, _ = stack_oof(oof, one_hot(truth), fold, "classes", Stack(), 0)
    np.testing.assert_allclose(result.sum(1), 1)
    assert ((result >= 0) & (result <= 1)).all()


def test_the_same_seed_gives_the_same_stack():
    oof, truth, fold = members()
    first, second = (stack_oof(oof, one_hot(truth), fold, "classes", Stack(), 0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


# --- labels, each on its own, and numbers -------------------------------------------------------------------


def voices(kind: str, n: int = 240, outputs: int = 2, noises: tuple[float, ...] = (1.0, 0.5, 2.0)):
    """(M, N, C) members of several noises on labels (as probabilities) or numbers, (N, C) targets, folds."""
    random = np.random.default_rng(7)
    signal = random.normal(size=(n, outputs))
    oof = np.stack([signal + noise * random.normal(size=signal.shape) for noise in noises])
    if kind == "labels":
        return 1 / (1 + np.exp(-oof)), (signal > 0.3).astype(float), np.arange(n) % 4
    return 50 + 20 * oof, 50 + 20 * signal, np.arange(n) % 4


def by_hand(x, y, rounds: int, kind: str, settings: Stack, watch=None):
    """LightGBM called as its manual says, with nothing of ours between."""
    import lightgbm as lgb

    parameters = {
        "objective": {"labels": "binary", "values": "regression"}[kind],
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.num_leaves,
        "min_data_in_leaf": settings.min_data_in_leaf,
        "lambda_l2": 1.0,
        "monotone_constraints": [1] * x.shape[1],
        "seed": 0,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }
    data = lgb.Dataset(x, y)
    more = {}
    if watch is not None:
        more["valid_sets"] = [lgb.Dataset(*watch, reference=data)]
        more["callbacks"] = [lgb.early_stopping(settings.patience, verbose=False)]
    return lgb.train(parameters, data, rounds, **more)


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_labels_and_numbers_are_stacked_one_by_one_as_a_loop_over_outputs_and_folds_would(kind):
    oof, targets, fold = voices(kind)
    settings = Stack(max_rounds=40, patience=5)
    result, rounds = stack_oof(oof, targets, fold, kind, settings, seed=0)
    assert result.shape == targets.shape
    stopped = np.zeros((4, 2))
    for c in range(2):
        words = oof[:, :, c].T  # (N, M)
        if kind == "labels":
            words = np.log(words / (1 - words))
        for k in range(4):
            scored, watched = fold == k, fold == (k + 1) % 4
            learned = ~scored & ~watched
            watch = words[watched], targets[watched, c]
            first = by_hand(words[learned], targets[learned, c], 40, kind, settings, watch)
            stopped[k, c] = first.best_iteration or 40
            last = by_hand(words[~scored], targets[~scored, c], int(stopped[k, c]), kind, settings)
            np.testing.assert_allclose(result[scored, c], last.predict(words[scored]), rtol=1e-9)
    assert rounds == np.median(stopped, axis=0).astype(int).tolist()


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_a_stack_of_several_voices_beats_the_best_of_them(kind):
    oof, targets, fold = voices(kind, n=800)
    result, _ = stack_oof(oof, targets, fold, kind, Stack(), 0)
    best = min(((member - targets) ** 2).mean() for member in oof)
    assert ((result - targets) ** 2).mean() < best


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_rows_whose_answer_is_not_known_teach_nothing(kind):
    oof, targets, fold = voices(kind)
    unknown = np.random.default_rng(1).random(targets.shape) < 0.3
    holes = np.where(unknown, np.nan, targets)
    for c, (x, y) in enumerate(examples(oof, holes, kind)):
        known = ~unknown[:, c]
        np.testing.assert_array_equal(x, column(oof, c, kind)[known])
        np.testing.assert_array_equal(y, targets[known, c])
    result, _ = stack_oof(oof, holes, fold, kind, Stack(max_rounds=40), 0)
    assert np.isfinite(result).all()
    shouted = np.where(unknown, oof.max(), oof)  # the members' words on those cells
    first, second = (fit(words, holes, kind, Stack(), 0, [20, 20]) for words in (oof, shouted))
    assert first.as_json() == second.as_json()


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_a_folds_own_labels_do_not_touch_its_stacked_labels_or_numbers(kind):
    oof, targets, fold = voices(kind)
    changed = targets.copy()
    changed[fold == 2] = np.random.default_rng(1).permutation(changed[fold == 2])
    before, after = (stack_oof(oof, y, fold, kind, Stack(max_rounds=40), 0)[0] for y in (targets, changed))
    np.testing.assert_array_equal(before[fold == 2], after[fold == 2])
    assert not np.array_equal(before[fold == 1], after[fold == 1])


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_no_booster_falls_when_a_member_says_more(kind):
    oof, targets, _ = voices(kind)
    for booster in fit(oof, targets, kind, Stack(), 0, [60, 60]).boosters:
        for member in range(3):
            x = np.full((50, 3), 50.0 if kind == "values" else 0.0)
            x[:, member] = np.linspace(0, 100, 50) if kind == "values" else np.linspace(-8, 8, 50)
            values = booster.predict(x)
            assert (np.diff(values) >= 0).all()
            assert values[-1] > values[0]


@pytest.mark.parametrize("kind", ["classes", "labels", "values"])
def test_a_stacker_read_back_from_json_predicts_the_very_same(kind):
    if kind == "classes":
        oof, truth, _ = members()
        targets, rounds = one_hot(truth), [30]
    else:
        (oof, targets, _), rounds = voices(kind), [30, 20]
    stacker = fit(oof, targets, kind, Stack(), 0, rounds)
    again = Stacker.from_json(json.loads(json.dumps(stacker.as_json())))
    assert again.kind == kind
    np.testing.assert_array_equal(again.apply(oof), stacker.apply(oof))
    np.testing.assert_array_equal(again.gain(), stacker.gain())


def test_two_folds_are_stacked_with_all_rounds_for_none_is_left_to_stop_them():
    oof, targets, fold = voices("values")
    result, rounds = stack_oof(oof, targets, fold % 2, "values", Stack(max_rounds=15), 0)
    assert rounds == [15, 15]
    expected = fit(oof[:, fold % 2 == 1], targets[fold % 2 == 1], "values", Stack(), 0, [15, 15])
    np.testing.assert_array_equal(result[fold % 2 == 0], expected.apply(oof[:, fold % 2 == 0]))


# --- the choice ---------------------------------------------------------------------------------------------


def test_the_best_single_run_of_a_fold_is_the_one_that_is_best_on_the_others():
    oof, truth, fold = members(skills=(1.5, 1.4, 0.1))
    result = best_single_oof(TASK, oof, truth, fold)
    for k in range(4):
        scores = [(p[fold != k].argmax(1) == truth[fold != k]).mean() for p in oof]
        np.testing.assert_array_equal(result[fold == k], oof[int(np.argmax(scores))][fold == k])


def test_the_mean_is_kept_unless_another_beats_it_by_more_than_the_error():
    _, truth, fold = members(n=400)
    right = np.eye(3)[truth]

    def correct(share: np.ndarray) -> np.ndarray:
        """Predictions right in the given share of each fold's rows."""
        rank = np.arange(400) // 4 / 100
        return np.where((rank < share[fold])[:, None], right, np.roll(right, 1, axis=1))

    mean = correct(np.array([0.80, 0.80, 0.80, 0.80]))
    surely = correct(np.array([0.85, 0.86, 0.84, 0.85]))
    hardly = correct(np.array([0.90, 0.75, 0.85, 0.74]))
    assert choose(TASK, {"mean": mean, "lightgbm": surely}, truth, fold)[0] == "lightgbm"
    assert choose(TASK, {"mean": mean, "lightgbm": hardly}, truth, fold)[0] == "mean"
    assert (
        choose(TASK, {"mean": mean, "best single": surely, "lightgbm": mean}, truth, fold)[0] == "best single"
    )


def regression(metric: str):
    return create_task(Config(task={"name": "regression", "metric": metric}))


def test_where_lower_is_better_the_gain_over_the_mean_is_what_the_error_lost():
    oof, targets, fold = voices("values", outputs=1)
    candidates = {"mean": oof.mean(0), "lightgbm": oof[1]}
    gain, error = against_mean(regression("rmse"), candidates, "lightgbm", targets, fold)
    roots = [
        [np.sqrt(((c - targets)[fold == k] ** 2).mean()) for k in range(4)] for c in (oof.mean(0), oof[1])
    ]
    difference = np.subtract(*roots)
    assert gain == pytest.approx(difference.mean())
    assert error == pytest.approx(difference.std(ddof=1) / 2)
    assert best_member(regression("rmse"), oof, targets, fold) == 1
    assert against_mean(regression("rmse"), candidates, "mean", targets, fold) == (None, None)


def test_members_that_leave_the_metric_undefined_are_passed_over():
    """A network that says one number for all has no rank correlation."""
    oof, targets, fold = voices("values", outputs=1)
    task, flat = regression("spearman"), np.full_like(oof[0], 3.0)
    assert best_member(task, np.stack([flat, oof[0], oof[1]]), targets, fold) == 2
    assert best_member(task, np.stack([flat, flat]), targets, fold) == 0
    candidates = {"mean": oof[0], "best single": flat}
    assert choose(task, candidates, targets, fold)[0] == "mean"


def test_what_the_choice_predicts_for_a_fold_was_chosen_without_it():
    oof, truth, fold = members(n=400, skills=(0.2, 2.5))
    candidates = {"mean": oof.mean(0), "best single": oof[1]}
    changed = truth.copy()
    changed[fold == 0] = np.roll(changed[fold == 0], 1)
    before, after = (choose(TASK, candidates, y, fold)[1] for y in (truth, changed))
    np.testing.assert_array_equal(before[fold == 0], after[fold == 0])


# --- on disk ---


@pytest.fixture
def project(tmp_path):
    """Three finished runs on the same folds, as 03 leaves them."""
    oof, truth, fold = members()
    (tmp_path / "data").mkdir()
    ids = [f"{i:03d}" for i in range(240)]
    pd.DataFrame({"id": ids, "fold": fold}).to_csv(tmp_path / "data/folds.csv", index=False)
    for m, name in enumerate(("a", "b", "c")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        table = pd.DataFrame({"id": ids, "fold": fold, "target": np.array(["x", "y", "z"])[truth]})
        table.join(pd.DataFrame(oof[m], columns=list("xyz"))).to_parquet(folder / "oof.parquet")
        test = pd.DataFrame(oof[m, :50], columns=list("xyz"))
        test.insert(0, "id", [f"t{i}" for i in range(50)])
        test.to_parquet(folder / "test.parquet")
        stamp = {
            "recipe": {"folds": digest(tmp_path / "data/folds.csv"), "task": {"name": "multiclass"}},
            "outputs": {"oof.parquet": {}, "test.parquet": {}},
        }
        (folder / "score.stamp.json").write_text(json.dumps(stamp))
    return tmp_path


def names(config):
    found, left_out = find_members(config)
    return [path.name for path in found], left_out


def test_members_are_all_finished_runs_or_those_that_are_named(project):
    assert names(Config(root=project))[0] == ["a", "b", "c"]
    assert names(Config(root=project, stack={"members": ("b", "c*")}))[0] == ["b", "c"]


def test_an_unfinished_run_or_one_on_other_folds_is_left_out_with_the_reason(project):
    (project / "runs/a/score.stamp.json").unlink()
    stamp = project / "runs/b/score.stamp.json"
    stamp.write_text(stamp.read_text().replace('"folds": "', '"folds": "other'))
    found, left_out = names(Config(root=project))
    assert found == ["c"]
    assert "a is left out: it is not finished" in left_out[0]
    assert "b is left out: it was trained on other folds" in left_out[1]


def test_a_rejected_round_is_left_out(project):
    (project / "runs/b/round.json").write_text(json.dumps({"kept": False}))
    (project / "runs/c/round.json").write_text(json.dumps({"kept": True}))
    assert names(Config(root=project))[0] == ["a", "c"]


def test_a_round_that_its_run_no_longer_makes_is_left_out(project):
    """Changed settings may end the rounds sooner; the later round of before is still on disk, and stale."""
    for old, new in (("b", "a-round1"), ("c", "a-round2")):
        (project / "runs" / old).rename(project / "runs" / new)
        (project / "runs" / new / "round.json").write_text(json.dumps({"kept": True}))
    report = {"rounds": [{"run": "a"}, {"run": "a-round1"}]}
    (project / "runs/a/pseudo.json").write_text(json.dumps(report))
    found, left_out = names(Config(root=project))
    assert found == ["a", "a-round1"]
    assert "a-round2 is left out: a pseudo-label round of earlier settings" in left_out[0]


def test_a_member_that_matches_no_run_is_refused_with_the_runs_there_are(project):
    with pytest.raises(UserError, match=r"'nobody' matches no run in runs/; there are a, b, c"):
        find_members(Config(root=project, stack={"members": ("nobody",)}))


def test_a_run_with_other_rows_is_refused(project):
    path = project / "runs/b/oof.parquet"
    pd.read_parquet(path).iloc[::-1].to_parquet(path)
    with pytest.raises(UserError, match="ids, folds or columns differ from a's"):
        load_tables([project / "runs" / name for name in "abc"], list("xyz"))


def test_the_stack_on_disk_scores_what_it_says_and_can_be_applied_again(project):
    config = Config(root=project)
    folders, _ = find_members(config)
    metrics = build_stack(stack_step(config, folders), config, TASK, folders, list("xyz"))
    folder = project / "stacks/stack"
    table = pd.read_parquet(folder / "oof.parquet")
    predicted = np.array(["x", "y", "z"])[table[list("xyz")].to_numpy().argmax(1)]
    assert metrics["cv"] == pytest.approx((predicted == table["target"]).mean())
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert set(metrics["candidates"]) == {"mean", "best single", "lightgbm"}
    stored = json.loads((folder / "stacker.json").read_text())
    assert stored["members"] == ["a", "b", "c"]
    test = [table[list("xyz")].to_numpy(float) for table in load_tables(folders, list("xyz"))[1]]
    again = Stacker.from_json(stored).apply(np.stack(test))
    if metrics["kept"] == "lightgbm":
        np.testing.assert_allclose(pd.read_parquet(folder / "test.parquet")[list("xyz")], again)
    np.testing.assert_allclose(again.sum(1), 1)
    assert stack_step(config, folders).fresh()
