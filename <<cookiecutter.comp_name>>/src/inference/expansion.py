"""Query expansion: an embedding is drawn towards those of its nearest gallery images, before it is searched
with."""

from __future__ import annotations

import numpy as np

from src.config import Expansion
from src.inference.nearest import nearest_images, unit_rows


def expand(queries: np.ndarray, gallery: np.ndarray, settings: Expansion) -> tuple[np.ndarray, np.ndarray]:
    """Queries (Q, D) and gallery (G, D), of any length, as they are searched with: float32 rows of length 1.

    A query becomes the mean of itself and its k nearest gallery images, each weighed by its cosine to the
    power alpha, none below 0: alpha query expansion (Radenovic, Tolias, Chum 2018, Fine-tuning CNN Image
    Retrieval with No Human Annotation); with alpha = 0 the plain mean (Chum et al. 2007, Total Recall). With
    `settings.gallery` the gallery has its own neighbours added first, in the same way (Arandjelovic,
    Zisserman 2012, Three Things Everyone Should Know to Improve Object Retrieval). No label is looked at, and
    no other query.
    """
    queries, gallery = unit_rows(queries), unit_rows(gallery)
    if settings.gallery:
        gallery = _drawn(gallery, gallery, settings, own=True)
    return _drawn(queries, gallery, settings, own=False), gallery


def _drawn(rows: np.ndarray, gallery: np.ndarray, settings: Expansion, own: bool) -> np.ndarray:
    """(N, D) rows, drawn towards their neighbours, of length 1."""
    near, cosines = nearest_images(rows, gallery, settings.k, own=own)
    weights = np.maximum(cosines, 0) ** settings.alpha  # (N, k)
    total = rows.copy()
    for place in range(near.shape[1]):  # one neighbour at a time: (N, D) and never (N, k, D)
        total += weights[:, place, None] * gallery[near[:, place]]
    return unit_rows(total)
