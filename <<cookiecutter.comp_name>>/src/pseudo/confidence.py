"""Confidence of pseudo-labels from rankings: the probability that the first answer is correct, calibrated
from its cosine similarity."""

from __future__ import annotations

import numpy as np

from src.config import UserError
from src.metrics.retrieval import Ranking
from src.pseudo.calibrate import FEWEST_ROWS


def first_is_right(seen: Ranking, truth: np.ndarray, asked: Ranking) -> np.ndarray:
    """Probability (N,) that the first answer of each ranking in `asked` is correct, as an increasing function
    of its cosine. It is fitted by isotonic regression (Zadrozny and Elkan 2002) on the rankings `seen`, whose
    labels are `truth`.

    The model must not have been trained on the rows of `seen`, because it is always confident on its training
    rows. Raises `UserError` if there are too few of them.
    """
    from sklearn.isotonic import IsotonicRegression

    if len(seen) < FEWEST_ROWS:
        raise UserError(
            f"04: a cosine becomes a probability on the rows that decide when to stop, and there are "
            f"{len(seen)} of them; {FEWEST_ROWS} are needed: lower cv.stop_parts, and leave "
            f"train.early_stopping.enabled=true"
        )
    right = [bool(names) and names[0] == label for names, label in zip(seen.labels, truth, strict=True)]
    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    curve.fit(_first_cosines(seen), np.array(right, dtype=np.float64))
    return curve.predict(_first_cosines(asked)) if len(asked) else np.empty(0)


def _first_cosines(ranking: Ranking) -> np.ndarray:
    return np.array([scores[0] if len(scores) else -1.0 for scores in ranking.scores], dtype=np.float64)
