"""Retrieval through all six stages, against a cosine search, a mean and a MAP@5 written as plain loops."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import torch
from six_stages import RUNS, Made, left, make, shown, text, with_the_round
from sklearn.isotonic import IsotonicRegression

from src.configfile import load_config
from src.decisions import nested_score
from src.metrics.retrieval import Ranking
from src.models.weights import load_model
from src.tasks import create_task

NEW, KEPT = "new_id", 6  # the answer for whom no training image shows; identities kept of a ranking


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return make("retrieval", tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def folds(made) -> pd.DataFrame:
    """folds.csv, with `target` as train.csv has it."""
    table = text(made.done / "data/folds.csv")
    assert table["target"].tolist() == made.raw("train")["Id"].tolist()
    return table.astype({"fold": int, "stop": int})


def learned(folds: pd.DataFrame, fold: int) -> pd.Series:
    """(N,) bool: the rows that fold `fold`'s model learned from; half of the others decided when to stop."""
    return (folds["fold"] != fold) & (folds["stop"] != fold % 2)


# --- stage 01 -----------------------------------------------------------------------------------------------


def test_a_quarter_of_the_identities_is_held_out_whole_one_in_each_fold(made, folds):
    places = folds.groupby("target")["fold"].unique()
    whole = places[places.map(len) == 1]
    assert len(whole) == 0.25 * len(places) == 2
    assert sorted(whole.map(lambda fold: fold[0])) == [0, 1]
    summary = (made.done / "data/summary.md").read_text()
    for k in range(2):
        rows = folds[folds["fold"] == k]
        new = rows["target"].isin(whole.index)
        shown = (len(rows), rows["target"].nunique(), 1, int(new.sum()))
        assert f"\n| {k} | {' | '.join(map(str, shown))} |\n" in summary


def test_an_identity_of_both_folds_is_shared_out_evenly(folds):
    counts = folds.groupby(["target", "fold"]).size().unstack().dropna()
    assert len(counts) == 6
    assert (counts[0] - counts[1]).abs().max() <= 1


def test_dataset_json_counts_the_images_of_each_identity(made):
    described = made.json("data/dataset")
    counts = made.raw("train")["Id"].value_counts()
    assert described["outputs"] == sorted(counts.index)
    assert described["counts"] == counts.to_dict()
    assert described["new_label"] == NEW


# --- stage 03 -----------------------------------------------------------------------------------------------


def test_the_target_is_the_new_label_exactly_where_no_other_fold_has_the_identity(made, folds):
    for run in RUNS:
        oof = made.table(f"runs/{run}/oof")
        expected = []
        for identity, fold in zip(folds["target"], folds["fold"], strict=True):
            others = set(folds["target"][folds["fold"] != fold])
            expected.append(identity if identity in others else NEW)
        assert oof["target"].tolist() == expected
        assert expected.count(NEW) == sum(folds["target"].map(folds.groupby("target")["fold"].nunique()) == 1)


def test_stopping_rows_are_those_of_the_fold_with_the_new_label_where_it_learned_no_such_identity(
    made, folds
):
    for k in range(2):
        stop, known = made.table(f"runs/baseline/fold{k}/stop"), set(folds["target"][learned(folds, k)])
        rows = folds[(folds["fold"] != k) & (folds["stop"] == k % 2)]
        assert stop["id"].tolist() == rows["id"].tolist()
        assert stop["target"].tolist() == [name if name in known else NEW for name in rows["target"]]


@pytest.fixture(scope="module")
def embedded(made, folds) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """Training and test embeddings of each run and fold: its model's, of both views, added, then of length
    one."""
    images = [
        torch.from_numpy(
            np.stack(
                [shown(made.done / f"data/raw/{role}_images/{name}.png") for name in made.raw(role)["id"]]
            )
        ).permute(0, 3, 1, 2)
        for role in ("train", "test")
    ]
    found = {}
    for run, k in [(run, k) for run in RUNS for k in range(2)]:
        model = load_model(made.done / f"runs/{run}/fold{k}/model.safetensors")
        with torch.inference_mode():
            sums = [(model(x).embedding + model(left(x)).embedding).double().numpy() for x in images]
        found[run, k] = tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in sums)
    return found


