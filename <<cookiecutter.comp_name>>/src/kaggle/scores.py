"""submissions/log.csv: every submission with its CV and its scores, one row each, oldest first."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields

from src.artifacts import write_text
from src.config import Config, UserError


@dataclass(frozen=True)
class LogRow:
    """One submission; a score is None where Kaggle shows none."""

    when: str
    name: str
    kind: str
    cv: float | None
    public: float | None
    private: float | None
    ref: int
    message: str


COLUMNS = [field.name for field in fields(LogRow)]


def note(config: Config, row: LogRow) -> None:
    """Write the row to the log; one of the same submission is replaced, all others stay as they are."""
    path = config.root / "submissions" / "log.csv"
    rows: list[dict[str, str]] = []
    if path.exists():
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        if reader.fieldnames is None or not set(COLUMNS) <= set(reader.fieldnames):
            raise UserError(
                f"{path}: its columns should be {','.join(COLUMNS)}; mend its first line or move it away"
            )
        rows = [old for old in reader if old["ref"] != str(row.ref)]
    rows.append({name: "" if value is None else str(value) for name, value in asdict(row).items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
