"""Nearest-neighbour search for retrieval: each query's identities ranked by the cosine to the nearest of
their gallery images, and each query's nearest images."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cached_property

import numpy as np

SIMILARITY_CELLS = 2**24  # similarities in memory at a time: 64 MiB, however large the gallery


def top_identities(
    queries: np.ndarray,
    gallery: np.ndarray,
    owners: np.ndarray,
    k: int,
    exclude: np.ndarray | None = None,
    block: int = 1024,
    by: Callable[..., Product] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best identities of queries (Q, D), as (Q, k) with -1 if there are fewer, and their similarities
    (Q, k) float32, descending, -inf for missing ones. An identity's similarity is the highest cosine to the
    images of `gallery` (G, D) that belong to it according to `owners` (G,). Ties go to the lower identity.

    Embeddings are normalised to length 1; zero rows stay zero. `exclude` (Q,) is the gallery row that a query
    must not find because it is the query itself, -1 for none. Queries are searched in blocks of `block`, or
    fewer if the gallery is large. If faiss is installed, its exact index is used; `by` selects another
    `Product` with a similarity of its own.
    """
    queries, gallery = unit_rows(queries), unit_rows(gallery)
    exclude = np.full(len(queries), -1) if exclude is None else np.asarray(exclude)
    names, owner = np.unique(np.asarray(owners), return_inverse=True)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    similarity = np.full((len(queries), k), -np.inf, dtype=np.float32)
    kept = min(k, len(names))
    if kept == 0 or len(queries) == 0:
        return found, similarity
    by = by or (_Faiss if importlib.util.find_spec("faiss") else Product)
    search = by(gallery, owner.reshape(-1), kept, block)
    for start in range(0, len(queries), search.block):
        part = slice(start, start + search.block)
        numbers, similarity[part, :kept] = search(queries[part], exclude[part])
        found[part, :kept] = names[numbers]
    found[np.isneginf(similarity)] = -1  # all its images were excluded
    return found, similarity


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows (N, D) normalised to length 1 as float32; zero rows stay zero. Raises ValueError if a row is not
    finite."""
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)  # (N, 1)
    if not np.isfinite(length).all():
        raise ValueError(f"embedding {int(np.isfinite(length).argmin())} is not finite")
    return embeddings / np.where(length > 0, length, 1)


def nearest_images(
    queries: np.ndarray, gallery: np.ndarray, k: int, own: bool = False, block: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of `gallery` (G, D) for queries (Q, D), all of length 1, as (Q, k), and their
    cosines (Q, k) float32, descending. Ties go to the lower row. There are fewer than k columns if the
    gallery is smaller.

    With `own` the queries are the gallery itself, and no row is its own neighbour. If faiss is installed, its
    exact index is used, and ties come in any order.
    """
    k = min(k, len(gallery) - own)
    found = np.empty((len(queries), max(k, 0)), dtype=np.int64)
    cosines = np.empty(found.shape, dtype=np.float32)
    if not found.size:
        return found, cosines
    if importlib.util.find_spec("faiss"):
        return _nearest_by_faiss(queries, gallery, k, own)
    block = max(1, min(block, SIMILARITY_CELLS // (4 * len(gallery))))  # leaves memory for the caller
    for start in range(0, len(queries), block):
        rows = np.arange(start, min(start + block, len(queries)))
        product = queries[rows] @ gallery.T  # (b, G)
        if own:
            product[rows - start, rows] = -np.inf
        found[rows], cosines[rows] = _first_k(product, k)
    return found, cosines


def _nearest_by_faiss(
    queries: np.ndarray, gallery: np.ndarray, k: int, own: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The same search by faiss. With `own` it requests one more neighbour and drops the row itself, or the
    last one if the row is hidden behind duplicates of it."""
    import faiss

    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    cosines, found = index.search(queries, k + own)
    if not own:
        return found.astype(np.int64), cosines
    itself = found == np.arange(len(found))[:, None]
    itself[~itself.any(1), -1] = True
    return found[~itself].reshape(-1, k).astype(np.int64), cosines[~itself].reshape(-1, k)


class Product:
    """Exact search: all similarities of a block of queries by one matrix product."""

    def __init__(self, gallery: np.ndarray, owner: np.ndarray, k: int, block: int):
        order = np.argsort(owner, kind="stable")  # the images of each identity are contiguous
        self.gallery, self.k = gallery[order], k
        self.place = np.empty_like(order)
        self.place[order] = np.arange(len(order))
        self.first = np.flatnonzero(np.diff(owner[order], prepend=-1))
        self.block = max(1, min(block, SIMILARITY_CELLS // len(gallery)))

    def __call__(self, queries: np.ndarray, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.similarity(queries)  # (b, G)
        rows = np.flatnonzero(exclude >= 0)
        found[rows, self.place[exclude[rows]]] = -np.inf
        return _first_k(np.maximum.reduceat(found, self.first, axis=1), self.k)  # of (b, identities)

    def similarity(self, queries: np.ndarray) -> np.ndarray:
        """Similarities (b, G) of queries (b, D) to the rows of `self.gallery`, which are sorted by
        identity."""
        return queries @ self.gallery.T


def _first_k(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns (b, k) of the k highest values in (b, n), and these values, descending; ties go to the first
    column."""
    least = np.partition(values, -k, axis=1)[:, [-k]]  # (b, 1)
    kept = values >= least
    tied = np.flatnonzero(np.count_nonzero(kept, axis=1) > k)
    if len(tied):
        level = values[tied] == least[tied]
        room = k - (values[tied] > least[tied]).sum(1, keepdims=True)
        kept[tied] &= ~level | (np.cumsum(level, axis=1, dtype=np.int32) <= room)
    columns = (np.flatnonzero(kept) % values.shape[1]).reshape(-1, k)  # ascending
    best = np.take_along_axis(values, columns, 1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1), np.take_along_axis(best, order, 1)


class _Faiss:
    """Search by faiss with a growing number of nearest images until they contain k identities. Queries that
    would need very many images, as when one identity owns most of the gallery, fall back to the matrix
    product."""

    def __init__(self, gallery: np.ndarray, owner: np.ndarray, k: int, block: int):
        import faiss

        self.index = faiss.IndexFlatIP(gallery.shape[1])
        self.index.add(gallery)
        self.gallery, self.owner, self.k, self.block = gallery, owner, k, block
        self.most = max(1, SIMILARITY_CELLS // (4 * block))  # images per query; each takes several numbers

    @cached_property
    def product(self) -> Product:
        """The fallback, created only when needed because it holds a second copy of the gallery."""
        return Product(self.gallery, self.owner, self.k, self.block)

    def __call__(self, queries: np.ndarray, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = np.empty((len(queries), self.k), dtype=np.int64)
        similarity = np.empty((len(queries), self.k), dtype=np.float32)
        left, asked = np.arange(len(queries)), 4 * self.k
        while len(left) and asked <= self.most:
            asked = min(asked, len(self.owner))
            done = self.nearest(queries[left], exclude[left], asked)
            found[left], similarity[left], complete = done
            left = left[~complete]
            asked *= 4
        while len(left):
            rows, left = left[: self.product.block], left[self.product.block :]
            found[rows], similarity[rows] = self.product(queries[rows], exclude[rows])
        return found, similarity

    def nearest(
        self, queries: np.ndarray, exclude: np.ndarray, asked: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Identities and similarities (b, k) from the nearest images, `asked` of them per query, and (b,)
        whether images beyond them cannot change the result."""
        cosines, images = self.index.search(queries, asked)  # (b, asked), descending
        last = cosines[:, -1].copy()
        owner = self.owner[images]
        cosines = np.where(images == exclude[:, None], np.float32(-np.inf), cosines)
        order = np.lexsort((-cosines, owner), axis=1)  # sorted by identity, then nearest first
        owner, cosines = np.take_along_axis(owner, order, 1), np.take_along_axis(cosines, order, 1)
        cosines[:, 1:][owner[:, 1:] == owner[:, :-1]] = -np.inf
        columns, best = _first_k(cosines, self.k)
        # An image beyond the last one may tie with it and belong to a lower identity.
        complete = (best[:, -1] > last) | (asked == len(self.owner))
        return np.take_along_axis(owner, columns, 1), best, complete
