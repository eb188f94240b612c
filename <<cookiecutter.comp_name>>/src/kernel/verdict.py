"""The verdict on a rehearsed run: what went wrong, in one sentence that names the cause and the log."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import read_json
from src.config import Config, UserError
from src.data.submission_form import SampleForm
from src.kaggle.names import bundle_folder
from src.kaggle.output import check_table
from src.kernel.run import OUTPUT, PREDICTIONS
from src.kernel.sandbox import WORKING, KernelResult
from src.reading import made_by, parquet_footer, read_parquet
from src.tasks import create_task
from src.tasks.base import Task

FOLD = 0  # the fold that is replayed
MEMORY, DISK = 29_000, WORKING  # MiB of a T4 x2 session and of its working folder
APART = {True: 0.01, False: 1e-4}  # half precision or not: tolerance of a probability, or of value / spread
AGREE = 0.97  # the minimum share of equal answers where these are names

# Patterns in the last line of a failed run, and the cause that each indicates.
CAUSES = {
    r"ModuleNotFoundError|No module named": "it imports what Kaggle's image lacks",
    r"name resolution|unreachable|Connection refused|Max retries|has no network|offline mode": (
        "it asks the network, and a kernel has none"
    ),
    r"Read-only file system": "it writes where nothing may be written: the input is read-only there",
    r"No space left on device": "the working folder is full",
    r"MemoryError|can't allocate memory|Killed": "the memory was not enough",
}


@dataclass(frozen=True)
class Case:
    """One rehearsed run: its images, its result, and a sentence about what went wrong, or None."""

    name: str
    images: int
    outcome: KernelResult
    wrong: str | None

    def line(self) -> str:
        """The row of this case in the printed table."""
        o = self.outcome
        return (
            f"{self.name:<11} {self.images:>5} images {o.seconds:>7.1f} s {o.memory:>8,.0f} MiB  "
            f"{self.wrong or 'good'}"
        )


def wrong_with(
    config: Config, form: SampleForm, name: str, ids: list[str], done: KernelResult, mount: Path
) -> str | None:
    """What went wrong in the case `name`, whose images are `ids`; None if nothing did."""
    log = done.working.parent / "log.txt"
    if done.status == 124:
        return f"it took longer than the {config.kaggle.hours:g} h of kaggle.hours; see {log}"
    if done.status != 0:
        return f"{why_failed(config, done)}; see {log}"
    if done.memory > MEMORY:
        return f"it took {done.memory:,.0f} MiB of memory, and Kaggle has {MEMORY:,}; see {log}"
    if done.disk > DISK:
        return f"it left {done.disk:,.0f} MiB in the working folder, and Kaggle takes {DISK:,}"
    if name in ("replay", "versions"):
        return wrong_replay(config, done)
    if not (done.working / OUTPUT).is_file():
        left = ", ".join(sorted(path.name for path in done.working.iterdir())) or "nothing"
        return f"it wrote no {OUTPUT} (on Kaggle: `Submission CSV Not Found`), but {left}; see {log}"
    sample = next(mount.rglob(Path(config.data.sample_csv).name))
    try:
        check_table(done.working / OUTPUT, sample, numbers=form.kind in ("label", "columns", "long"))
    except UserError as error:
        return str(error)
    fallback = re.search(r"^FALLBACK: (.*)", done.said, re.MULTILINE)
    if fallback:
        return f"only the prior was submitted, for it failed: {fallback[1]}; see {log}"
    late = re.search(r"^OUT OF TIME: (.*)", done.said, re.MULTILINE)
    if late:
        return f"within kaggle.hours={config.kaggle.hours:g} {late[1]}; see {log}"
    lost = re.search(r"^([\d,]+) of [\d,]+ images were missing or broken", done.said, re.MULTILINE)
    if name == "broken" and (lost is None or lost[1] != "2"):
        return f"two images were spoiled and the kernel did not count them; see {log}"
    if name != "broken" and lost is not None:
        return f"it could not read {lost[1]} of {len(ids)} good images; see {log}"
    if name == "public" and (done.working / PREDICTIONS).is_file():
        return wrong_predictions(config, ids, done)
    return None


def why_failed(config: Config, done: KernelResult) -> str:
    """The cause of a run that failed by itself, as far as its last line shows."""
    last = (done.said.strip().splitlines() or ["it said nothing"])[-1].strip()
    if done.status in (137, -9):
        return "it was killed, as where the memory is not enough"
    cause = next((cause for words, cause in CAUSES.items() if re.search(words, last)), None)
    lost = re.search(r"No such file or directory: '(/[^']+)'", last)
    ours = (config.root.resolve(), os.path.expanduser("~"))
    if lost and (Path(lost[1]).exists() or any(Path(lost[1]).is_relative_to(place) for place in ours)):
        cause = "it reads a file of this machine, which Kaggle has not"
    return f"{cause}: {last}" if cause else f"exit status {done.status}: {last}"


def wrong_replay(config: Config, done: KernelResult) -> str | None:
    """Compare the members' predictions of a fold with those that stage 03 stored; None if they agree."""
    about = read_json(bundle_folder(config) / "competition.json", members=list, source=str)
    for name in [member["name"] for member in about["members"]]:
        said = read_parquet(done.working / f"replay-{name}.parquet")
        path = config.root / "runs" / name / f"fold{FOLD}" / "oof.parquet"
        wrong = differs(config, about, said, stored_rows(path, said["id"].tolist()))
        if wrong:
            return f"{name}: fold {FOLD}'s models say something else here than in stage 03, {wrong}"
    return None


