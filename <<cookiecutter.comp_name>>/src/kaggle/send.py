"""`make send SUBMIT=1`: send one submission, wait for its score and add a row to submissions/log.csv.

A submission cannot be undone, and the number per day is limited. So it is sent only with SUBMIT=1, only if
the same content was not sent before, only after all checks, and by one command at a time. Once it is sent,
the same command only waits for its score.
"""

from __future__ import annotations

from src.config import Config, UserError
from src.kaggle.client import Busy, about_competition, call
from src.kaggle.names import competition
from src.kaggle.parcels import Parcel, parcel_of
from src.kaggle.receipts import read_receipt, receipt_path
from src.kaggle.replies import Limits, Submission, Submitted
from src.kaggle.submissions import (
    FINAL,
    change_receipt,
    claimed,
    find_submission,
    lines_of,
    list_submissions,
    log_again,
    newest_receipt,
    note_scores,
    open_receipt,
    read_limits,
)
from src.kaggle.waiting import TimedOut, wait_for
from src.locks import alone

SCORING_HOURS = 3.0  # maximum waiting time for the score, in addition to the run itself
APPEAR_HOURS = 0.1  # maximum waiting time until a submission is listed
DRY = "nothing is sent yet: a submission is sent by `make send SUBMIT=1`"


class SentBefore(UserError):
    """The same content was sent before, and its outcome is known."""


def send_submission(config: Config, submit: bool, force: bool = False) -> None:
    """Send the prepared submission and wait for its score; without `submit`, print what would be sent.

    Raises `UserError` unless every check passes, Kaggle allows one more submission today and the same content
    was not sent before (`force` sends it again).
    """
    slug = competition(config)
    try:
        with alone(config.root / "kaggle" / "send"):
            parcel = parcel_of(config)
            name = None if force else newest_receipt(config, slug, parcel)
            if name is not None:
                name = resume_submission(config, slug, parcel, name, submit)
            if name is None:
                name = begin(config, slug, parcel, submit, force)
    except SentBefore as error:
        if submit:
            raise
        print(error)
        return
    if name is None:
        print(DRY)
        return
    wait_for_score(config, slug, name)


def resume_submission(config: Config, slug: str, parcel: Parcel, name: str, submit: bool) -> str | None:
    """Resume an earlier call's submission: returns the name of its receipt, or None if it never arrived."""
    receipt = read_receipt(config, name)
    if receipt["state"] in FINAL:
        log_again(config, receipt)
        raise sent_before(receipt["ref"], receipt["public"])
    if receipt["state"] == "sent":
        print(f"submission {receipt['ref']}: sent before, waiting for its score")
        return name
    # An earlier call was interrupted after sending and before the submission was listed: wait as long as it
    # would have waited.
    row = _wait_until_listed(config, slug, receipt) if submit else _find(config, slug, receipt)
    if row is not None:
        change_receipt(config, name, state="sent", ref=row.ref)
        return name
    if not submit:
        raise SentBefore(
            f"{parcel.message}: an earlier call was stopped while it was sending this, and it is not listed; "
            f"`make send SUBMIT=1` waits for it, and sends it again only where it never arrived"
        )
    if receipt.get("counted") is None or read_limits(slug).total > receipt["counted"]:
        raise UserError(NOT_LISTED.format(slug))
    print(f"{parcel.message}: never arrived, by Kaggle's list and its count")
    change_receipt(config, name, state="lost")
    return None


NOT_LISTED = (
    "submission to {0}: it may have arrived, though it is not listed: look at "
    "kaggle.com/competitions/{0}/submissions, and send it again with ARGS=--force only if it is not there"
)


