"""Decision whether a pseudo-label round is kept: its gain over the best run so far must exceed its standard
error."""

from __future__ import annotations

from math import isfinite
from typing import Any

from src.scoring import finite, standard_error


def round_verdict(metrics: dict[str, Any], best: dict[str, Any], sign: int) -> dict[str, Any]:
    """Compare a round's CV with the best run so far: `gain`, positive when better; `gain_error`, the standard
    error of the paired difference over folds; `kept`, whether the gain is larger than that; and `why`.

    Both runs use the same folds, so their difference is known more precisely than either score. An optimistic
    CV decides nothing, so such a round is not kept; only the leaderboard shows whether it helps.
    """
    if metrics.get("optimistic"):
        why = "its CV flatters, so it cannot tell; name the run in stack.members or submit.source to use it"
        return {"gain": None, "gain_error": None, "kept": False, "why": why}
    if metrics["cv"] is None or best["cv"] is None:
        kept = metrics["cv"] is not None
        why = "the best so far has no CV" if kept else "its CV is undefined"
        return {"gain": None, "gain_error": None, "kept": kept, "why": why}
    gain = sign * (metrics["cv"] - best["cv"])
    pairs = zip(metrics["folds"], best["folds"], strict=True)
    error = standard_error([sign * (new - old) for new, old in pairs if None not in (new, old)])
    kept = gain > (error if isfinite(error) else 0.0)
    if kept:
        why = "better than the best so far by more than the standard error of the difference"
    elif gain > 0:
        why = "better than the best so far by no more than the standard error of the difference"
    else:
        why = "not better than the best so far"
    return {"gain": gain, "gain_error": finite(error), "kept": kept, "why": why}
