"""Which rounds of a run's pseudo-labelling were kept, in `runs/<name>/pseudo.json`; light, so that a stage
with nothing to do imports nothing heavy."""

from __future__ import annotations

from typing import Any

from src.artifacts import Step, write_json


def cv_summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """What a report holds of a run's CV."""
    marked = {key: metrics[key] for key in ("optimistic", "why_optimistic") if key in metrics}
    return {key: metrics[key] for key in ("cv", "standard_error")} | marked


def first_row(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """The run that the rounds start from."""
    return {"round": 0, "run": name, **cv_summary(metrics), "kept": True}


def best_run(report: list[dict[str, Any]]) -> str:
    """The last run that was kept."""
    return [row["run"] for row in report if row["kept"]][-1]


def write_outcome(step: Step, metric: str, report: list[dict[str, Any]]) -> None:
    """Write what came of all rounds; from now on the step is done."""
    write_json(step.folder / "pseudo.json", {"metric": metric, "rounds": report, "best": best_run(report)})
    step.done()
