"""Where `new` goes in a ranked list, and the threshold that says so."""

from __future__ import annotations

import math

import numpy as np
import pytest

from src.decisions.novelty import fit_new_threshold, insert_new, scores_by_place, thresholds
from src.metrics import METRICS, Metric, create_metric
from src.metrics.retrieval import Ranking

NEW = "new_id"
NAMES = list(METRICS["retrieval"])


def queries(seed: int = 0, rows: int = 200, new: float = 0.3, lists: int = 8, skill: float = 0.5):
    """Targets, some of them new, and lists whose right candidate stands high where there is one."""
    rng = np.random.default_rng(seed)
    names = np.array([f"w_{i:02d}" for i in range(30)])
    targets, labels, scores = [], [], []
    for _ in range(rows):
        shown, values = rng.permutation(names)[:lists], rng.normal(0.3, 0.15, lists)
        target = NEW if rng.random() < new else str(rng.choice(shown))
        values += skill * (shown == target)
        order = np.argsort(-values)
        targets.append(target)
        labels.append(shown[order].tolist())
        scores.append(np.round(values[order], 2).tolist())  # with ties
    return np.array(targets, dtype=object), Ranking(labels, scores, NEW)


def inserted_by_a_walk(names: list, values: list, threshold: float) -> list:
    for place, value in enumerate(values):
        if value < threshold:
            return [*names[:place], NEW, *names[place:]]
    return [*names, NEW]


# --- where it goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.25, 0.3, 0.5, 2.0])
def test_new_goes_before_the_first_candidate_below_the_threshold(threshold):
    _, ranking = queries()
    found = insert_new(ranking, NEW, threshold)
    for i in range(len(ranking)):
        assert found.labels[i] == inserted_by_a_walk(ranking.labels[i], ranking.scores[i], threshold)
        place = found.labels[i].index(NEW)
        assert found.scores[i][place] == threshold
        assert [*found.scores[i][:place], *found.scores[i][place + 1 :]] == ranking.scores[i]
        assert sorted(found.scores[i], reverse=True) == found.scores[i]


def test_a_candidate_at_the_threshold_stays_before_new_and_an_empty_list_is_new_alone():
    ranking = Ranking([["a", "b", "c"], []], [[0.5, 0.4, 0.4], []], NEW)
    found = insert_new(ranking, NEW, 0.4)
    assert found.labels == [["a", "b", "c", NEW], [NEW]]
    assert found.scores == [[0.5, 0.4, 0.4, 0.4], [0.4]]
    assert found.new == NEW
    assert ranking.labels == [["a", "b", "c"], []]
    assert insert_new(ranking, NEW, 0.41).labels[0] == ["a", NEW, "b", "c"]


def test_arrays_of_float32_are_compared_as_the_numbers_they_are():
    """0.3 as a float32 is a little more than 0.3: it does not lie below."""
    value = np.float32(0.3)
    assert float(value) > 0.3
    names, scores = np.array(["a", "b"]), np.array([value, value])
    assert insert_new(Ranking([names], [scores]), NEW, float(value)).labels == [["a", "b", NEW]]
    assert insert_new(Ranking([names], [scores]), NEW, float(np.nextafter(float(value), 1))).labels == [
        [NEW, "a", "b"]
    ]


# --- the fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_no_other_threshold_that_is_tried_scores_better(name, new):
    targets, ranking = queries(rows=80, new=new)
    metric = create_metric("retrieval", name)
    scored = [metric(targets, insert_new(ranking, NEW, value)) for value in thresholds(ranking).tolist()]
    fitted = fit_new_threshold(metric, targets, ranking, NEW)
    assert metric(targets, insert_new(ranking, NEW, fitted)) == pytest.approx(max(scored), abs=1e-12)
    if 0 < new < 1 and name != "recall5":  # of five places `new` may always have the last
        assert max(scored) > max(scored[0], scored[-1])


@pytest.mark.parametrize("name", NAMES)
def test_the_best_of_all_thresholds_is_hardly_better_than_the_best_of_a_hundred(name):
    targets, ranking = queries(rows=150)
    metric = create_metric("retrieval", name)
    everywhere = sorted({value + 0.005 for row in ranking.scores for value in row})  # scores have two digits
    best = max(metric(targets, insert_new(ranking, NEW, value)) for value in everywhere)
    fitted = metric(targets, insert_new(ranking, NEW, fit_new_threshold(metric, targets, ranking, NEW)))
    assert best - 0.01 <= fitted <= best + 1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in NAMES if name != "gap"])
def test_scores_from_places_are_those_of_the_metric_run_on_the_lists(name, seed):
    targets, ranking = queries(seed)
    targets[:5] = ["nobody", None, np.nan, "", "w_00"]
    ranking.labels[7], ranking.scores[7] = [], []
    ranking.labels[8], ranking.scores[8] = ranking.labels[8][:2], ranking.scores[8][:2]
    metric, tried = create_metric("retrieval", name), thresholds(ranking)
    expected = [metric(targets, insert_new(ranking, NEW, value)) for value in tried.tolist()]
    found = scores_by_place(metric, targets, ranking, NEW, tried)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(np.unique(np.round(expected, 9))) > 10


