"""Re-ranking and query expansion: what loops over all pairs give, in memory that does not grow with the
square; and no query ever looks at another."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from competitions import prepare_competition
from test_nearest import scene

from src.config import Config, Expansion, Inference, Rerank
from src.configfile import load_config
from src.data.loaders import load_fold, read_folds
from src.inference import nearest, rerank
from src.inference.expansion import expand
from src.inference.fold_tables import FoldPredictor, identities, ranking_tables
from src.inference.nearest import unit_rows
from src.inference.predict import embed
from src.inference.rerank import Neighbourhoods
from src.models.build import Architecture, create_model
from src.tasks import create_task


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- the paper, written with dictionaries and sets ----------------------------------------------------------


class Paper:
    """Zhong et al. 2017 over a gallery in float64, image by image, with dense rows; a query is one image
    more, which the gallery does not know of."""

    def __init__(self, gallery: np.ndarray, k1: int, k2: int):
        self.gallery, self.k1, self.k2, self.n = gallery, k1, k2, len(gallery)
        self.cosines = gallery @ gallery.T
        self.order = [
            sorted((j for j in range(self.n) if j != i), key=lambda j: (-self.cosines[i, j], j))
            for i in range(self.n)
        ]
        self.near = np.stack([self.row(self.mutual(i, k1), self.cosines[i]) for i in range(self.n)])
        self.local = np.stack(
            [np.mean([self.near[j] for j in [i, *self.order[i][: k2 - 1]]], axis=0) for i in range(self.n)]
        )

    def mutual(self, i: int, k: int) -> set[int]:
        """R(i, k): the images of i's k nearest that have i among theirs; and i."""
        return {i} | {j for j in self.order[i][:k] if i in self.order[j][:k]}

    def row(self, mutual: set[int], cosines: np.ndarray) -> np.ndarray:
        wider = set(mutual)
        for q in mutual:
            half = self.mutual(q, round(self.k1 / 2))
            if len(mutual & half) * 3 >= 2 * len(half):
                wider |= half
        row = np.zeros(self.n)
        for j in wider:
            row[j] = np.exp(-(1 - cosines[j]))
        return row / row.sum() if wider else row

    def ask(self, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The query's neighbourhood, averaged, and its overlap with everyone's."""
        cosines = self.gallery @ query
        order = sorted(range(self.n), key=lambda j: (-cosines[j], j))
        mutual = set()
        for j in order[: self.k1]:
            others = self.order[j][: self.k1]
            if len(others) < self.k1 or cosines[j] >= self.cosines[j, others[-1]]:
                mutual.add(j)
        own = self.row(mutual, cosines)
        own = np.mean([own, *(self.near[j] for j in order[: self.k2 - 1])], axis=0)
        overlap = [np.minimum(own, other).sum() / np.maximum(own, other).sum() for other in self.local]
        return own, np.array(overlap)


def by_the_paper(queries, gallery, owners, k, settings: Rerank):
    paper, names = Paper(unit(gallery), settings.k1, settings.k2), sorted(set(owners.tolist()))
    numbers, values = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
    for i, query in enumerate(unit(queries)):
        distance = settings.weight * (1 - paper.gallery @ query)
        distance += (1 - settings.weight) * (1 - paper.ask(query)[1])  # equation 12
        best = {name: 1 - distance[owners == name].min() for name in names}
        ranked = sorted(best, key=lambda name: (-best[name], name))[:k]
        numbers[i, : len(ranked)], values[i, : len(ranked)] = ranked, [best[name] for name in ranked]
    return numbers, values


@pytest.mark.parametrize(("k1", "k2"), [(8, 3), (5, 1), (7, 4), (20, 6), (1, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_gallerys_neighbourhoods_are_those_of_the_paper(k1, k2, seed):
    _, gallery, _ = scene(seed, gallery=90, identities=12)
    paper, found = Paper(unit(gallery), k1, k2), Neighbourhoods(unit_rows(gallery), Rerank(k1=k1, k2=k2))
    np.testing.assert_allclose(found.near.toarray(), paper.near, atol=1e-6)
    np.testing.assert_allclose(found.local.toarray(), paper.local, atol=1e-6)
    np.testing.assert_allclose(found.near.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [Rerank(k1=8, k2=3), Rerank(k1=6, k2=1, weight=0), Rerank(k1=20, k2=6), Rerank(k1=3, k2=3, weight=0.8)],
    ids=str,
)
@pytest.mark.parametrize("cells", [2**24, 2**12], ids=["one block", "many blocks"])
def test_re_ranked_identities_are_those_of_the_paper(settings, cells, monkeypatch):
    for module in (nearest, rerank):
        monkeypatch.setattr(module, "SIMILARITY_CELLS", cells)
    monkeypatch.setattr(rerank, "STEP", cells // 8)
    queries, gallery, owners = scene(2, queries=30, gallery=120, identities=15)
    numbers, values = identities(queries, gallery, owners, Inference(rerank=settings, candidates=6))
    expected, similarity = by_the_paper(queries, gallery, owners, 6, settings)
    np.testing.assert_allclose(values, similarity, atol=2e-6)
    apart = np.abs(np.diff(similarity, axis=1)) > 1e-5  # of equal ones the order is rounding's
    sure = np.c_[np.ones(len(apart), bool), apart] & np.c_[apart, np.ones(len(apart), bool)]
    assert sure.mean() > 0.6
    np.testing.assert_array_equal(numbers[sure], expected[sure])


def test_with_all_the_weight_on_the_cosine_nothing_changes():
    queries, gallery, owners = scene(3)
    plain = identities(queries, gallery, owners, Inference(candidates=10))
    same = identities(queries, gallery, owners, Inference(candidates=10, rerank=Rerank(k1=5, k2=2, weight=1)))
    np.testing.assert_array_equal(same[0], plain[0])
    np.testing.assert_allclose(same[1], plain[1], atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_gallery_smaller_than_the_neighbourhood_is_no_trouble(n):
    queries, gallery, owners = scene(4, queries=5, gallery=n, identities=3)
    settings = Rerank(k1=20, k2=6)
    numbers, values = identities(queries, gallery, owners, Inference(rerank=settings, candidates=4))
    local = Neighbourhoods(unit_rows(gallery), settings)
    assert np.isfinite(values[numbers >= 0]).all()
    np.testing.assert_allclose(local.local.sum(1), 1, atol=1e-6)


def test_copies_in_the_gallery_and_embeddings_of_nothing_are_no_trouble():
    queries, gallery, owners = scene(5, queries=6, gallery=40, identities=8)
    gallery[1:30] = gallery[0]
    gallery[35], queries[2] = 0, 0
    found = identities(queries, gallery, owners, Inference(rerank=Rerank(k1=5, k2=3), candidates=3))
    assert np.isfinite(found[1]).all()
    assert (np.diff(found[1], axis=1) <= 0).all()
    assert ((found[1] >= -1 - 1e-6) & (found[1] <= 1 + 1e-6)).all()


def test_it_finds_by_common_neighbours_what_the_angle_alone_misses():
    """One image of a stranger is the query's nearest, but in a crowd of its own that is nearer to it; the
    query's own kind are a little farther off, and hold each other and the query for their nearest."""
    unit_vectors = np.eye(11)
    centre, stranger = unit_vectors[0], unit_vectors[1]
    query, *kind = (np.sqrt(0.78) * centre + np.sqrt(0.22) * unit_vectors[2 + i] for i in range(5))
    nearest = 0.8 * query + 0.6 * stranger
    crowd = [0.95 * nearest + np.sqrt(1 - 0.95**2) * unit_vectors[7 + i] for i in range(4)]
    gallery, owners = np.array([nearest, *crowd, *kind]), np.array([0] * 5 + [1] * 4)
    plain = identities(query[None], gallery, owners, Inference(candidates=2))
    better = identities(query[None], gallery, owners, Inference(candidates=2, rerank=Rerank(k1=4, k2=1)))
    assert (plain[0][0].tolist(), plain[1][0].tolist()) == ([0, 1], pytest.approx([0.8, 0.78]))
    assert better[0][0].tolist() == [1, 0]
    assert better[1][0, 0] - better[1][0, 1] > 0.2


def peak(n: int) -> int:
    """Bytes that a gallery of n images and as many queries take at most, beyond what is there before."""
    rng = np.random.default_rng(0)
    rows = unit_rows(rng.normal(size=(n, 16)).astype(np.float32))
    queries, owners = unit_rows(rng.normal(size=(n, 16)).astype(np.float32)), np.arange(n) // 4
    tracemalloc.start()
    identities(queries, rows, owners, Inference(rerank=Rerank(k1=8, k2=3), candidates=5))
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size


def test_memory_grows_with_the_images_and_not_with_their_square(monkeypatch):
    for module in (nearest, rerank):
        monkeypatch.setattr(module, "SIMILARITY_CELLS", 2**18)
    monkeypatch.setattr(rerank, "STEP", 2**14)
    small, large = peak(1500), peak(6000)
    assert large < 4 * 6000**2 / 4  # a quarter of one float32 a pair
    assert large < 5 * small  # sixteen times, if it went by pairs


# --- query expansion ----------------------------------------------------------------------------------------


def drawn_by_loops(rows, gallery, k, alpha, own):
    done = []
    for i, row in enumerate(rows):
        order = sorted(
            (j for j in range(len(gallery)) if not (own and j == i)), key=lambda j: -(gallery[j] @ row)
        )
        total = row.copy()
        for j in order[:k]:
            total += max(gallery[j] @ row, 0.0) ** alpha * gallery[j]
        done.append(total / np.linalg.norm(total))
    return np.array(done)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("own", [False, True])
def test_a_query_is_drawn_towards_its_nearest_images(alpha, own):
    queries, gallery, _ = scene(6, queries=20, gallery=50, identities=6)
    found, images = expand(queries, gallery, Expansion(k=4, alpha=alpha, gallery=own))
    expected = unit(gallery)
    if own:
        expected = drawn_by_loops(expected, expected, 4, alpha, own=True)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_allclose(found, drawn_by_loops(unit(queries), expected, 4, alpha, False), atol=1e-5)


def test_without_a_power_it_is_the_plain_mean_of_the_query_and_its_images():
    queries, gallery, _ = scene(7, queries=1, gallery=4, identities=2)
    found, _ = expand(queries, np.abs(gallery), Expansion(k=4, alpha=0))
    np.testing.assert_allclose(
        found[0], unit(np.mean([unit(queries)[0], *unit(np.abs(gallery))], 0)[None])[0], atol=1e-6
    )


def test_more_neighbours_than_there_are_images_are_all_of_them():
    queries, gallery, _ = scene(8, queries=3, gallery=5, identities=2)
    few = expand(queries, gallery, Expansion(k=5, gallery=False))
    many = expand(queries, gallery, Expansion(k=50, gallery=False))
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=True))


