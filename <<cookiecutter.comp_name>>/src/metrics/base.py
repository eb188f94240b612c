"""What a metric is, and the walks over columns that several tasks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from src.config import UserError

if TYPE_CHECKING:
    import numpy as np

Counts = Callable[..., Any]  # (tp, fp, fn, tn) arrays of one shape -> scores of that shape


@dataclass(frozen=True)
class Domain:
    """The targets that a metric, a loss or a transform of targets is defined for: `wrong(values)` says of
    which of (N,) numbers it is not, and `needs` what it needs."""

    wrong: Callable[[Any], Any]
    needs: str

    def check(self, values: Any, what: str) -> None:
        """Raise `UserError`, which says `what` needs them, for the first value outside."""
        wrong = self.wrong(values)
        if wrong.any():
            raise UserError(f"{what} needs {self.needs}, here one is {values[wrong][0]:g}")


NOT_NEGATIVE = Domain(lambda values: values < 0, "targets of 0 and more")
NOT_ZERO = Domain(lambda values: values == 0, "targets other than 0, by which it divides")
WHOLE = Domain(lambda values: values % 1 != 0, "grades that are whole numbers")
NUMBERS = Domain(lambda values: values != values, "classes that are numbers, which say their order")


@dataclass(frozen=True)
class Metric:
    """`function(targets, predictions) -> float`; `sign` is 1 where higher is better and -1 where lower is.

    A metric that needs hard decisions says which in `decides`. Handed probabilities it decides by the plain
    rule (0.5, or the nearest whole number), and handed decisions it scores them as they are; `src/decisions`
    fits better rules (cut points for kappa alone). `counts` and `average` let it do so exactly: the score
    from true and false positives and negatives, and over what these are counted: each column, each row, all
    cells, each image. `first` is how many answers of a ranking it looks at. `domain` is what targets must be;
    stage 01 looks at them.
    """

    name: str
    function: Callable[[Any, Any], float]
    sign: int
    tasks: tuple[str, ...]
    decides: Literal["threshold", "cuts"] | None = None
    counts: Counts | None = None
    average: Literal["columns", "rows", "all", "images"] | None = None
    first: int | None = None  # answers of a ranking that count
    domain: Domain | None = None  # of each column's known targets; null: any

    def __call__(self, targets: Any, predictions: Any) -> float:
        return float(self.function(targets, predictions))

    def better(self, new: float, old: float | None) -> bool:
        """Whether `new` beats `old`; a finite score beats None and one that is not finite, which itself beats
        nothing."""
        if not isfinite(new):
            return False
        return old is None or not isfinite(old) or self.sign * new > self.sign * old


def two_columns_of(targets: Any, predictions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Targets and predictions as (N, T) float64; (N,) is one column. Raises ValueError where they differ in
    shape."""
    import numpy as np

    pair = [np.asarray(values, dtype=np.float64) for values in (targets, predictions)]
    targets, predictions = (values[:, None] if values.ndim == 1 else values for values in pair)
    if targets.shape != predictions.shape:
        raise ValueError(f"targets {targets.shape} and predictions {predictions.shape} differ in shape")
    return targets, predictions


def known_columns(targets: Any, predictions: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Column by column, the rows whose target is known: a NaN target is left out."""
    import numpy as np

    for target, prediction in zip(*(a.T for a in two_columns_of(targets, predictions)), strict=True):
        known = ~np.isnan(target)
        yield target[known], prediction[known]


def mean_of_columns(function: Callable[[Any, Any], float]) -> Callable[[Any, Any], float]:
    """A metric of one column as the mean over columns. A column that leaves it undefined (NaN) is left out;
    a prediction that is not finite makes the whole score NaN."""

    def mean(targets, predictions):
        import numpy as np

        if not np.isfinite(np.asarray(predictions)).all():
            return np.nan
        pairs = known_columns(targets, predictions)
        scores = np.array([function(t, p) if len(t) else np.nan for t, p in pairs])
        defined = scores[~np.isnan(scores)]
        return defined.mean() if len(defined) else np.nan

    mean.__doc__ = function.__doc__
    return mean
