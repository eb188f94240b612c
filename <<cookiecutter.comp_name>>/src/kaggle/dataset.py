"""A private dataset of a folder: created or versioned, and waited for until Kaggle serves that very version.

A kernel attached a minute too early runs on the version before, without a word. So a push waits until the
dataset is ready *and* its version number has moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from src.config import Config
from src.kaggle.client import About, Refused, call
from src.kaggle.metadata import dataset_metadata, write_metadata
from src.kaggle.receipts import read_receipt, write_receipt
from src.kaggle.replies import DatasetStatus, Uploaded
from src.kaggle.scan import check_folder
from src.kaggle.waiting import wait_for

HOURS = 2.0  # for Kaggle to unpack and store what was sent


@dataclass(frozen=True)
class DatasetVersion:
    """A version of a dataset that kernels can attach."""

    ref: str  # owner/slug
    version: int


def upload(config: Config, folder: Path, ref: str, content: str, receipt: str) -> DatasetVersion:
    """Have the dataset `ref` hold `folder`, whose content hash is `content`, and wait until it does.

    What the receipt says is there already is not sent again; a call that was stopped while it waited goes on
    waiting. Raises `UserError` for a folder that Kaggle would not take as it is, and wherever the client's
    words are not those of a success.
    """
    expected = check_folder(folder)
    sent = read_receipt(config, receipt)
    now = look_up(ref)
    same = sent.get("ref") == ref and sent.get("content") == content
    # Ours is the number we waited for, and nobody has added one since.
    if same and now is not None and now.version in (sent["version"], sent["version"] - 1):
        version = sent["version"]
    else:
        version = 1 if now is None else now.version + 1
        write_metadata(folder, dataset_metadata(ref, config.kaggle.licence))
        _send(folder, ref, expected, is_new=now is None, notes=content[:12])
    ready = now is not None and now == DatasetStatus("ready", version)
    write_receipt(config, receipt, ref=ref, version=version, content=content, ready=ready)
    if not ready:
        try:
            wait_for(f"dataset {ref} version {version}", lambda: _state(ref, version), HOURS, LATER)
        except Refused:  # what was sent will never be ready: the next call sends it anew
            write_receipt(config, receipt, ref=ref, version=version, content=None, ready=False)
            raise
        write_receipt(config, receipt, ref=ref, version=version, content=content, ready=True)
    print(f"dataset {ref}: version {version} is ready{' (up to date)' if ready else ''}")
    return DatasetVersion(ref, version)


LATER = "run the same command again: it goes on waiting, and sends nothing twice"


def _send(folder: Path, ref: str, expected: tuple[str, ...], is_new: bool, notes: str) -> Uploaded:
    """Create the private dataset or add a version; folders travel as archives, which Kaggle unpacks."""
    about = About(f"dataset {ref}", "is competition.kaggle_username the owner of the key that is used here?")
    print(f"dataset {ref}: sending {len(expected)} file(s)")
    verb = ["create"] if is_new else ["version", "-m", notes]
    text = call("datasets", *verb, "-p", str(folder), "-r", "zip", "-t", about=about, watch=True)
    return Uploaded.read(text, ref, expected)


def look_up(ref: str) -> DatasetStatus | None:
    """What Kaggle has of a dataset now; None where there is none that this account may see."""
    try:
        text = call(
            "datasets", "status", ref, "--format", "json(status,current_version_number)",
            about=About(f"dataset {ref}"),
        )  # fmt: skip
    except Refused as refused:
        if refused.status in (403, 404):  # Kaggle tells a stranger's from none by neither
            return None
        raise
    return DatasetStatus.read(text)


def _state(ref: str, version: int) -> tuple[str, DatasetStatus | None]:
    status = look_up(ref)
    if status is None:
        return "not seen yet", None
    if status.status in ("failed", "deleted"):
        raise Refused(
            f"dataset {ref}: Kaggle could not take version {version} ({status.status}); look at "
            f"kaggle.com/datasets/{ref}, and never delete it: a slug made anew breaks the kernels on it"
        )
    if status == DatasetStatus("ready", version):
        return "ready", status
    if status.version > version:
        raise Refused(
            f"dataset {ref}: it is at version {status.version} already, {version} was sent: somebody else "
            f"writes to it; run the same command again"
        )
    return f"{status.status} at version {status.version}", None
