"""Experiment tracking with Weights & Biases (wandb), or a null tracker. history.csv is written either way."""

from __future__ import annotations

import contextlib
import netrc
import os
import threading
from typing import Any

from src.config import Config

_PATIENCE = 300  # seconds for wandb to upload the rest of a fold's run


class NoTracker:
    """A null tracker: does nothing, so that the training loop needs no condition."""

    def log(self, row: dict[str, Any]) -> None:
        """Log one epoch's row of metrics."""

    def finish(self, summary: dict[str, Any]) -> None:
        """End the fold's tracking with a summary."""


class WandbTracker(NoTracker):
    """One wandb run per fold, grouped by experiment; the first wandb error is printed and ends tracking."""

    def __init__(self, config: Config, name: str, fold: int, mode: str):
        import wandb

        self.run = wandb.init(
            project=config.tracking.project or config.competition.slug or "nntricks",
            group=name,
            name=f"{name}-fold{fold}",
            config=config.settings(),
            dir=str(config.root),
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def log(self, row: dict[str, Any]) -> None:
        """Log one epoch's row of metrics; its `epoch` is the wandb step."""
        self._safely(lambda: self.run.log(row, step=row["epoch"]))

    def finish(self, summary: dict[str, Any]) -> None:
        """Upload the rest, for at most `_PATIENCE` seconds.

        Without a network wandb would retry without end and block the next fold.
        """
        ended = threading.Thread(
            target=self._safely,
            args=(lambda: (self.run.summary.update(summary), self.run.finish()),),
            daemon=True,
        )
        ended.start()
        ended.join(_PATIENCE)
        if ended.is_alive():
            _say(f"not all was sent after {_PATIENCE} s; `wandb sync` sends it later")

    def _safely(self, action) -> None:
        if self.run is None:
            return
        try:
            action()
        except Exception as error:  # a tracking error must never end a training
            _say(error)
            self.run = None


def create_tracker(config: Config, name: str, fold: int) -> NoTracker:
    """The tracker of one fold: wandb online with an API key, else offline; null if disabled or broken."""
    mode = tracking_mode(config)
    if mode == "disabled":
        return NoTracker()
    try:
        return WandbTracker(config, name, fold, mode)
    except Exception as error:  # not installed, no disk, no network: train without it
        _say(error)
        return NoTracker()


def import_wandb_early(config: Config) -> None:
    """Import what wandb.init needs before workers are forked, so that not every worker has to import it."""
    if tracking_mode(config) != "disabled":
        with contextlib.suppress(Exception):  # an error is reported when a run starts
            import wandb.sdk.launch.inputs.internal  # noqa: F401 - builds pydantic models, which is slow


def tracking_mode(config: Config) -> str:
    """The wandb mode: `WANDB_MODE`, else the config; `auto` is online with an API key, offline without."""
    mode = os.environ.get("WANDB_MODE") or config.tracking.wandb
    return ("online" if has_key() else "offline") if mode == "auto" else mode


def has_key() -> bool:
    """Whether wandb can log in: an API key in the environment, or in ~/.netrc from `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _say(error: Exception | str) -> None:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    print(f"wandb is off for this fold ({first}); history.csv is written all the same")