# --- honesty: a query on its own ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        Inference(candidates=5, rerank=Rerank(k1=6, k2=3)),
        Inference(candidates=5, expansion=Expansion(gallery=True)),
        Inference(candidates=5, expansion=Expansion(), rerank=Rerank(k1=4, k2=2)),
    ],
    ids=["rerank", "expansion", "both"],
)
def test_a_querys_answer_is_the_same_whoever_is_asked_for_beside_it(settings):
    queries, gallery, owners = scene(9, queries=40, gallery=100, identities=12)
    together = identities(queries, gallery, owners, settings)
    for i in range(0, 40, 7):
        alone = identities(queries[i : i + 1], gallery, owners, settings)
        np.testing.assert_array_equal(alone[0][0], together[0][i])
        np.testing.assert_allclose(alone[1][0], together[1][i], atol=1e-6)


def test_what_is_given_stays_as_it_was():
    queries, gallery, owners = scene(10)
    before = [x.copy() for x in (queries, gallery, owners)]
    identities(queries, gallery, owners, Inference(expansion=Expansion(gallery=True), rerank=Rerank()))
    assert all(np.array_equal(a, b) for a, b in zip(before, (queries, gallery, owners), strict=True))


def answers(path: Path, *overrides: str) -> tuple[dict[str, pd.DataFrame], FoldPredictor]:
    """What an untrained network answers for fold 0 of the competition at `path`."""
    config = load_config(path, ["inference.tta=[identity]", "inference.candidates=4", *overrides])
    task = create_task(config)
    data = load_fold(config, task, 0)
    torch.manual_seed(0)
    model = create_model(
        Architecture("test_resnet", len(data.outputs), 16, (0.5,) * 3, (0.3,) * 3, head="cosine")
    )
    asked = FoldPredictor(config, task, data, model.eval(), torch.device("cpu"), lambda rows: None)
    return ranking_tables(asked), asked


