"""Figure of a learning-rate range test (LR finder)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from src.artifacts import atomic
from src.report.pictures import QUALITY


def draw_range(
    path: Path, curve: pd.DataFrame, steepest: float | None, tenth: float | None, now: float
) -> None:
    """Draw the loss over the learning rate, with the suggested rates and the configured one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6))
    axis = figure.subplots()
    axis.plot(curve["lr"], curve["loss"], color="0.8", linewidth=0.8, label="batch")
    axis.plot(curve["lr"], curve["smoothed"], linewidth=1.6, label="smoothed")
    named = ((steepest, "falls fastest", "C2"), (tenth, "lowest / 10", "C1"), (now, "train.lr now", "0.4"))
    for rate, label, colour in named:
        if rate is not None:
            axis.axvline(rate, color=colour, linestyle="--", linewidth=1.0, label=f"{label}: {rate:.2g}")
    axis.set_xscale("log")
    low, high = curve["smoothed"].min(), curve["smoothed"].iloc[: max(1, len(curve) // 2)].max()
    axis.set_ylim(low - 0.1 * (high - low + 1e-9), high + 0.5 * (high - low + 1e-9))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", **QUALITY)
