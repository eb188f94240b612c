"""Optimistic CV: marks runs whose CV is too high because labels of a fold leaked into its training. The mark
is shown with the CV and passed on to runs that learn from such a run."""

from __future__ import annotations

from typing import Any

from src.config import Config
from src.stamps import recipe_in

ENSEMBLE = "pseudo.source=ensemble: its labels come from models that learned from the rows it is scored on"


def why_optimistic(config: Config, labels_from: str | None, fold: int) -> str | None:
    """The reason why the CV of a fold's model is optimistic, given the pseudo-label round `labels_from` and
    the distillation teachers it learns from; None if its CV is honest."""
    if labels_from is not None and config.pseudo.source == "ensemble":
        return ENSEMBLE
    for name in (labels_from, *config.distill.teachers):
        stamp = config.root / "runs" / str(name) / f"fold{fold}" / "train.stamp.json"
        if name is not None and (recipe_in(stamp) or {}).get("optimistic"):
            return f"it learned from {name}, whose CV is optimistic"
    return None


def optimism_flag(why: str | None) -> dict[str, Any]:
    """Fields for metrics.json that mark the CV as optimistic; empty if there is no reason."""
    return {} if why is None else {"optimistic": True, "why_optimistic": why}


def optimism_note(metrics: dict[str, Any]) -> str:
    """Note shown after an optimistic CV, otherwise an empty string."""
    return f" (OPTIMISTIC: {metrics['why_optimistic']})" if metrics.get("optimistic") else ""


def cv_of(metrics: dict[str, Any], remark: str = "") -> str:
    """The CV in metrics.json as text, with a remark and the optimism note."""
    cv = "undefined" if metrics["cv"] is None else f"{metrics['cv']:.4f}"
    return f"CV {metrics['metric']} {cv}{remark}{optimism_note(metrics)}"
