"""Leak scan of runs/ and stacks/: did a model or stack learn from rows that it is scored on?

Nothing is trained: `learned.parquet` lists the rows each fold learned from, the stamps name its teachers and
the origin of its pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from src.artifacts import digest
from src.config import Config
from src.data.loaders import read_folds
from src.reading import read_parquet
from src.stamps import recipe_in
from src.training.fold import LEARNED

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Scan:
    """The findings: leaks (one sentence each), what could not be checked, number of fold models checked."""

    leaks: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    models: int = 0

    def lines(self) -> list[str]:
        """The report lines for the terminal."""
        said = [f"LEAK  {text}" for text in self.leaks] + [f"not seen: {text}" for text in self.unseen]
        found = "no row is scored by what learned from it" if not self.leaks else f"{len(self.leaks)} leak(s)"
        return [*said, f"{self.models} fold models in runs/ looked at: {found}"]


def scan(config: Config) -> Scan:
    """Check every run and stack made on the current folds."""
    found, table = Scan(), read_folds(config)
    held_out = {fold: set(rows) for fold, rows in table.groupby("fold")["id"]}
    folds = digest(config.root / "data" / "folds.csv")
    runs = config.root / "runs"
    for run in sorted(path for path in runs.glob("*") if path.is_dir()):
        for fold, own in held_out.items():
            stamp = recipe_in(run / f"fold{fold}" / "train.stamp.json")
            if stamp is None:
                continue
            if stamp["inputs"]["folds"] != folds:
                found.unseen.append(f"{run.name} was trained on other folds than data/folds.csv holds now")
                break
            found.models += 1
            scan_rows(found, run, fold, own)
            scan_teacher(found, run, fold, stamp, list(held_out))
            scan_labels(found, run, fold, list(held_out))
        scan_table(found, run, held_out)
    fold_of = dict(zip(table["id"], table["fold"], strict=True))
    for stack in sorted(path for path in (config.root / "stacks").glob("*") if path.is_dir()):
        scan_stack(found, stack, fold_of, folds, runs)
    return found


def scan_rows(found: Scan, run: Path, fold: int, own: set[str]) -> None:
    """No row of a fold may be among its model's training or early-stopping rows."""
    path = run / f"fold{fold}" / LEARNED
    if not path.exists():
        found.unseen.append(f"{run.name} fold {fold} left no {LEARNED}: it was trained before there were any")
        return
    for part, rows in read_parquet(path, ["id", "part"]).groupby("part")["id"]:
        both = sorted(own & set(rows))
        if both:
            found.leaks.append(
                f"{run.name} fold {fold}: {len(both)} of its own rows are among its {part} rows, such as "
                f"{both[0]}"
            )


def scan_teacher(found: Scan, run: Path, fold: int, recipe: dict, folds: list[int]) -> None:
    """Distillation: a teacher must be the teacher run's model of the same fold."""
    names = recipe.get("distill", {}).get("teacher") or []
    for number, name in enumerate([names] if isinstance(names, str) else names):
        mark = recipe["inputs"].get(f"teacher{number or ''}")
        teachers = {k: run.with_name(name) / f"fold{k}" / "model.safetensors" for k in folds}
        whose = [k for k, path in teachers.items() if path.exists() and digest(path) == mark]
        if not whose:
            found.unseen.append(f"{run.name} fold {fold}: its teacher {name} has been trained again since")
        elif fold not in whose:
            found.leaks.append(
                f"{run.name} fold {fold} was taught by {name}'s model of fold {whose[0]}, which learned from "
                f"fold {fold}'s rows"
            )


def scan_labels(found: Scan, run: Path, fold: int, folds: list[int]) -> None:
    """Pseudo-labels: a round's labels must come from the previous run's model of the same fold."""
    recipe = recipe_in(run / f"select{fold}.stamp.json")
    if recipe is None:
        return
    said = recipe["predictions"]
    if isinstance(said, list):  # several tables: external images, or all folds, which sets `optimistic`
        if (recipe_in(run / f"fold{fold}" / "train.stamp.json") or {}).get("optimistic"):
            return
        said = said[0]
    base, _, number = run.name.rpartition("-round")
    before = run.with_name(base if number == "1" else f"{base}-round{int(number) - 1}")
    whose = []
    for k in folds:
        for name in ("test", "blind"):
            path = before / f"fold{k}" / f"{name}.parquet"
            if path.exists() and digest(path) == said:
                whose.append(k)
    if not whose:
        found.unseen.append(f"{run.name} fold {fold}: {before.name} has predicted again since")
    elif fold not in whose:
        found.leaks.append(
            f"{run.name} fold {fold} learned from labels of {before.name}'s fold {whose[0]}, which has seen "
            f"fold {fold}'s rows"
        )


def scan_table(found: Scan, run: Path, held_out: dict[int, set[str]]) -> None:
    """Every row of a run's OOF table must be the prediction of its own fold's model."""
    path = run / "oof.parquet"
    if not path.exists():
        return
    whole = read_parquet(path).set_index("id")
    for fold, part in _parts(run, held_out):
        strangers = sorted(set(part["id"]) - held_out[fold])
        if strangers:
            found.leaks.append(
                f"{run.name} fold {fold} predicted rows that are not its own, such as {strangers[0]}"
            )
            continue
        own = part.set_index("id")
        columns = [c for c in own.columns if c not in ("fold",)]
        if not own[columns].equals(whole.loc[own.index, columns]):
            found.leaks.append(f"{run.name}: oof.parquet does not hold what fold {fold}'s model said")


def scan_stack(found: Scan, stack: Path, fold_of: dict[str, int], folds: str, runs: Path) -> None:
    """A stack must use the folds that its members were trained on, and their tables must be unchanged."""
    recipe, path = recipe_in(stack / "stack.stamp.json"), stack / "oof.parquet"
    if recipe is None or not path.exists():
        return
    if recipe["folds"] != folds:
        found.unseen.append(f"stack {stack.name} was made on other folds than data/folds.csv holds now")
        return
    for name, (oof, _) in recipe["members"].items():
        if not (runs / name / "oof.parquet").exists() or digest(runs / name / "oof.parquet") != oof:
            found.unseen.append(f"stack {stack.name}: its member {name} has been predicted again since")
    own = read_parquet(path, ["id", "fold"])
    moved = own[own["id"].map(fold_of) != own["fold"]]
    if len(moved):
        found.leaks.append(
            f"stack {stack.name}: {len(moved)} rows stand in other folds than in data/folds.csv, such as "
            f"{moved['id'].iloc[0]}: their second level learned from predictions that know their labels"
        )


def _parts(run: Path, held_out: dict[int, set[str]]) -> Iterator[tuple[int, pd.DataFrame]]:
    for fold in held_out:
        path = run / f"fold{fold}" / "oof.parquet"
        if path.exists():
            yield fold, read_parquet(path)
