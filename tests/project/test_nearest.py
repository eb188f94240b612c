"""The nearest identities: by a matrix product or by faiss, what a loop over all pairs finds."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest

from src.inference import nearest
from src.inference.nearest import nearest_images, top_identities, unit_rows


class IndexFlatIP:
    """faiss's exact index, as far as it is used here: inner products, falling, of equal ones any order."""

    asked: list[tuple[int, int]]

    def __init__(self, d: int):
        self.rows = np.empty((0, d), np.float32)

    def add(self, x: np.ndarray) -> None:
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        self.rows = np.concatenate([self.rows, x])

    def search(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        assert x.dtype == np.float32
        assert 0 < k <= len(self.rows)
        IndexFlatIP.asked.append((len(x), k))
        products = x @ self.rows.T
        images = np.argsort(-products[:, ::-1], axis=1, kind="stable")[:, :k]  # of equal ones the last first
        images = len(self.rows) - 1 - images
        return np.take_along_axis(products, images, 1), images


@pytest.fixture(params=["product", "faiss"])
def way(request, monkeypatch) -> str:
    """Each of the two ways, faiss by a stand-in."""
    IndexFlatIP.asked = []
    stand_in = ModuleType("faiss")
    stand_in.__spec__, stand_in.IndexFlatIP = ModuleSpec("faiss", None), IndexFlatIP
    find_spec = nearest.importlib.util.find_spec
    if request.param == "faiss":
        monkeypatch.setitem(sys.modules, "faiss", stand_in)
    else:
        none = lambda name: None if name == "faiss" else find_spec(name)  # noqa: E731
        monkeypatch.setattr(nearest.importlib.util, "find_spec", none)
    return request.param


def scene(seed: int = 0, queries: int = 50, gallery: int = 300, identities: int = 40, depth: int = 8):
    """Embeddings of very different length, and owners whose numbers have gaps."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(identities, depth))
    owners = rng.integers(0, identities, gallery)
    rows = centres[owners] + 0.7 * rng.normal(size=(gallery, depth))
    asked = centres[rng.integers(0, identities, queries)] + 0.7 * rng.normal(size=(queries, depth))
    asked, rows = (x * rng.uniform(0.1, 30, (len(x), 1)) for x in (asked, rows))
    return asked.astype(np.float32), rows.astype(np.float32), 5 * owners + 2


def by_loops(queries, gallery, owners, k, exclude=None):
    """Query by query in float64: a dictionary of each identity's best cosine."""
    numbers, values = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
    for i, query in enumerate(queries.astype(np.float64)):
        best: dict[int, float] = {}
        for j, row in enumerate(gallery.astype(np.float64)):
            if exclude is not None and j == exclude[i]:
                continue
            length = np.linalg.norm(query) * np.linalg.norm(row)
            cosine = query @ row / length if length else 0.0
            best[owners[j]] = max(best.get(owners[j], -2.0), cosine)
        ranked = sorted(best, key=lambda owner: (-best[owner], owner))[:k]
        numbers[i, : len(ranked)], values[i, : len(ranked)] = ranked, [best[owner] for owner in ranked]
    return numbers, values


def same(found, expected) -> None:
    assert found[0].dtype == np.int64
    assert found[1].dtype == np.float32
    assert np.array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 39, 40, 60])
@pytest.mark.parametrize("block", [1, 7, 1024])
def test_the_best_identities_and_their_similarity_are_those_of_a_loop_over_all_pairs(way, k, block):
    queries, gallery, owners = scene()
    same(top_identities(queries, gallery, owners, k, block=block), by_loops(queries, gallery, owners, k))
    assert bool(IndexFlatIP.asked) == (way == "faiss")


@pytest.mark.parametrize("k", [3, 12])
def test_a_query_does_not_find_the_row_it_leaves_out_and_minus_one_leaves_out_none(way, k):
    _, gallery, owners = scene(gallery=60, identities=12)
    left_out = np.where(np.arange(60) % 3 == 0, -1, np.arange(60))
    found = top_identities(gallery, gallery, owners, k, exclude=left_out)
    same(found, by_loops(gallery, gallery, owners, k, exclude=left_out))
    itself = left_out == -1
    assert (found[0][itself, 0] == owners[itself]).all()
    np.testing.assert_allclose(found[1][itself, 0], 1, atol=1e-6)
    assert (found[1][~itself, 0] < 1 - 1e-4).all()


def test_an_identity_whose_only_image_is_left_out_is_not_found(way):
    gallery = np.eye(3, dtype=np.float32)
    numbers, values = top_identities(gallery, gallery, np.array([4, 6, 9]), 3, exclude=np.array([0, 1, 2]))
    assert numbers.tolist() == [[6, 9, -1], [4, 9, -1], [4, 6, -1]]
    assert values.tolist() == [[0, 0, -np.inf]] * 3


