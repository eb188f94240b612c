"""Which runs a stack is made of: finished, on today's folds, with today's outputs."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

from src.artifacts import digest, read_json
from src.config import Config, UserError
from src.optimism import caution, mark

TRIAL = "trial.json"  # the mark of a trial's run, see src/commands/trials.py


def find_members(config: Config) -> tuple[list[Path], list[str]]:
    """Folders of the runs that `stack.members` names, by name; and a line for each that was left out, with
    the reason.

    Trials of `make ablate` and `make sweep` are passed over unless one is named in full, and runs whose CV is
    optimistic left out. Raises `UserError` where a name matches no run, or nothing is left.
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
    members, left_out = [], []
    for path in chosen:
        reason = why_not(config, path)
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


def why_not(config: Config, path: Path) -> str | None:
    """Why a run cannot be a member, or None."""
    try:
        stamp = read_json(path / "score.stamp.json")
        recipe, outputs = stamp["recipe"], stamp["outputs"]
    except (OSError, ValueError, KeyError):
        return f"it is not finished (`make oof EXP={path.name}`)"
    if recipe["folds"] != digest(config.root / "data" / "folds.csv"):
        return "it was trained on other folds than data/folds.csv holds now"
    if recipe["task"]["name"] != config.task.name:
        return f"it solves another task, {recipe['task']['name']}"
    if any(not (path / name).exists() for name in outputs):
        return "its tables are gone"
    metrics = _metrics(path)
    if metrics.get("optimistic") and path.name not in config.stack.members:
        return (
            f"its CV is no match for honest ones{caution(metrics)}; name it in full to have it all the same"
        )
    return _why_no_round(path, metrics)


def optimism(members: list[Path]) -> dict[str, Any]:
    """What the metrics of a stack say of members whose CV is optimistic: its own is so too."""
    flattered = [path.name for path in members if _metrics(path).get("optimistic")]
    return mark(f"so is the CV of {', '.join(flattered)}" if flattered else None)


def _why_no_round(path: Path, metrics: dict[str, Any]) -> str | None:
    """Why a pseudo-label round cannot be a member: it did not help, or 04 ran again since and made fewer."""
    verdict = path / "round.json"
    if not verdict.exists():
        return None
    if not read_json(verdict)["kept"] and not metrics.get("optimistic"):
        return "a pseudo-label round that did not help"
    base = path.name.rpartition("-round")[0] or path.name
    report = path.with_name(base) / "pseudo.json"
    if report.exists() and path.name not in [row["run"] for row in read_json(report)["rounds"]]:
        return f"a pseudo-label round of earlier settings, which `make pseudo EXP={base}` no longer makes"
    return None


def _metrics(path: Path) -> dict[str, Any]:
    """A run's metrics, nothing where they are not there."""
    file = path / "metrics.json"
    return read_json(file) if file.exists() else {}
