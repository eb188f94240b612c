"""Runs of pushed kernels: inputs mounted as Kaggle does, the script really executed, its output scored."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import processes

if TYPE_CHECKING:
    from kaggle_server.api import Store
    from kaggle_server.records import Competition

# runner(script, input, working, variables) -> (exit status, what it printed). A sandbox may stand here.
Runner = Callable[[Path, Path, Path, dict[str, str]], tuple[int, str]]


@dataclass
class Run:
    """One version of a kernel, or one hidden run of it."""

    folder: Path
    saved: dict[str, Any]
    status: str = "QUEUED"
    failure: str | None = None
    log: str = field(default="", repr=False)

    @property
    def input(self) -> Path:
        return self.folder / "input"

    @property
    def working(self) -> Path:
        return self.folder / "working"


def plain(script: Path, inputs: Path, working: Path, variables: dict[str, str]) -> tuple[int, str]:
    """Run the script as a process with an empty home and no variable of ours."""
    home = working.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "KAGGLE_INPUT_DIR": str(inputs),
        "KAGGLE_WORKING_DIR": str(working),
        **{name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")},
        **variables,
    }
    done = processes.run([sys.executable, script], cwd=working, env=environment, timeout=300)
    return done.returncode, done.stdout + done.stderr


def mount(store: Store, run: Run, hidden: Competition | None = None) -> None:
    """Lay out `input` for a run; a `hidden` competition's hidden files take the place of its public ones."""
    new = store.layout == "new"
    run.working.mkdir(parents=True)
    run.input.mkdir()
    for slug in run.saved["competitionDataSources"]:
        competition = store.competitions[slug]
        source = competition.hidden if hidden is competition and competition.hidden else competition.public
        _lay(source, run.input / (f"competitions/{slug}" if new else slug))
    for ref in run.saved["datasetDataSources"]:
        _lay(
            store.datasets[ref].folders[-1], run.input / (f"datasets/{ref}" if new else ref.partition("/")[2])
        )
    for ref in run.saved["kernelDataSources"]:
        _lay(
            store.kernels[ref].runs[-1].working,
            run.input / (f"notebooks/{ref}" if new else ref.partition("/")[2]),
        )


def _lay(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=os.link)


def run_kernel(runner: Runner, run: Run, rerun: bool = False) -> None:
    """Execute the run's code to its end and note how it went."""
    script = run.folder / "script.py"
    script.write_text(run.saved["text"], encoding="utf-8")
    variables = {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}
    if rerun:
        variables["KAGGLE_IS_COMPETITION_RERUN"] = "1"
    run.status = "RUNNING"
    try:
        code, run.log = runner(script, run.input, run.working, variables)
    except subprocess.TimeoutExpired:
        code, run.log = 124, "timed out"
    if code:
        run.failure = "Notebook Threw Exception"
    run.status = "ERROR" if code else "COMPLETE"


def score(path: Path, solution: dict[str, str]) -> dict[str, Any]:
    """The share of right answers, or Kaggle's word for a file that cannot be scored."""
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            answers = {row["id"]: row["label"] for row in csv.DictReader(handle)}
        if answers.keys() != solution.keys():
            raise ValueError("the ids differ")
    except (KeyError, ValueError, UnicodeDecodeError):
        return {"status": "ERROR", "errorDescription": "Submission Scoring Error"}
    right = sum(answers[name] == value for name, value in solution.items()) / len(solution)
    return {"status": "COMPLETE", "publicScore": f"{right:.5f}", "privateScore": ""}
