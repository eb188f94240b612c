"""Submissions: one receipt per submission, updated with the scores that Kaggle lists.

| state of a receipt | meaning |
|---|---|
| `sending` | the call has started; only Kaggle's list shows whether the submission arrived |
| `sent` | it is listed as `ref`, and has no score yet |
| `scored`, `failed` | it has a row in submissions/log.csv |
| `lost` | it never arrived, according to Kaggle's list and count of submissions |
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from src.config import Config, UserError
from src.kaggle.client import about_competition, call
from src.kaggle.output import said_of_prior
from src.kaggle.parcels import Parcel
from src.kaggle.receipts import now, read_receipt, receipt_path, write_receipt
from src.kaggle.replies import Limits, Submission, read_submissions
from src.locks import alone
from src.submission.log import LogRow, log_path, log_submission, read_log, remarks

UNDER_WAY, FINAL = ("sending", "sent"), ("scored", "failed")
KEYS = {"state", "competition", "content", "kind", "name", "cv", "message"}


def list_submissions(slug: str) -> list[Submission]:
    """The newest submissions of this account's team."""
    return read_submissions(
        call(
            "competitions", "submissions", slug, "--format", "json", "--page-size", "100",
            about=about_competition(slug),
        )
    )  # fmt: skip


def read_limits(slug: str) -> Limits:
    """The number of submissions that Kaggle accepts now and the number that it has counted."""
    return Limits.read(
        call("competitions", "submission-limits", slug, "--json", about=about_competition(slug))
    )


def receipts_of(config: Config) -> dict[str, dict[str, Any]]:
    """All submission receipts by name; receipts of the same content are in the order of sending."""
    paths = receipt_path(config, "x").parent.glob("submission-*.json")
    names = sorted((path.stem for path in paths), key=lambda name: (len(name), name))
    receipts = {name: read_receipt(config, name) for name in names}
    for name, receipt in receipts.items():
        if not receipt.keys() >= KEYS or (receipt["state"] in ("sent", *FINAL) and "ref" not in receipt):
            raise UserError(
                f"{receipt_path(config, name)}: is no whole receipt of a submission; bring it back from git, "
                f"or move it away (what Kaggle lists is not sent again)"
            )
    return receipts


def claimed(config: Config) -> set[int]:
    """The Kaggle ids of all submissions that have a receipt."""
    return {receipt["ref"] for receipt in receipts_of(config).values() if "ref" in receipt}


def newest_receipt(config: Config, slug: str, parcel: Parcel) -> str | None:
    """The name of the newest receipt with this content, or None. Lost submissions are ignored."""
    same = [
        name
        for name, receipt in receipts_of(config).items()
        if (receipt["competition"], receipt["content"]) == (slug, parcel.content)
        and receipt["state"] in UNDER_WAY + FINAL
    ]
    return same[-1] if same else None


def open_receipt(config: Config, slug: str, parcel: Parcel, **values: Any) -> str:
    """Write the receipt of a new submission and return its unique name."""
    base, number = f"submission-{parcel.content[:10]}", 1
    while receipt_path(config, name := base if number == 1 else f"{base}-{number}").exists():
        number += 1
    write_receipt(
        config, name, competition=slug, content=parcel.content, kind=parcel.kind, name=parcel.name,
        cv=parcel.cv, message=parcel.message, on_prior=parcel.on_prior, **values,
    )  # fmt: skip
    return name


def change_receipt(config: Config, name: str, **values: Any) -> dict[str, Any]:
    """Update some values of a receipt and return it."""
    receipt = {key: value for key, value in read_receipt(config, name).items() if key != "when"}
    return write_receipt(config, name, **(receipt | values))


def find_submission(
    receipt: dict[str, Any], rows: list[Submission], taken: Set[int] = frozenset()
) -> Submission | None:
    """The listed submission that belongs to a receipt, or None.

    It is matched by its id if that is known, else by its description among new submissions that no other
    receipt has `taken`.
    """
    if "ref" in receipt:
        return next((row for row in rows if row.ref == receipt["ref"]), None)
    known = set(taken).union(receipt.get("known", ()))
    return next((row for row in rows if row.ref not in known and row.description == receipt["message"]), None)


def note_scores(config: Config, slug: str, rows: list[Submission]) -> dict[str, dict[str, Any]]:
    """Log every pending submission that is scored or failed in `rows` to submissions/log.csv; return their
    receipts."""
    ended = {}
    with alone(log_path(config.root)):
        for name, receipt in receipts_of(config).items():
            if receipt["state"] not in UNDER_WAY or receipt["competition"] != slug:
                continue
            row = find_submission(receipt, rows, claimed(config))
            if row is not None and row.status in ("complete", "error"):
                ended[name] = note_end(config, name, row)
            elif row is not None and receipt["state"] == "sending":
                change_receipt(config, name, state="sent", ref=row.ref)
    return ended


def note_end(config: Config, name: str, row: Submission) -> dict[str, Any]:
    """Record a submission's score or failure in the log and in its receipt."""
    state = "failed" if row.status == "error" else "scored"
    scores = {"ref": row.ref, "public": row.public, "private": row.private}
    log_receipt(config, read_receipt(config, name) | scores | {"state": state})
    return change_receipt(config, name, state=state, **scores)


def log_receipt(config: Config, receipt: dict[str, Any]) -> None:
    """Append the row of a finished submission to submissions/log.csv."""
    message = "failed on Kaggle" if receipt["state"] == "failed" else receipt["message"]
    prior = said_of_prior(receipt.get("on_prior"))
    row = LogRow(
        now(), receipt["name"], receipt["kind"], receipt["cv"], receipt["public"], receipt["private"],
        receipt["ref"], f"{message}; {prior}" if prior else message,
    )  # fmt: skip
    log_submission(config.root, row)


def log_again(config: Config, receipt: dict[str, Any]) -> None:
    """Append the row of a finished submission if the log lacks it."""
    with alone(log_path(config.root)):
        if str(receipt["ref"]) not in {row["ref"] for row in read_log(config.root)}:
            log_receipt(config, receipt)


def lines_of(receipt: dict[str, Any]) -> list[str]:
    """The outcome of a submission as text lines, with warnings about anything unusual."""
    if receipt["state"] == "failed":
        return [f"submission {receipt['ref']} ({receipt['name']}): Kaggle could not score it"]
    public, cv = receipt["public"], receipt["cv"]
    score = "not shown yet" if public is None else f"{public:.5f}"
    shown = "-" if cv is None else f"{cv:.5f}"
    first = f"submission {receipt['ref']}: public score {score}, CV {shown}; noted in submissions/log.csv"
    odd = remarks(cv, public, said_of_prior(receipt.get("on_prior")) or "")
    return [first, *(f"WARNING: {receipt['name']}: {one}" for one in odd)]


def scores_under_way(config: Config) -> list[str]:
    """Query Kaggle for the scores of all pending submissions, log them and return a report as text lines.

    No query is made if nothing is pending. A failed query is reported and raises no error.
    """
    lines: list[str] = []
    try:
        under_way = [one for one in receipts_of(config).values() if one["state"] in UNDER_WAY]
        for slug in sorted({one["competition"] for one in under_way}):
            for receipt in note_scores(config, slug, list_submissions(slug)).values():
                lines += lines_of(receipt)
        left = [one for one in receipts_of(config).values() if one["state"] in UNDER_WAY]
        lines += [f"{one['name']}: under way, without a score yet" for one in left]
    except UserError as error:
        lines.append(f"submissions under way could not be looked up: {error}")
    return lines
