"""Polling with a growing interval: a live status line on a terminal, few lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from src.config import UserError
from src.kaggle.client import Busy

FIRST, LONGEST = 10.0, 60.0  # seconds between two polls: the first interval and the longest one
_LOG_EVERY = 600.0  # seconds between two log lines while the state does not change
POLL_PATIENCE = 15  # consecutive failed polls that end the wait; a router restart or short outage does not

_T = TypeVar("T")


class TimedOut(UserError):
    """The awaited result did not arrive within the time limit."""


def wait_for(title: str, look: Callable[[], tuple[str, _T | None]], hours: float, after: str) -> _T:
    """Poll `look`, which returns the state as text and a result or None, until there is a result; return it.

    Raises `TimedOut` after `hours`; its message ends with `after`, which says what to do next. Exceptions of
    `look` are passed on, except `Busy`: only the last one of many in a row is raised. After a `Busy` the
    pause is at least as long as Kaggle asks.
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
    """A status line with the state and the elapsed time: updated in place on a terminal, else printed on
    change."""

    def __init__(self, title: str):
        self.title, self.state = title, ""
        self.began = self.logged = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def show(self, state: str) -> None:
        """Display the current state."""
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
