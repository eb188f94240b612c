"""Detect damaged JPEG files from the warnings of libjpeg.

libjpeg never fails: it fills missing or corrupt parts of an image with grey and prints one line on the
standard error of the process, which neither OpenCV nor Pillow reports. A pipe therefore captures standard
error while many files are decoded in parallel. A file during whose decoding a line was printed is decoded
once more alone, so that the line can be attributed to it.
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
SHARE = 0.1  # of a file's bytes after the last pixel: cameras add padding, a hole in the data leaves more
HOLE = bytes(512)  # a download with a gap contains a block of zeros
_LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
DAMAGE = re.compile(r"Corrupt JPEG data: .*|Premature end of JPEG file.*")


class Listener:
    """Captures what C libraries print on standard error. Thread-safe."""

    def __init__(self, pipe: int | None):
        self.pipe, self.lock, self.count, self.text = pipe, threading.Lock(), 0, bytearray()

    def heard(self) -> int:
        """The number of libjpeg messages so far."""
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
        """The result of `decode` and what was printed meanwhile; correct only if nothing else is decoded in
        parallel."""
        self.heard()
        start = len(self.text)
        result = decode()
        self.heard()
        return result, self.text[start:].decode(errors="replace")


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Context manager that captures standard error. Python's own `sys.stderr` still writes to the original
    one, and at the end so do captured lines that are not libjpeg's."""
    try:
        kept = os.dup(2)
    except OSError:  # the process has no standard error, and the messages of libjpeg are lost
        yield Listener(None)
        return
    ours = sys.stderr
    with contextlib.suppress(AttributeError, OSError, ValueError):
        ours.flush()
        if ours.fileno() == 2:
            words = {"encoding": ours.encoding, "errors": ours.errors}
            sys.stderr = open(kept, "w", buffering=1, closefd=False, **words)  # noqa: SIM115
    reading, writing = os.pipe()
    for end in (reading, writing):  # a full pipe drops lines instead of blocking a thread
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
    """Describe the damage of a file from its bytes and the messages of its decoding. None if the image is
    complete, even if some bytes follow its end."""
    found = DAMAGE.search(printed)
    if found is None:
        return None
    left = _LEFT_OVER.match(found[0])
    if left is not None and int(left[1]) <= SHARE * len(content) and HOLE not in content:
        return None
    return f"the file is damaged, its decoder makes up what is missing ({found[0].strip()})"