def begin(config: Config, slug: str, parcel: Parcel, submit: bool, force: bool) -> str | None:
    """Send a new submission: returns the name of its receipt, or None if nothing is to be sent yet."""
    limits = read_limits(slug)
    print(f"{parcel.kind}: {parcel.message}; {limits.allowed_now} submission(s) left today")
    if not submit:
        return None
    check_limits(slug, limits)
    rows = list_submissions(slug)
    twin = next((row for row in rows if row.description.endswith(parcel.mark)), None)
    if twin is not None and not force:  # sent from another machine, or its receipt is lost
        name = open_receipt(config, slug, parcel, state="sent", ref=twin.ref)
        if note_scores(config, slug, rows).get(name):
            raise sent_before(twin.ref, twin.public)
        print(f"submission {twin.ref}: sent before from elsewhere, waiting for its score")
        return name
    name = open_receipt(
        config, slug, parcel, state="sending", known=[row.ref for row in rows], counted=limits.total
    )
    deliver(config, slug, parcel, name)
    row = _wait_until_listed(config, slug, read_receipt(config, name))
    if row is None:
        raise UserError(NOT_LISTED.format(slug))
    change_receipt(config, name, state="sent", ref=row.ref)
    return name


def deliver(config: Config, slug: str, parcel: Parcel, name: str) -> None:
    """Send the submission. Returns if it may have arrived; otherwise removes its receipt and raises the
    error."""
    arguments = ("competitions", "submit", slug, *parcel.arguments, "-m", parcel.message)
    try:
        Submitted.read(call(*arguments, about=about_competition(slug), watch=True), slug)
    except UserError as error:
        status = getattr(error, "status", None)
        told = status is not None and 400 <= status < 500  # Kaggle itself rejected it
        lost_reply = isinstance(error, Busy) and not told
        if told or (not lost_reply and nothing_arrived(config, slug, read_receipt(config, name))):
            receipt_path(config, name).unlink()
            raise
        print(f"{error}; looking whether the submission has arrived all the same", flush=True)


def nothing_arrived(config: Config, slug: str, receipt: dict) -> bool:
    """Whether Kaggle neither lists nor counts the submission of a failed call."""
    try:
        return _find(config, slug, receipt) is None and read_limits(slug).total <= receipt["counted"]
    except UserError:
        return False


def _find(config: Config, slug: str, receipt: dict) -> Submission | None:
    """The submission of a receipt in Kaggle's list, or None."""
    return find_submission(receipt, list_submissions(slug), claimed(config))


def _wait_until_listed(config: Config, slug: str, receipt: dict) -> Submission | None:
    """Wait until Kaggle lists a submission; None if it is not listed within `APPEAR_HOURS`."""

    def look() -> tuple[str, Submission | None]:
        return "not listed yet", _find(config, slug, receipt)

    try:
        return wait_for(f"submission to {slug}", look, APPEAR_HOURS, "")
    except TimedOut:
        return None


def sent_before(ref: int, public: float | None) -> SentBefore:
    """The error for content that was sent before and whose outcome is known."""
    came = "has no score" if public is None else f"scored {public:.5f}"
    return SentBefore(
        f"submission {ref}: the same was sent before and {came}; change something, or send it once more with "
        f"ARGS=--force"
    )


def check_limits(slug: str, limits: Limits) -> None:
    """Raise `UserError` if Kaggle accepts no submission now."""
    if limits.allowed_now < 1:
        why = (
            f"{limits.today} were sent today" if limits.today else "have you joined it, and is it still open?"
        )
        raise UserError(
            f"competition {slug}: Kaggle takes no submission now ({why}); days begin at midnight UTC"
        )


def wait_for_score(config: Config, slug: str, name: str) -> None:
    """Wait until Kaggle has scored the submission of this receipt. Raises `UserError` if it failed.

    Other submissions that are scored meanwhile are logged too.
    """
    receipt = read_receipt(config, name)
    hours = SCORING_HOURS + (config.kaggle.hours if receipt["kind"] == "code" else 0)

    def look() -> tuple[str, dict | None]:
        rows = list_submissions(slug)
        for other, ended in note_scores(config, slug, rows).items():
            if other != name:
                print("\n".join(lines_of(ended)), flush=True)
        now = read_receipt(config, name)
        row = find_submission(now, rows)
        return "not listed" if row is None else row.status, now if now["state"] in FINAL else None

    ended = wait_for(f"submission {receipt['ref']}", look, hours, "the same command goes on waiting")
    if ended["state"] == "failed":
        raise UserError(
            f"submission {ended['ref']}: Kaggle could not score it; the reason stands on "
            f"kaggle.com/competitions/{slug}/submissions"
        )
    print("\n".join(lines_of(ended)))
