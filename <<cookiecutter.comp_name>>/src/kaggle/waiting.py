"""Wait for Kaggle: look again with growing pauses, one line that moves at a terminal, few lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from src.config import UserError
from src.kaggle.client import Busy

FIRST, LONGEST = 10.0, 60.0  # seconds between two looks, growing from the one to the other
_LOG_EVERY = 600.0  # seconds between two lines of a log while nothing changes
POLL_PATIENCE = 15  # looks in a row that may fail: a router restarts, Kaggle has a bad quarter of an hour

_T = TypeVar("T")


class TimedOut(UserError):
    """What was waited for did not come in time."""


def wait_for(title: str, look: Callable[[], tuple[str, _T | None]], hours: float, after: str) -> _T:
    """Call `look` until it gives a result beside its word for the state of things, and give that result.

    Raises `TimedOut` after `hours`, ending in `after` (what to do then), and whatever `look` raises; of
    `Busy` only the last of many in a row, and the pause after one is as long as Kaggle asks.
    """
    began, pause, failed = time.monotonic(), FIRST, 0
    with Line(title) as line:
        while True:
            asked = 0.0
            try:
                state, result = look()
                failed = 0
            except Busy as error:
                failed += 1
                if failed >= POLL_PATIENCE:
                    raise
                state, result, asked = str(error), None, error.after or 0.0
            if result is not None:
                return result
            if time.monotonic() - began > hours * 3600:
                raise TimedOut(f"{title}: still {state} after {hours:g} h; {after}")
            line.show(state)
            time.sleep(max(pause, asked))
            pause = min(LONGEST, pause * 1.5)


class Line:
    """The state and the time so far: over and over in one line at a terminal, else a line when it changes."""

    def __init__(self, title: str):
        self.title, self.state = title, ""
        self.began = self.logged = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def show(self, state: str) -> None:
        """Say that this is the state now."""
        seconds = round(time.monotonic() - self.began)
        text = f"{self.title}: {state}, {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        if self.terminal:
            sys.stderr.write(f"\r\x1b[K{text[:110]}")
            sys.stderr.flush()
        elif state != self.state or time.monotonic() - self.logged >= _LOG_EVERY:
            self.logged = time.monotonic()
            print(text, flush=True)
        self.state = state

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
