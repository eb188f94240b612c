"""The inference run of a kernel: from a mounted competition to submission.csv.

First a valid submission that holds the prior is written. Then the test images pass through every member in
pieces, so that memory does not grow with their number. Images that remain when the time is over keep the
prior.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from src.artifacts import read_json, write_csv, write_json, write_parquet
from src.config import Config, UserError
from src.decisions import Rule, assemble, take_rows
from src.kernel import image
from src.kernel.asked import find, read
from src.kernel.hidden_test import SAMPLES, TestSet, read_images, read_test
from src.kernel.members import Member, loads_of, open_members, predict_all
from src.kernel.pace import PACE, measure, peak
from src.kernel.prior import Prior
from src.kernel.summary import LATE, NOT_FOUND, UNREADABLE, note_fallback, nothing_yet, summary_of
from src.kernel.time_guard import Guard, InferencePlan, OutOfTime
from src.maps import Maps
from src.submission.forms import fill_form
from src.submission.table import check
from src.tasks import create_task
from src.tasks.base import Task

PIECE = 512  # the maximum number of images in memory at a time, at every member's image size
OUTPUT = "submission.csv"
PREDICTIONS = "predictions.parquet"
SPARE = 120.0  # seconds of the session before the kernel starts and after it ends


def predict_competition(
    bundle: Path,
    mount: Path,
    working: Path,
    only_fold: int | None = None,
    keep: bool = False,
    seconds: float = 0.0,
    began: float | None = None,
) -> None:
    """Write `submission.csv` into the working folder, and with `keep` also the predictions behind it.

    With `only_fold` only each member's models of that fold predict, and their predictions are written
    instead; a rehearsal compares them with the stored OOF predictions. With `seconds` the time and memory per
    image are then measured for about that long, for the rehearsal's projection. `began` is the start time of
    the process on the monotonic clock.
    """
    began = time.monotonic() if began is None else began
    about = read_json(bundle / "competition.json", config=dict, members=list, dataset=dict, form=dict)
    config = Config.model_validate(about["config"])
    task, outputs = create_task(config), about["dataset"]["outputs"]
    test = read_test(mount, config, about["form"], outputs)
    prior = Prior(about, task, config)
    print(f"{len(test):,} test images, {len(test.sample):,} rows in {test.path.name}", flush=True)
    fallback = table_of(prior.of(len(test)), test, task, about)
    _write(working, test.asked.as_found(fallback))
    nothing_yet(test).write(working)
    if not len(test):
        print("the test set is empty, and so is the submission", flush=True)
        return
    test = test.located(mount, config.data)
    devices = devices_here()
    members = open_members(bundle, about, devices)
    folds = sum(len(member.models) for member in members)
    print(f"{len(members)} member(s), {folds} fold models, on {', '.join(map(str, devices))}", flush=True)
    if only_fold is not None:
        _replay(members, test, only_fold, devices, working)
        return
    work, started = Work(members, test, about, prior, devices), time.monotonic() - began
    guard = Guard(3600 * about["hours"] - SPARE - started, loads_of(members, devices))
    said, good, late = predict_in_pieces(work, guard)
    if keep:
        kept = task.write(said, outputs)
        kept.insert(0, "id", test.ids)
        write_parquet(working / PREDICTIONS, kept)
    table, rows = table_of(said, test, task, about), test.asked.answered
    if not rows.all():
        table = pd.concat([table[rows], fallback[~rows]]).sort_index()
    if rows.any():
        of_rows = (part[rows].reset_index(drop=True) for part in (table, test.sample))
        check(test.form, task, *of_rows, about["dataset"], test.path)
    _write(working, test.asked.as_found(table))
    missing = np.array([file is None for file in test.files], dtype=bool)
    summary = summary_of(test, {NOT_FOUND: missing, LATE: late, UNREADABLE: ~good})
    summary.write(working)
    summary.warn()
    if bad := int((~good).sum()):
        print(
            f"{bad:,} of {len(test):,} images were missing or broken: their rows hold the prior", flush=True
        )
    print(f"{OUTPUT}: {len(table):,} rows in {time.monotonic() - began:,.0f} s", flush=True)
    if seconds:
        about_memory = {"peak": peak(), "piece": guard.largest}  # before the measurement below
        anew = Guard(math.inf, guard.loads, decay=1.0)
        found = measure(partial(predict_piece, work), anew, len(test), PIECE, work.batch, seconds, guard.end)
        rest = {"started": started, "writing": guard.writing / len(test)}
        write_json(working / PACE, found | about_memory | rest)


def devices_here() -> list[torch.device]:
    """All GPUs, or the CPU if there is none."""
    count = torch.cuda.device_count()
    return [torch.device("cuda", i) for i in range(count)] or [torch.device("cpu")]


@dataclass(frozen=True)
class Work:
    """The inputs of the inference: members, test set, bundle description, prior and devices."""

    members: list[Member]
    test: TestSet
    about: dict[str, Any]
    prior: Prior
    devices: list[torch.device]

    @property
    def batch(self) -> int:
        """The largest inference batch size of all members."""
        return max(member.config.inference.batch_size for member in self.members)


@dataclass(frozen=True)
class Piece:
    """The result for some of the test images.

    `said` holds the members' predictions, or those of the stack; `good` marks the readable images; `columns`
    holds the other features of the stack.
    """

    said: Any
    good: np.ndarray
    columns: pd.DataFrame


def predict_in_pieces(work: Work, guard: Guard) -> tuple[Any, np.ndarray, np.ndarray]:
    """Predict all test images piece by piece, with the prior for those that the time does not suffice for.

    Returns the stack's predictions, a mask (n,) of the readable images (True if not reached) and a mask (n,)
    of the images that were not reached in time.
    """
    total, done, pieces = len(work.test), 0, []
    try:
        predict_piece(work, guard, np.arange(1))  # warm-up: the first forward pass is slower than all others
        size = guard.size(total, PIECE, work.batch)
        guard.forget()
        while done < total:
            pieces.append(predict_piece(work, guard, np.arange(done, done + size)))
            done += size
            print(f"{done:,} of {total:,} images", flush=True)
            if done == size:
                guard.writing = seconds_to_write(work, pieces[0]) / size * total
            if done < total:
                guard.next(total - done)
                size = guard.size(total - done, PIECE, work.batch)
    except OutOfTime:
        late = total - done
        print(f"OUT OF TIME: {late:,} of {total:,} images are not predicted and hold the prior", flush=True)
    rows, good = np.arange(total), np.ones(total, dtype=bool)
    if not pieces:
        return work.prior.of(total), good, rows >= 0
    said, good[:done] = joined(work, pieces), np.concatenate([piece.good for piece in pieces])
    if done < total:
        said = assemble([(rows[:done], said), (rows[done:], work.prior.like(said, total - done))])
    return said, good, rows >= done


def predict_piece(work: Work, guard: Guard, rows: np.ndarray) -> Piece:
    """Read the images of these rows and predict with every member; the guard records how long each part
    took."""
    began = guard.clock()
    stores, good, sizes = stores_of(work.members, [work.test.files[row] for row in rows], guard)
    read = guard.clock()
    said: Any = predict_all(work.members, stores, guard.plan, work.devices, guard=guard)
    asked = guard.clock()
    columns = columns_of(work.test.table.iloc[rows], sizes, work.about)
    if work.members[0].task.kind != "numbers":  # numbers are stacked later: a mean of ranks needs all rows
        said = work.prior.where(good, stack_predictions(said, columns, work.about))
    stored = guard.clock()
    guard.saw(len(rows), read - began + stored - asked)
    guard.step(stored - asked)
    return Piece(said, good, columns)


def joined(work: Work, pieces: list[Piece]) -> Any:
    """The stack's predictions for the images of all pieces."""
    kind = work.members[0].task.kind
    if kind == "numbers":
        said = list(np.concatenate([np.stack(piece.said) for piece in pieces], axis=1))
        whole = stack_predictions(said, pd.concat([piece.columns for piece in pieces]), work.about)
        return work.prior.where(np.concatenate([piece.good for piece in pieces]), whole)
    if kind == "maps":
        return Maps.joined([piece.said for piece in pieces])
    ends = np.cumsum([len(piece.good) for piece in pieces])
    rows = [np.arange(end - len(piece.good), end) for end, piece in zip(ends, pieces, strict=True)]
    return assemble(list(zip(rows, [piece.said for piece in pieces], strict=True)))


