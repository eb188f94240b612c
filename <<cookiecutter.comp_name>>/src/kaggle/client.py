"""A wrapper of the official Kaggle client, the `kaggle` executable.

It runs as a subprocess and is never imported, because importing it logs in. `call` returns the client's
output or raises: `Refused` if Kaggle rejects the request, `Busy` if the same call may succeed later. A call
that returns has not necessarily succeeded: the client exits with status 0 after several kinds of failure, so
`replies.py` parses the output to detect success.
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

_LIMIT = 300.0  # seconds until a call is aborted: the client itself never times out on a dead connection

# The client reads every KAGGLE_X as its setting x (a default competition, a download folder, a token). With
# VERBOSE it prints the API key in its output.
UNWANTED = ("KAGGLE_COMPETITION", "KAGGLE_PATH", "KAGGLE_TOKEN", "KAGGLE_PROXY", "VERBOSE", "VERBOSE_OUTPUT")

# An HTTP status that the client prints as a number: "404 Client Error: ...", "404 - Forbidden", "404 Not
# Found", "HTTP 429", '"code": 503', "<Response [502]>", "too many 503 error responses".
_NUMBER = re.compile(
    r"\b([45]\d\d) (?:Client|Server) Error"
    r"|(?:^|>)\W{0,2}([45]\d\d)(?= ?[-:]| [A-Z]|\W*$)"
    r"|(?i:\b(?:HTTP(?:/[\d.]+)?|status(?:[ _]?code)?|code|error)\W{1,4})([45]\d\d)\b"
    r"|<Response \[([45]\d\d)\]>|\(([45]\d\d)\)"
    r"|too many ([45]\d\d) error responses",
    re.MULTILINE,
)
# Error messages without a number (from a JSON reply the client prints only the message), and the HTTP status
# that each stands for.
_WORDS = {
    r"Authentication required|unauthenticated|unauthorized|invalid credentials": 401,
    r"must accept this competition|permission '[\w.]+' was denied|permission[_ ]denied|forbidden": 403,
    # "File not found" is a problem of this machine, not an answer of Kaggle.
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
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # errors of the local disk, not of the network
_LOOK_EVERY = 0.5  # seconds between two calls of the `look` callback


class Refused(UserError):
    """Kaggle rejected the request. `status` is the HTTP status, or None if the client printed none."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Busy(UserError):
    """Kaggle is unreachable, has a server error or limits the request rate; the same call may succeed later.

    `status` is the HTTP status and `after` the number of seconds that Kaggle asks to wait. Each is None if
    the client printed none.
    """

    def __init__(self, message: str, status: int | None = None, after: float | None = None):
        super().__init__(message)
        self.status, self.after = status, after


@dataclass(frozen=True)
class About:
    """The subject of a call, for its error message: `what` names it, `forbidden` explains a 403."""

    what: str
    forbidden: str = "this account may not see it, or it does not exist"


def about_competition(slug: str) -> About:
    """The subject of a competition call. Before its rules are accepted, every such call returns 403."""
    return About(
        f"competition {slug}",
        f"accept its rules (join it) on kaggle.com/competitions/{slug}, "
        f"or mend competition.slug if that is a typo",
    )


def find_client() -> Path | None:
    """Path of the `kaggle` executable: beside this Python, else the first on PATH, else None."""
    beside = Path(sys.executable).parent / ("kaggle.exe" if os.name == "nt" else "kaggle")
    if beside.is_file():
        return beside
    found = shutil.which("kaggle")
    return Path(found) if found else None


def call(
    *arguments: str, about: About, watch: bool = False, look: Callable[[str], None] | None = None
) -> str:
    """Run `kaggle ARGUMENTS` to completion and return its output, stdout followed by stderr.

    With `watch`, meant for transfers, there is no time limit, and the client's progress bar is shown on a
    terminal. `look` is called repeatedly with the stdout so far; an exception that it raises terminates the
    client. Raises `Refused` or `Busy` with a one-sentence message if the call fails, and `UserError` if the
    client is not installed or the disk is full.
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
    """Read a stream to its end and call `look` with the text so far at regular intervals."""
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
    """Collect the client's stderr, and forward it as it arrives if `show` is set."""
    with stream:
        while chunk := os.read(stream.fileno(), 65536):
            heard.append(chunk)
            if show:
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()


def failure(text: str, arguments: tuple[str, ...], about: About) -> UserError:
    """Convert the output of a failed call into an exception with a one-sentence message."""
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
    """The HTTP status that a printed failure stands for, or None: the last number in the text, else the
    status that its message implies."""
    numbers = [next(filter(None, found.groups())) for found in _NUMBER.finditer(text)]
    if numbers:
        return int(numbers[-1])
    flags = re.MULTILINE | re.IGNORECASE
    return next((status for words, status in _WORDS.items() if re.search(words, text, flags)), None)


def wait_of(text: str) -> float | None:
    """The `Retry-After` delay in seconds that the client printed, or None."""
    found = [float(one[1] or one[2]) for one in AFTER.finditer(text)]
    return found[-1] if found else None


def last_words(text: str) -> str:
    """The last non-empty line of the client's output, truncated to 300 characters."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def key_advice() -> str:
    """Advice for an invalid API key: which key was used, since an environment variable overrides a valid
    file, and where to create a new one."""
    shadow = next((name for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY") if os.environ.get(name)), None)
    tried = f"it tried {shadow} of this shell, which comes before any file; " if shadow else ""
    return f"{tried}make one at kaggle.com/settings/api and save it as ~/.kaggle/access_token"