@pytest.mark.parametrize("name", ["map5", "recall5", "map_full"])
def test_lists_that_name_a_label_twice_or_name_new_already_are_scored_as_they_stand(name):
    targets = np.array(["a", "b", NEW, NEW], dtype=object)
    labels = [["a", "b", "a"], ["a", "b", "b"], ["a", NEW, "b"], [NEW, "a", "b"]]
    ranking = Ranking(labels, [[0.9, 0.5, 0.1]] * 4, NEW)
    metric = create_metric("retrieval", name)
    tried = np.array([0.0, 0.3, 0.7, 1.0])
    expected = [metric(targets, insert_new(ranking, NEW, value)) for value in tried.tolist()]
    found = scores_by_place(metric, targets, ranking, NEW, tried)
    if name == "map_full":  # it counts every place: no first one tells
        assert found is None
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    fitted = fit_new_threshold(metric, targets, ranking, NEW)
    assert metric(targets, insert_new(ranking, NEW, fitted)) == pytest.approx(max(expected))


def test_a_metric_of_ones_own_is_run_also_under_a_known_name_and_where_less_is_better():
    targets, ranking = queries(rows=60)
    share = lambda t, p: float(np.mean([row[0] == NEW for row in p]))  # noqa: E731
    for sign, everyone in ((1, 1.0), (-1, 0.0)):
        metric = Metric("map5", share, sign, ("retrieval",))
        assert scores_by_place(metric, targets, ranking, NEW, np.array([0.5])) is None
        fitted = fit_new_threshold(metric, targets, ranking, NEW)
        assert share(targets, insert_new(ranking, NEW, fitted)) == everyone


def test_of_thresholds_that_are_as_good_the_middle_is_taken():
    known, new = [[0.9, 0.1], [0.8, 0.1], [0.7, 0.1]], [[0.3, 0.1], [0.2, 0.1]]
    ranking = Ranking([["a", "b"]] * 5, known + new, NEW)
    targets = np.array(["a"] * 3 + [NEW] * 2, dtype=object)
    for name in ("map5", "recall1", "map_full"):
        fitted = fit_new_threshold(create_metric("retrieval", name), targets, ranking, NEW)
        assert fitted == pytest.approx(0.5)  # between the least known, 0.7, and the first new, 0.3


def test_of_several_good_runs_the_longest_is_taken():
    """Good are one query that is new, and ten to thirty; from one to the next there are two thresholds."""
    ranking = Ranking([["a"]] * 40, [[value] for value in np.linspace(0.1, 0.9, 40).tolist()], NEW)
    count = lambda p: sum(row[0] == NEW for row in p)  # noqa: E731
    good = lambda t, p: float(count(p) == 1 or 10 <= count(p) <= 30)  # noqa: E731
    fitted = fit_new_threshold(Metric("own", good, 1, ("retrieval",)), [None] * 40, ranking, NEW)
    assert count(insert_new(ranking, NEW, fitted)) == 20


def test_what_is_tried_are_about_a_hundred_values_beyond_all_scores_at_both_ends():
    _, ranking = queries(rows=2000)
    tried = thresholds(ranking)
    scores = np.concatenate([row for row in ranking.scores])
    assert 60 <= len(tried) <= 110
    assert (np.diff(tried) > 0).all()
    assert tried[0] < scores.min()
    assert tried[-1] > scores.max()
    first = np.array([row[0] for row in ranking.scores])
    sides = [(first >= value).mean() for value in tried]
    assert np.abs(np.diff(sides)).max() < 0.06  # no threshold is missing where many queries change sides


def test_without_a_candidate_there_is_nothing_to_fit_on():
    metric = create_metric("retrieval", "map5")
    assert fit_new_threshold(metric, [], Ranking([], [], NEW), NEW) == 0.5
    assert fit_new_threshold(metric, [NEW, "a"], Ranking([[], []], [[], []], NEW), NEW) == 0.5
    assert math.isfinite(fit_new_threshold(metric, [NEW], Ranking([["a"]], [[0.7]], NEW), NEW))


def test_a_metric_without_a_value_does_not_win():
    targets, ranking = queries(rows=50)
    share = lambda t, p: np.mean([row[0] == NEW for row in p])  # noqa: E731
    metric = Metric("half", lambda t, p: np.nan if share(t, p) > 0.5 else share(t, p), 1, ("retrieval",))
    fitted = fit_new_threshold(metric, targets, ranking, NEW)
    assert 0.4 < share(targets, insert_new(ranking, NEW, fitted)) <= 0.5