def seconds_to_write(work: Work, piece: Piece) -> float:
    """Seconds to stack the rows of the first piece and to write them into the submission's cells."""
    began = time.monotonic()
    table_of(joined(work, [piece]), work.test, work.members[0].task, work.about, len(piece.good))
    return time.monotonic() - began


def _replay(
    members: list[Member], test: TestSet, fold: int, devices: list[torch.device], working: Path
) -> None:
    """Write `replay-<member>.parquet`: the predictions of each member's models of one fold for the test
    images."""
    parts: list[list[pd.DataFrame]] = [[] for _ in members]
    for start in range(0, len(test), PIECE):
        stores, _, _ = stores_of(members, test.files[start : start + PIECE])
        for number, said in enumerate(predict_all(members, stores, InferencePlan(), devices, fold)):
            table = members[number].task.write(said, members[number].outputs)
            table.insert(0, "id", test.ids[start : start + PIECE])
            parts[number].append(table)
    for member, tables in zip(members, parts, strict=True):
        write_parquet(working / f"replay-{member.name}.parquet", pd.concat(tables, ignore_index=True))


def stores_of(
    members: list[Member], files: Sequence[Path | None], guard: Guard | None = None
) -> tuple[list[Any], np.ndarray, list]:
    """Each member's image store, a mask (n,) of the images that all members can read, and the image sizes.

    Images are read once for all members with the same preprocessing.
    """
    known: dict[str, Any] = {}
    stores, good = [], np.ones(len(files), dtype=bool)
    for member in members:
        data = member.config.data
        seen = data.image_size if data.cache_size is not None and member.task.kind != "maps" else None
        key = data.model_dump_json(
            include={"image_size", "cache_size", "fit", "max_value", "squeeze", "preprocess"}
        )
        if key not in known:
            known[key] = read_images(files, data, seen, guard.tick if guard else None)
        store, fine, sizes = known[key]
        good &= fine
        stores.append((store, sizes))
    return stores, good, stores[0][1]


