"""Selection of a stack's members: finished runs on the current folds with the current outputs."""

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

TRIAL = "trial.json"  # marks the run of a trial, see src/commands/trials.py


def find_members(config: Config) -> tuple[list[Path], list[str]]:
    """Folders of the runs that match `stack.members`, sorted by name, and one line with the reason for each
    run that is left out.

    Trials of `make ablate` and `make sweep` are skipped unless named in full. Runs whose CV is optimistic are
    left out, and so are runs whose files are damaged, have other rows or hold values that are not finite.
    Raises `UserError` if a name matches no run, if an unusable run is named in full, or if no member is left.
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
    """A function that says whether the existing stack was built from exactly these tables of a run. Such
    tables are known to be good, and an up-to-date stage need not read them again."""
    recipe = recipe_in(config.root / "stacks" / config.stack.name / "stack.stamp.json") or {}
    known = (
        recipe.get("members") if recipe.get("folds") == digest(config.root / "data" / "folds.csv") else None
    )

    def check(path: Path) -> bool:
        tables = [digest(path / name) for name in ("oof.parquet", "test.parquet")]
        return (known or {}).get(path.name) == tables

    return check


def _why_not(config: Config, path: Path) -> str | None:
    """The reason why a run cannot be a member, or None. Raises `UserError` that names a damaged file of the
    run."""
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
    """The optimism fields for the stack's metrics: its CV is optimistic if that of any member is."""
    flattered = [path.name for path in members if read_metrics(path).get("optimistic")]
    return optimism_flag(f"so is the CV of {', '.join(flattered)}" if flattered else None)


def _why_no_round(path: Path, metrics: dict[str, Any]) -> str | None:
    """The reason why a pseudo-label round cannot be a member, or None: it did not help, or a later run of
    stage 04 no longer makes it."""
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
