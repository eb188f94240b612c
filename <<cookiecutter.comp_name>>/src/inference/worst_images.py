"""Images with the highest loss of a run: they include mislabelled rows, broken files and blind spots of the
model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.config import Data
from src.data.images import ImageStore, open_images
from src.data.masks import content_box, frame
from src.maps import resize_maps
from src.metrics.counts import dice
from src.metrics.segmentation import pixel_counts
from src.report.pictures import draw_worst
from src.steps import Run
from src.tasks.base import Task, targets_in

_SHOWN = 40
_LEAST = 1e-7  # smallest probability, so that its logarithm is finite


def show_worst(run: Run, task: Task, oof: pd.DataFrame, outputs: list[str]) -> None:
    """Write `worst.png` from a run's OOF table, highest loss first. Nothing is written for rankings, whose
    rows have no loss."""
    if task.stacking not in _LOSSES:
        return
    truth, said = task.truth(targets_in(oof), outputs), task.read(oof, outputs)
    losses = _LOSSES[task.stacking](truth, said)
    order = np.argsort(-losses, kind="stable")[:_SHOWN]
    store = open_images(run.config)
    images = [store.pixels[store.train[row]] for row in order]
    captions = [f"{oof['id'].iloc[row]}\n{caption_of_row(task, truth, said, outputs, row)}" for row in order]
    outlines = None
    if task.kind == "maps":
        outlines = [[seen(maps[row], store, row, run.config.data) for maps in (truth, said)] for row in order]
    draw_worst(run.folder / "worst.png", images, captions, outlines)


def of_classes(truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Negative log-likelihood (N,) of the true class, from truth (N,) and predictions (N, C)."""
    return -np.log(np.maximum(said[np.arange(len(truth)), truth], _LEAST))


def of_labels(truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Mean binary cross-entropy (N,) over the known labels, from truth (N,) or (N, C)."""
    truth = np.asarray(truth, dtype=np.float64).reshape(said.shape)
    right = np.where(truth > 0.5, said, 1 - said)
    return np.nan_to_num(np.nanmean(np.where(np.isnan(truth), np.nan, -np.log(np.maximum(right, _LEAST))), 1))


def of_values(truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Mean absolute error (N,) in units of each target's standard deviation, from (N, C)."""
    return np.abs((truth - said) / np.maximum(truth.std(0), _LEAST)).mean(1)


def of_masks(truth: Any, said: Any) -> np.ndarray:
    """1 - Dice (N,), averaged over classes, from `Maps`."""
    return 1 - dice(*pixel_counts(truth, said)).mean(1)


_LOSSES = {"classes": of_classes, "labels": of_labels, "values": of_values, "pixels": of_masks}


def caption_of_row(task: Task, truth: Any, said: Any, outputs: list[str], row: int) -> str:
    """Short caption with the target and the prediction of a row."""
    if task.stacking == "classes":
        top = int(said[row].argmax())
        return f"{outputs[truth[row]]} {said[row, truth[row]]:.2f}, said {outputs[top]} {said[row, top]:.2f}"
    if task.stacking == "labels":
        true = np.asarray(truth, dtype=np.float64).reshape(said.shape)[row]
        worst = int(np.nanargmax(np.abs(true - said[row])))
        return f"{outputs[worst]}: {true[worst]:g}, said {said[row, worst]:.2f}"
    if task.stacking == "values":
        worst = int(np.abs((truth[row] - said[row]) / np.maximum(truth.std(0), _LEAST)).argmax())
        return f"{truth[row, worst]:.4g}, said {said[row, worst]:.4g}"
    return f"Dice {dice(*pixel_counts(truth.take([row]), said.take([row]))).mean():.2f}"


def seen(maps: np.ndarray, store: ImageStore, row: int, settings: Data) -> np.ndarray:
    """Boolean mask (S, S, C) of a row on the cached image, from maps at the image's own size."""
    height, width = store.train_sizes[row]
    _, _, h, w = content_box(height, width, settings)
    return frame(resize_maps(maps, (h, w)), height, width, settings).transpose(1, 2, 0) >= 128
