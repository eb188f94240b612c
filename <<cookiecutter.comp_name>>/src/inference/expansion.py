"""Query expansion (QE, alpha-QE) for retrieval: before the search an embedding is averaged with those of its
nearest gallery images. Adding neighbours to the gallery is database augmentation (DBA)."""

from __future__ import annotations

import numpy as np

from src.config import Expansion
from src.inference.nearest import nearest_images, unit_rows


def expand(queries: np.ndarray, gallery: np.ndarray, settings: Expansion) -> tuple[np.ndarray, np.ndarray]:
    """Expanded queries (Q, D) and gallery (G, D) for the search: float32 rows of length 1, from rows of any
    length.

    A query becomes the weighted mean of itself and its k nearest gallery images, each with weight max(cosine,
    0) to the power alpha: alpha query expansion (Radenovic, Tolias, Chum 2018, Fine-tuning CNN Image
    Retrieval with No Human Annotation). With alpha = 0 it is the plain mean, average query expansion (Chum et
    al. 2007, Total Recall). With `settings.gallery` the gallery images are first averaged with their own
    neighbours in the same way (Arandjelovic, Zisserman 2012, Three Things Everyone Should Know to Improve
    Object Retrieval). It uses no labels and no other queries.
    """
    queries, gallery = unit_rows(queries), unit_rows(gallery)
    if settings.gallery:
        gallery = _drawn(gallery, gallery, settings, own=True)
    return _drawn(queries, gallery, settings, own=False), gallery


def _drawn(rows: np.ndarray, gallery: np.ndarray, settings: Expansion, own: bool) -> np.ndarray:
    """Rows (N, D) averaged with their neighbours, normalised to length 1."""
    near, cosines = nearest_images(rows, gallery, settings.k, own=own)
    weights = np.maximum(cosines, 0) ** settings.alpha  # (N, k)
    total = rows.copy()
    for place in range(near.shape[1]):  # one neighbour at a time keeps memory at (N, D), not (N, k, D)
        total += weights[:, place, None] * gallery[near[:, place]]
    return unit_rows(total)
