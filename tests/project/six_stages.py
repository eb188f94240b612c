"""Small competitions taken through all six stages once per session, their tables read without `src`."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from conftest import BASELINE, ROOT, call_stage, forget_the_listings, write_config
from digits import write_competition

from src.configfile import load_config
from src.data.prepare import prepare_dataset

STAGES = [path.name for path in sorted(ROOT.glob("0?_*.py"))]
RUNS = ("baseline", "baseline-round1")
SETTINGS = """\
train:
  epochs: 2
  batch_size: 16
  lr: 4e-3
  warmup_epochs: 0
  ema: {enabled: false}
inference:
  tta: [identity, left]
pseudo:
  rounds: 1
  threshold: 0.55
"""


@dataclass(frozen=True)
class Competition:
    """The targets of a data set, the project's output names, and its config."""

    targets: list[str]  # columns of train.csv and of the sample submission; for masks the classes
    outputs: list[str]
    settings: str
    kind: str = "numbers"  # kind of predictions, as in src/tasks/base.py
    rows: int = 80  # training rows; there are 40 test rows

    @property
    def in_tables(self) -> list[str]:
        """The target columns in folds.csv and OOF tables."""
        return ["target"] if len(self.targets) == 1 else [f"target.{name}" for name in self.targets]

    @property
    def predicted(self) -> list[str]:
        """The columns of a prediction table."""
        more = {"maps": ["height", "width", *self.outputs], "rankings": ["candidates", "similarity"]}
        return more.get(self.kind, self.outputs)


LABELS = ["loop", "even", "above four"]
COMPETITIONS = {
    "binary": Competition(["label"], ["yes"], "task: {name: binary}\npseudo: {threshold: 0.51}\n"),
    "multilabel": Competition(
        LABELS,
        LABELS,
        "task: {name: multilabel, metric: f1_macro}\ndata: {target: [loop, even, above four]}\n",
    ),
    "regression": Competition(  # its target column has the same name as in the OOF table
        ["target"], ["prediction"], "task: {name: regression}\ndata: {target: target}\n"
    ),
    "numbers": Competition(
        ["ink", "value"],
        ["ink", "value"],
        "task: {name: regression, metric: mae}\ndata: {target: [ink, value]}\ntrain: {target_log: true}\n",
    ),
    "segmentation": Competition(
        ["mask"],
        ["mask"],
        "task: {name: segmentation}\ndata: {rle: rle, fit: pad}\n"
        "train: {epochs: 3, lr: 1e-2}\npseudo: {pixels: 0.83}\n",
        kind="maps",
    ),
    "masks": Competition(
        ["plain", "loop"],
        ["plain", "loop"],
        "task: {name: segmentation, metric: iou_global}\n"
        "data: {train_masks: train_masks, mask_classes: [plain, loop]}\n"
        "model: {decoder: fpn}\ntrain: {loss: ce_dice, epochs: 3, batch_size: 8, lr: 1e-2}\n"
        "pseudo: {pixels: 0.5}\n",
        kind="maps",
    ),
    "retrieval": Competition(
        ["Id"],
        [f"w_{digit}" for digit in range(8)],
        "task: {name: retrieval}\ndata: {target: Id, new_label: new_id}\n"
        "cv: {stop_parts: 2, new_share: 0.25}\ninference: {candidates: 6}\npseudo: {threshold: 0.3}\n",
        kind="rankings",
        rows=160,  # half of a fold's training rows calibrate the cosine; 20 are needed
    ),
}


@dataclass(frozen=True)
class Made:
    """A project after stage 01, and a copy of it after all six stages."""

    name: str
    fresh: Path
    done: Path

    @property
    def competition(self) -> Competition:
        """The competition of this project."""
        return COMPETITIONS[self.name]

    def table(self, name: str) -> pd.DataFrame:
        """Read a parquet file of the finished project."""
        return pd.read_parquet(self.done / f"{name}.parquet")

    def json(self, name: str) -> dict:
        """Read a JSON file of the finished project."""
        return json.loads((self.done / f"{name}.json").read_text())

    def raw(self, name: str) -> pd.DataFrame:
        """Read one of Kaggle's tables."""
        return text(self.done / f"data/raw/{name}.csv")


@cache
def make(name: str, base: Path) -> Made:
    """Run the data set through all stages. Cached: callers share the folders and must not change them."""
    folder = base / f"six-stages-{name}"
    made, competition = Made(name, folder / "fresh", folder / "done"), COMPETITIONS[name]
    write_competition(made.fresh / "data" / "raw", n_train=competition.rows, n_test=40, task=name)
    write_config(made.fresh, "common", BASELINE)
    write_config(made.fresh, "settings", "base: common\n" + SETTINGS)
    write_config(made.fresh, "baseline", "base: settings\n" + competition.settings)
    forget_the_listings()
    prepare_dataset(load_config(made.fresh / "configs" / "baseline.yaml"))
    shutil.copytree(made.fresh, made.done)
    for script in STAGES:
        stage = call_stage(made.done, script)
        assert (stage.returncode, stage.stderr) == (0, ""), stage.stderr
    return made


def with_the_round(made: Made, folder: Path) -> Made:
    """A copy with a stack of two members: the run and its pseudo-label round, even if that did not help."""
    done = Path(shutil.copytree(made.done, folder / "done"))
    verdict = done / "runs" / RUNS[1] / "round.json"
    verdict.write_text(json.dumps(json.loads(verdict.read_text()) | {"kept": True}))
    stage = call_stage(done, STAGES[4])
    assert (stage.returncode, stage.stderr) == (0, ""), stage.stderr
    return replace(made, done=done)


def text(path: Path) -> pd.DataFrame:
    """A CSV file with all cells as text."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def shown(path: Path, pad: bool = False) -> np.ndarray:
    """The model input (16, 16, 3) for an image file: resized by area, and padded with black if `pad`."""
    image = cv2.imread(str(path))[:, :, ::-1]
    top, left, height, width = place_of(*image.shape[:2]) if pad else (0, 0, 16, 16)
    square = np.zeros((16, 16, 3), np.uint8)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    square[top : top + height, left : left + width] = small
    return square


def place_of(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a padded image within its square."""
    inner = [round(16 * side / max(height, width)) for side in (height, width)]
    return (16 - inner[0]) // 2, (16 - inner[1]) // 2, *inner


def left(images: torch.Tensor) -> torch.Tensor:
    """A TTA view: shift one pixel to the left, repeating the last column."""
    return torch.cat([images[..., 1:], images[..., -1:]], dim=-1)
