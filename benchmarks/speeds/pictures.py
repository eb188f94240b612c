"""The pictures of docs/benchmarks.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

OURS, OTHER = "#1f6f8b", "#b8b8b8"


def save(figure: Figure, path: Path) -> None:
    """As PNG, the same bytes for the same figure."""
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def loaders(rows: dict[str, Any], folder: Path) -> None:
    """A bar a loader, a panel a pipeline."""
    pipelines = list(dict.fromkeys(key.split(": ")[0] for key in rows))
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    panels = figure.subplots(1, len(pipelines), squeeze=False)[0]
    for panel, pipeline in zip(panels, pipelines, strict=True):
        mine = {key.split(": ", 1)[1]: row for key, row in rows.items() if key.startswith(pipeline + ": ")}
        speeds = [row["images_per_second"] for row in mine.values()]
        colours = [OURS if name.startswith("ours") else OTHER for name in mine]
        panel.barh(list(mine), speeds, color=colours)
        for place, speed in enumerate(speeds):
            panel.text(speed, place, f" {speed:,.0f}", va="center", fontsize=8)
        panel.invert_yaxis()
        panel.set_title(pipeline, fontsize=9)
        panel.set_xlim(0, max(speeds) * 1.2)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("images a second and core", fontsize=8)
    save(figure, folder / "loaders.png")


def growth(rows: dict[str, Any], folder: Path) -> None:
    """Seconds by rows, a line each, on logarithmic axes; grey is what a row costs alike at any size."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, row in rows.items():
        sizes = sorted(map(int, row["seconds"]))
        axis.plot(sizes, [row["seconds"][str(n)] for n in sizes], marker="o", markersize=3, label=name)
    axis.set(xscale="log", yscale="log", xlabel="rows", ylabel="CPU seconds")
    low, high = axis.get_ylim()
    for exponent in range(-9, 3):
        axis.plot([1e3, 1e6], [10.0**exponent, 10.0 ** (exponent + 3)], color=OTHER, linewidth=0.6, zorder=0)
    axis.set_ylim(low, high)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    axis.tick_params(labelsize=8)
    save(figure, folder / "growth.png")


def shares(stages: list[dict[str, Any]], folder: Path) -> None:
    """A bar a stage, in their order: seconds of training or inference, and the rest."""
    shown = [stage for stage in stages if stage["target"] != "all" and stage["seconds"] > 0.01]
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    axis = figure.subplots()
    places, busy = range(len(shown)), [stage["busy"] for stage in shown]
    rest = [stage["seconds"] - stage["busy"] for stage in shown]
    axis.barh(places, busy, color=OURS, label="training or inference")
    axis.barh(places, rest, left=busy, color=OTHER, label="the rest")
    axis.set_yticks(places, [stage["target"] for stage in shown], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("seconds", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8)
    save(figure, folder / "shares.png")