@pytest.mark.parametrize("name", ["oof", "stop", "test", "blind"])
@pytest.mark.parametrize("run", RUNS)
def test_candidates_are_the_nearest_identities_of_the_rows_that_may_be_looked_at(
    made, folds, embedded, name, run
):
    """A fold's own rows look among the other folds' rows, its early-stopping rows among those it learned
    from; test rows among all to be submitted, and blind to the fold's own and early-stopping rows to be
    learned from."""
    place = {row: number for number, row in enumerate([*folds["id"]])}
    for k in range(2):
        train, test = embedded[run, k]
        looked_at = {"oof": folds["fold"] != k, "test": folds["fold"] >= 0}.get(name, learned(folds, k))
        gallery, owners = train[looked_at], folds["target"][looked_at]
        table = made.table(f"runs/{run}/fold{k}/{name}")
        queries = test if name in ("test", "blind") else train[[place[row] for row in table["id"]]]
        for query, names, scores in zip(queries, table["candidates"], table["similarity"], strict=True):
            best = pd.Series(gallery @ query).groupby(owners.to_numpy()).max()
            assert len(set(names)) == len(names) == min(KEPT, len(best))
            assert (np.diff(scores) <= 0).all()
            np.testing.assert_allclose(best[list(names)], scores, atol=2e-6)
            np.testing.assert_allclose(best.nlargest(KEPT), scores, atol=2e-6)


def test_an_identity_held_out_whole_is_no_candidate_of_its_own_fold(made, folds):
    for k in range(2):
        unseen = set(folds["target"]) - set(folds["target"][folds["fold"] != k])
        oof = made.table(f"runs/baseline/fold{k}/oof")
        assert len(unseen) == 1
        assert not unseen & {name for names in oof["candidates"] for name in names}


def mean_by_hand(tables: list[pd.DataFrame]) -> list[dict[str, float]]:
    """Query by query the first candidates by mean similarity, of equal ones by name; one that a list lacks is
    as far as its last."""
    means = []
    for rows in zip(*(zip(t["candidates"], t["similarity"], strict=True) for t in tables), strict=True):
        lists = [dict(zip(*row, strict=True)) for row in rows]
        every = {name for one in lists for name in one}
        mean = {name: np.mean([one.get(name, min(one.values())) for one in lists]) for name in every}
        means.append(dict(sorted(mean.items(), key=lambda item: (-item[1], item[0]))[:KEPT]))
    return means


def assert_ranked(table: pd.DataFrame, expected: list[dict[str, float]]) -> None:
    for names, scores, wanted in zip(table["candidates"], table["similarity"], expected, strict=True):
        assert list(names) == list(wanted)
        np.testing.assert_allclose(scores, list(wanted.values()))


def test_the_test_table_is_the_mean_of_the_folds_where_one_that_a_list_lacks_is_as_far_as_its_last(made):
    for run in RUNS:
        folds = [made.table(f"runs/{run}/fold{k}/test") for k in range(2)]
        assert_ranked(made.table(f"runs/{run}/test"), mean_by_hand(folds))
        first, second = (folds[k]["candidates"] for k in range(2))
        assert any(set(a) != set(b) for a, b in zip(first, second, strict=True))


# --- the score ----------------------------------------------------------------------------------------------


def answers(names, scores, threshold: float) -> list[str]:
    """The first five, with the new label before the first candidate below the threshold."""
    placed, said = [], False
    for name, score in zip(names, scores, strict=True):
        if score < threshold and not said:
            placed, said = [*placed, NEW], True
        placed.append(name)
    return (placed if said else [*placed, NEW])[:5]


def precision(table: pd.DataFrame, thresholds: np.ndarray) -> np.ndarray:
    """(N,) 1 by the place of the right answer among the first five, else 0."""
    found = []
    rows = zip(table["target"], table["candidates"], table["similarity"], thresholds, strict=True)
    for target, names, scores, threshold in rows:
        said = answers(names, scores, threshold)
        found.append(1 / (said.index(target) + 1) if target in said else 0.0)
    return np.array(found)


