"""How likely the first answer of a ranking is right: its cosine, calibrated on rows whose label is known."""

from __future__ import annotations

import numpy as np

from src.config import UserError
from src.metrics.retrieval import Ranking
from src.pseudo.calibrate import FEWEST_ROWS


def first_is_right(seen: Ranking, truth: np.ndarray, asked: Ranking) -> np.ndarray:
    """(N,) probability that the first answer of each `asked` list is right, rising with its cosine: isotonic
    regression (Zadrozny and Elkan 2002) on rankings `seen` whose answers `truth` are known.

    They must be rows that the model never learned from: of its own it is always sure. Raises `UserError`
    where there are too few.
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
