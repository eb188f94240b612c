"""wandb where it is wanted and works; a null object otherwise, so that the loop never asks. history.csv is
always written."""

from __future__ import annotations

import contextlib
import netrc
import os
import threading
from typing import Any

from src.config import Config

_PATIENCE = 300  # seconds for wandb to send what a fold's run holds


class NoTracker:
    """Takes what a tracker takes and does nothing."""

    def log(self, row: dict[str, Any]) -> None:
        """One epoch's row."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The end of a fold."""


class WandbTracker(NoTracker):
    """One wandb run a fold, grouped by experiment. Whatever goes wrong in wandb is said once and ends the
    tracking."""

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
        self._safely(lambda: self.run.log(row, step=row["epoch"]))

    def finish(self, summary: dict[str, Any]) -> None:
        """Wait for what is left to be sent, `_PATIENCE` seconds at most: without a network wandb would go on
        trying, and the next fold with it."""
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
        except Exception as error:  # a tracker must never cost a night of training
            _say(error)
            self.run = None


def create_tracker(config: Config, name: str, fold: int) -> NoTracker:
    """A tracker for one fold: online where wandb has a key, offline where it has none, none when disabled or
    broken."""
    mode = tracking_mode(config)
    if mode == "disabled":
        return NoTracker()
    try:
        return WandbTracker(config, name, fold, mode)
    except Exception as error:  # not installed, no disk, no network: train on
        _say(error)
        return NoTracker()


def import_wandb_early(config: Config) -> None:
    """Import what the start of a wandb run imports, before workers are forked that would each pay for it."""
    if tracking_mode(config) != "disabled":
        with contextlib.suppress(Exception):  # whatever is wrong is said when a run starts
            import wandb.sdk.launch.inputs.internal  # noqa: F401 - a second of pydantic


def tracking_mode(config: Config) -> str:
    """`WANDB_MODE` in the environment, then the config; auto means online with a key and offline without
    one."""
    mode = os.environ.get("WANDB_MODE") or config.tracking.wandb
    return ("online" if has_key() else "offline") if mode == "auto" else mode


def has_key() -> bool:
    """Whether wandb can log in: a key in the environment, or the one that `wandb login` left in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _say(error: Exception | str) -> None:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    print(f"wandb is off for this fold ({first}); history.csv is written all the same")