BOTH = (
    "inference.rerank.k1=5",
    "inference.rerank.k2=2",
    "inference.expansion.k=3",
    "inference.expansion.gallery=true",
)


def test_held_out_stopping_and_test_rows_are_asked_for_alike_each_in_a_gallery_of_others(tmp_path):
    tables, asked = answers(prepare_competition(tmp_path, "retrieval"), *BOTH)
    data, settings = asked.data, asked.config.inference
    folds = read_folds(asked.config)
    labels, outputs = folds["target"].to_numpy(), np.array(data.outputs)
    train = embed(asked.model, data.store, data.store.train, settings, asked.device)
    test = embed(asked.model, data.store, data.store.test, settings, asked.device)
    held_out = (folds["fold"] == 0).to_numpy()
    stopping = (folds["stop"] == 0).to_numpy() & ~held_out
    cases = {
        "oof": (train[held_out], ~held_out),
        "stop": (train[stopping], ~held_out & ~stopping),
        "test": (test, np.ones(len(train), bool)),
    }
    owner = {label: number for number, label in enumerate(outputs)}
    for name, (queries, gallery) in cases.items():
        owners = np.array([owner[label] for label in labels[gallery]])
        expected, similarity = identities(queries, train[gallery], owners, settings)
        assert [list(row) for row in tables[name]["candidates"]] == outputs[expected].tolist(), name
        np.testing.assert_allclose(np.stack(tables[name]["similarity"]), similarity, atol=1e-6)
    plain, _ = answers(tmp_path / "configs" / "baseline.yaml")
    assert not plain["oof"]["similarity"].equals(tables["oof"]["similarity"])


