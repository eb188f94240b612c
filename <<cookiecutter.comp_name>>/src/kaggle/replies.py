"""Strict parsers for the output of the Kaggle client, one dataclass per command.

The client's exit status is unreliable: a push with an invalid source, a rejected push and a dataset without
the file that failed to upload all exit with 0. So a command counts as successful only if its output says so.
Any output that is not recognised counts as a failure and is quoted in the error message.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from src.config import UserError
from src.kaggle.client import Refused, last_words


@dataclass(frozen=True)
class DatasetStatus:
    """The output of `datasets status --format json(status,current_version_number)`."""

    status: str  # ready, failed, deleted, reprocessing, or a stage before ready
    version: int

    @classmethod
    def read(cls, text: str) -> DatasetStatus:
        """Parse the output. Raises `UserError` if it is not recognised."""
        said = _json(text, "datasets status")
        return cls(str(_key(said, "status", text)).lower(), int(said.get("current_version_number") or 0))


@dataclass(frozen=True)
class Uploaded:
    """The output of `datasets create` and `datasets version`: the names of the files that arrived."""

    files: tuple[str, ...]

    @classmethod
    def read(cls, text: str, ref: str, expected: tuple[str, ...]) -> Uploaded:
        """Parse the output. `expected` holds the names at the top level of the folder; a subfolder arrives as
        `<name>.zip`. Raises `Refused` if a file is missing or the dataset is public."""
        error = re.search(r"^Dataset (?:version )?creation error: (.*)", text, re.MULTILINE)
        if error:
            raise Refused(f"{ref}: Kaggle refuses the dataset: {error[1].strip() or 'without a reason'}")
        files = tuple(re.findall(r"^Upload successful: (.+) \([^()]*\)\s*$", text, re.MULTILINE))
        lost = [name for name in expected if name not in files]
        if lost:
            raise Refused(
                f"{ref}: {lost[0]} did not arrive ({len(lost)} of {len(expected)} file(s)); "
                f"run the same command again, which sends it anew"
            )
        if re.search(r"^Your public Dataset", text, re.MULTILINE):
            raise Refused(f"{ref}: the dataset became public; make it private on its page at once")
        if not re.search(
            r"^(Your private Dataset is being created|Dataset version is being created)", text, re.MULTILINE
        ):
            raise _unknown("datasets create", text)
        return cls(files)


@dataclass(frozen=True)
class Pushed:
    """The output of `kernels push`: the new version number and its URL."""

    version: int
    url: str

    @classmethod
    def read(cls, text: str, ref: str) -> Pushed:
        """Parse the output. Raises `Refused` if Kaggle rejected the push or left out a source."""
        error = re.search(r"^Kernel push error: (.*)", text, re.MULTILINE)
        if error:
            raise Refused(f"{ref}: Kaggle refuses the push: {error[1].strip() or 'without a reason'}")
        invalid = re.search(r"not valid (\w+(?: sources)?) and could not be added.*?: (.*)", text)
        if invalid:
            raise Refused(
                f"{ref}: pushed, but without {invalid[2].strip()}: Kaggle says these are no valid "
                f"{invalid[1]}; a dataset must be ready and yours, a competition's rules accepted"
            )
        done = re.search(
            r"^Kernel version (\d+) successfully pushed\.\s+Please check progress at (\S+)", text, re.M
        )
        if not done:
            raise _unknown("kernels push", text)
        return cls(int(done[1]), done[2])


@dataclass(frozen=True)
class KernelStatus:
    """The output of `kernels status`."""

    status: str  # queued, running, complete, error, cancel_requested, cancel_acknowledged, new_script
    failure: str | None

    @classmethod
    def read(cls, text: str) -> KernelStatus:
        """Parse the output. Raises `UserError` if it is not recognised."""
        status = re.search(r'^\S+ has status "(?:KernelWorkerStatus\.)?(\w+)"', text, re.MULTILINE)
        if not status:
            raise _unknown("kernels status", text)
        failure = re.search(r'^Failure message: "(.*)"', text, re.MULTILINE | re.DOTALL)
        return cls(status[1].lower(), failure[1] if failure else None)


@dataclass(frozen=True)
class Submitted:
    """The output of `competitions submit`. It is no proof of a submission: only the list of submissions
    is."""

    answer: str

    @classmethod
    def read(cls, text: str, slug: str) -> Submitted:
        """Parse the output. Raises `Refused` if nothing was submitted."""
        lost = re.search(r"^Could not (?:submit to|find) competition.*", text, re.MULTILINE)
        if lost:
            raise Refused(f"competition {slug}: nothing was submitted, the client says: {lost[0].strip()}")
        answer = re.search(r"^.*submitted.*", text, re.MULTILINE | re.IGNORECASE)
        return cls(answer[0].strip() if answer else "")


@dataclass(frozen=True)
class Submission:
    """One row of `competitions submissions --format json`. The scores are None until Kaggle has computed
    them."""

    ref: int
    file: str
    description: str
    status: str  # pending, complete or error
    public: float | None
    private: float | None


def read_submissions(text: str) -> list[Submission]:
    """Parse all rows of `competitions submissions --format json`, newest first as Kaggle lists them."""
    if "No submissions found" in text:
        return []
    return [
        Submission(
            ref=int(_key(row, "ref", text)),
            file=str(row.get("fileName") or ""),
            description=str(row.get("description") or ""),
            status=str(_key(row, "status", text)).rpartition(".")[2].lower(),
            public=_score(row.get("publicScore")),
            private=_score(row.get("privateScore")),
        )
        for row in _json(text, "competitions submissions")
    ]


@dataclass(frozen=True)
class Limits:
    """The output of `competitions submission-limits --json`. The client omits zeros."""

    allowed_now: int
    today: int
    total: int

    @classmethod
    def read(cls, text: str) -> Limits:
        """Parse the output. Raises `UserError` if it is not recognised."""
        said = _json(text, "competitions submission-limits")
        return cls(*(int(said.get(key, 0)) for key in ("numAllowedNow", "numToday", "numTotal")))


def _json(text: str, verb: str) -> Any:
    """Extract the JSON value from the client's output, which may have warnings around it."""
    for start in re.finditer(r"^[\[{]", text, re.MULTILINE):
        try:
            return json.JSONDecoder().raw_decode(text, start.start())[0]
        except json.JSONDecodeError:
            continue
    raise _unknown(verb, text)


def _key(row: dict, key: str, text: str) -> Any:
    if row.get(key) is None:
        raise _unknown(f"a reply without `{key}`", text)
    return row[key]


def _score(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _unknown(verb: str, text: str) -> UserError:
    return UserError(
        f"kaggle {verb}: it said {last_words(text)!r}, which this project takes for a failure; "
        f"requirements/kaggle.in names the client it was made for"
    )
