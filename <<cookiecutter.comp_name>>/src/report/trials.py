"""Figures of trials: the effect of each change with its error; a sweep of one key as a line, of two keys as a
map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from src.artifacts import atomic
from src.report.pictures import QUALITY

_COLOURS = {"helps": "tab:green", "hurts": "tab:red", "cannot tell": "tab:gray"}


def draw_differences(path: Path, rows: list[Any], title: str) -> None:
    """Draw one dot with its 95 % interval per change, the best on top. `rows` have `change.name`,
    `difference`, `margin` and `verdict`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.32 * max(1, len(rows))))
    axis = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        margin = row.margin if np.isfinite(row.margin) else 0.0
        axis.errorbar(row.difference, place, xerr=margin, fmt="o", capsize=3, color=_COLOURS[row.verdict])
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row.change.name for row in reversed(rows)], fontsize=8)
    axis.set_ylim(-0.6, max(1, len(rows)) - 0.4)
    axis.set_xlabel("difference of the score, and its 95 % interval", fontsize=9)
    axis.set_title(title, fontsize=8)
    axis.grid(alpha=0.3, axis="x")
    _save(figure, path)


def draw_line(path: Path, key: str, values: list[Any], rows: list[Any], title: str) -> None:
    """Draw the difference with its 95 % interval over the values of one key, in their order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6))
    axis = figure.subplots()
    margins = [row.margin if np.isfinite(row.margin) else 0.0 for row in rows]
    differences = [row.difference for row in rows]
    axis.errorbar(range(len(values)), differences, yerr=margins, fmt="o-", capsize=3, color="tab:blue")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(values)), [str(value) for value in values], fontsize=8)
    axis.set_xlabel(key)
    axis.set_ylabel("difference, and its 95 % interval", fontsize=9)
    axis.set_title(title, fontsize=8)
    axis.grid(alpha=0.3)
    _save(figure, path)


def draw_map(path: Path, keys: list[str], values: list[list[Any]], cells: np.ndarray, title: str) -> None:
    """Draw the differences (len(values[0]), len(values[1])) of two keys as a heat map; NaN is a point that
    was not tried."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 + 0.9 * len(values[1]), 1.8 + 0.5 * len(values[0])))
    axis = figure.subplots()
    size = 1.3 * np.abs(cells[np.isfinite(cells)]).max(initial=1e-9)  # the dark ends hide text
    shown = axis.imshow(cells, cmap="RdBu", vmin=-size, vmax=size, aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(cells)), strict=True):
        axis.text(column, row, f"{cells[row, column]:+.4f}", ha="center", va="center", fontsize=8)
    axis.set_yticks(range(len(values[0])), [str(value) for value in values[0]], fontsize=8)
    axis.set_xticks(range(len(values[1])), [str(value) for value in values[1]], fontsize=8)
    axis.set_ylabel(keys[0], fontsize=9)
    axis.set_xlabel(keys[1], fontsize=9)
    axis.set_title(title, fontsize=8)
    figure.colorbar(shown, ax=axis)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", **QUALITY)
