"""`make train-kernel`: run stages 01 to 03 of an experiment on Kaggle's GPUs, in one or more sessions.

A dataset holds the code, the folds and the teachers' models; the kernel holds the config. Each session is a
separate kernel that takes the previous session's output as input, so that no kernel depends on its own
output. The finished run is downloaded into runs/.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.artifacts import read_json, sha256, writing
from src.config import Config, UserError
from src.config.kaggle import MACHINES
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
from src.kaggle.names import code_ref, competition, train_ref
from src.kaggle.receipts import read_receipt, write_receipt
from src.kaggle.scan import copy_code, refuse_secret_settings
from src.locks import alone
from src.models.names import unknown_on_kaggle
from src.steps import Run, train_step
from src.submission.manifest import write_manifest

_SCRIPT = "kernel/train.py"
REPORT = "training.json"
_FOLDS = ("folds.csv", "dataset.json", "summary.md", "folds.stamp.json")


def train_on_kaggle(config: Config, force: bool = False) -> None:
    """Train on Kaggle until the run is finished or `kaggle.train_sessions` are used, then download the run.

    A session that is in progress according to the receipt is only waited for, and a finished run is only
    downloaded. With `force` training starts again from scratch. Raises `UserError` if stage 01 was not run
    locally, a local run has the same name, or a session failed.
    """
    with alone(config.root / "kaggle" / f"train-{config.name}", wait=False):
        train_in_sessions(config, force)


def train_in_sessions(config: Config, force: bool) -> None:
    """The body of `train_on_kaggle`, called while the lock of this experiment is held."""
    job = job_of(config)
    refuse_secret_settings(job)
    receipt = read_receipt(config, f"train-{config.name}")
    sessions: list[dict[str, Any]] = receipt.get("sessions", []) if receipt.get("job") == job else []
    sessions = [] if force else [session for session in sessions if session["state"] != "failed"]
    if not sessions or sessions[-1]["state"] != "finished":
        refuse_to_overwrite(config)
    for _ in range(config.kaggle.train_sessions):
        if sessions and sessions[-1]["state"] == "finished":
            break
        try:
            if not sessions or sessions[-1]["state"] == "stopped":
                begin_session(config, job, sessions)
            sessions[-1]["state"] = end_session(config, sessions[-1])
        except (Mismatch, RunFailed):
            sessions[-1]["state"] = "failed"
            raise
        finally:
            write_receipt(config, f"train-{config.name}", job=job, sessions=sessions)
    if sessions[-1]["state"] != "finished":
        print(f"{config.name}: not finished after session {len(sessions)}; `make train-kernel` goes on")
        return
    bring_home(config, sessions[-1])


def job_of(config: Config) -> dict[str, Any]:
    """The training job: name, competition, resolved config without machine-specific keys, and overrides."""
    if (why := unknown_on_kaggle(config.model.backbone)) is not None:
        raise UserError(why)
    settings = config.settings()
    del settings["runtime"]
    settings["kaggle"] = {"code_competition": config.kaggle.code_competition}  # may the test set be empty?
    settings["data"]["raw"] = "data/raw"
    folds = config.selected_folds
    return {
        "name": config.name,
        "competition": competition(config),
        "config": settings,
        "overrides": [f"folds={list(folds)}".replace(" ", "")] if config.partial else [],
    }


def begin_session(config: Config, job: dict[str, Any], sessions: list[dict[str, Any]]) -> None:
    """Upload the code and push a kernel that takes the previous session's output as input; append it to
    `sessions`."""
    with alone(code_folder(config)):  # all experiments share one folder and one dataset
        content = stage_code(config)
        dataset = upload(config, code_folder(config), code_ref(config), content, "code")
    ref = train_ref(config, len(sessions) + 1)
    metadata = kernel_metadata(
        config,
        ref,
        Path(_SCRIPT).name,
        internet=config.kaggle.train_internet,
        datasets=(dataset.ref,),
        kernels=(sessions[-1]["ref"],) if sessions else (),
    )
    script = (config.root / _SCRIPT).read_text(encoding="utf-8")
    if script.count("\nJOB = {}") != 1:
        raise UserError(
            f"{config.root / _SCRIPT}: must hold the line `JOB = {{}}` once; bring it back from git"
        )
    here = {
        "content": content,
        "gpus": MACHINES[config.kaggle.machine_shape],
        "hours": config.kaggle.train_hours,
    }
    code = script.replace("\nJOB = {}", f"\nJOB = {job | here!r}")
    work = config.root / "kaggle" / "train"
    kernel = push(metadata, code, work / "sent", config.kaggle.train_hours + 0.25)
    sessions.append({**asdict(kernel), "content": content, "state": "pushed"})
    write_receipt(config, f"train-{config.name}", job=job, sessions=sessions)
    read_back(kernel, metadata, code, work / "held")


def end_session(config: Config, session: dict[str, Any]) -> str:
    """Wait for the end of the session. Returns `finished`, or `stopped` if it ran out of time."""
    kernel, folder = _kernel(session), output_folder(config, session)
    wait_until_done(kernel, config.kaggle.train_hours, folder)
    fetch_output(kernel, folder, only=re.escape(REPORT))
    report = read_report(folder)
    if session["content"] not in log_of(folder, kernel) or report["content"] != session["content"]:
        raise UserError(
            f"kernel {kernel.ref}: what came is not of the code that was sent; run `make train-kernel` again"
        )
    return "finished" if report["finished"] else "stopped"


def bring_home(config: Config, session: dict[str, Any]) -> None:
    """Download the finished run, verify every file's hash and move it into runs/. An existing run is never
    overwritten."""
    home = config.root / "runs" / config.name
    folder = output_folder(config, session)
    if not (folder / REPORT).is_file() or not _same(home, read_report(folder), config.name):
        refuse_to_overwrite(config)
    else:
        print(f"{home}: up to date, trained on Kaggle ({session['ref']})")
        return
    fetch_output(_kernel(session), folder, only=rf"{re.escape(REPORT)}|runs/{re.escape(config.name)}/.+")
    report = read_report(folder)
    ours = [name for name in report["sha256"] if name.startswith(f"runs/{config.name}/")]
    wrong = [name for name in ours if not _is(folder / name, report["sha256"][name])]
    if wrong or not ours:
        raise UserError(
            f"{folder / (wrong or ['runs'])[0]}: did not arrive as it was written ({len(wrong)} of "
            f"{len(ours)} file(s)); run `make train-kernel` again"
        )
    copy = home.with_name(f".{config.name}.tmp")
    with writing(home):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "runs" / config.name, copy)
        os.replace(copy, home)  # atomic
    print(f"{home}: trained on Kaggle ({session['ref']}), {len(ours)} file(s) checked")


def refuse_to_overwrite(config: Config) -> None:
    """Raise `UserError` if a local run has the name of the run on Kaggle."""
    home = config.root / "runs" / config.name
    if home.exists():
        raise UserError(
            f"{home}: a run of this name is here already, and Kaggle's is not written over it; move it away "
            f"(out of runs/), or train under another name (EXP), then run `make train-kernel` again"
        )


def stage_code(config: Config) -> str:
    """Copy the code, the folds and every teacher's models into kaggle/code/; return the hash of all of it.

    Raises `UserError` naming the command to run if stage 01 was not run (folds are created only once) or a
    teacher is not trained.
    """
    run = Run(config, config.name)
    for fold in config.selected_folds:
        train_step(run, fold)
    root, folder = config.root, code_folder(config)
    shutil.rmtree(folder, ignore_errors=True)
    copy_code(root / "src", folder / "src")
    wanted = [*root.glob("0[123]_*.py"), *(root / "data" / name for name in _FOLDS)]
    for name in config.distill.teachers:
        teacher = root / "runs" / name
        wanted += [*teacher.glob("fold*/model.safetensors"), *teacher.glob("fold*/train.stamp.json")]
    if config.model.weights:
        wanted.append(root / config.model.weights)
    for path in wanted:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return write_manifest(folder)["bundle_hash"]


def code_folder(config: Config) -> Path:
    """The local folder of the code before it is uploaded."""
    return config.root / "kaggle" / "code"


def output_folder(config: Config, session: dict[str, Any]) -> Path:
    """The local folder of a session's output."""
    return config.root / "kaggle" / "sessions" / session["ref"].partition("/")[2]


def read_report(folder: Path) -> dict[str, Any]:
    """Read the training.json of a session. Raises `UserError` if it was not downloaded."""
    try:
        return read_json(folder / REPORT, sha256=dict)
    except UserError:
        raise UserError(
            f"{folder / REPORT}: did not come from Kaggle; run `make train-kernel` again"
        ) from None


def _kernel(session: dict[str, Any]) -> KernelVersion:
    return KernelVersion(session["ref"], session["version"], session["url"])


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _same(home: Path, report: dict[str, Any], name: str) -> bool:
    """Whether the local run is identical to the one that the report lists."""
    prefix = f"runs/{name}/"
    ours = {
        key.removeprefix(prefix): value for key, value in report["sha256"].items() if key.startswith(prefix)
    }
    return bool(ours) and all(_is(home / key, value) for key, value in ours.items())