@pytest.mark.parametrize("where", ["runs/baseline", "runs/baseline-round1", "stacks/stack"])
def test_the_printed_cv_is_map5_by_a_plain_loop_each_fold_with_the_others_threshold(made, where):
    metrics, oof = made.json(f"{where}/metrics"), made.table(f"{where}/oof")
    task = create_task(load_config(made.done / "configs/baseline.yaml"))
    ranking, fold = Ranking(oof["candidates"], oof["similarity"], NEW), oof["fold"].to_numpy()
    rules = nested_score(task.metric, oof["target"].to_numpy(), ranking, fold).rules
    own = precision(oof, np.array([rules[k].values[0][0] for k in fold]))
    assert metrics["metric"] == "map5"
    assert metrics["cv"] == pytest.approx(own.mean())
    assert metrics["folds"] == pytest.approx([own[fold == k].mean() for k in range(2)])
    # each threshold is the best that the other fold could choose; so is the one for the test rows
    for k, rule in [*((k, rules[k].values) for k in range(2)), (None, metrics["rule"]["values"])]:
        seen = oof[fold != k]
        chosen = precision(seen, np.full(len(seen), rule[0][0])).mean()
        firsts = [scores[0] for scores in seen["similarity"]]
        for tried in np.quantile(firsts, np.linspace(0, 1, 21), method="nearest"):
            assert chosen >= precision(seen, np.full(len(seen), tried)).mean() - 1e-12


# --- stage 04 -----------------------------------------------------------------------------------------------


def test_pseudo_labels_are_first_answers_that_are_right_as_often_as_the_threshold_asks(made):
    """How often is read off the early-stopping rows, whose answers are known and which the model did not
    learn."""
    for k in range(2):
        stop, blind = (made.table(f"runs/baseline/fold{k}/{name}") for name in ("stop", "blind"))
        right = [names[0] == target for names, target in zip(stop["candidates"], stop["target"], strict=True)]
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        curve.fit([scores[0] for scores in stop["similarity"]], np.array(right, float))
        chance = curve.predict([scores[0] for scores in blind["similarity"]])
        told = made.table(f"runs/baseline-round1/fold{k}.pseudo")
        assert list(told.columns) == ["id", "confidence", "candidates", "similarity"]
        assert told["id"].tolist() == blind["id"][chance >= 0.3].tolist()
        np.testing.assert_allclose(told["confidence"], chance[chance >= 0.3])
        sure = blind[chance >= 0.3]
        for name in ("candidates", "similarity"):
            assert [list(cell) for cell in told[name]] == [[cell[0]] for cell in sure[name]]


# --- stages 05 and 06 ---------------------------------------------------------------------------------------


def test_the_stacks_test_table_is_what_the_kept_way_makes_of_its_members(made, tmp_path):
    made = with_the_round(made, tmp_path)
    metrics, stacker = made.json("stacks/stack/metrics"), made.json("stacks/stack/stacker")
    assert stacker["members"] == [*RUNS]
    members = [made.table(f"runs/{name}/test") for name in stacker["members"]]
    expected = {
        "mean": lambda: mean_by_hand(members),
        "best single": lambda: mean_by_hand([made.table(f"runs/{metrics['best_single']}/test")]),
        "lightgbm": lambda: boosted(stacker["boosters"][0], members),
    }[metrics["kept"]]()
    assert_ranked(made.table("stacks/stack/test"), expected)


def boosted(trees: str, members: list[pd.DataFrame]) -> list[dict[str, float]]:
    """Query by query what the trees say of each candidate's similarities and leads, the highest first."""
    booster, ranked = lgb.Booster(model_str=trees), []
    for rows in zip(*(zip(t["candidates"], t["similarity"], strict=True) for t in members), strict=True):
        lists = [dict(zip(*row, strict=True)) for row in rows]
        every = list(dict.fromkeys(name for one in lists for name in one))  # equal in all: as they were named
        said = np.array([[one.get(name, min(one.values())) for one in lists] for name in every])
        others = [np.delete(said, row, axis=0).max(0) for row in range(len(every))]
        scores = booster.predict(np.hstack([said, said - others]))
        order = np.lexsort((-said.mean(1), -scores))
        ranked.append({every[row]: scores[row] for row in order})
    return ranked


def test_the_submission_names_five_at_most_and_the_new_label_where_the_threshold_puts_it(made):
    table, said = text(made.done / "submissions/stack.csv"), made.table("stacks/stack/test")
    ((threshold,),) = made.json("stacks/stack/metrics")["rule"]["values"]
    rows = zip(said["candidates"], said["similarity"], strict=True)
    wanted = dict(zip(said["id"], (answers(*row, threshold) for row in rows), strict=True))
    for name, cell in zip(table["id"], table["Id"], strict=True):
        assert cell.split(" ") == wanted[name]
        assert len(set(wanted[name])) == 5
