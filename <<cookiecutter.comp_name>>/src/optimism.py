"""Runs whose CV is better than they deserve, because labels of a fold came back to it: marked wherever that
CV is shown, and passed on to what learns from them."""

from __future__ import annotations

from typing import Any

from src.config import Config
from src.stamps import recipe_in

ENSEMBLE = "pseudo.source=ensemble: its labels come from models that learned from the rows it is scored on"


def why_optimistic(config: Config, labels_from: str | None, fold: int) -> str | None:
    """Why the CV of a run flatters, of a fold's model that learns from the round `labels_from` or from a
    teacher; None where it is honest."""
    if labels_from is not None and config.pseudo.source == "ensemble":
        return ENSEMBLE
    for name in (labels_from, *config.distill.teachers):
        stamp = config.root / "runs" / str(name) / f"fold{fold}" / "train.stamp.json"
        if name is not None and (recipe_in(stamp) or {}).get("optimistic"):
            return f"it learned from {name}, whose CV is optimistic"
    return None


def optimism_flag(why: str | None) -> dict[str, Any]:
    """What metrics.json says of it; nothing where the CV is honest."""
    return {} if why is None else {"optimistic": True, "why_optimistic": why}


def optimism_note(metrics: dict[str, Any]) -> str:
    """What stands behind a CV that flatters, wherever it is shown; else nothing."""
    return f" (OPTIMISTIC: {metrics['why_optimistic']})" if metrics.get("optimistic") else ""


def cv_of(metrics: dict[str, Any], remark: str = "") -> str:
    """The CV in metrics.json with a remark and its caution, in words."""
    cv = "undefined" if metrics["cv"] is None else f"{metrics['cv']:.4f}"
    return f"CV {metrics['metric']} {cv}{remark}{optimism_note(metrics)}"
