"""Comparison of a change with the base: paired score difference, its standard error, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from src.artifacts import write_csv
from src.commands.trials import BASE, Change, Pair
from src.config import UserError
from src.metrics import Metric
from src.scoring import standard_error, why_undefined

Scores = dict[Change, dict[Pair, float]]

CHANCE = 0.05  # probability that a useless trick is marked helps or hurts, for any number of pairs
_ENOUGH = 3  # pairs; two differences on few rows are often equal, with an error of 0


@dataclass(frozen=True)
class Row:
    """The result of a change over `pairs` pairs: mean scores, and the mean paired difference to the base.

    The difference is positive if the change is better, whatever the metric's direction.
    """

    change: Change
    pairs: int
    base: float
    score: float
    difference: float
    error: float
    note: str = ""  # why it could not be trained

    @property
    def margin(self) -> float:
        """Half the 95 % confidence interval of the difference (Student's t); NaN for fewer than two pairs."""
        from scipy.stats import t

        return float(t.isf(CHANCE / 2, self.pairs - 1)) * self.error if self.pairs > 1 else float("nan")

    @property
    def verdict(self) -> str:
        """`helps` or `hurts` if the difference is significant at 95 %, else `cannot tell`; or `failed`."""
        if self.note:
            return "failed"
        if self.pairs < _ENOUGH or not abs(self.difference) > self.margin:
            return "cannot tell"
        return "helps" if self.difference > 0 else "hurts"


def compare_change(
    change: Change, own: dict[Pair, float], base: dict[Pair, float], sign: int, note: str = ""
) -> Row:
    """The result row of a change, over the pairs that both it and the base have scores for."""
    differences = paired(own, base, sign)
    known = list(differences)
    mean = [
        sum(scores[pair] for pair in known) / len(known) if known else float("nan") for scores in (base, own)
    ]
    difference = sum(differences.values()) / len(known) if known else float("nan")
    return Row(change, len(known), *mean, difference, standard_error(list(differences.values())), note)


def paired(own: dict[Pair, float], base: dict[Pair, float], sign: int) -> dict[Pair, float]:
    """The difference of each pair, positive if `own` is better; undefined scores are dropped."""
    both = {pair: sign * (own[pair] - base[pair]) for pair in own if pair in base}
    return {pair: value for pair, value in both.items() if isfinite(value)}


def check_base(scores: dict[Pair, float], metric: Metric) -> None:
    """Raise `UserError` if the base has no score on any pair, so that nothing can be compared with it."""
    if not any(map(isfinite, scores.values())):
        raise UserError(why_undefined(metric.name, "the held-out rows of every pair of the base"))


def nested_choice(scores: Scores, sign: int) -> tuple[float, float, int]:
    """Nested choice of the best point: (its difference, its nested difference, number of candidates).

    The nested difference chooses the best point on the other folds, fold by fold (on the other seeds if there
    is one fold); NaN if there is one pair. Only points with every pair take part; the base is one, with
    difference 0.
    """
    differences = {change: paired(own, scores[BASE], sign) for change, own in scores.items()}
    pairs = list(differences[BASE])
    whole = {change: own for change, own in differences.items() if len(own) == len(pairs)}
    by = 0 if len({pair.fold for pair in pairs}) > 1 else 1  # the left-out part of a pair

    def mean(own: dict[Pair, float], kept: list[Pair]) -> float:
        return sum(own[pair] for pair in kept) / len(kept)

    honest = 0.0
    for left_out in {pair[by] for pair in pairs}:
        inside = [pair for pair in pairs if pair[by] == left_out]
        others = [pair for pair in pairs if pair[by] != left_out]
        if not others:
            return max(mean(own, pairs) for own in whole.values()), float("nan"), len(whole)
        best = max(whole.values(), key=lambda own: mean(own, others))
        honest += mean(best, inside) * len(inside) / len(pairs)
    return max(mean(own, pairs) for own in whole.values()), honest, len(whole)


def selection_bias(scores: Scores, sign: int) -> str:
    """One sentence on how much of the best point's lead is due to its selection."""
    best, honest, among = nested_choice(scores, sign)
    if not isfinite(honest):
        return f"The best of {among} flatters itself, by how much one pair cannot tell."
    lost = len(scores) - among
    more = f"; the {lost} dropped on the way flatter it a little more" if lost else ""
    return (
        f"The best of {among} flatters itself: {best:+.4f} over the base as it stands, {honest:+.4f} when it "
        f"is chosen on the other folds each time, so {max(0.0, best - honest):.4f} is the luck of the pick"
        f"{more}."
    )


def lines(rows: list[Row]) -> list[str]:
    """One line of text per row."""
    width = max((len(row.change.name) for row in rows), default=0)
    return [f"  {row.change.name:<{width}}  {_said(row)}" for row in rows]


def _said(row: Row) -> str:
    if row.note:
        return f"failed: {row.note}"
    error = f" ± {row.error:.4f}" if isfinite(row.error) else ""
    return f"{row.difference:+.4f}{error}  {row.verdict} ({row.pairs} pair{'s' * (row.pairs != 1)})"


def how_scored(metric: Metric) -> str:
    """One sentence on how the scores are computed."""
    if metric.decides is None:
        return f"A score is {metric.name} on a fold's held-out rows"
    return (
        f"A score is {metric.name} on a fold's held-out rows, decided by a rule fitted on the other folds of "
        f"the same run (the plain rule where there are none)"
    )


def write_tables(folder: Path, rows: list[Row], scores: Scores, sign: int) -> None:
    """Write `table.csv` (one row per change) and `pairs.csv` (one row per change and pair)."""
    import pandas as pd

    table = [
        {
            "change": row.change.name,
            "pairs": row.pairs,
            "base": row.base,
            "score": row.score,
            "difference": row.difference,
            "standard_error": row.error,
            "verdict": row.verdict,
            "note": row.note,
        }
        for row in rows
    ]
    base = scores[BASE]
    pairs: list[dict[str, Any]] = [
        {"change": change.name, **pair._asdict(), "base": base.get(pair), "score": score}
        | {"difference": sign * (score - base.get(pair, float("nan")))}
        for change, own in scores.items()
        for pair, score in own.items()
    ]
    write_csv(folder / "table.csv", pd.DataFrame(table))
    write_csv(folder / "pairs.csv", pd.DataFrame(pairs))
