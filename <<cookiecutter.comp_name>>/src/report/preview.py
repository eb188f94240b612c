"""Preview of the data pipeline (augmentation, mixup, CutMix) as a figure: one row per image, before and
after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np

from src.artifacts import atomic
from src.report.pictures import QUALITY, outlined, three_channels

_NAMED = 3  # labels in a caption
_WIDTH = 26  # characters per caption line
_LEAST = 0.005  # smallest share that is shown


@dataclass(frozen=True)
class PreviewImage:
    """One image (S, S, C) uint8, its caption, and its masks (S, S, K) uint8 if it has any."""

    image: np.ndarray
    caption: str
    masks: np.ndarray | None = None


def draw_preview(path: Path, heads: list[str], rows: list[list[PreviewImage]]) -> None:
    """Draw a grid of images, one row for each of `rows`, with `heads` above the columns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(len(heads) * 1.7, len(rows) * 1.9))
    axes = figure.subplots(len(rows), len(heads), squeeze=False)
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=8)
    for axis, shown in zip(axes.ravel(), [one for row in rows for one in row], strict=True):
        image = three_channels(shown.image) if shown.masks is None else outlined(shown.image, shown.masks)
        axis.imshow(image, interpolation="nearest")
        axis.set_xlabel(fill(shown.caption, _WIDTH), fontsize=6)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", **QUALITY)


def caption_of_targets(task: str, targets: np.ndarray, outputs: list[str]) -> str:
    """Text of targets (C,), such as `0.7 cat + 0.3 dog`; numbers unchanged. For binary targets the other
    class is named `not ...`."""
    if task == "retrieval":
        return outputs[int(targets[0])]
    if task == "regression":
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(outputs, targets, strict=True))
    if task == "binary":
        targets, outputs = np.array([targets[0], 1 - targets[0]]), [outputs[0], f"not {outputs[0]}"]
    order = np.argsort(-targets, kind="stable")  # NaN comes last
    said = [(targets[i], outputs[i]) for i in order if targets[i] > _LEAST][:_NAMED]
    unknown = [f"{outputs[i]}?" for i in order if np.isnan(targets[i])]
    named = [name if share > 1 - _LEAST else f"{share:.2f} {name}" for share, name in said]
    return " + ".join([*named, *unknown[:_NAMED]]) or "none"
