"""What libjpeg says of a damaged file.

It never fails: where data are missing or make no sense it fills the picture with grey and prints one line on
the process's standard error, which neither OpenCV nor Pillow reports. So a pipe listens there while many
files are decoded; a file during whose decoding a line came is decoded once more alone, and that line is its
own.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

_T = TypeVar("T")
SHARE = 0.1  # of a file's bytes left over after the last pixel: cameras pad, a hole in the data leaves more
HOLE = bytes(512)  # what a download with a gap holds
_LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
DAMAGE = re.compile(r"Corrupt JPEG data: .*|Premature end of JPEG file.*")


class Listener:
    """Reads what C libraries print on standard error; safe to use from several threads."""

    def __init__(self, pipe: int | None):
        self.pipe, self.lock, self.count, self.text = pipe, threading.Lock(), 0, bytearray()

    def heard(self) -> int:
        """How often libjpeg spoke up to now."""
        with self.lock:
            while self.pipe is not None:
                try:
                    text = os.read(self.pipe, 65536)
                except BlockingIOError:
                    break
                self.count += text.count(b"JPEG")
                self.text += text
            return self.count

    def alone(self, decode: Callable[[], _T]) -> tuple[_T, str]:
        """What `decode` gives, and what was printed meanwhile: its own, where nothing else runs beside it."""
        self.heard()
        start = len(self.text)
        result = decode()
        self.heard()
        return result, self.text[start:].decode(errors="replace")


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Listen on standard error; Python's own `sys.stderr` goes where it went, and so do, at the end, lines
    that are not libjpeg's."""
    try:
        kept = os.dup(2)
    except OSError:  # the process has no standard error, and libjpeg's lines go nowhere
        yield Listener(None)
        return
    ours = sys.stderr
    with contextlib.suppress(AttributeError, OSError, ValueError):
        ours.flush()
        if ours.fileno() == 2:
            words = {"encoding": ours.encoding, "errors": ours.errors}
            sys.stderr = open(kept, "w", buffering=1, closefd=False, **words)  # noqa: SIM115
    reading, writing = os.pipe()
    for end in (reading, writing):  # a full pipe loses lines and stops nobody
        os.set_blocking(end, False)
    os.dup2(writing, 2)
    os.close(writing)
    listener = Listener(reading)
    try:
        yield listener
    finally:
        listener.heard()
        os.dup2(kept, 2)
        if sys.stderr is not ours:
            sys.stderr.close()
            sys.stderr = ours
        os.close(kept)
        os.close(reading)
        lines = dict.fromkeys(bytes(listener.text).splitlines(keepends=True))
        with contextlib.suppress(OSError):
            os.write(2, b"".join(line for line in lines if b"JPEG" not in line))


def damage_in(printed: str, content: bytes) -> str | None:
    """What is wrong with a file, of its bytes and of what was printed while it was decoded; None for a whole
    picture, behind which some bytes may be left over."""
    found = DAMAGE.search(printed)
    if found is None:
        return None
    left = _LEFT_OVER.match(found[0])
    if left is not None and int(left[1]) <= SHARE * len(content) and HOLE not in content:
        return None
    return f"the file is damaged, its decoder makes up what is missing ({found[0].strip()})"
