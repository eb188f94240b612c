"""Requests to ablate and sweep: their shared arguments, and what a plan depends on."""

from __future__ import annotations

import argparse
from pathlib import Path

from src.artifacts import Step
from src.commands.trials import BASE, Change, Trials
from src.config import UserError
from src.steps import dataset_inputs


def command(name: str, doc: str) -> argparse.ArgumentParser:
    """The argument parser that ablate and sweep share."""
    parser = argparse.ArgumentParser(
        prog=f"python -m src.commands.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="configs/baseline.yaml", help="the experiment (%(default)s)")
    parser.add_argument("--minutes", type=minutes, default=30.0, help="how long it may take (%(default)s)")
    parser.add_argument("--name", help="the folder it is written to (default: the experiment's name)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the experiment itself")
    return parser


def minutes(text: str) -> float:
    """Parse a number of minutes above 0; raises `UserError` otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"MINUTES={text} is no time; a good one is 30")
    return value


def plan_step(folder: Path, trials: Trials, changes: list[Change], budget: float) -> Step:
    """The step of the plan, valid while experiment, tried changes, minutes and folds stay the same.

    A call that was killed continues with its plan.
    """
    recipe = {
        "base": trials.mark(trials.configured(BASE, trials.seed)),
        "folds": list(trials.folds),
        "tried": [list(change.overrides) for change in changes],
        "minutes": budget,
        "data": dataset_inputs(trials.config)["folds"],
    }
    title = f"{trials.kind} {trials.config.name}"
    return Step(title, folder, ("plan.json",), recipe, stamp_name="plan")
