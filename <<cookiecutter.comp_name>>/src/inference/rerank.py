"""k-reciprocal re-ranking: images are similar if they share neighbours, not only if their angle is small.

Zhong, Zheng, Cao, Li 2017, Re-ranking Person Re-identification with k-reciprocal Encoding. The neighbourhoods
of N images are stored as sparse rows with a few dozen entries each, never as N x N distances.

The gallery's neighbourhoods are computed from the gallery alone, a query's from the gallery and the query
itself. The paper also lets the queries of a set be neighbours of each other. Here they are not: a query's
answer, and the similarity on which thresholds are fitted, would then depend on the number of other queries,
and a fold has fewer queries than the test set. So OOF, early-stopping and test rows are ranked by the same
rule.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from src.config import Rerank
from src.inference.nearest import SIMILARITY_CELLS, Product, nearest_images

STEP = 2**20  # pairs of images processed at a time: some tens of MiB


class Reranked(Product):
    """Re-ranked similarity: `settings.weight` times the cosine plus the remaining weight times the overlap of
    the two neighbourhoods, from 0 to 1. It corresponds to the paper's weighted distance, expressed as a
    similarity."""

    def __init__(self, gallery: np.ndarray, owner: np.ndarray, k: int, block: int, settings: Rerank):
        super().__init__(gallery, owner, k, block)
        self.block = max(1, min(self.block, SIMILARITY_CELLS // (4 * len(gallery))))  # 4 values per pair
        self.weight, self.neighbourhoods = settings.weight, Neighbourhoods(self.gallery, settings)

    def similarity(self, queries: np.ndarray) -> np.ndarray:
        """Similarities (b, G) float32."""
        overlap = self.neighbourhoods.overlap(queries)
        overlap *= 1 - self.weight
        overlap += self.weight * super().similarity(queries)
        return overlap


class Neighbourhoods:
    """Weighted k-reciprocal neighbourhoods of a gallery (G, D) with rows of length 1.

    A neighbourhood is a row of `near`, (G, G) sparse. It contains the images that are among each other's `k1`
    nearest, and the mutual neighbours within k1 / 2 of each such image if two thirds of them are shared
    (equations 3 and 5). Each entry weighs exp(-distance) (equation 7), and a row sums to 1. The distance is 1
    minus the cosine: the authors' code divides by each query's farthest image, after which queries are not
    comparable. `local` is the mean of the rows over the `k2` nearest images (equation 11).
    """

    def __init__(self, gallery: np.ndarray, settings: Rerank):
        self.gallery, self.k1, self.k2 = gallery, settings.k1, settings.k2
        nearest, cosines = nearest_images(gallery, gallery, self.k1, own=True)  # (G, k1)
        whole = nearest.shape[1] == self.k1  # otherwise all images are neighbours of each other
        self.reach = cosines[:, -1] if whole else np.full(len(gallery), -np.inf, np.float32)  # (G,)
        mutual, self.half = (_mutual(nearest[:, :k]) for k in (self.k1, round(self.k1 / 2)))
        self.near = _weighted(_expanded(mutual, self.half), gallery, gallery)
        self.local = sparse.csc_array(_averaged(self.near, self.near, nearest[:, : self.k2 - 1]))

    def of(self, queries: np.ndarray) -> sparse.csr_array:
        """Neighbourhoods (b, G) of queries (b, D), averaged over their nearest images. A query that is not
        near any image has no own entries, only those of its nearest images."""
        nearest, cosines = nearest_images(queries, self.gallery, self.k1)
        mutual = _pattern(nearest, len(self.gallery), keep=cosines >= self.reach[nearest])
        own = _weighted(_expanded(mutual, self.half), queries, self.gallery)
        return _averaged(own, self.near, nearest[:, : self.k2 - 1])

    def overlap(self, queries: np.ndarray) -> np.ndarray:
        """Overlap (b, G) float32 of two neighbourhoods, from 0 to 1: the generalised Jaccard similarity,
        intersection over union (equation 10)."""
        asked, known = self.of(queries), self.local
        common = np.zeros((len(queries), len(self.gallery)), np.float32)
        holders = np.diff(known.indptr)[asked.indices]  # number of gallery rows that share each entry
        pairs = np.r_[0, np.cumsum(holders)][asked.indptr]  # (b + 1,) cumulative
        row = 0
        while row < len(queries):  # as many rows as make up STEP pairs, at least one
            end = max(row + 1, int(np.searchsorted(pairs, pairs[row] + STEP, side="right")) - 1)
            common[row:end] = _common(asked[row:end], known)
            row = end
        together = asked.sum(1)[:, None] + known.sum(1)[None, :] - common
        return np.divide(common, together, out=common, where=together > 0)


def _pattern(nearest: np.ndarray, n: int, keep: np.ndarray | None = None) -> sparse.csr_array:
    """Sparse pattern (N, n) with ones where row i has j among its `nearest` (N, k); `keep` (N, k) selects
    some of them."""
    rows, places = np.nonzero(np.ones(nearest.shape, bool) if keep is None else keep)
    columns = nearest[rows, places]
    return sparse.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(nearest), n))


def _mutual(nearest: np.ndarray) -> sparse.csr_array:
    """Sparse pattern (G, G) with ones where two images are among each other's `nearest` (G, k), and on the
    diagonal."""
    n = len(nearest)
    one_way = _pattern(nearest, n) + sparse.eye_array(n, dtype=np.float32, format="csr")
    return sparse.csr_array(one_way.multiply(one_way.T))


def _expanded(mutual: sparse.csr_array, half: sparse.csr_array) -> sparse.csr_array:
    """Sparse pattern (N, G): `mutual` (N, G) plus the half-size neighbourhoods of its images, for those that
    lie within it by at least two thirds."""
    shared = (mutual @ half).multiply(mutual).tocoo()  # `half` is symmetric
    enough = 3 * shared.data >= 2 * half.sum(1)[shared.col]
    kept = (shared.data[enough] > 0, (shared.row[enough], shared.col[enough]))
    accepted = sparse.csr_array(kept, shape=mutual.shape, dtype=np.float32)
    union = sparse.csr_array(mutual + accepted @ half)
    union.data[:] = 1
    return union


def _weighted(pattern: sparse.csr_array, rows: np.ndarray, gallery: np.ndarray) -> sparse.csr_array:
    """The pattern (N, G) with weights exp(cosine - 1) between rows (N, D) and gallery images; each row sums
    to 1."""
    row, column = np.repeat(np.arange(len(rows)), np.diff(pattern.indptr)), pattern.indices
    step, cosines = max(1, STEP // gallery.shape[1]), np.empty(len(row), np.float32)
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        cosines[part] = np.einsum("nd,nd->n", rows[row[part]], gallery[column[part]])
    weights = np.exp(cosines - 1)
    total = np.bincount(row, weights=weights, minlength=len(rows)).astype(np.float32)
    return sparse.csr_array((weights / total[row], column, pattern.indptr), shape=pattern.shape)


def _averaged(own: sparse.csr_array, near: sparse.csr_array, nearest: np.ndarray) -> sparse.csr_array:
    """Mean (N, G) of each own neighbourhood and those of its `nearest` (N, k2 - 1) images."""
    count = 1 + nearest.shape[1]
    return sparse.csr_array((own + _pattern(nearest, near.shape[0]) @ near) / np.float32(count))


def _common(asked: sparse.csr_array, known: sparse.csc_array) -> np.ndarray:
    """Sums of the element-wise minimum of two sparse rows (b, G), for `asked` (b, G) and all rows of `known`
    (G, G)."""
    size = known.indptr[asked.indices + 1] - known.indptr[asked.indices]
    entry = np.repeat(np.arange(len(size)), size)  # each entry of `asked`, once per row of `known` with it
    place = np.arange(len(entry)) - np.repeat(np.cumsum(size) - size, size)
    place += known.indptr[asked.indices][entry]
    row = np.repeat(np.arange(asked.shape[0]), np.diff(asked.indptr))[entry]
    smaller = np.minimum(asked.data[entry], known.data[place])
    cell = row * known.shape[0] + known.indices[place]
    total = np.bincount(cell, weights=smaller, minlength=asked.shape[0] * known.shape[0])
    return total.reshape(asked.shape[0], -1).astype(np.float32)
