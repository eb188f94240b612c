"""Outcome of a run's pseudo-labelling in `runs/<name>/pseudo.json`: its rounds and which of them were kept.
Its imports are light, so that an up-to-date stage starts quickly."""

from __future__ import annotations

from typing import Any

from src.artifacts import Step, write_json


def cv_summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """The CV fields of a run's metrics that a report contains."""
    marked = {key: metrics[key] for key in ("optimistic", "why_optimistic") if key in metrics}
    return {key: metrics[key] for key in ("cv", "standard_error")} | marked


def first_row(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Report row of the run from which the rounds start."""
    return {"round": 0, "run": name, **cv_summary(metrics), "kept": True}


def best_run(report: list[dict[str, Any]]) -> str:
    """Name of the last run that was kept."""
    return [row["run"] for row in report if row["kept"]][-1]


def write_outcome(step: Step, metric: str, report: list[dict[str, Any]]) -> None:
    """Write the outcome of all rounds and mark the step as done."""
    write_json(step.folder / "pseudo.json", {"metric": metric, "rounds": report, "best": best_run(report)})
    step.done()
