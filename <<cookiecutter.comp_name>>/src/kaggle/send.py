"""`make send SUBMIT=1`: one submission, its score, and a line in submissions/log.csv.

A submission cannot be taken back and there are few a day. So: it is sent only with SUBMIT=1, only where the
same was not sent before, only after the checks; and once it is sent, the same command only waits for its
score.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from src.artifacts import read_json, sha256
from src.config import Config, UserError
from src.kaggle.client import about_competition, call
from src.kaggle.names import bundle_folder, competition
from src.kaggle.output import check_table
from src.kaggle.push import KERNEL, OUTPUT, read_kernel
from src.kaggle.receipts import now, read_receipt, write_receipt
from src.kaggle.replies import Limits, Submission, Submitted, read_submissions
from src.kaggle.waiting import wait_for
from src.rawfiles import raw_tables
from src.steps import submission_source
from src.submission.log import LogRow, note
from src.submission.manifest import read_manifest

SCORING_HOURS = 3.0  # beside the run itself
APPEAR_HOURS = 0.1  # for a submission to be listed


@dataclass(frozen=True)
class Parcel:
    """What will be sent: `content` is a hash of it, so that nothing is sent twice."""

    kind: str  # code or csv
    name: str
    cv: float | None
    content: str
    arguments: tuple[str, ...]  # the client's, for this kind

    @property
    def message(self) -> str:
        """The description that Kaggle shows, which also tells this submission from all others."""
        cv = "-" if self.cv is None else f"{self.cv:.5f}"
        return f"{self.name} cv {cv} [{self.content[:10]}]"


def send(config: Config, submit: bool, force: bool = False) -> None:
    """Send what is ready and wait for its score. Raises `UserError` unless every check holds, Kaggle allows
    one more today, `submit` is set and the same was not sent before (`force` sends it again)."""
    slug = competition(config)
    parcel = (code_parcel if config.kaggle.code_competition else csv_parcel)(config)
    before = read_receipt(config, "submission")
    same = before.get("content") == parcel.content and before.get("competition") == slug
    if same and before["state"] == "sent" and not force:
        print(f"submission {before['ref']}: sent before, waiting for its score")
        return wait_for_score(config, parcel, before["ref"])
    if same and before["state"] in ("scored", "failed") and not force:
        refuse_twice(before["ref"], before["public"])
    if same and before["state"] == "sending" and not force:  # stopped between the sending and its proof
        arrived = find(slug, parcel.message, known=set(before["known"]))
        if arrived is not None:
            return settle(config, parcel, arrived.ref)
    left = ask_limits(slug)
    print(f"{parcel.kind}: {parcel.message}; {left} submission(s) left today")
    if not submit:
        raise UserError("nothing is sent yet: a submission is sent by `make send SUBMIT=1`")
    rows = list_submissions(slug)
    for row in rows:
        if row.description == parcel.message and not force:  # from another machine, or its receipt is lost
            refuse_twice(row.ref, row.public)
    known = [row.ref for row in rows]
    write_receipt(
        config, "submission", state="sending", competition=slug, content=parcel.content, known=known
    )
    text = call(
        "competitions", "submit", slug, *parcel.arguments, "-m", parcel.message,
        about=about_competition(slug), watch=True,
    )  # fmt: skip
    Submitted.read(text, slug)
    title = f"submission to {slug}"
    row = wait_for(title, lambda: _appeared(slug, parcel.message, set(known)), APPEAR_HOURS, LOOK)
    settle(config, parcel, row.ref)


LOOK = "look at the competition's submissions before you send again: it may have arrived"


def refuse_twice(ref: int, public: float | None) -> None:
    """Raise `UserError`: the same was sent before."""
    came = "has no score" if public is None else f"scored {public:.5f}"
    raise UserError(
        f"submission {ref}: the same was sent before and {came}; change something, or send it once more with "
        f"ARGS=--force"
    )


def settle(config: Config, parcel: Parcel, ref: int) -> None:
    """It is there: remember that before anything else, then wait for its score."""
    slug = competition(config)
    write_receipt(config, "submission", state="sent", competition=slug, content=parcel.content, ref=ref)
    wait_for_score(config, parcel, ref)


def wait_for_score(config: Config, parcel: Parcel, ref: int) -> None:
    """Wait until Kaggle has scored submission `ref`, and note it. Raises `UserError` where it failed."""
    slug = competition(config)
    hours = SCORING_HOURS + (config.kaggle.hours if parcel.kind == "code" else 0)

    def look() -> tuple[str, Submission | None]:
        row = next((row for row in list_submissions(slug) if row.ref == ref), None)
        if row is None:
            return "not listed", None
        return row.status, row if row.status in ("complete", "error") else None

    row = wait_for(f"submission {ref}", look, hours, "the same command goes on waiting")
    failed = row.status == "error"
    message = "failed on Kaggle" if failed else parcel.message
    note(
        config.root, LogRow(now(), parcel.name, parcel.kind, parcel.cv, row.public, row.private, ref, message)
    )
    receipt = {"competition": slug, "content": parcel.content, "ref": ref}
    receipt |= {"public": row.public, "private": row.private}
    write_receipt(config, "submission", state="failed" if failed else "scored", **receipt)
    if failed:
        raise UserError(
            f"submission {ref}: Kaggle could not score it; the reason stands on "
            f"kaggle.com/competitions/{slug}/submissions"
        )
    score = "not shown yet" if row.public is None else f"{row.public:.5f}"
    cv = "-" if parcel.cv is None else f"{parcel.cv:.5f}"
    print(f"submission {ref}: public score {score}, CV {cv}; noted in submissions/log.csv")


def code_parcel(config: Config) -> Parcel:
    """The pushed kernel's version. Raises `UserError` unless its run was checked and is of today's bundle."""
    kernel = read_receipt(config, "kernel")
    manifest = read_manifest(bundle_folder(config), made_by="make bundle")
    if kernel.get("state") != "checked":
        raise UserError("no kernel's run was checked yet: run `make push` first")
    if kernel["bundle_hash"] != manifest["bundle_hash"] or kernel["kernel_sha256"] != read_kernel(config)[1]:
        raise UserError(f"the bundle or {KERNEL} changed since the push: run `make rehearse push` again")
    if kernel["metadata"]["enable_internet"]:
        raise UserError(
            "the pushed kernel has internet, which a code competition refuses: set kaggle.internet=false"
        )
    identity = json.dumps([kernel["ref"], kernel["version"]])
    name = kernel["ref"].partition("/")[2]
    arguments = ("-k", kernel["ref"], "-v", str(kernel["version"]), "-f", OUTPUT)
    return Parcel("code", f"{name} v{kernel['version']}", kernel.get("cv"), _hash(identity), arguments)


def csv_parcel(config: Config) -> Parcel:
    """submissions/<name>.csv of stage 06. Raises `UserError` where it is not there, changed since it was
    checked, or not of the sample's rows."""
    _, name = submission_source(config)
    path = config.root / "submissions" / f"{name}.csv"
    try:
        provenance = read_json(path.with_suffix(".json"))
        content = sha256(path)
    except (OSError, ValueError):
        raise UserError(f"{path}: is not there with its {name}.json; run `make submit` first") from None
    if provenance.get("sha256") != content:
        raise UserError(f"{path}: changed since stage 06 checked it; run `make submit ARGS=--force`")
    check_table(path, raw_tables(config)["sample"])
    return Parcel("csv", name, provenance.get("cv"), content, ("-f", str(path)))


def ask_limits(slug: str) -> int:
    """How many submissions Kaggle takes today; raises `UserError` where that is none."""
    limits = Limits.read(
        call("competitions", "submission-limits", slug, "--json", about=about_competition(slug))
    )
    if limits.allowed_now < 1:
        why = (
            f"{limits.today} were sent today" if limits.today else "have you joined it, and is it still open?"
        )
        raise UserError(
            f"competition {slug}: Kaggle takes no submission now ({why}); days begin at midnight UTC"
        )
    return limits.allowed_now


def list_submissions(slug: str) -> list[Submission]:
    """The newest submissions of this account's team."""
    return read_submissions(
        call(
            "competitions", "submissions", slug, "--format", "json", "--page-size", "100",
            about=about_competition(slug),
        )
    )  # fmt: skip


def find(slug: str, message: str, known: set[int]) -> Submission | None:
    """The submission with this description that was not known before."""
    return next(
        (row for row in list_submissions(slug) if row.ref not in known and row.description == message), None
    )


def _appeared(slug: str, message: str, known: set[int]) -> tuple[str, Submission | None]:
    return "not listed yet", find(slug, message, known)


def _hash(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
