"""Blenders: second levels (stacking) over numeric predictions, one file per blender. Their interface is in
`base.py`.

| name | what it is | file |
|---|---|---|
| `mean` | the plain mean, the baseline of all others | `averages.py` |
| `rank_mean` | the mean of ranks (rank averaging), for ranking metrics | `averages.py` |
| `hill_climbing` | the weighted mean by hill climbing (greedy selection of members) | `hill_climbing.py` |
| `linear` | ridge or logistic regression | `linear.py` |
| `lightgbm`, `xgboost` | small gradient-boosted trees | `lightgbm.py`, `xgboost.py`, `trees.py` |
| `mlp` | a small multi-layer perceptron, output by output | `mlp.py`, `networks.py` |
| `cnn` | a small convolution over neighbouring outputs | `cnn.py`, `networks.py` |

Trees and networks start from a linear model (`linear.py`) with strong shrinkage to the mean; the linear model
starts from the calibrated mean. No blender's prediction may fall when a member's prediction rises: see "The
stack is monotone" in docs/decisions.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from src.ensemble.blenders.base import Fit, Fitted

# File, fit function, and the class that restores a stored blender. Imported lazily, since torch is slow to
# import.
ROOMS = {
    "mean": ("averages", "fit_mean", "Mean"),
    "rank_mean": ("averages", "fit_rank_mean", "RankMean"),
    "hill_climbing": ("hill_climbing", "fit", "Weighted"),
    "calibration": ("calibration", "fit", "Calibration"),  # not a blender, but the starting point of most
    "linear": ("linear", "fit", "Linear"),
    "lightgbm": ("lightgbm", "fit", "LightGBM"),
    "xgboost": ("xgboost", "fit", "XGBoost"),
    "mlp": ("mlp", "fit", "MLP"),
    "cnn": ("cnn", "fit", "CNN"),
}


def fitter(name: str) -> Fit:
    """The function that fits the named blender."""
    file, fit, _ = ROOMS[name]
    return getattr(import_module(f"src.ensemble.blenders.{file}"), fit)


def restored(name: str, stored: dict[str, Any]) -> Fitted:
    """A fitted blender, restored from the output of its `as_json`."""
    file, _, kind = ROOMS[name]
    return getattr(import_module(f"src.ensemble.blenders.{file}"), kind).from_json(stored)
