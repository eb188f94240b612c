"""Kaggle's own client, the `kaggle` executable: called and never imported, since importing it logs in.

`call` gives what it printed, or raises: `Refused` where Kaggle said no, `Busy` where the same call may go
well later. A call that comes back has not succeeded yet: the client exits with 0 on several failures, so
`replies.py` reads success from its words.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import selectors
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from src.artifacts import why_not_written
from src.config import UserError

_LIMIT = 300.0  # seconds for an answer: on a connection that died the client would wait for ever

# The client takes every KAGGLE_X for its setting x (a default competition, a download folder, a token), and
# with VERBOSE it prints the key among its replies.
UNWANTED = ("KAGGLE_COMPETITION", "KAGGLE_PATH", "KAGGLE_TOKEN", "KAGGLE_PROXY", "VERBOSE", "VERBOSE_OUTPUT")

# A status where the client gives it as a number: "404 Client Error: ...", "404 - Forbidden", "404 Not Found",
# "HTTP 429", '"code": 503', "<Response [502]>", "too many 503 error responses".
_NUMBER = re.compile(
    r"\b([45]\d\d) (?:Client|Server) Error"
    r"|(?:^|>)\W{0,2}([45]\d\d)(?= ?[-:]| [A-Z]|\W*$)"
    r"|(?i:\b(?:HTTP(?:/[\d.]+)?|status(?:[ _]?code)?|code|error)\W{1,4})([45]\d\d)\b"
    r"|<Response \[([45]\d\d)\]>|\(([45]\d\d)\)"
    r"|too many ([45]\d\d) error responses",
    re.MULTILINE,
)
# What Kaggle says without a number (of a JSON reply the client prints the message alone), and its status.
_WORDS = {
    r"Authentication required|unauthenticated|unauthorized|invalid credentials": 401,
    r"must accept this competition|permission '[\w.]+' was denied|permission[_ ]denied|forbidden": 403,
    # A file that is not found is one of this machine.
    r"(?<!file)(?<!file )(?<!module)not[ _-]?found\b|no such (?:competition|dataset|kernel|notebook)"
    r"|(?:competition|dataset|kernel|notebook)\b.* does(?: not|n't) exist": 404,
    r"too many requests|rate limit|resource[_ ]exhausted": 429,
    r"internal (?:server )?error|something went wrong": 500,
    r"bad gateway": 502,
    r"(?:temporarily|currently|service|server|backend) (?:is )?(?:\w+ )?unavailable|^\W*unavailable\b"
    r"|try again (?:later|in (?:a|some) )": 503,
    r"gateway time-?out|deadline[_ ]exceeded": 504,
}
AFTER = re.compile(r"retry[- ]after\W{1,4}(\d+(?:\.\d+)?)|retry(?:ing)? in (\d+(?:\.\d+)?) ?s", re.IGNORECASE)
_LOST = re.compile(
    r"failed to (?:establish a new connection|resolve)|connection (?:refused|reset|aborted|error)|timed out"
    r"|remote end closed|incompleteread|unable to connect|max retries exceeded"
    r"|does not match expected size",
    re.IGNORECASE,
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of this machine's disk, not of the network
_LOOK_EVERY = 0.5  # seconds


class Refused(UserError):
    """Kaggle said no. `status` is the HTTP status, or None where the client gave none."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Busy(UserError):
    """Kaggle could not be reached, has trouble, or asks to slow down: the same call may go well later.
    `status` is the HTTP status, `after` the seconds that Kaggle asks to wait, None where the client gave
    none."""

    def __init__(self, message: str, status: int | None = None, after: float | None = None):
        super().__init__(message)
        self.status, self.after = status, after


@dataclass(frozen=True)
class About:
    """What a call is about, for the sentence where it fails: `what` is named, `forbidden` says what a 403
    means."""

    what: str
    forbidden: str = "this account may not see it, or it does not exist"


def about_competition(slug: str) -> About:
    """A competition; nothing of it can be had before its rules are accepted."""
    return About(
        f"competition {slug}",
        f"accept its rules (join it) on kaggle.com/competitions/{slug}, "
        f"or mend competition.slug if that is a typo",
    )


def find_client() -> Path | None:
    """The `kaggle` executable: the one beside this Python, else the first on PATH, else None."""
    beside = Path(sys.executable).parent / ("kaggle.exe" if os.name == "nt" else "kaggle")
    if beside.is_file():
        return beside
    found = shutil.which("kaggle")
    return Path(found) if found else None