def test_where_there_are_fewer_identities_the_rest_is_empty(way):
    queries, gallery, owners = scene(identities=1)
    numbers, values = top_identities(queries, gallery, owners, 3)
    assert (numbers == [2, -1, -1]).all()
    assert np.isneginf(values[:, 1:]).all()
    same((numbers, values), by_loops(queries, gallery, owners, 3))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_of_equal_similarities_the_lower_number_comes_first(way, k):
    """Sixty images at one place and six a right angle away: faiss hands them in the order of its own."""
    gallery = np.repeat(np.eye(2, dtype=np.float32), [60, 6], axis=0)
    owners = np.r_[np.random.default_rng(0).permutation(np.repeat([30, 20, 10], 20)), [5, 4, 3, 2, 1, 10]]
    numbers, values = top_identities(gallery[:1], gallery, owners, k)
    assert numbers.tolist() == [[10, 20, 30, 1, 2, 3][:k]]
    assert values.tolist() == [[1, 1, 1, 0, 0, 0][:k]]


def test_faiss_is_asked_for_more_until_there_are_enough_identities_and_no_further(way):
    """The nearest 200 images are all of one identity; others follow."""
    angles = np.r_[np.linspace(0, 0.5, 200), np.linspace(0.6, 1.5, 800)]
    gallery = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    owners = np.r_[np.zeros(200, int), 1 + np.arange(800) // 4]
    queries = np.array([[2.0, 0.0], [0.0, 2.0]], np.float32)
    same(top_identities(queries, gallery, owners, 3), by_loops(queries, gallery, owners, 3))
    if way == "faiss":  # the second query has enough at once
        assert IndexFlatIP.asked == [(2, 12), (1, 48), (1, 192), (1, 768)]


def test_queries_that_would_need_too_many_images_are_answered_all_the_same(way, monkeypatch):
    monkeypatch.setattr(
        nearest, "SIMILARITY_CELLS", 4 * 5 * 60
    )  # sixty images a query at most, in blocks of five
    queries, gallery, owners = scene(identities=30)
    owners[:250] = owners[0]
    expected = by_loops(queries, gallery, owners, 8)
    same(top_identities(queries, gallery, owners, 8, block=5), expected)
    if way == "faiss":
        assert {k for _, k in IndexFlatIP.asked} == {32}


def test_length_does_not_count_and_zero_stays_zero(way):
    queries, gallery, owners = scene()
    found = top_identities(queries, gallery, owners, 5)
    scaled = top_identities(100 * queries, 0.01 * gallery, owners, 5)
    same(scaled, (found[0], found[1]))
    numbers, values = top_identities(np.zeros((1, 8)), gallery, owners, 4)
    assert numbers.tolist() == [sorted(set(owners.tolist()))[:4]]
    assert values.tolist() == [[0.0] * 4]
    lengths = np.linalg.norm(unit_rows(np.r_[queries, np.zeros((1, 8), np.float32)]), axis=1)
    np.testing.assert_allclose(lengths, [1.0] * 50 + [0.0], atol=1e-6)


def test_no_queries_no_gallery_and_no_places_give_empty_answers(way):
    queries, gallery, owners = scene()
    numbers, values = top_identities(queries[:0], gallery, owners, 4)
    assert numbers.shape == values.shape == (0, 4)
    numbers, values = top_identities(queries, gallery[:0], owners[:0], 4)
    assert (numbers == -1).all()
    assert np.isneginf(values).all()
    assert top_identities(queries, gallery, owners, 0)[0].shape == (50, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_refused(way, value):
    queries, gallery, owners = scene()
    gallery[7, 2] = value
    with pytest.raises(ValueError, match="embedding 7 is not finite"):
        top_identities(queries, gallery, owners, 4)


def test_what_is_given_is_not_changed(way):
    queries, gallery, owners = scene()
    before = queries.copy(), gallery.copy(), owners.copy()
    top_identities(queries, gallery, owners, 4, exclude=np.arange(50))
    assert all(np.array_equal(a, b) for a, b in zip(before, (queries, gallery, owners), strict=True))


# --- the nearest images, by a product or by faiss -----------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("k", [1, 7, 60, 400])
def test_the_nearest_images_are_those_of_a_sort(way, k, own, monkeypatch):
    monkeypatch.setattr(nearest, "SIMILARITY_CELLS", 3 * 300)
    queries, gallery, _ = (unit_rows(x) if x.ndim == 2 else x for x in scene(11))
    queries = gallery if own else queries
    found, cosines = nearest_images(queries, gallery, k, own=own)
    product = queries.astype(np.float64) @ gallery.astype(np.float64).T
    if own:
        np.fill_diagonal(product, -np.inf)
    kept = min(k, len(gallery) - own)
    assert found.shape == cosines.shape == (len(queries), kept)
    np.testing.assert_allclose(cosines, -np.sort(-product, axis=1)[:, :kept], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(product, found, 1), cosines, atol=1e-6)
    assert all(len(set(row)) == kept for row in found.tolist())


def test_a_row_among_copies_of_itself_is_not_its_own_neighbour(way):
    rows = unit_rows(np.ones((6, 3), np.float32))
    found, cosines = nearest_images(rows, rows, 3, own=True)
    assert not (found == np.arange(6)[:, None]).any()
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
