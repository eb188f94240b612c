"""Figures of the data and of training: sample images by class or with their masks, worst predictions, and
training curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import atomic

COLUMNS, ROWS = 10, 12  # columns are images of a class, rows are classes: as many as fit a screen
_COLOURS = ((255, 64, 64), (64, 192, 255), (255, 208, 0), (96, 255, 96), (255, 96, 255), (255, 160, 64))
RIGHT, WRONG = (64, 224, 64), (255, 64, 64)
QUALITY = {"dpi": 110, "bbox_inches": "tight", "metadata": {"Software": None}}


def draw_samples(
    path: Path, pixels: np.ndarray, positions: np.ndarray, targets: pd.Series, seed: int
) -> None:
    """Draw a row of images for each of the largest classes, as stored in the cache: resized, upright, RGB."""
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


def draw_masks(path: Path, store: Any, masks: np.ndarray, seed: int) -> None:
    """Draw images with the outlines of their masks, one colour per class, to show whether the masks fit the
    images. `store` is the open image cache, `masks` is (N, S, S, C)."""
    from matplotlib.figure import Figure

    rows = np.random.default_rng(seed).permutation(len(store.train))[: COLUMNS * 4]
    figure = Figure(figsize=(COLUMNS * 1.1, -(-len(rows) // COLUMNS) * 1.1))
    axes = figure.subplots(-(-len(rows) // COLUMNS), COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, row in zip(axes, rows, strict=False):
        axis.imshow(outlined(store.pixels[store.train[row]], masks[row]), interpolation="nearest")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", **QUALITY)


def outlined(image: np.ndarray, masks: np.ndarray, colour: tuple[int, int, int] | None = None) -> np.ndarray:
    """An image (S, S, C) as (S, S, 3) with the outline of each of its masks (S, S, K), in one colour or in
    one colour per class. Non-zero mask values are inside."""
    import cv2

    drawn = three_channels(image).copy()
    for channel in range(masks.shape[2]):
        inside = np.ascontiguousarray(masks[:, :, channel]).astype(np.uint8)
        found = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, found[0], -1, colour or _COLOURS[channel % len(_COLOURS)], 1)
    return drawn


def draw_worst(
    path: Path, images: list[np.ndarray], captions: list[str], masks: list[list[np.ndarray]] | None = None
) -> None:
    """Draw images (S, S, C) with a caption each. With `masks`, also the outlines of the true mask (green) and
    of the predicted one (red), (S, S, classes) bool each."""
    from matplotlib.figure import Figure

    pictures = [three_channels(image) for image in images]
    for number in range(len(pictures) if masks else 0):
        for mask, colour in zip(masks[number], (RIGHT, WRONG), strict=True):
            pictures[number] = outlined(pictures[number], mask, colour)
    side, lines = max(max(one.shape[:2]) for one in pictures), -(-len(pictures) // COLUMNS)
    wide, high = side * 1.08, side * 1.25  # including the gap and the caption
    figure = Figure(figsize=(COLUMNS * 1.5, lines * 1.5 * high / wide))
    axis = figure.add_axes((0, 0, 1, 1))  # one axis for all images: forty axes take most of a second
    axis.set_axis_off()
    axis.set_xlim(0, COLUMNS * wide)
    axis.set_ylim(lines * high, 0)
    for number, picture in enumerate(pictures):
        line, column = divmod(number, COLUMNS)
        left, bottom = column * wide, (line + 1) * high
        extent = (left, left + picture.shape[1], bottom, bottom - picture.shape[0])
        axis.imshow(picture, interpolation="nearest", extent=extent, aspect="auto")
        place = {"ha": "center", "va": "bottom", "fontsize": 6, "parse_math": False}
        axis.text(left + side / 2, bottom - side * 1.02, captions[number], **place)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", **QUALITY)


def three_channels(pixels: np.ndarray) -> np.ndarray:
    """An image (S, S, C) as (S, S, 3): the first three channels, or a single channel as grey."""
    return pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)


def draw_curves(path: Path, histories: dict[int, pd.DataFrame]) -> None:
    """Draw the training loss, the loss on the early-stopping split and its metric by epoch, one line per
    fold."""
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
