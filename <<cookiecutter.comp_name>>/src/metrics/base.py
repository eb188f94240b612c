"""The metric class, and helpers to compute metrics column by column."""

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
    """The targets for which a metric, a loss or a target transform is defined: `wrong(values)` marks the
    invalid ones of numbers (N,), and `needs` describes the valid ones."""

    wrong: Callable[[Any], Any]
    needs: str

    def check(self, values: Any, what: str) -> None:
        """Raise `UserError` for the first invalid value; `what` names the part that needs valid ones."""
        wrong = self.wrong(values)
        if wrong.any():
            raise UserError(f"{what} needs {self.needs}, here one is {values[wrong][0]:g}")


NOT_NEGATIVE = Domain(lambda values: values < 0, "targets of 0 and more")
NOT_ZERO = Domain(lambda values: values == 0, "targets other than 0, by which it divides")
WHOLE = Domain(lambda values: values % 1 != 0, "grades that are whole numbers")
NUMBERS = Domain(lambda values: values != values, "classes that are numbers, which say their order")


@dataclass(frozen=True)
class Metric:
    """A metric: `function(targets, predictions) -> float`. `sign` is 1 if higher is better and -1 if lower is
    better.

    A metric of hard decisions names their kind in `decides`. Given probabilities it uses the default rule
    (0.5, or rounding to the nearest integer); given decisions it scores them directly. `src/decisions` fits
    better rules (cut points only for kappa) and uses `counts` and `average` to do so exactly: `counts`
    computes the score from true and false positives and negatives, which are counted per column, per row,
    over all cells, or per image. `first` is the number of answers of a ranking that count. `domain` restricts
    the targets; stage 01 checks it.
    """

    name: str
    function: Callable[[Any, Any], float]
    sign: int
    tasks: tuple[str, ...]
    decides: Literal["threshold", "cuts"] | None = None
    counts: Counts | None = None
    average: Literal["columns", "rows", "all", "images"] | None = None
    first: int | None = None  # number of ranked answers that count
    domain: Domain | None = None  # of the known targets of each column; None: any

    def __call__(self, targets: Any, predictions: Any) -> float:
        return float(self.function(targets, predictions))

    def better(self, new: float, old: float | None) -> bool:
        """Whether `new` is better than `old`. A finite score beats None and non-finite scores; a non-finite
        score beats nothing."""
        if not isfinite(new):
            return False
        return old is None or not isfinite(old) or self.sign * new > self.sign * old


def two_columns_of(targets: Any, predictions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Targets and predictions as (N, T) float64; (N,) becomes one column. Raises ValueError if their shapes
    differ."""
    import numpy as np

    pair = [np.asarray(values, dtype=np.float64) for values in (targets, predictions)]
    targets, predictions = (values[:, None] if values.ndim == 1 else values for values in pair)
    if targets.shape != predictions.shape:
        raise ValueError(f"targets {targets.shape} and predictions {predictions.shape} differ in shape")
    return targets, predictions


def known_columns(targets: Any, predictions: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Iterate over columns, with the rows whose target is known (not NaN)."""
    import numpy as np

    for target, prediction in zip(*(a.T for a in two_columns_of(targets, predictions)), strict=True):
        known = ~np.isnan(target)
        yield target[known], prediction[known]


def mean_of_columns(function: Callable[[Any, Any], float]) -> Callable[[Any, Any], float]:
    """Turn a metric of one column into the mean over columns. Columns with an undefined (NaN) score are
    skipped; a non-finite prediction makes the whole score NaN."""

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