def call(
    *arguments: str, about: About, watch: bool = False, look: Callable[[str], None] | None = None
) -> str:
    """Run `kaggle ARGUMENTS` to its end and give what it printed, both streams together.

    With `watch`, for transfers, it may take any time, and its progress bar is shown where there is a
    terminal. `look` is called again and again with what stands on stdout so far; what it raises ends the
    client. Raises `Refused` or `Busy` with one sentence where it failed, `UserError` where there is no
    client or no room on the disk.
    """
    client = find_client()
    if client is None:
        raise UserError(
            "the `kaggle` client is not installed beside this Python or on PATH: "
            "run `make setup`, or install requirements/kaggle.in"
        )
    environment = {key: value for key, value in os.environ.items() if key not in UNWANTED}
    environment |= {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [str(client), "-W", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    heard: list[bytes] = []
    ear = threading.Thread(target=_hear, args=(process.stderr, heard, watch and sys.stderr.isatty()))
    ear.start()
    alarm = threading.Timer(_LIMIT, process.kill)
    if not watch:
        alarm.start()
    try:
        printed = _read(process.stdout, look)
        code = process.wait()
    except BaseException:
        process.terminate()  # an interrupted client would exit with 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        raise
    finally:
        expired = not watch and alarm.finished.is_set()
        alarm.cancel()
        ear.join()
        process.stdout.close()
    if expired:
        raise Busy(f"{about.what}: no answer from Kaggle within {_LIMIT:.0f} s; run the same command again")
    text = b"\n".join([printed, b"".join(heard)]).decode("utf-8", errors="replace")
    if code != 0:
        raise failure(text, arguments, about)
    return text


def _read(stream: IO[bytes], look: Callable[[str], None] | None) -> bytes:
    """A stream to its end, with a `look` at what has come by now."""
    printed = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if selector.select(None if look is None else _LOOK_EVERY):
                chunk = os.read(stream.fileno(), 65536)
                printed += chunk
                if not chunk:
                    return printed
            if look is not None:
                look(printed.decode("utf-8", errors="replace"))


def _hear(stream: IO[bytes], heard: list[bytes], show: bool) -> None:
    """Keep what the client says on stderr, and pass it on as it comes where it is to be seen."""
    with stream:
        while chunk := os.read(stream.fileno(), 65536):
            heard.append(chunk)
            if show:
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()


def failure(text: str, arguments: tuple[str, ...], about: About) -> UserError:
    """The one sentence for what a failed call printed."""
    if "ModuleNotFoundError" in text:
        missing = re.search(r"No module named '([\w.]+)'", text)
        return UserError(
            f"the kaggle client lacks the package {missing[1] if missing else '?'}: "
            f"install requirements/kaggle.in, which names it"
        )
    if re.search(r"^usage: kaggle", text, re.MULTILINE) and "error:" in text:
        return UserError(
            f"this kaggle client does not know `kaggle {' '.join(arguments[:2])}` as it is used here: "
            f"install requirements/kaggle.in"
        )
    full = re.search(r"\[Errno (\d+)\][^\n:]*(?:: '([^'\n]+)')?", text)
    if full and int(full[1]) in _FULL:
        place = full[2] or (arguments[arguments.index("-p") + 1] if "-p" in arguments else about.what)
        return UserError(f"{place}: cannot be written, {why_not_written(int(full[1]))}")
    status = status_of(text)
    if status == 401:
        return Refused(f"Kaggle knows no key of yours (401): {key_advice()}", 401)
    if status == 403:
        return Refused(f"{about.what}: Kaggle refuses (403): {about.forbidden}", 403)
    if status == 404:
        return Refused(f"{about.what}: there is none of that name on Kaggle (404); mend its slug", 404)
    if status == 429:
        after = wait_of(text)
        pause = "some minutes" if after is None else f"{after:.0f} s, as Kaggle asks,"
        return Busy(
            f"{about.what}: too many requests (429): wait {pause} and run the same command again, "
            f"it goes on where it stopped",
            status,
            after,
        )
    if status is not None and status >= 500:
        return Busy(
            f"{about.what}: Kaggle has trouble ({status}): run the same command again in some minutes",
            status,
            wait_of(text),
        )
    lost = _LOST.search(text)
    if lost:
        return Busy(f"{about.what}: no connection to Kaggle ({lost[0].lower()}); run the same command again")
    return Refused(f"{about.what}: the kaggle client failed: {last_words(text)}", status)


def status_of(text: str) -> int | None:
    """The HTTP status that a printed failure stands for, or None: the last number that the client gave, else
    what the words mean."""
    numbers = [next(filter(None, found.groups())) for found in _NUMBER.finditer(text)]
    if numbers:
        return int(numbers[-1])
    flags = re.MULTILINE | re.IGNORECASE
    return next((status for words, status in _WORDS.items() if re.search(words, text, flags)), None)


def wait_of(text: str) -> float | None:
    """The seconds of a `Retry-After` that the client printed, or None."""
    found = [float(one[1] or one[2]) for one in AFTER.finditer(text)]
    return found[-1] if found else None


def last_words(text: str) -> str:
    """The last line that the client printed, shortened to what fits a sentence."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def key_advice() -> str:
    """Which key was tried, for a variable shadows a good file, and where a new one comes from."""
    shadow = next((name for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY") if os.environ.get(name)), None)
    tried = f"it tried {shadow} of this shell, which comes before any file; " if shadow else ""
    return f"{tried}make one at kaggle.com/settings/api and save it as ~/.kaggle/access_token"
