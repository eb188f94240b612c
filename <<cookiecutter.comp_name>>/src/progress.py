"""Progress display: a bar with ETA on a terminal, an occasional plain line in a log."""

from __future__ import annotations

import sys
import time

LOG_EVERY = 10.0  # seconds between plain lines


class Progress:
    """Progress towards `total`, as a context manager.

    `step(n, note)` advances by n, `say(line)` prints a line above the bar.
    """

    def __init__(self, title: str, total: int):
        from tqdm import tqdm

        self.title, self.total, self.count = title, max(1, total), 0
        self.began = self.logged = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=self.total, desc=title, leave=False, dynamic_ncols=True, disable=not self.terminal
        )

    def step(self, count: int = 1, note: str = "") -> None:
        """Advance by `count`; `note` is a short text such as the latest metric."""
        self.count += count
        if self.terminal:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
        elif self.quiet_for_long():
            share = f"{100 * self.count / self.total:.0f} %"
            self.say(f"{self.title}: {share}, {self.remaining()} left  {note}".rstrip())

    def skip(self, count: int) -> None:
        """Subtract `count` from the total: work that an earlier call has done, or that is not needed."""
        if count:
            self.total = self.bar.total = max(1, self.total - count)
            self.bar.refresh()

    def quiet_for_long(self) -> bool:
        """Whether the next plain line of a log is due; always False on a terminal."""
        return not self.terminal and time.monotonic() - self.logged >= LOG_EVERY

    def remaining(self) -> str:
        """Estimated time left at the pace so far, as h:mm:ss."""
        seconds = round((time.monotonic() - self.began) * max(0.0, self.total / max(1, self.count) - 1))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        self.logged = time.monotonic()
        self.bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