def test_the_labels_of_a_fold_change_nothing_of_what_its_rows_are_answered(tmp_path):
    path = prepare_competition(tmp_path, "retrieval")
    before, _ = answers(path, *BOTH)
    table_path = tmp_path / "data" / "folds.csv"
    table = pd.read_csv(table_path, dtype=str)
    mine = np.flatnonzero(table["fold"] == "0")
    table.loc[mine, "target"] = table["target"].to_numpy()[np.random.default_rng(0).permutation(mine)]
    table.to_csv(table_path, index=False)
    after, _ = answers(path, *BOTH)
    for name in ("oof", "stop"):
        for column in ("candidates", "similarity"):
            assert [list(row) for row in after[name][column]] == [list(row) for row in before[name][column]]
    assert [list(row) for row in after["test"]["candidates"]] != [
        list(row) for row in before["test"]["candidates"]
    ]


# --- the config ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["rerank", "expansion"])
def test_a_task_without_a_gallery_refuses(key):
    with pytest.raises(ValueError, match=rf"inference\.{key} works on the neighbours .* multiclass has none"):
        Config(inference={key: {}})
    Config(task={"name": "retrieval"}, inference={key: {}})


def test_an_average_over_more_images_than_are_known_is_refused():
    with pytest.raises(ValueError, match=r"k2=8 lies above inference\.rerank\.k1=5"):
        Config(task={"name": "retrieval"}, inference={"rerank": {"k1": 5, "k2": 8}})
