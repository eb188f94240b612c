"""Private Kaggle datasets: upload a folder as a new dataset or version, then wait until it is ready.

A kernel that is pushed too early attaches the previous version without a warning. So the upload waits until
the dataset is ready *and* its version number has increased.
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

HOURS = 2.0  # maximum waiting time until Kaggle has unpacked and stored an upload


@dataclass(frozen=True)
class DatasetVersion:
    """A version of a dataset that kernels can attach."""

    ref: str  # owner/slug
    version: int


def upload(config: Config, folder: Path, ref: str, content: str, receipt: str) -> DatasetVersion:
    """Upload `folder`, whose content hash is `content`, as the dataset `ref`, and wait until it is ready.

    A version that is already uploaded according to the receipt is not uploaded again; an interrupted call
    resumes waiting. Raises `UserError` if Kaggle would not accept the folder, or if the client's output does
    not confirm success.
    """
    expected = check_folder(folder)
    sent = read_receipt(config, receipt)
    now = look_up(ref)
    same = sent.get("ref") == ref and sent.get("content") == content
    # The version that the receipt records is the newest one, so nobody has added a version since.
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
        except Refused:  # this version will never be ready: the next call uploads again
            write_receipt(config, receipt, ref=ref, version=version, content=None, ready=False)
            raise
        write_receipt(config, receipt, ref=ref, version=version, content=content, ready=True)
    print(f"dataset {ref}: version {version} is ready{' (up to date)' if ready else ''}")
    return DatasetVersion(ref, version)


LATER = "run the same command again: it goes on waiting, and sends nothing twice"


def _send(folder: Path, ref: str, expected: tuple[str, ...], is_new: bool, notes: str) -> Uploaded:
    """Create the private dataset or add a version. Folders are uploaded as zip archives, which Kaggle
    unpacks."""
    about = About(f"dataset {ref}", "is competition.kaggle_username the owner of the key that is used here?")
    print(f"dataset {ref}: sending {len(expected)} file(s)")
    verb = ["create"] if is_new else ["version", "-m", notes]
    text = call("datasets", *verb, "-p", str(folder), "-r", "zip", "-t", about=about, watch=True)
    return Uploaded.read(text, ref, expected)


def look_up(ref: str) -> DatasetStatus | None:
    """The dataset's current status on Kaggle. None if this account can see no such dataset."""
    try:
        text = call(
            "datasets", "status", ref, "--format", "json(status,current_version_number)",
            about=About(f"dataset {ref}"),
        )  # fmt: skip
    except Refused as refused:
        if refused.status in (403, 404):  # missing, or private to someone else: same status
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
