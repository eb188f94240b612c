"""The second levels over predictions of numbers, a file a blender; `base.py` says what each is given and
gives.

| name | what it is | file |
|---|---|---|
| `mean` | the plain mean, which every other has to beat | `averages.py` |
| `rank_mean` | the mean of ranks, for metrics of order | `averages.py` |
| `hill_climbing` | the weighted mean, members added one by one | `hill_climbing.py` |
| `linear` | ridge or logistic regression | `linear.py` |
| `lightgbm`, `xgboost` | small boosted trees | `lightgbm.py`, `xgboost.py`, `trees.py` |
| `mlp` | a small network, output by output | `mlp.py`, `networks.py` |
| `cnn` | a small convolution over neighbouring outputs | `cnn.py`, `networks.py` |

Trees and networks start from a `linear.py` that is strongly drawn to the mean, that one from the mean,
calibrated; and none may fall when a member says more: see "The stack is monotone" in docs/decisions.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from src.ensemble.blenders.base import Fit, Fitted

# File, the function that fits, the class that reads what is stored. Imported when asked for: torch is heavy.
ROOMS = {
    "mean": ("averages", "fit_mean", "Mean"),
    "rank_mean": ("averages", "fit_rank_mean", "RankMean"),
    "hill_climbing": ("hill_climbing", "fit", "Weighted"),
    "calibration": ("calibration", "fit", "Calibration"),  # no blender, but the start of most
    "linear": ("linear", "fit", "Linear"),
    "lightgbm": ("lightgbm", "fit", "LightGBM"),
    "xgboost": ("xgboost", "fit", "XGBoost"),
    "mlp": ("mlp", "fit", "MLP"),
    "cnn": ("cnn", "fit", "CNN"),
}


def fitter(name: str) -> Fit:
    """The function that fits a blender."""
    file, fit, _ = ROOMS[name]
    return getattr(import_module(f"src.ensemble.blenders.{file}"), fit)


def restored(name: str, stored: dict[str, Any]) -> Fitted:
    """A fitted blender, from what its `as_json` gave."""
    file, _, kind = ROOMS[name]
    return getattr(import_module(f"src.ensemble.blenders.{file}"), kind).from_json(stored)
