"""The content of a submission that `make send` sends: a version of a pushed kernel, or a CSV of stage 06.

Each is checked before it is sent.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from src.artifacts import read_json, sha256
from src.config import Config, UserError
from src.kaggle.names import bundle_folder
from src.kaggle.output import check_table
from src.kaggle.push import FETCHED_OUTPUT, KERNEL, read_kernel
from src.kaggle.receipts import read_receipt
from src.rawfiles import raw_tables
from src.steps import submission_source
from src.submission.manifest import read_manifest


@dataclass(frozen=True)
class Parcel:
    """A submission that is ready to be sent. `content` is its hash, which prevents sending it twice."""

    kind: str  # code or csv
    name: str
    cv: float | None
    content: str
    arguments: tuple[str, ...]  # of the client, for this kind
    on_prior: dict[str, Any] | None = None  # rows with the prior in the kernel's run, if any

    @property
    def mark(self) -> str:
        """The end of the description on Kaggle, by which an earlier submission of the same content is
        recognised."""
        return f"[{self.content[:10]}]"

    @property
    def message(self) -> str:
        """The description that Kaggle shows; it is unique to the content."""
        cv = "-" if self.cv is None else f"{self.cv:.5f}"
        return f"{self.name} cv {cv} {self.mark}"


def parcel_of(config: Config) -> Parcel:
    """The submission that is ready to be sent. If none is, raises `UserError` naming the command to run."""
    return (code_parcel if config.kaggle.code_competition else csv_parcel)(config)


def code_parcel(config: Config) -> Parcel:
    """The pushed version of the kernel. Raises `UserError` unless its run was checked and used the current
    bundle."""
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
    arguments = ("-k", kernel["ref"], "-v", str(kernel["version"]), "-f", FETCHED_OUTPUT)
    title, content = f"{name} v{kernel['version']}", hashlib.sha256(identity.encode()).hexdigest()
    return Parcel("code", title, kernel.get("cv"), content, arguments, kernel.get("on_prior"))


def csv_parcel(config: Config) -> Parcel:
    """The submissions/<name>.csv of stage 06. Raises `UserError` if it does not exist, has changed since it
    was checked, or does not have the sample's rows."""
    _, name = submission_source(config)
    path = config.root / "submissions" / f"{name}.csv"
    try:
        provenance = read_json(path.with_suffix(".json"), sha256=str)
        content = sha256(path)
    except (OSError, UserError):
        raise UserError(f"{path}: is not there with its {name}.json; run `make submit` first") from None
    if provenance.get("sha256") != content:
        raise UserError(f"{path}: changed since stage 06 checked it; run `make submit ARGS=--force`")
    check_table(path, raw_tables(config)["sample"])
    return Parcel("csv", name, provenance.get("cv"), content, ("-f", str(path)))
