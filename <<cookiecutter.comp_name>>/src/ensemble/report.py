"""Stage 05 (stacking) from end to end: read the members, build the stack, print its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.artifacts import Step
from src.config import Config
from src.ensemble.stack import build_stack
from src.locks import alone
from src.optimism import optimism_note
from src.reading import read_dataset, read_metrics
from src.tasks import create_task


def stack_runs(step: Step, config: Config, folders: list[Path]) -> None:
    """Stack the member runs and print the table of candidates."""
    outputs = read_dataset(config.root)["outputs"]
    with alone(step.folder) as waited:
        if waited and step.fresh():
            metrics = read_metrics(step.folder, candidates=dict, members=dict, left_out=dict)
        else:
            metrics = build_stack(step, config, create_task(config), folders, outputs)
    print(table(metrics))


def table(metrics: dict[str, Any]) -> str:
    """Text table of members and candidates: CV over all rows, mean gain per fold over the default (the mean,
    or the best run if that is better) or a dash, and whether and why each is kept."""
    width = max(22, *map(len, metrics["candidates"])) + 2
    lines = [f"{'':{width}} CV {metrics['metric']}{optimism_note(metrics)}"]
    lines += [f"  {name:{width - 2}} {_score_text(score)}" for name, score in metrics["members"].items()]
    for name, row in metrics["candidates"].items():
        gain = "-" if row["gain"] is None else f"{row['gain']:+.4f} ± {_score_text(row['gain_error'])}"
        lines.append(f"{name:{width}} {_score_text(row['cv'])}   {gain:17} {row['verdict']}")
    lines += [f"{name:{width}} -        left out: {why}" for name, why in metrics["left_out"].items()]
    lines.append(f"{'chosen without the fold':{width}} {_score_text(metrics['cv_of_the_choice'])}")
    return "\n".join(lines)


def _score_text(value: float | None) -> str:
    """A score with four decimals, or a dash if the metric is undefined."""
    return "-" if value is None else f"{value:.4f}"
