"""Submission log, submissions/log.csv: every submission with its CV and its leaderboard scores, one row each,
oldest first."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from src.artifacts import write_text
from src.config import UserError
from src.locks import alone


@dataclass(frozen=True)
class LogRow:
    """One submission. A score is None if Kaggle shows none; `ref`, Kaggle's number of the submission, is None
    if the row was entered by hand."""

    when: str
    name: str
    kind: str
    cv: float | None
    public: float | None
    private: float | None
    ref: int | None
    message: str


COLUMNS = [field.name for field in fields(LogRow)]


FAR = 0.1  # relative to the larger of CV and public score; folds and leaderboards seldom differ by more


def remarks(cv: float | None, public: float | None, message: str) -> list[str]:
    """Warnings about a submission: most of its rows hold the prior (its `message` then ends with that), or
    its public score is far from CV."""
    found = [message.rpartition("; ")[2]] if "hold the prior" in message else []
    if cv is not None and public is not None and abs(cv - public) > FAR * max(abs(cv), abs(public)):
        found.append(
            f"public score {public:.5f} is far from CV {cv:.5f}: did the hidden run see its images, are the "
            f"classes and their order the sample's, is task.metric the competition's?"
        )
    return found


def log_path(root: Path) -> Path:
    """Path of the submission log."""
    return root / "submissions" / "log.csv"


def read_log(root: Path) -> list[dict[str, str]]:
    """The log's rows as text, with empty cells as ''. Raises `UserError` if the file is not such a table."""
    path = log_path(root)
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:  # edited by hand too, so never set aside
        raise UserError(
            f"{path}: cannot be read as CSV in UTF-8 ({error}); mend it or move it away"
        ) from None
    if reader.fieldnames is None or not set(COLUMNS) <= set(reader.fieldnames):
        raise UserError(
            f"{path}: its columns should be {','.join(COLUMNS)}; mend its first line or move it away"
        )
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"{path}, line {number}: has another number of cells than the first line")
        for column in ("cv", "public", "private"):
            try:
                float(row[column] or 0)
            except ValueError:
                raise UserError(
                    f"{path}, line {number}: {column} is {row[column]!r}; it should be a number such as "
                    f"0.9234, or empty"
                ) from None
    return rows


def log_submission(root: Path, row: LogRow) -> None:
    """Write a row to the log. It replaces a row of the same submission (the same `ref`, or the same name if
    entered by hand); all other rows stay unchanged."""
    ref = "" if row.ref is None else str(row.ref)

    def same(old: dict[str, str]) -> bool:
        return old["ref"] == ref and (row.ref is not None or old["name"] == row.name)

    with alone(log_path(root)):
        rows = [old for old in read_log(root) if not same(old)]
        rows.append({name: "" if value is None else str(value) for name, value in asdict(row).items()})
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_text(log_path(root), text.getvalue())