def stack_predictions(said: list[Any], columns: pd.DataFrame, about: dict[str, Any]) -> Any:
    """Combine the members' predictions with the stack, or return those of the only member."""
    if about["stacker"] is None:
        return said[0]
    from src.ensemble.apply import apply_stack

    return apply_stack(about["stacker"], said, {name: columns[name].tolist() for name in columns})


def columns_of(table: pd.DataFrame, sizes: list[tuple[int, int]], about: dict[str, Any]) -> pd.DataFrame:
    """The stack's features besides the members' predictions: columns of test.csv and the image sizes."""
    features = (about["stacker"] or {}).get("features")
    if not features:
        return pd.DataFrame(index=table.index)
    height, width = np.array(sizes, dtype=np.float64).T
    of_image = {"height": height, "width": width, "aspect": width / height}
    empty = np.full(len(table), "")
    return pd.DataFrame(
        {name: of_image[name] if name in of_image else table.get(name, empty) for name in features["names"]},
        index=table.index,
    )


def table_of(
    said: Any, test: TestSet, task: Task, about: dict[str, Any], first: int | None = None
) -> pd.DataFrame:
    """Fill predictions of `test.ids` into a submission with the local columns; with `first` only the rows of
    the first so many ids."""
    if not len(test.sample):
        return test.sample
    place = {name: row for row, name in enumerate(test.ids)}
    rows, form, sample = np.array([place[name] for name in test.form.images]), test.form, test.sample
    if first is not None:
        chosen = np.flatnonzero(rows < first)
        parts = (
            None if column is None else tuple(np.array(column, dtype=object)[chosen])
            for column in (form.images, form.classes)
        )
        rows, sample = rows[chosen], sample.iloc[chosen]
        form = replace(form, **dict(zip(("images", "classes"), parts, strict=True)))
    rule = Rule.from_json(about["rule"])
    return fill_form(form, sample, task, take_rows(said, rows), rule, about["dataset"])


def _write(working: Path, table: pd.DataFrame) -> None:
    write_csv(working / OUTPUT, table)


def run(bundle: Path, mount: Path, working: Path, began: float | None = None) -> None:
    """Run `predict_competition`; in the scored run an error leaves the submission of the prior in place.

    There an exception would score nothing. Locally and in the public run the exception is raised.
    """
    only, keep = os.environ.get("NNTRICKS_FOLD"), "NNTRICKS_PREDICTIONS" in os.environ
    fold, seconds = None if only is None else int(only), float(os.environ.get("NNTRICKS_MEASURE", 0))
    print(f"versions: {image.versions_line(read_json(bundle / 'manifest.json')['versions'])}", flush=True)
    try:
        predict_competition(bundle, mount, working, fold, keep, seconds, began)
    except Exception as error:
        if not os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
            raise
        print(f"FALLBACK: {type(error).__name__}: {error}", flush=True)
        rows = 0
        if not (working / OUTPUT).exists():
            table = last_resort(mount, bundle)
            _write(working, table)
            rows = len(table)
        note_fallback(working, f"{type(error).__name__}: {error}", rows)


def last_resort(mount: Path, bundle: Path) -> pd.DataFrame:
    """The mounted sample submission, or an empty table with the local columns: used if not even the prior
    could be written."""
    about = read_json(bundle / "competition.json")
    try:
        return read(find(mount, about["config"]["data"]["sample_csv"], SAMPLES))
    except UserError:
        return pd.DataFrame(columns=about["form"]["columns"])
