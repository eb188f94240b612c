"""Rankings of several models as one: by the mean, and by a booster over pairs, against loops by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from src.config import Stack
from src.decisions import take_rows
from src.ensemble.boosting import Stacker, early_stopping_rounds
from src.ensemble.pairs import Pairs, _best_other, apply_pairs, fit_pairs, pairs_of, stack_pairs
from src.metrics import create_metric
from src.metrics.retrieval import Ranking
from src.tasks.retrieval import mean_ranking

NAMES = [f"w_{i:02d}" for i in range(20)]
QUICK = Stack(max_rounds=40, patience=10)
FOLD = np.arange(240) % 4
MAP5 = create_metric("retrieval", "map5")


def competition(skills=(0.4, 0.15), queries=240, kept=6, seed=0) -> tuple[list[Ranking], np.ndarray]:
    """Members that know the right answer more or less well, cut to the first few; some queries are new."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(queries) < 0.2, "new", rng.choice(NAMES, queries)).astype(object)
    members = []
    for skill in skills:
        cosines = rng.normal(0.3, 0.15, (queries, 20)) + skill * (np.array(NAMES) == truth[:, None])
        order = np.argsort(-cosines, axis=1)[:, :kept]
        scores = np.take_along_axis(cosines, order, 1)
        members.append(Ranking(np.array(NAMES)[order].tolist(), scores.tolist(), "new"))
    return members, truth


def uneven() -> list[Ranking]:
    """Lists of any length, none at all among them, and equal scores."""
    first = Ranking(
        [["a", "b", "c"], ["b"], [], [], ["a", "b"]], [[0.9, 0.5, 0.5], [0.2], [], [], [0.4, 0.4]]
    )
    other = Ranking(
        [["c", "d"], ["b"], ["a", "d"], [], ["b", "a"]], [[0.8, 0.1], [0.7], [0.6, 0.3], [], [1, 0]]
    )
    return [first, other]


def lists_of(ranking: Ranking) -> list[dict[str, float]]:
    return [dict(zip(*row, strict=True)) for row in zip(ranking.labels, ranking.scores, strict=True)]


def said_of(one: dict[str, float], name: str) -> float:
    """A candidate's similarity in a list, or that of its last one; -1 where the list is empty."""
    return one[name] if name in one else min(one.values()) if one else -1.0


# --- the mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidates", [1, 3, 50])
@pytest.mark.parametrize("make", [uneven, lambda: competition((0.4, 0.2, 0.1))[0]])
def test_the_mean_of_rankings_is_a_loop_over_queries_and_candidates(make, candidates):
    members = make()
    found = mean_ranking(members, candidates)
    for row, lists in enumerate(zip(*map(lists_of, members), strict=True)):
        names = {name for one in lists for name in one}
        mean = {name: np.mean([said_of(one, name) for one in lists]) for name in names}
        ranked = sorted(names, key=lambda name: (-round(mean[name], 12), name))[:candidates]
        assert found.labels[row] == ranked
        assert found.scores[row] == pytest.approx([mean[name] for name in ranked])
    assert found.new == members[0].new


def test_the_mean_of_one_ranking_is_itself_but_for_equal_scores():
    (member,), _ = competition((0.4,))
    found = mean_ranking([member], 50)
    assert (found.labels, found.scores) == (member.labels, member.scores)


# --- pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [uneven, lambda: competition((0.4, 0.2, 0.1))[0]])
def test_a_pair_is_described_by_each_similarity_and_by_its_lead_over_the_best_other(make):
    members = make()
    pairs, expected = pairs_of(members), {}
    for query, lists in enumerate(zip(*map(lists_of, members), strict=True)):
        names = {name for one in lists for name in one}
        for name in names:
            own = [said_of(one, name) for one in lists]
            others = [[said_of(one, n) for n in names - {name}] or [said_of(one, name)] for one in lists]
            lead = [mine - max(rest) for mine, rest in zip(own, others, strict=True)]
            expected[query, name] = own + lead
    found = dict(zip(zip(pairs.query.tolist(), pairs.candidate, strict=True), pairs.features, strict=True))
    assert found.keys() == expected.keys()
    assert len(pairs.candidate) == len(expected)
    for key, row in expected.items():
        np.testing.assert_allclose(found[key], row, atol=1e-12)


