"""Two pictures: what the network will see, class by class, and how its folds learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts import atomic

COLUMNS, ROWS = 10, 12  # images of a class, classes: what fits a screen
QUALITY = {"dpi": 110, "bbox_inches": "tight", "metadata": {"Software": None}}


def draw_samples(
    path: Path, pixels: np.ndarray, positions: np.ndarray, targets: pd.Series, seed: int
) -> None:
    """A row of images for each of the largest classes, as they lie in the cache: resized, upright, RGB."""
    from matplotlib.figure import Figure

    counts = targets.value_counts().head(ROWS)
    random, side, gap = np.random.default_rng(seed), pixels.shape[1], max(1, pixels.shape[1] // 16)
    sheet = np.full((len(counts) * (side + gap), COLUMNS * (side + gap), 3), 255, np.uint8)
    for row, label in enumerate(counts.index):
        rows = random.permutation(np.flatnonzero((targets == label).to_numpy()))[:COLUMNS]
        for column, place in enumerate(rows):
            top, left = row * (side + gap), column * (side + gap)
            sheet[top : top + side, left : left + side] = three_channels(pixels[positions[place]])
    figure = Figure(figsize=(COLUMNS * 0.9, len(counts) * 0.9))
    axis = figure.subplots()
    axis.imshow(sheet, interpolation="nearest", aspect="equal")
    centres = [row * (side + gap) + side / 2 for row in range(len(counts))]
    axis.set_yticks(centres, [f"{label} ({count:,})" for label, count in counts.items()])
    axis.set_xticks([])
    axis.set_frame_on(False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", **QUALITY)


def three_channels(pixels: np.ndarray) -> np.ndarray:
    """(S, S, C) as (S, S, 3): the first three channels, or the only one as grey."""
    return pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)


def draw_curves(path: Path, histories: dict[int, pd.DataFrame]) -> None:
    """Training loss, loss on the stopping rows and the metric there, by epoch, a line a fold."""
    from matplotlib.figure import Figure

    metric = [c for c in next(iter(histories.values())).columns if c.startswith("stop_") and c != "stop_loss"]
    columns = ["train_loss", *(["stop_loss", *metric] if metric else [])]
    figure = Figure(figsize=(4.2 * len(columns), 3.2))
    for axis, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        for fold, history in histories.items():
            axis.plot(history["epoch"], history[column], label=f"fold {fold}", linewidth=1.2)
        axis.set_title(column.replace("_", " "), fontsize=10)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", **QUALITY)
