"""A cap and the class prior: quotas against loops over the rows, and the collapse that they cure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from src.config import Config, Pseudo
from src.maps import Maps
from src.metrics.retrieval import Ranking
from src.pseudo.class_balance import class_weights, most_confident, quotas
from src.pseudo.select import hard_labels, label_shares, select
from src.tasks import create_task

OUTPUTS = ["cat", "dog", "cow"]
PRIOR = np.array([0.7, 0.2, 0.1])
TASK = create_task(Config())


def collapsing(n: int = 3000, seed: int = 0) -> pd.DataFrame:
    """What a model of middling skill says where classes have `PRIOR`: honest probabilities, sure of the
    common class first, which is what a bare threshold picks."""
    random = np.random.default_rng(seed)
    truth = random.choice(3, n, p=PRIOR)
    evidence = 1.7 * np.eye(3)[truth] + random.normal(size=(n, 3)) * 1.7**0.5
    said = softmax(evidence + np.log(PRIOR), 1).astype(np.float32)
    return pd.DataFrame({"id": [f"{i:05d}" for i in range(n)]}).join(pd.DataFrame(said, columns=OUTPUTS))


def labelled(n: int = 1000) -> np.ndarray:
    """One-hot labels of training rows, in exactly `PRIOR`."""
    return np.eye(3, dtype=np.float32)[np.repeat(np.arange(3), (n * PRIOR).astype(int))]


def chosen_shares(settings: Pseudo) -> np.ndarray:
    found = select(collapsing(), TASK, OUTPUTS, settings, labelled=labelled())
    return np.array([label_shares([found], TASK, OUTPUTS)[name] for name in OUTPUTS])


def test_a_bare_threshold_collapses_the_class_prior():
    """The trap: without this the tests below would prove nothing."""
    assert chosen_shares(Pseudo())[0] > 0.9
    assert chosen_shares(Pseudo())[2] < 0.02


@pytest.mark.parametrize("prior", ["keep", "quota"])
def test_quotas_keep_the_class_prior(prior):
    np.testing.assert_allclose(chosen_shares(Pseudo(prior=prior)), PRIOR, atol=0.05)


def test_weights_keep_the_class_prior_of_what_is_learned_from():
    found = select(collapsing(), TASK, OUTPUTS, Pseudo(prior="weight"), labelled=labelled())
    weights, told = found["pseudo.weight"].to_numpy(), hard_labels(found, TASK, OUTPUTS)[:, 0].astype(int)
    assert weights.mean() == pytest.approx(1)
    share = np.bincount(told, weights, minlength=3) / weights.sum()
    bare = np.bincount(told, minlength=3) / len(told)
    ratio = np.minimum(PRIOR / bare, 10)  # what is rarer still is not blown up
    np.testing.assert_allclose(share, bare * ratio / (bare * ratio).sum(), atol=1e-6)
    assert np.abs(share - PRIOR).max() < np.abs(bare - PRIOR).max() / 2


def test_a_cap_keeps_the_common_class_from_swamping():
    found = select(collapsing(), TASK, OUTPUTS, Pseudo(cap=20))
    whole = select(collapsing(), TASK, OUTPUTS, Pseudo())
    told = pd.Series(hard_labels(found, TASK, OUTPUTS)[:, 0]).value_counts()
    before = pd.Series(hard_labels(whole, TASK, OUTPUTS)[:, 0]).value_counts()
    assert before[0.0] > 200
    assert told.to_dict() == before.clip(upper=20).to_dict()


@pytest.mark.parametrize("cap", [7, 0.01])
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_a_cap_takes_the_surest_rows_of_each_class_as_a_loop_does(cap, threshold):
    table = collapsing(800)
    limit, taken, wanted = cap if cap == 7 else 8, dict.fromkeys(OUTPUTS, 0), set()
    ranked = sorted(table.to_dict("records"), key=lambda row: -max(row[name] for name in OUTPUTS))
    for row in ranked:
        name = max(OUTPUTS, key=lambda name: row[name])
        if row[name] >= np.float32(threshold) and taken[name] < limit:
            taken[name] += 1
            wanted.add(row["id"])
    found = select(table, TASK, OUTPUTS, Pseudo(cap=cap, threshold=threshold))
    assert set(found["id"]) == wanted
    assert found["id"].is_monotonic_increasing


def test_keep_takes_as_many_rows_as_the_scarcest_class_allows():
    counts = np.array([980, 20, 2])
    assert quotas(counts, PRIOR, Pseudo(prior="keep"), 5000, 1002).tolist() == [14, 4, 2]
    assert quotas(counts, PRIOR, Pseudo(prior="keep", cap=7), 5000, 1002).tolist() == [7, 2, 1]
    # a class that nobody was sure of decides nothing
    assert quotas(np.array([980, 20, 0]), PRIOR, Pseudo(prior="keep"), 5000, 1000).tolist() == [70, 20, 0]


def test_quota_deals_out_as_many_rows_as_reach_the_threshold():
    counts = np.array([2000, 500, 400])  # all rows, by what they are taken for
    assert quotas(counts, PRIOR, Pseudo(prior="quota"), 2900, 1000).tolist() == [700, 200, 100]
    assert quotas(counts, PRIOR, Pseudo(prior="quota", cap=0.1), 2900, 1000).tolist() == [290, 200, 100]
    found = select(collapsing(), TASK, OUTPUTS, Pseudo(prior="quota"), labelled=labelled())
    rare = found[hard_labels(found, TASK, OUTPUTS)[:, 0] == 2]
    assert rare["confidence"].min() < 0.9  # what it costs
    assert len(found) == pytest.approx(len(select(collapsing(), TASK, OUTPUTS, Pseudo())), abs=3)


def test_of_equally_sure_rows_the_first_are_taken():
    kept = most_confident(np.array([1, 0, 1, 1, 0]), np.array([0.5, 0.9, 0.7, 0.5, 0.9]), np.array([1, 2]))
    assert kept.tolist() == [True, True, True, False, False]


def test_a_rare_class_weighs_ten_times_the_mean_at_most():
    weights = class_weights(np.array([0] * 98 + [1] * 2), np.array([0.5, 0.5]))
    assert weights[-1] / weights[0] == pytest.approx(10 / (0.5 / 0.98))
    assert weights.mean() == pytest.approx(1)


def test_of_many_labels_cells_are_capped_and_a_row_without_any_left_is_left_out():
    task, random = create_task(Config(task={"name": "multilabel"})), np.random.default_rng(0)
    values = np.where(random.random((300, 2)) < 0.9, random.random((300, 2)) * 0.1, 1 - 0.2 * random.random())
    table = pd.DataFrame(values.astype(np.float32), columns=["cat", "dog"])
    table.insert(0, "id", [f"{i:03d}" for i in range(300)])
    found = select(table, task, ["cat", "dog"], Pseudo(cap=5))
    for name in ("cat", "dog"):
        column = table[name].to_numpy()
        low = set(table["id"][np.argsort(column, kind="stable")[:5]])
        high = [i for i in np.argsort(-column, kind="stable")[:5] if column[i] >= np.float32(0.9)]
        told = found.set_index("id")[name].dropna()
        assert set(told.index) == low | set(table["id"].iloc[high])
    assert found[["cat", "dog"]].notna().any(axis=1).all()
    cells = found[["cat", "dog"]].to_numpy()
    np.testing.assert_allclose(
        found["confidence"], np.nanmean(np.maximum(cells, 1 - cells), axis=1), rtol=1e-6
    )


def test_of_many_labels_each_keeps_its_own_share_of_yes():
    task, random = create_task(Config(task={"name": "multilabel"})), np.random.default_rng(0)
    yes = random.random((2000, 2)) < [0.3, 0.05]
    values = np.where(yes, 0.95 + 0.04 * random.random((2000, 2)), 0.05 * random.random((2000, 2)))
    table = pd.DataFrame(values.astype(np.float32), columns=["cat", "dog"])
    table.insert(0, "id", [f"{i:04d}" for i in range(2000)])
    known = np.zeros((100, 2), np.float32)
    known[:50, 0], known[:20, 1] = 1, 1
    found = select(table, task, ["cat", "dog"], Pseudo(prior="keep"), labelled=known)
    assert label_shares([found], task, ["cat", "dog"]) == pytest.approx({"cat": 0.5, "dog": 0.2}, abs=0.01)


def test_the_two_sides_of_a_binary_row_are_two_classes():
    task = create_task(Config(task={"name": "binary"}))
    values = np.r_[np.linspace(0.001, 0.09, 80), np.linspace(0.91, 0.99, 10), np.full(10, 0.5)]
    table = pd.DataFrame({"id": [f"{i:02d}" for i in range(100)], "yes": values.astype(np.float32)})
    known = np.repeat([[0.0], [1.0]], [75, 25], axis=0)
    found = select(table, task, ["yes"], Pseudo(prior="keep"), labelled=known)
    assert (found["yes"] > 0.5).sum() == 10
    assert found["id"][:30].tolist() == [f"{i:02d}" for i in range(30)]  # the surest of the others
    assert len(found) == 40


def test_identities_are_capped_and_images_of_masks_too():
    retrieval = create_task(Config(task={"name": "retrieval"}))
    names = ["cat"] * 30 + ["dog"] * 5
    cosines = np.linspace(0.99, 0.5, 35)
    lists = Ranking([[name] for name in names], [[c] for c in cosines])
    said = pd.DataFrame({"id": [f"{i:02d}" for i in range(35)]}).join(retrieval.write(lists, OUTPUTS))
    known = said.assign(target=names)
    found = select(said, retrieval, OUTPUTS, Pseudo(cap=8), known)
    assert [row[0] for row in found["candidates"]] == ["cat"] * 8 + ["dog"] * 5
    assert found["id"][:8].tolist() == [f"{i:02d}" for i in range(8)]
    segmentation = create_task(Config(task={"name": "segmentation"}))
    levels = np.full((6, 1, 4, 4), 250, np.uint8)
    for i in range(6):
        levels[i, 0, 0, : i % 4] = 128  # so many pixels are unsure
    table = segmentation.write(Maps.of(levels).resized([(4, 4)] * 6), ["mask"])
    table.insert(0, "id", list("abcdef"))
    assert select(table, segmentation, ["mask"], Pseudo(cap=3))["id"].tolist() == ["a", "b", "e"]


@pytest.mark.parametrize(
    ("task", "pseudo", "why"),
    [
        ("regression", {"prior": "keep"}, "a number has none"),
        ("segmentation", {"prior": "quota"}, "an image of pixels has many"),
        ("multilabel", {"prior": "weight"}, "weighs whole rows"),
        ("regression", {"calibrate": True}, "a regression has none"),
        ("multiclass", {"threshold": (0.9, 0.8, 0.7)}, "names 3 rounds, and pseudo.rounds is 2"),
        ("multiclass", {"threshold": (0.9, 1.8)}, "1.8 is no probability"),
        ("multiclass", {"cap": 1.5}, "give rows, such as 500, or a share"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(task, pseudo, why):
    with pytest.raises(ValueError, match=why):
        Config(task={"name": task}, pseudo=pseudo)


def test_calibration_needs_stopping_rows():
    with pytest.raises(ValueError, match=r"set\s+train.early_stopping.enabled=true"):
        Config(pseudo={"calibrate": True}, train={"early_stopping": {"enabled": False}})
