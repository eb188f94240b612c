"""Which runs a stack is made of: finished, on today's folds, with today's outputs."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.artifacts import digest
from src.config import Config, UserError
from src.optimism import optimism_flag, optimism_note
from src.reading import read_json, read_metrics
from src.stamps import check_outputs, recipe_in

TRIAL = "trial.json"  # the mark of a trial's run, see src/commands/trials.py


def find_members(config: Config) -> tuple[list[Path], list[str]]:
    """Folders of the runs that `stack.members` names, by name; and a line for each that was left out, with
    the reason.

    Trials of `make ablate` and `make sweep` are passed over unless one is named in full, and runs whose CV is
    optimistic left out, and those with files that are damaged, of other rows or not finite. Raises
    `UserError` where a name matches no run, such a run is named in full, or nothing is left.
    """
    folders = sorted(path for path in (config.root / "runs").glob("*") if path.is_dir())
    runs = [f for f in folders if f.name in config.stack.members or not (f / TRIAL).exists()]
    names = [path.name for path in runs]
    for pattern in config.stack.members:
        if not fnmatch.filter(names, pattern):
            known = f"; there are {', '.join(names)}" if names else ""
            raise UserError(f"stack.members: {pattern!r} matches no run in runs/{known}")
    chosen = [
        path for path in runs if any(fnmatch.fnmatch(path.name, pattern) for pattern in config.stack.members)
    ]
    members, left_out, check, expected = [], [], checked_before(config), None
    for path in chosen:
        try:
            reason = _why_not(config, path)
            if reason is None and not check(path):
                from src.ensemble.tables import check_member, expected_rows

                expected = expected or expected_rows(config, chosen)
                check_member(config, path, expected)
        except UserError as error:
            if path.name in config.stack.members:
                raise UserError(f"stack.members names {path.name}, which cannot be used: {error}") from None
            reason = str(error)
        if reason is None:
            members.append(path)
        else:
            left_out.append(f"{path.name} is left out: {reason}")
    if not members:
        raise UserError(
            f"05: no finished run to stack ({'; '.join(left_out) or 'runs/ is empty'}); "
            f"run `make train oof` first"
        )
    return members, left_out


def checked_before(config: Config) -> Callable[[Path], bool]:
    """Whether the stack that is there was made of these very tables of a run: then they are good, and an
    up-to-date stage need not read them."""
    recipe = recipe_in(config.root / "stacks" / config.stack.name / "stack.stamp.json") or {}
    known = (
        recipe.get("members") if recipe.get("folds") == digest(config.root / "data" / "folds.csv") else None
    )

    def check(path: Path) -> bool:
        tables = [digest(path / name) for name in ("oof.parquet", "test.parquet")]
        return (known or {}).get(path.name) == tables

    return check


def _why_not(config: Config, path: Path) -> str | None:
    """Why a run cannot be a member, or None. Raises `UserError` naming a file of it that is damaged."""
    stamp = path / "score.stamp.json"
    recipe = recipe_in(stamp)
    if recipe is None:
        return f"it is not finished (`make oof EXP={path.name}`)"
    if recipe.get("folds") != digest(config.root / "data" / "folds.csv"):
        return "it was trained on other folds than data/folds.csv holds now"
    if (solves := (recipe.get("task") or {}).get("name")) != config.task.name:
        return f"it solves another task, {solves}"
    check_outputs(stamp)
    metrics = read_metrics(path)
    if metrics.get("optimistic") and path.name not in config.stack.members:
        return (
            f"its CV is no match for honest ones{optimism_note(metrics)}; "
            "name it in full to have it all the same"
        )
    return _why_no_round(path, metrics)


def stack_optimism(members: list[Path]) -> dict[str, Any]:
    """What the metrics of a stack say of members whose CV is optimistic: its own is so too."""
    flattered = [path.name for path in members if read_metrics(path).get("optimistic")]
    return optimism_flag(f"so is the CV of {', '.join(flattered)}" if flattered else None)


def _why_no_round(path: Path, metrics: dict[str, Any]) -> str | None:
    """Why a pseudo-label round cannot be a member: it did not help, or 04 ran again since and made fewer."""
    verdict = path / "round.json"
    if not verdict.exists():
        return None
    if not read_json(verdict, kept=bool)["kept"] and not metrics.get("optimistic"):
        return "a pseudo-label round that did not help"
    base = path.name.rpartition("-round")[0] or path.name
    report = path.with_name(base) / "pseudo.json"
    rounds = read_json(report, rounds=list)["rounds"] if report.exists() else [{"run": path.name}]
    if path.name not in [row.get("run") for row in rounds if isinstance(row, dict)]:
        return f"a pseudo-label round of earlier settings, which `make pseudo EXP={base}` no longer makes"
    return None
