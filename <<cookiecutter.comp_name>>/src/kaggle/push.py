"""`make push`: upload the rehearsed bundle, run its kernel once on Kaggle and check the output.

Each step is recorded in a receipt, so that the same command resumes after an interruption: a completed upload
is not repeated, and a kernel that is still running is only waited for.
"""

from __future__ import annotations

import re
from pathlib import Path

from src.artifacts import sha256
from src.config import Config, UserError
from src.kaggle.dataset import upload
from src.kaggle.kernels import (
    KernelVersion,
    Mismatch,
    RunFailed,
    fetch_output,
    log_of,
    push,
    read_back,
    wait_until_done,
)
from src.kaggle.metadata import kernel_metadata
from src.kaggle.names import bundle_folder, dataset_ref, kernel_ref
from src.kaggle.output import SUMMARY, check_table, rows_on_prior, said_of_prior
from src.kaggle.receipts import read_receipt, receipt_path, write_receipt
from src.locks import alone
from src.rawfiles import raw_tables
from src.submission.manifest import read_manifest

KERNEL = "kernel/infer.py"
FETCHED_OUTPUT = "submission.csv"


def push_bundle(config: Config, force: bool = False) -> None:
    """Upload the bundle, push the kernel, wait for its run, download and check its submission.csv.

    Raises `UserError` unless `make rehearse` passed for exactly this bundle and this kernel.
    """
    with alone(config.root / "kaggle" / "kernel", wait=False):
        push_once(config, force)


def push_once(config: Config, force: bool) -> None:
    """The body of `push_bundle`, called while its lock is held."""
    manifest = read_manifest(bundle_folder(config), made_by="make bundle")
    code, kernel_hash = read_kernel(config)
    check_rehearsed(config, manifest["bundle_hash"], kernel_hash)
    dataset = upload(config, bundle_folder(config), dataset_ref(config), manifest["bundle_hash"], "dataset")
    metadata = kernel_metadata(
        config,
        kernel_ref(config),
        Path(KERNEL).name,
        internet=config.kaggle.internet,
        datasets=(dataset.ref,),
    )
    made_of = {
        "bundle_hash": manifest["bundle_hash"],
        "kernel_sha256": kernel_hash,
        "dataset": dataset.ref,
        "dataset_version": dataset.version,
        "metadata": metadata.model_dump(mode="json"),
    }
    before, work = read_receipt(config, "kernel"), config.root / "kaggle" / "kernel"
    same = not force and all(before.get(key) == value for key, value in made_of.items())
    if same and before["state"] == "checked":
        print(
            f"kernel {before['ref']}: version {before['version']} is up to date; next: `make send SUBMIT=1`"
        )
        return
    if same and before["state"] == "pushed":  # its run is in progress, or finished and not downloaded yet
        kernel = KernelVersion(before["ref"], before["version"], before["url"])
    else:
        kernel = push(metadata, code, work / "sent", config.kaggle.hours)
    receipt = {"ref": kernel.ref, "version": kernel.version, "url": kernel.url, "cv": manifest.get("cv")}
    receipt |= made_of
    write_receipt(config, "kernel", **receipt, state="pushed")
    output = config.root / "kaggle" / "output"
    try:
        read_back(kernel, metadata, code, work / "held")
        wait_until_done(kernel, config.kaggle.hours, output)
    except (Mismatch, RunFailed):
        write_receipt(config, "kernel", **receipt, state="failed")
        raise
    fetch_output(kernel, output, only=f"{re.escape(FETCHED_OUTPUT)}|{re.escape(SUMMARY)}")
    rows = check_kernel_run(config, kernel, output, manifest["bundle_hash"])
    prior = rows_on_prior(output, log_of(output, kernel))
    checked = {"submission_sha256": sha256(output / FETCHED_OUTPUT), "on_prior": prior}
    write_receipt(config, "kernel", **receipt, state="checked", **checked)
    print(f"{output / FETCHED_OUTPUT}: {rows:,} rows, checked; next: `make send SUBMIT=1`")
    if warning := said_of_prior(prior):
        print(
            f"WARNING: {warning}: it saw next to no image; unless the public test set has none, mend that "
            f"before you send"
        )
    elif prior:
        print(f"{prior['rows']:,} of {prior['of']:,} rows hold the prior ({prior['why']})")


def read_kernel(config: Config) -> tuple[str, str]:
    """The inference kernel's source and its SHA-256."""
    path = config.root / KERNEL
    if not path.is_file():
        raise UserError(f"{path}: the kernel is not there; bring it back from git")
    return path.read_text(encoding="utf-8"), sha256(path)


def check_rehearsed(config: Config, bundle_hash: str, kernel_hash: str) -> None:
    """Raise `UserError` unless a rehearsal passed with exactly this bundle and this kernel."""
    receipt, path = read_receipt(config, "rehearsal"), receipt_path(config, "rehearsal")
    if not receipt:
        raise UserError(f"{path}: this bundle was never rehearsed; run `make rehearse` first")
    if receipt.get("bundle_hash") != bundle_hash:
        raise UserError(f"{path}: another bundle was rehearsed, not this one; run `make rehearse` again")
    if receipt.get("kernel_sha256", kernel_hash) != kernel_hash:
        raise UserError(f"{config.root / KERNEL}: changed since the rehearsal; run `make rehearse` again")
    if receipt.get("passed") is not True:
        raise UserError(
            f"{path}: this bundle's rehearsal did not pass; mend what it named and rehearse again"
        )


def check_kernel_run(config: Config, kernel: KernelVersion, output: Path, bundle_hash: str) -> int:
    """Check the submission.csv of a kernel's run and return its row count.

    Raises `UserError` if the file is missing, if its columns or ids differ from the sample's, or if the run
    used another bundle.
    """
    if not (output / FETCHED_OUTPUT).is_file():
        raise UserError(
            f"kernel {kernel.ref} version {kernel.version}: its run wrote no {FETCHED_OUTPUT}; "
            f"Kaggle would say `Submission CSV Not Found`; its log is in {output}"
        )
    try:
        rows = check_table(output / FETCHED_OUTPUT, raw_tables(config)["sample"])
    except UserError as error:
        raise UserError(f"{error}; nothing was sent, `make push` fetches it again") from None
    if bundle_hash not in log_of(output, kernel):
        raise UserError(
            f"kernel {kernel.ref}: the log that came does not name bundle {bundle_hash[:12]}, so its run was "
            f"on an older version; wait a minute and run `make push` again"
        )
    return rows
