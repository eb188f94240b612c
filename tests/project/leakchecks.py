"""Run `make leakcheck` in tests: on a small competition, keeping its permuted copy for inspection."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from competitions import TASKS
from conftest import BASELINE, call_command, write_config
from digits import write_competition

from src.commands import leakcheck, permuted_labels
from src.config import Config
from src.configfile import load_config

RARE = [f"is {digit}{more}" for more in ("", " or after") for digit in range(10)]
MADE = TASKS | {  # twenty rare labels, each with its own threshold
    "rare": ("rare", f"task: {{name: multilabel, metric: f1_macro}}\ndata: {{target: {json.dumps(RARE)}}}\n")
}


@dataclass(frozen=True)
class Checked:
    """A competition's project, the command's result there, and the config of the permuted copy it left."""

    project: Path
    done: subprocess.CompletedProcess[str]
    noise: Config


def competition(folder: Path, made: str) -> Path:
    """Create a competition of MADE, before stage 01; returns its `baseline.yaml`."""
    task, text = MADE[made]
    write_competition(folder / "data" / "raw", n_train=400, n_test=400, task=task)
    write_config(folder, "common", BASELINE)
    return write_config(folder, "baseline", f"base: common\n{text}")


def check(folder: Path, made: str) -> Checked:
    """Create the competition below `folder` and run the command, keeping the permuted copy there too."""
    config = load_config(competition(folder / "project", made))
    (folder / "noise").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        kept = SimpleNamespace(TemporaryDirectory=lambda prefix: contextlib.nullcontext(folder / "noise"))
        patch.setattr(leakcheck, "tempfile", kept)
        done = call_command(leakcheck, config.root)
    return Checked(config.root, done, permuted_labels.noise_config(config, folder / "noise"))


def copy_of(checked: Checked, folder: Path) -> Config:
    """A copy of the permuted competition, in which a test plants a leak."""
    shutil.copytree(checked.noise.root, folder, symlinks=True)
    return checked.noise.model_copy(update={"root": folder})


def check_again(checked: Checked, planted: Config) -> subprocess.CompletedProcess[str]:
    """Run the command again; instead of running its stages, it finds the contents of `planted`."""

    def found(config: Config) -> None:
        shutil.copytree(
            planted.root, config.root, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("raw")
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permuted_labels, "run_stages", found)
        return call_command(leakcheck, checked.project)


def leaks(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    """Stage and name of each output line with the verdict LEAK."""
    lines = [line.removeprefix("leakcheck: ") for line in done.stdout.splitlines() if line.endswith("LEAK")]
    return [(line[:2], line[4:24].strip()) for line in lines]