def test_lists_without_a_candidate_make_no_pairs():
    pairs = pairs_of([Ranking([[], []], [[], []]), Ranking([[], []], [[], []])])
    assert (len(pairs.query), pairs.candidate, pairs.features.shape) == (0, [], (0, 4))
    found = pairs.rank(np.empty(0), 2, "new")
    assert (found.labels, found.scores, found.new) == ([[], []], [[], []], "new")


def test_the_best_other_is_the_highest_of_all_but_oneself():
    values = np.array([[0.1, 0.9, 0.9, 0.3], [0.5, 0.2, 0.4, 0.4], [0.7, 0.7, 0.7, 0.7]])
    expected = [[np.delete(row, i).max() for i in range(4)] for row in values]
    np.testing.assert_array_equal(_best_other(values), expected)
    assert _best_other(values[:, :1]).tolist() == values[:, :1].tolist()


def test_the_right_pair_of_a_query_is_the_one_with_its_answer():
    members, truth = competition()
    pairs = pairs_of(members)
    right = pairs.right(truth)
    for query, name, answer in zip(pairs.query, pairs.candidate, right, strict=True):
        assert answer == (truth[query] == name)
    found = [truth[query] in (members[0].labels[query] + members[1].labels[query]) for query in range(240)]
    assert right.sum() == sum(found)


def test_candidates_stand_by_falling_score_and_equal_ones_by_their_mean_similarity():
    features = np.array([[0.1, 0.3], [0.4, 0.2], [0.9, 0.9], [0.5, 0.5], [0.2, 0.2]])
    pairs = Pairs(np.array([0, 0, 0, 2, 2]), list("abcab"), np.hstack([features, -features]))
    found = pairs.rank(np.array([0.5, 0.5, 0.1, 0.2, 0.7]), 3, "new")
    assert found.labels == [["b", "a", "c"], [], ["b", "a"]]
    assert found.scores == [[0.5, 0.5, 0.1], [], [0.7, 0.2]]


# --- the stack ----------------------------------------------------------------------------------------------


def parted(k: int) -> tuple[np.ndarray, np.ndarray]:
    """The queries of a fold, and the others."""
    own = np.isin(FOLD, k)
    return np.flatnonzero(own), np.flatnonzero(~own)


def same(first: Ranking, second: Ranking) -> bool:
    return (first.labels, first.scores) == (second.labels, second.scores)


def test_a_stacked_ranking_is_a_loop_over_the_folds_by_hand():
    members, truth = competition()
    settings = Stack(max_rounds=150, patience=5, learning_rate=0.2)
    found, last = stack_pairs(members, truth, FOLD, settings, 0)
    rounds = []
    for k in range(4):
        (own, others), (watched, _) = parted(k), parted((k + 1) % 4)
        parts = []
        for rows in (np.setdiff1d(others, watched), watched):
            pairs = pairs_of([take_rows(member, rows) for member in members])
            parts.append((pairs.features, pairs.right(truth[rows])))
        rounds.append(early_stopping_rounds(*parts, settings, 0))
        stacker = fit_pairs([take_rows(m, others) for m in members], truth[others], settings, 0, rounds[-1:])
        assert same(take_rows(found, own), apply_pairs(stacker, [take_rows(m, own) for m in members]))
    assert last == [int(np.median(rounds))]
    assert len(set(rounds)) > 1


@pytest.mark.parametrize("k", range(4))
def test_the_answers_of_a_fold_leave_its_own_stacked_ranking_untouched(k):
    members, truth = competition()
    own, others = parted(k)
    other = truth.copy()
    other[own] = np.random.default_rng(1).permutation(truth[own])
    before, after = (stack_pairs(members, labels, FOLD, QUICK, 0)[0] for labels in (truth, other))
    assert same(take_rows(before, own), take_rows(after, own))
    assert not same(take_rows(before, others), take_rows(after, others))


