"""The stack against loops done by hand, and which runs may be members."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax

from src.artifacts import Step, digest, write_json, write_parquet
from src.config import Config, UserError
from src.decisions import Rule, assemble, countable, nested_score, take_rows
from src.decisions import fit_rule as fit_rule
from src.ensemble import choice, report, stack
from src.ensemble.apply import apply_stack
from src.ensemble.attenuation import UNKNOWN
from src.ensemble.blenders import fitter
from src.ensemble.blenders.base import LevelData, nested_oof
from src.ensemble.boosting import Stacker
from src.ensemble.choice import against_default, best_member, best_single_oof, choose_candidate
from src.ensemble.members import find_members
from src.ensemble.pairs import apply_pairs
from src.ensemble.pixels import PixelStacker
from src.ensemble.stack import build_stack
from src.ensemble.tables import check_tables
from src.inference.average import rank_mean
from src.maps import Maps
from src.metrics.retrieval import Ranking
from src.steps import stack_step
from src.tasks import create_task
from src.tasks.base import Task, as_target_columns, targets_in

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


def voices(kind: str, n: int = 240, outputs: int = 2, noises: tuple[float, ...] = (1.0, 0.5, 2.0)):
    """(M, N, C) members of several noises on labels (as probabilities) or numbers, (N, C) targets, folds."""
    random = np.random.default_rng(7)
    signal = random.normal(size=(n, outputs))
    oof = np.stack([signal + noise * random.normal(size=signal.shape) for noise in noises])
    if kind == "labels":
        return 1 / (1 + np.exp(-oof)), (signal > 0.3).astype(float), np.arange(n) % 4
    return 50 + 20 * oof, 50 + 20 * signal, np.arange(n) % 4


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
    assert choose_candidate(TASK, {"mean": mean, "lightgbm": surely}, truth, fold)[0] == "lightgbm"
    assert choose_candidate(TASK, {"mean": mean, "lightgbm": hardly}, truth, fold)[0] == "mean"
    assert (
        choose_candidate(TASK, {"mean": mean, "best single": surely, "lightgbm": mean}, truth, fold)[0]
        == "best single"
    )


def test_a_mean_that_does_not_reach_the_best_single_run_is_not_what_the_others_have_to_beat():
    """One good member among bad ones: their mean is worse, if by less than an error."""
    _, truth, fold = members(n=400)
    right = np.eye(3)[truth]

    def correct(share: list[float]) -> np.ndarray:
        rank = np.arange(400) // 4 / 100
        return np.where((rank < np.array(share)[fold])[:, None], right, np.roll(right, 1, axis=1))

    mean, single = correct([0.80, 0.70, 0.80, 0.70]), correct([0.90, 0.75, 0.70, 0.69])
    hardly, surely = correct([0.91, 0.75, 0.71, 0.68]), correct([0.92, 0.77, 0.73, 0.71])
    candidates = {"mean": mean, "best single": single}
    base, gains = against_default(TASK, candidates, truth, fold)
    assert (base, gains["best single"]) == ("best single", (None, None))
    assert gains["mean"][0] == pytest.approx(-0.01)
    for blender, kept in ((hardly, "best single"), (surely, "lightgbm"), (mean, "best single")):
        assert choose_candidate(TASK, candidates | {"lightgbm": blender}, truth, fold)[0] == kept
    assert choose_candidate(TASK, {"mean": single, "best single": mean}, truth, fold)[0] == "mean"


def test_a_candidate_that_orders_each_fold_as_the_mean_does_has_no_gain_but_a_reason():
    """Ranks of one member: within a fold the same order, over all rows another AUC where folds differ."""
    task = create_task(Config(task={"name": "binary"}))
    random, fold = np.random.default_rng(0), np.arange(200) % 4
    truth = (random.random(200) < 0.5).astype(int)
    mean = expit(random.normal(size=200) + truth + fold)[:, None]
    ranks = mean.copy()
    for k in range(4):
        ranks[fold == k] = rank_mean(mean[fold == k][None])
    candidates = {"mean": mean, "rank_mean": ranks, "best single": mean}

    def cv(oof):
        return nested_score(task.metric, truth, oof, fold).score

    found = stack.verdicts(task, candidates, "mean", truth, fold, cv, UNKNOWN)
    assert found["rank_mean"]["cv"] > found["mean"]["cv"] + 0.01
    assert (found["rank_mean"]["gain"], found["rank_mean"]["gain_error"]) == (None, None)
    assert "each fold exactly as the mean" in found["rank_mean"]["verdict"]
    shown = report.table(
        {"metric": "roc_auc", "members": {}, "candidates": found, "left_out": {}, "cv_of_the_choice": None}
    )
    assert "0.0000" not in shown


def regression(metric: str):
    return create_task(Config(task={"name": "regression", "metric": metric}))


def test_where_lower_is_better_the_gain_over_the_mean_is_what_the_error_lost():
    oof, targets, fold = voices("values", outputs=1)
    candidates = {"mean": oof.mean(0), "lightgbm": oof[1]}
    base, gains = against_default(regression("rmse"), candidates, targets, fold)
    gain, error = gains["lightgbm"]
    roots = [
        [np.sqrt(((c - targets)[fold == k] ** 2).mean()) for k in range(4)] for c in (oof.mean(0), oof[1])
    ]
    difference = np.subtract(*roots)
    assert gain == pytest.approx(difference.mean())
    assert error == pytest.approx(difference.std(ddof=1) / 2)
    assert best_member(regression("rmse"), oof, targets, fold) == 1
    assert (base, gains["mean"]) == ("mean", (None, None))


def test_members_that_leave_the_metric_undefined_are_passed_over():
    """A network that says one number for all has no rank correlation."""
    oof, targets, fold = voices("values", outputs=1)
    task, flat = regression("spearman"), np.full_like(oof[0], 3.0)
    assert best_member(task, np.stack([flat, oof[0], oof[1]]), targets, fold) == 2
    assert best_member(task, np.stack([flat, flat]), targets, fold) == 0
    candidates = {"mean": oof[0], "best single": flat}
    assert choose_candidate(task, candidates, targets, fold)[0] == "mean"


# --- the choice, honest in every kind of prediction ---------------------------------------------------------

ROWS = 160
FOLD = np.arange(ROWS) % 4
NAMES = [f"w_{i}" for i in range(12)]


def classes_scene(rng):
    truth = rng.integers(0, 3, ROWS)
    noise = rng.normal(size=(ROWS, 3))
    say = lambda skill: softmax(noise + skill * np.eye(3)[truth], axis=1)  # noqa: E731
    return Config(), truth, (truth + 1) % 3, say


def labels_scene(rng):
    """Probabilities that are too low, so that thresholds matter."""
    truth = (rng.random((ROWS, 2)) < 0.3).astype(np.float64)
    noise = rng.normal(size=(ROWS, 2))
    say = lambda skill: expit(noise / skill**2 + 2 * truth - 2.5)  # noqa: E731
    return Config(task={"name": "multilabel", "metric": "f1_macro"}), truth, 1 - truth, say


def maps_scene(rng):
    """Masks of blocks, and levels that are too low."""
    masks = np.kron(rng.random((ROWS, 1, 3, 3)) < 0.4, np.ones((4, 4), bool))
    noise = rng.random(masks.shape)
    levels = lambda skill: np.clip(0.18 * skill * masks + 0.4 * noise, 0, 1) * 255  # noqa: E731
    say = lambda skill: Maps.of(levels(skill).astype(np.uint8))  # noqa: E731
    truth, other = (Maps.of(one * np.uint8(255)) for one in (masks, ~masks))
    return Config(task={"name": "segmentation"}), truth, other, say


def rankings_scene(rng):
    """Eight candidates of which one may be right; a quarter of the queries show someone new."""
    shown = np.array([rng.permutation(NAMES)[:8] for _ in range(ROWS)])
    truth = np.where(rng.random(ROWS) < 0.25, "new", shown[:, 0]).astype(object)
    noise = rng.normal(0.3, 0.15, shown.shape)

    def say(skill: float) -> Ranking:
        values = noise + 0.25 * skill * (shown == truth[:, None])
        order = np.argsort(-values, axis=1)
        labels, scores = (np.take_along_axis(one, order, 1).tolist() for one in (shown, values))
        return Ranking(labels, scores, "new")

    config = Config(task={"name": "retrieval"}, data={"new_label": "new"})
    return config, truth, np.roll(truth, 4), say


def inside(*folds: int) -> np.ndarray:
    return np.isin(FOLD, folds).nonzero()[0]


def outside(*folds: int) -> np.ndarray:
    return (~np.isin(FOLD, folds)).nonzero()[0]


SCENES = [classes_scene, labels_scene, maps_scene, rankings_scene]


def scene(make):
    """The task, what is true, something else in its place, and candidates: each is better than the mean in
    two of the folds and a little worse in the others, so that whom a fold chooses hangs on the others."""
    config, truth, other, say = make(np.random.default_rng(0))

    def good_in(*folds: int, better: float, worse: float):
        good, bad = inside(*folds), outside(*folds)
        return assemble([(good, take_rows(say(better), good)), (bad, take_rows(say(worse), bad))])

    candidates = {
        "mean": say(1.0),
        "lightgbm": good_in(0, 1, better=1.7, worse=0.95),
        "hill_climbing": good_in(1, 2, better=1.8, worse=0.96),
    }
    return create_task(config), truth, other, candidates


def rule_of_the_others(metric, truth, said, fold, k):
    others = np.flatnonzero(fold != k)
    return fit_rule(metric, take_rows(truth, others), take_rows(said, others))


def winner_by_hand(metric, truth, candidates, fold) -> str:
    """Fold by fold against the mean, each fold decided by a rule of the others."""
    scored = {}
    for name, said in candidates.items():
        own = {k: np.flatnonzero(fold == k) for k in np.unique(fold)}
        rules = {k: rule_of_the_others(metric, truth, said, fold, k) for k in own}
        decided = {k: rules[k].apply(take_rows(said, rows)) for k, rows in own.items()}
        scored[name] = np.array([metric(take_rows(truth, own[k]), decided[k]) for k in own])
    best, lead = "mean", 0.0
    for name in candidates:
        gains = metric.sign * (scored[name] - scored["mean"])
        if gains.mean() > max(lead, gains.std(ddof=1) / np.sqrt(len(gains))):
            best, lead = name, gains.mean()
    return best


def choose_by_hand(metric, truth, candidates, fold, calibrate=None) -> tuple[str, float, list[str]]:
    """Whom all folds choose; the score of rows that are each predicted by the candidate, and decided by the
    rule, that the other folds chose; and which candidates these are. `calibrate` gives the calibrated OOF
    predictions of one."""
    names, decided = [], {}
    every = dict(candidates)

    def winner(rows: np.ndarray) -> str:
        seen = {name: take_rows(said, rows) for name, said in candidates.items()}
        best = winner_by_hand(metric, take_rows(truth, rows), seen, fold[rows])
        if calibrate is None:
            return best
        title = f"{best}, calibrated"
        every[title] = calibrate(best)
        pair = {"mean": seen[best], title: take_rows(every[title], rows)}
        return title if winner_by_hand(metric, take_rows(truth, rows), pair, fold[rows]) == title else best

    for k in np.unique(fold):
        own = np.flatnonzero(fold == k)
        names.append(winner(np.flatnonzero(fold != k)))
        rule = rule_of_the_others(metric, truth, every[names[-1]], fold, k)
        decisions = rule.apply(take_rows(every[names[-1]], own))
        parts = zip(own.tolist(), range(len(own)), strict=True)
        decided |= {row: take_rows(decisions, np.array([place])) for row, place in parts}
    whole = assemble([(np.array([row]), one) for row, one in decided.items()])
    return winner(np.arange(len(fold))), metric(truth, whole), names


@pytest.mark.parametrize("make", SCENES)
def test_the_choice_and_its_score_are_those_of_a_loop_over_folds_that_looks_at_the_others_alone(make):
    task, truth, _, candidates = scene(make)
    kept, expected, names = choose_by_hand(task.metric, truth, candidates, FOLD)
    assert len(set(names)) > 1
    counted = {name: countable(task.metric, truth, said) for name, said in candidates.items()}
    for form in (candidates, counted):  # masks also as what they add to the metric
        found, honest = choose_candidate(task, form, truth, FOLD)
        assert (found, honest) == (kept, pytest.approx(expected, abs=1e-12))
    flattering = max(
        task.metric(truth, fit_rule(task.metric, truth, said).apply(said)) for said in candidates.values()
    )
    assert expected < flattering - 0.005


def same(first, second) -> bool:
    """Whether two predictions of the same rows are the same."""
    if isinstance(first, Ranking):
        return (first.labels, first.scores) == (second.labels, second.scores)
    return np.array_equal(getattr(first, "parts", first), getattr(second, "parts", second))


def choices(monkeypatch, task, truth, candidates) -> dict[int, tuple[str, Rule]]:
    """Fold by fold the candidate that predicts its rows, and the rule that decides them."""
    seen, counted = [], {name: countable(task.metric, truth, said) for name, said in candidates.items()}
    monkeypatch.setattr(choice, "mixed_score", lambda metric, truth, parts: seen.extend(parts))
    choose_candidate(task, counted, truth, FOLD)
    found = {}
    for rows, part, rule in seen:
        (name,) = [name for name, said in counted.items() if same(take_rows(said, rows), part)]
        found[int(FOLD[rows[0]])] = name, rule
    assert np.concatenate([rows for rows, _, _ in seen]).tolist() == np.argsort(FOLD, kind="stable").tolist()
    return found


@pytest.mark.parametrize("make", SCENES)
@pytest.mark.parametrize("k", [0, 2])
def test_what_the_choice_predicts_for_a_fold_was_chosen_without_it(make, k, monkeypatch):
    task, truth, other, candidates = scene(make)
    changed = assemble([(inside(k), take_rows(other, inside(k))), (outside(k), take_rows(truth, outside(k)))])
    before, after = (choices(monkeypatch, task, labels, candidates) for labels in (truth, changed))
    assert after[k] == before[k]
    assert any(after[f] != before[f] for f in range(4) if f != k)


# --- on disk ------------------------------------------------------------------------------------------------


def write_runs(root, task, outputs, labels, fold, oof: list, test: list) -> None:
    """Finished runs a, b, ... with these predictions, as 03 leaves them, on folds of as many rows."""
    ids = [f"{i:03d}" for i in range(len(fold))]
    (root / "data").mkdir()
    pd.DataFrame({"id": ids, "fold": fold}).to_csv(root / "data/folds.csv", index=False)
    write_json(root / "data/dataset.json", {"outputs": outputs})
    recipe = {"folds": digest(root / "data/folds.csv"), "task": {"name": task.name}}
    metrics = {"metric": task.metric.name, "cv": None, "standard_error": None, "folds": [], "rule": {}}
    for name, own, unseen in zip("abcdef", oof, test, strict=False):
        folder = root / "runs" / name
        folder.mkdir(parents=True)
        table = pd.DataFrame({"id": ids, "fold": fold}).join(as_target_columns(labels))
        table.join(task.write(own, outputs)).to_parquet(folder / "oof.parquet")
        asked = pd.DataFrame({"id": [f"t{i}" for i in range(len(unseen))]})
        asked.join(task.write(unseen, outputs)).to_parquet(folder / "test.parquet")
        write_json(folder / "metrics.json", metrics)
        Step("03 score", folder, ("oof.parquet", "test.parquet", "metrics.json"), recipe, "score").done()


@pytest.fixture
def project(tmp_path):
    """Three finished runs on the same folds, as 03 leaves them."""
    oof, truth, fold = members()
    labels = pd.DataFrame({"target": np.array(["x", "y", "z"])[truth]})
    write_runs(tmp_path, TASK, list("xyz"), labels, fold, list(oof), list(oof[:, :50]))
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
        check_tables([project / "runs" / name for name in "abc"], list("xyz"))


def again(folder: Path) -> None:
    """The stamp of what lies there now, as if stage 03 had written it."""
    stamp = json.loads((folder / "score.stamp.json").read_text())
    Step("03 score", folder, tuple(stamp["outputs"]), stamp["recipe"], "score").done()


def change(name: str, edit, stamped: bool = True):
    """A change of a table of a run, which its stamp may know of."""

    def damage(folder: Path) -> None:
        edit(pd.read_parquet(folder / name)).to_parquet(folder / name)
        if stamped:
            again(folder)

    return damage


def overwrite(name: str, content: bytes):
    """Other content in a file of a run."""
    return lambda folder: (folder / name).write_bytes(content)


def metrics_that_are_a_list(folder: Path) -> None:
    (folder / "metrics.json").write_text("[]")
    again(folder)


def cut_but_stamped(folder: Path) -> None:
    path = folder / "oof.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    again(folder)


DAMAGES = {
    "predictions that are no numbers": change("oof.parquet", lambda t: t.assign(y=np.nan)),
    "an infinite one for a test row": change("test.parquet", lambda t: t.assign(x=[np.inf] + [0.5] * 49)),
    "a column less": change("test.parquet", lambda t: t.drop(columns="z")),
    "a row less": change("oof.parquet", lambda t: t.iloc[1:]),
    "rows in another order": change("oof.parquet", lambda t: t.iloc[::-1]),
    "other folds": change("oof.parquet", lambda t: t.assign(fold=0)),
    "other test rows": change("test.parquet", lambda t: t.assign(id=[f"u{i}" for i in range(50)])),
    "values changed by hand": change("oof.parquet", lambda t: t.assign(x=t["y"]), stamped=False),
    "a table cut short": cut_but_stamped,
    "an empty table": overwrite("test.parquet", b""),
    "metrics that are a list": metrics_that_are_a_list,
}


@pytest.mark.parametrize("name", ["a", "b"])  # the first of all too, by which no other may be judged
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_run_is_left_out_with_its_file_or_refused_where_it_is_named(damage, name, project):
    images = pd.DataFrame({"set": ["train"] + ["test"] * 50, "id": ["000"] + [f"t{i}" for i in range(50)]})
    write_parquet(project / "data/cache/16px-pad/index.parquet", images)
    DAMAGES[damage](project / "runs" / name)
    with pytest.raises(UserError, match=rf"stack\.members names {name}\b.*runs/{name}/") as caught:
        find_members(Config(root=project, stack={"members": ("c", name)}))
    assert "runs/c" not in str(caught.value)
    found, left_out = names(Config(root=project, stack={"members": ("*",)}))
    assert found == [run for run in "abc" if run != name]
    assert left_out[0].startswith(f"{name} is left out")
    assert f"runs/{name}/" in left_out[0]


def test_a_damaged_stamp_makes_a_run_unfinished(project):
    (project / "runs/b/score.stamp.json").write_text("[]")
    found, left_out = names(Config(root=project))
    assert found == ["a", "c"]
    assert "b is left out: it is not finished" in left_out[0]


# --- from run folders to a stack that can be applied again --------------------------------------------------

OUTPUTS = {"numbers": ["x", "y", "z"], "maps": ["cell", "wall"], "rankings": NAMES}
SECOND = {
    "numbers": ["hill_climbing", "linear", "lightgbm", "mlp", "cnn"],
    "maps": ["weights", "lightgbm"],
    "rankings": ["lightgbm"],
}


def competition_of_numbers(root):
    """Three classes."""
    oof, truth, fold = members()
    labels = pd.DataFrame({"target": np.array(OUTPUTS["numbers"])[truth]})
    return Config(root=root), labels[:200], fold[:200], [(one[:200], one[200:]) for one in oof]


def competition_of_maps(root):
    """Three members that are good at one class, the other, or neither; files larger than what models see."""
    rng = np.random.default_rng(0)
    masks = np.kron(rng.random((44, 2, 3, 4)) < 0.4, np.ones((4, 4), bool))  # (44, 2, 12, 16)
    config = Config(root=root, task={"name": "segmentation"}, stack={"max_rounds": 30})
    members = []
    for noise in ((1.0, 3.0), (2.5, 1.0), (2.0, 2.0)):
        off = np.array(noise)[:, None, None] * rng.normal(size=masks.shape)
        levels = np.rint(255 * expit(3 * (2 * masks - 1.6 + off))).astype(np.uint8)
        members.append(Maps.of(levels).resized([(24, 32)] * 44))
    large = np.kron(masks, np.ones((2, 2), bool)) * np.uint8(255)
    labels = pd.DataFrame(Maps.of(large).cells, columns=OUTPUTS["maps"])[:36]
    return (
        config,
        labels,
        np.arange(36) % 3,
        [(one.take(slice(36)), one.take(slice(36, 44))) for one in members],
    )


def competition_of_rankings(root):
    """A member whose cosines tell much, one whose tell little, and one that knows half of the identities."""
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(150) < 0.2, "new", rng.choice(NAMES, 150)).astype(object)
    config = Config(
        root=root, task={"name": "retrieval"}, data={"new_label": "new"}, stack={"max_rounds": 30}
    )
    members = []
    for skill, known in ((0.5, 12), (0.1, 12), (0.3, 6)):
        cosines = rng.normal(0.3, 0.15, (150, known)) + skill * (np.array(NAMES[:known]) == truth[:, None])
        order = np.argsort(-cosines, axis=1)[:, :5]
        labels = np.array(NAMES)[order].tolist()
        members.append(Ranking(labels, np.take_along_axis(cosines, order, 1).tolist(), "new"))
    folds, rows = np.arange(120) % 3, np.arange(150)
    labels = pd.DataFrame({"target": truth[:120]})
    return config, labels, folds, [(one.take(rows[:120]), one.take(rows[120:])) for one in members]


@dataclass
class Stacked:
    """A project, what its stack left, and every candidate as it would be stored if it were kept."""

    config: Config
    task: Task
    folders: list[Path]
    metrics: dict
    stored: dict
    oof: pd.DataFrame
    test: pd.DataFrame
    candidates: dict[str, tuple[pd.DataFrame, pd.DataFrame]]

    def read(self, table: pd.DataFrame):
        return self.task.read(table, OUTPUTS[self.task.kind])

    def members(self, name: str) -> list:
        return [self.read(pd.read_parquet(folder / f"{name}.parquet")) for folder in self.folders]


@pytest.fixture(scope="module", params=[competition_of_numbers, competition_of_maps, competition_of_rankings])
def stacked(request, tmp_path_factory) -> Stacked:
    root = tmp_path_factory.mktemp("stacked")
    config, labels, fold, said = request.param(root)
    task = create_task(config)
    outputs = OUTPUTS[task.kind]
    write_runs(root, task, outputs, labels, fold, *map(list, zip(*said, strict=True)))
    folders, _ = find_members(config)
    folder, candidates = root / "stacks" / "stack", {}

    def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
        return pd.read_parquet(folder / "oof.parquet"), pd.read_parquet(folder / "test.parquet")

    for name in build_stack(stack_step(config, folders), config, task, folders, outputs)["candidates"]:
        with mock.patch.object(stack, "choose_candidate", return_value=(name, 0.0)):
            build_stack(stack_step(config, folders), config, task, folders, outputs)
        candidates[name] = tables()
    build_stack(stack_step(config, folders), config, task, folders, outputs)
    metrics, stored = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "stacker"))
    return Stacked(config, task, folders, metrics, stored, *tables(), candidates)


def alike(first, second) -> bool:
    """Whether two predictions for the same rows say the same."""
    if isinstance(first, Ranking):
        scores = np.concatenate(first.scores), np.concatenate(second.scores)
        return first.labels == second.labels and np.allclose(*scores)
    if isinstance(first, Maps):
        return first.sizes == second.sizes and all(map(np.array_equal, first, second))
    return np.allclose(first, second, atol=1e-6)


def test_a_stack_compares_the_mean_the_best_run_and_what_second_levels_there_are(stacked):
    names = [name for name in stacked.metrics["candidates"] if not name.endswith(", calibrated")]
    assert names == ["mean", *SECOND[stacked.task.kind], "best single"]
    calibrated = set(stacked.metrics["candidates"]) - set(names)
    plain = stacked.metrics["kept"].removesuffix(", calibrated")
    assert calibrated == ({f"{plain}, calibrated"} if stacked.task.kind == "numbers" else set())
    assert list(stacked.metrics["members"]) == stacked.stored["members"] == ["a", "b", "c"]
    assert stacked.stored["kind"] == stacked.task.stacking


def test_its_tables_have_the_rows_the_folds_and_the_targets_of_its_members(stacked):
    outputs = OUTPUTS[stacked.task.kind]
    mine, theirs = stacked.oof, pd.read_parquet(stacked.folders[0] / "oof.parquet")
    assert list(mine.columns) == list(theirs.columns)
    said = list(stacked.task.columns(outputs))
    pd.testing.assert_frame_equal(mine.drop(columns=said), theirs.drop(columns=said))
    assert list(stacked.test.columns) == ["id", *said]
    assert stacked.test["id"].tolist() == [f"t{i}" for i in range(len(stacked.test))]


def test_its_candidates_are_the_mean_and_the_best_run_of_the_other_folds(stacked):
    task, fold = stacked.task, stacked.oof["fold"].to_numpy()
    truth = task.truth(targets_in(stacked.oof), OUTPUTS[task.kind])
    members, tests = stacked.members("oof"), stacked.members("test")
    oof, test = (stacked.read(table) for table in stacked.candidates["mean"])
    assert alike(oof, task.mean(members))
    assert alike(test, task.mean(tests))
    scores = [nested_score(task.metric, truth, one, fold).score for one in members]
    assert list(stacked.metrics["members"].values()) == pytest.approx(scores, abs=1e-12)
    best = int(np.argmax(scores))
    assert stacked.metrics["best_single"] == "abc"[best]
    oof, test = (stacked.read(table) for table in stacked.candidates["best single"])
    assert alike(test, tests[best])
    for k in range(3):
        others, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        seen = [
            nested_score(task.metric, take_rows(truth, others), take_rows(m, others), fold[others])
            for m in members
        ]
        chosen = members[int(np.argmax([one.score for one in seen]))]
        assert alike(take_rows(oof, own), take_rows(chosen, own))


def test_its_scores_are_those_of_its_tables_and_the_kept_one_is_what_a_loop_by_hand_keeps(stacked):
    task, fold, metrics = stacked.task, stacked.oof["fold"].to_numpy(), stacked.metrics
    truth = task.truth(targets_in(stacked.oof), OUTPUTS[task.kind])
    oof = {name: stacked.read(table) for name, (table, _) in stacked.candidates.items()}
    for name, said in oof.items():
        found = nested_score(task.metric, truth, said, fold)
        assert metrics["candidates"][name]["cv"] == pytest.approx(found.score, abs=1e-9)
    plain = {name: said for name, said in oof.items() if not name.endswith(", calibrated")}
    calibrate = None
    if task.kind == "numbers":
        targets = task.encode(targets_in(stacked.oof), OUTPUTS[task.kind])

        def calibrate(name):
            rows = LevelData(plain[name][None], targets, fold, task.stacking, stacked.config.stack, 0)
            return nested_oof(fitter("calibration"), rows)

    kept, honest, _ = choose_by_hand(task.metric, truth, plain, fold, calibrate)
    assert (metrics["kept"], metrics["cv_of_the_choice"]) == (kept, pytest.approx(honest, abs=1e-9))
    assert metrics["cv"] == pytest.approx(metrics["candidates"][kept]["cv"], abs=1e-12)
    assert Rule.from_json(metrics["rule"]) == fit_rule(task.metric, truth, oof[kept])
    assert alike(stacked.read(stacked.oof), oof[kept])
    assert alike(stacked.read(stacked.test), stacked.read(stacked.candidates[kept][1]))


def test_what_is_stored_predicts_the_test_rows_again(stacked):
    """As a kernel would, from stacker.json and the members' test predictions alone."""
    tests, stored = stacked.members("test"), stacked.stored
    if stacked.task.kind != "numbers":
        again = {
            "maps": lambda: PixelStacker.from_json(stored).apply(tests),
            "rankings": lambda: apply_pairs(Stacker.from_json(stored), tests),
        }
        assert alike(again[stacked.task.kind](), stacked.read(stacked.candidates["lightgbm"][1]))
    for name, (_, table) in stacked.candidates.items():
        assert alike(apply_stack(stored, tests, candidate=name), stacked.read(table)), name
    assert alike(apply_stack(stored, tests), stacked.read(stacked.test))
    with pytest.raises(ValueError, match="2 predictions for 3 members: a, b, c"):
        apply_stack(stored, tests[:2])
    if stacked.task.kind == "maps":
        shown = np.array([stacked.metrics["weights"][name] for name in "abc"])
        np.testing.assert_allclose(shown, stored["weights"], atol=1e-4)


def test_second_levels_beat_the_mean_of_members_of_unlike_skill(stacked):
    rows = stacked.metrics["candidates"]
    assert all(rows[name]["cv"] > rows["mean"]["cv"] for name in SECOND[stacked.task.kind])
    assert stacked.metrics["kept"] != "mean"
    kept = rows[stacked.metrics["kept"]]
    single = stacked.metrics["kept"] == "best single"  # better than the mean, so the others have to beat it
    assert kept["gain"] is None if single else kept["gain"] > kept["gain_error"]


def test_a_stack_is_up_to_date_when_it_was_made(stacked):
    assert stack_step(stacked.config, stacked.folders).fresh()
