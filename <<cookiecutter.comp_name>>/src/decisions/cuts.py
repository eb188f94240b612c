"""Cut points between ordinal grades that maximise quadratic weighted kappa (QWK); on Kaggle such a fit is
known as OptimizedRounder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from src.config import UserError
from src.decisions.thresholds import ASCENT_ROUNDS, Steps, best_of
from src.metrics.base import WHOLE, known_columns

if TYPE_CHECKING:
    import numpy as np

Cuts = tuple[tuple[float, ...], tuple[float, ...]]


def fit_cuts(targets: Any, predictions: Any) -> list[Cuts]:
    """Per column, the cut points with the highest kappa found by coordinate ascent, and the grades between
    them, which are those of the targets. Raises `UserError` for grades that are not integers.

    The search starts at the midpoints between grades (rounding) and at the cut points that reproduce the
    grade frequencies; the better result is kept.
    """
    import numpy as np

    found = []
    for target, prediction in known_columns(targets, predictions):
        if not len(target):
            raise UserError("task.metric: qwk needs grades, here a column has none")
        WHOLE.check(target, "task.metric: qwk")
        grades, rows = np.unique(target, return_counts=True)
        shares = np.cumsum(rows)[:-1] / len(target)
        starts = (grades[:-1] + grades[1:]) / 2, np.quantile(prediction, shares)
        ascents = [Search(target, prediction, grades).ascend(start.copy()) for start in starts]
        cuts = max(ascents, key=lambda ascent: ascent[1])[0]
        found.append((tuple(cuts.tolist()), tuple(grades.tolist())))
    return found


class Search:
    """Coordinate ascent on kappa. Kappa depends on the predicted grades g only through three sums: of g, of g
    squared, and of g times the target. Moving one cut point changes them by prefix sums, so all its positions
    are scored at once."""

    def __init__(self, target: np.ndarray, prediction: np.ndarray, grades: np.ndarray):
        import numpy as np

        self.steps, self.grades, self.target = Steps.of(prediction), grades, target
        self.rising = prediction[self.steps.order]
        # (N + 1,) sum of the targets below each place
        self.below = np.r_[0.0, np.cumsum(target[self.steps.order])]

    def ascend(self, cuts: np.ndarray) -> tuple[np.ndarray, float]:
        """Optimise each cut point between its neighbours until none moves; returns the ascending cut points
        and the kappa."""
        import numpy as np

        edges = np.r_[0, np.searchsorted(self.rising, cuts, side="left"), len(self.rising)]
        top = self.kappa(edges[None, :])[0]
        for _ in range(ASCENT_ROUNDS):
            before = top
            for j in range(len(cuts)):
                place = self.steps.place
                free = (place >= edges[j]) & (place <= edges[j + 2])
                trials = np.repeat(edges[None, :], free.sum(), 0)
                trials[:, j + 1] = place[free]
                value, reached = best_of(self.steps.value[free], self.kappa(trials), near=cuts[j])
                if reached > top + 1e-12:
                    cuts[j], top = value, reached
                    edges[j + 1] = np.searchsorted(self.rising, value, side="left")
            if top == before:
                break
        return np.maximum.accumulate(cuts), float(top)  # two cut points in one gap may be in the wrong order

    def kappa(self, edges: np.ndarray) -> np.ndarray:
        """(M,) kappas of M sets of edges (M, G + 1): grade g holds the rows from edge g to edge g + 1."""
        import numpy as np

        n, target = len(self.target), self.target
        rows, sums = np.diff(edges, axis=1), np.diff(self.below[edges], axis=1)  # (M, G)
        mean, square, cross = rows @ self.grades / n, rows @ self.grades**2 / n, sums @ self.grades / n
        error = (target**2).mean() - 2 * cross + square
        chance = target.var() + square - mean**2 + (target.mean() - mean) ** 2
        return 1 - np.divide(error, chance, out=np.ones_like(error), where=chance > 0)