def test_two_folds_leave_none_to_stop_on():
    members, truth = competition(queries=60)
    fold = np.arange(60) % 2
    found, rounds = stack_pairs(members, truth, fold, QUICK, 0)
    assert rounds == [QUICK.max_rounds]
    rows = [np.flatnonzero(fold == k) for k in range(2)]
    stacker = fit_pairs(
        [take_rows(m, rows[1]) for m in members], truth[rows[1]], QUICK, 0, [QUICK.max_rounds]
    )
    assert same(take_rows(found, rows[0]), apply_pairs(stacker, [take_rows(m, rows[0]) for m in members]))


def score_of(stacker: Stacker, members: list[Ranking], name: str) -> float:
    (found,) = lists_of(apply_pairs(stacker, members))
    return found[name]


def raised(ranking: Ranking, name: str, by: float) -> Ranking:
    """The one list with a candidate's similarity raised, in order again."""
    (one,) = lists_of(ranking)
    one[name] += by
    ranked = sorted(one, key=lambda label: -one[label])
    return Ranking([ranked], [[one[label] for label in ranked]], ranking.new)


def test_a_pair_never_loses_where_a_member_finds_it_more_alike():
    """Though it has learned every whim of members that know little."""
    members, truth = competition((0.15, 0.0))
    stacker = fit_pairs(members, truth, Stack(num_leaves=16, min_data_in_leaf=2), 0, [150])
    rose = 0
    for query in range(12):
        asked = [take_rows(member, np.array([query])) for member in members]
        for number, member in enumerate(asked):
            for name in member.labels[0]:
                scores = []
                for by in (0.0, 0.05, 0.2, 0.5):
                    lists = [*asked[:number], raised(member, name, by), *asked[number + 1 :]]
                    scores.append(score_of(stacker, lists, name))
                assert (np.diff(scores) >= 0).all()
                rose += scores[-1] > scores[0]
    assert rose > 50


def test_a_good_and_a_noisy_member_are_worth_more_stacked_than_as_their_mean():
    members, truth = competition((0.35, 0.02))
    known = np.flatnonzero(truth != "new")
    stacked = stack_pairs(members, truth, FOLD, QUICK, 0)[0]
    scores = {
        name: MAP5(truth[known], take_rows(ranking, known))
        for name, ranking in (("good", members[0]), ("mean", mean_ranking(members, 50)), ("stack", stacked))
    }
    assert scores["stack"] > scores["mean"] + 0.05
    assert scores["stack"] > scores["good"] - 0.02


def test_a_score_is_the_share_of_such_pairs_that_are_right():
    members, truth = competition(queries=1200)
    stacked = stack_pairs(members, truth, np.arange(1200) % 4, Stack(), 0)[0]
    said = np.concatenate(stacked.scores)
    rows = zip(stacked.labels, truth, strict=True)
    right = np.array([name == answer for names, answer in rows for name in names])
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        part = (said >= low) & (said < low + 0.2)
        assert part.sum() > 50
        assert right[part].mean() == pytest.approx(said[part].mean(), abs=0.07)


def test_a_stacker_of_pairs_comes_back_from_json_as_it_was():
    members, truth = competition()
    stacker = fit_pairs(members, truth, QUICK, 0, [30])
    stored = json.loads(json.dumps(stacker.as_json()))
    assert stored["kind"] == "pairs"
    assert same(apply_pairs(Stacker.from_json(stored), members), apply_pairs(stacker, members))
    assert stacker.gain().shape == (4,)  # similarity and lead of each


def test_a_stacked_ranking_holds_every_candidate_of_every_member_and_who_is_new():
    members, truth = competition()
    stacker = fit_pairs(members, truth, QUICK, 0, [30])
    found = apply_pairs(stacker, members)
    for row in range(240):
        assert sorted(found.labels[row]) == sorted({*members[0].labels[row], *members[1].labels[row]})
        assert found.scores[row] == sorted(found.scores[row], reverse=True)
    assert found.new == "new"
    assert apply_pairs(stacker, [take_rows(m, np.arange(0)) for m in members]).labels == []