def wrong_predictions(config: Config, ids: list[str], done: KernelResult) -> str | None:
    """Compare the predictions behind the submission with the table that stage 06 submits; None if they
    agree."""
    about = read_json(bundle_folder(config) / "competition.json", members=list, source=str)
    path = config.root / about["source"] / "test.parquet"
    ranks = (about["stacker"] or {}).get("kept", "").startswith("rank_mean")
    if ranks and len(ids) < parquet_footer(path)[0]:
        return None  # a rank depends on all rows that are predicted together
    said = read_parquet(done.working / PREDICTIONS)
    if said["id"].tolist() != ids:
        return "its predictions are not in the order of the sample submission"
    wrong = differs(config, about, said, stored_rows(path, ids))
    return f"{about['source']}: the kernel says something else than stage 06, {wrong}" if wrong else None


def stored_rows(path: Path, ids: list[str]) -> pd.DataFrame:
    """The rows of a stored table with these ids. Raises `UserError` naming the table if one is missing."""
    table = read_parquet(path).set_index("id")
    if lost := [name for name in ids if name not in table.index]:
        raise UserError(f"{path}: has no row of id {lost[0]!r} ({len(lost)} such ids); {made_by(path)}")
    return table.loc[ids]


def differs(config: Config, about: dict[str, Any], said: pd.DataFrame, stored: pd.DataFrame) -> str | None:
    """How far two predictions of the same images differ, if by more than rounding explains; else None."""
    task, outputs, limit = create_task(config), about["dataset"]["outputs"], APART[about["half"]]
    found, wanted = (task.read(table.reset_index(), outputs) for table in (said, stored))
    if task.kind == "rankings":
        same = np.mean([a[:1] == b[:1] for a, b in zip(found.labels, wanted.labels, strict=True)])
        return None if same >= AGREE else f"only {same:.0%} of the first answers are the same"
    far = apart(task, found, wanted)
    unit = "of a pixel on average" if task.kind == "maps" else "at most"
    return None if far <= limit else f"by {far:.3g} {unit} ({limit:g} is what precision costs)"


def apart(task: Task, found: Any, wanted: Any) -> float:
    """The largest difference between two predictions.

    Values of regression tasks are divided by their spread. For masks it is the largest mean absolute pixel
    difference of an image, in 0 to 1.
    """
    if task.kind == "maps":
        return max(float(np.abs(a / 255.0 - b / 255.0).mean()) for a, b in zip(found, wanted, strict=True))
    scale = max(float(wanted.std(0).max()), 1e-9) if task.scaled else 1.0
    return float(np.abs(found - wanted).max() / scale)
