"""Whether a round is kept: its gain over the best so far must be more than chance."""

from __future__ import annotations

from math import isfinite
from typing import Any

from src.scoring import finite, standard_error


def round_verdict(metrics: dict[str, Any], best: dict[str, Any], sign: int) -> dict[str, Any]:
    """`gain` in CV over the best run so far, positive when better; `gain_error`, the standard error of their
    difference fold by fold; `kept`, where the one is more than the other; and `why`.

    The folds are the same, so the difference is known better than either score. Of a CV that is optimistic
    nothing can be told, so such a round is not kept: whether it helps only the leaderboard knows.
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
