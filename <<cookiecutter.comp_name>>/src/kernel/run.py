"""What a kernel does once it has found its bundle: a mounted competition to submission.csv.

A valid submission is there before anything else, made of the prior. Then the test images go through every
member in pieces, so memory does not grow with them, and within the time there is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from src.artifacts import read_json, write_csv, write_parquet
from src.config import Config, UserError
from src.decisions import Rule, assemble, take
from src.kernel import image
from src.kernel.asked import find, read
from src.kernel.guard import Guard, Plan
from src.kernel.members import Member, ask_all, open_members
from src.kernel.summary import NOT_FOUND, UNREADABLE, note_fallback, nothing_yet, summary_of
from src.kernel.test import SAMPLES, TestSet, read_images, read_test
from src.maps import Maps
from src.metrics.retrieval import Ranking
from src.submission.forms import fill
from src.submission.table import check
from src.tasks import create_task
from src.tasks.base import Task

PIECE = 512  # images in memory at a time, at every member's size
OUTPUT = "submission.csv"
PREDICTIONS = "predictions.parquet"
SPARE = 120.0  # seconds of the session for starting and writing


def predict_competition(
    bundle: Path, mount: Path, working: Path, only_fold: int | None = None, keep: bool = False
) -> None:
    """Write `submission.csv` into the working folder, with `keep` the predictions it was made of too.

    With `only_fold` each member's models of that fold are asked alone, and what they say is written instead:
    a rehearsal compares it with the stored OOF.
    """
    began = time.monotonic()
    about = read_json(bundle / "competition.json")
    config = Config.model_validate(about["config"])
    task, outputs = create_task(config), about["dataset"]["outputs"]
    test = read_test(mount, config, about["form"], outputs)
    prior = Prior(about, task, config)
    print(f"{len(test):,} test images, {len(test.sample):,} rows in {test.path.name}", flush=True)
    fallback = table_of(prior.of(len(test)), test, task, about)
    write(working, test.asked.as_found(fallback))
    nothing_yet(test).write(working)
    if not len(test):
        print("the test set is empty, and so is the submission", flush=True)
        return
    test = test.located(mount, config.data)
    devices = devices_here()
    members = open_members(bundle, about, devices)
    folds = sum(len(member.models) for member in members)
    views = max(member.views for member in members)
    print(f"{len(members)} member(s), {folds} fold models, on {', '.join(map(str, devices))}", flush=True)
    if only_fold is not None:
        replay(members, test, only_fold, devices, working)
        return
    guard = Guard(3600 * about["hours"] - SPARE - (time.monotonic() - began), folds, views)
    said, good = ask_in_pieces(members, test, about, prior, guard, devices)
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
    write(working, test.asked.as_found(table))
    missing = np.array([file is None for file in test.files], dtype=bool)
    summary = summary_of(test, {NOT_FOUND: missing, UNREADABLE: ~good & ~missing})
    summary.write(working)
    summary.warn()
    if bad := int((~good).sum()):
        print(
            f"{bad:,} of {len(test):,} images were missing or broken: their rows hold the prior", flush=True
        )
    print(f"{OUTPUT}: {len(table):,} rows in {time.monotonic() - began:,.0f} s", flush=True)


def devices_here() -> list[torch.device]:
    """Every GPU, or the CPU."""
    count = torch.cuda.device_count()
    return [torch.device("cuda", i) for i in range(count)] or [torch.device("cpu")]


def ask_in_pieces(
    members: list[Member],
    test: TestSet,
    about: dict[str, Any],
    prior: Prior,
    guard: Guard,
    devices: list[torch.device],
) -> tuple[Any, np.ndarray]:
    """The stack's predictions of all test images in their order, and which of these (n,) could be read."""
    task, numbers = members[0].task, members[0].task.kind == "numbers"
    parts: list[Any] = []
    extra: list[pd.DataFrame] = []
    goods: list[np.ndarray] = []
    for start in range(0, len(test), PIECE):
        began = time.monotonic()
        files = test.files[start : start + PIECE]
        stores, good, sizes = stores_of(members, files)
        plan = guard.plan
        said = ask_all(members, stores, plan, devices)
        del stores  # before the next piece is read
        columns = columns_of(test.table.iloc[start : start + PIECE], sizes, about)
        goods.append(good)
        if numbers:
            parts.append(np.stack(said))
            extra.append(columns)
        else:
            parts.append(prior.where(good, stacked(said, columns, about)))
        guard.saw(len(files), time.monotonic() - began)
        left = len(test) - start - len(files)
        print(f"{start + len(files):,} of {len(test):,} images", flush=True)
        if left:
            guard.next(left)
    if numbers:  # a mean of ranks looks at all rows
        whole = stacked(list(np.concatenate(parts, axis=1)), pd.concat(extra), about)
        return prior.where(np.concatenate(goods), whole), np.concatenate(goods)
    ends = np.cumsum([len(part) for part in parts])
    rows = [np.arange(end - len(part), end) for end, part in zip(ends, parts, strict=True)]
    whole = Maps.joined(parts) if task.kind == "maps" else assemble(list(zip(rows, parts, strict=True)))
    return whole, np.concatenate(goods)


def replay(
    members: list[Member], test: TestSet, fold: int, devices: list[torch.device], working: Path
) -> None:
    """Write `replay-<member>.parquet`: what each member's models of one fold say of the test images."""
    parts: list[list[pd.DataFrame]] = [[] for _ in members]
    for start in range(0, len(test), PIECE):
        stores, _, _ = stores_of(members, test.files[start : start + PIECE])
        for number, said in enumerate(ask_all(members, stores, Plan(), devices, fold)):
            table = members[number].task.write(said, members[number].outputs)
            table.insert(0, "id", test.ids[start : start + PIECE])
            parts[number].append(table)
    for member, tables in zip(members, parts, strict=True):
        write_parquet(working / f"replay-{member.name}.parquet", pd.concat(tables, ignore_index=True))


def stores_of(members: list[Member], files: Sequence[Path | None]) -> tuple[list[Any], np.ndarray, list]:
    """Each member's store of the images, read once for all members that want them alike; which images are
    good for all of them; and their sizes."""
    known: dict[str, Any] = {}
    stores, good = [], np.ones(len(files), dtype=bool)
    for member in members:
        data = member.config.data
        seen = data.image_size if data.cache_size is not None and member.task.kind != "maps" else None
        key = data.model_dump_json(
            include={"image_size", "cache_size", "fit", "max_value", "squeeze", "preprocess"}
        )
        if key not in known:
            known[key] = read_images(files, data, seen)
        store, fine, sizes = known[key]
        good &= fine
        stores.append((store, sizes))
    return stores, good, stores[0][1]


def stacked(said: list[Any], columns: pd.DataFrame, about: dict[str, Any]) -> Any:
    """The members' predictions as one."""
    if about["stacker"] is None:
        return said[0]
    from src.ensemble.apply import apply_stack

    return apply_stack(about["stacker"], said, {name: columns[name].tolist() for name in columns})


def columns_of(table: pd.DataFrame, sizes: list[tuple[int, int]], about: dict[str, Any]) -> pd.DataFrame:
    """What the stack looks at beside the members: columns of test.csv, and the images' sizes."""
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


class Prior:
    """What is said of an image that cannot be seen."""

    def __init__(self, about: dict[str, Any], task: Task, config: Config):
        self.said, self.kind, self.classes = about["prior"], task.kind, len(about["dataset"]["outputs"])
        self.new = config.data.new_label

    def of(self, count: int) -> Any:
        """For so many images."""
        if self.kind == "numbers":
            return np.tile(np.array(self.said, dtype=np.float64), (count, 1))
        if self.kind == "maps":
            nothing = Maps.of([np.zeros((self.classes, 1, 1), np.uint8)])
            return Maps([nothing.cells[0]] * count, [(1, 1)] * count)
        return Ranking([list(self.said)] * count, [[-1.0] * len(self.said)] * count, self.new)

    def where(self, good: np.ndarray, said: Any) -> Any:
        """The predictions, with the prior for the rows that are not good."""
        bad = np.flatnonzero(~good)
        if not len(bad):
            return said
        if self.kind == "maps":
            return Maps.joined([take(said if ok else self.of(len(good)), [i]) for i, ok in enumerate(good)])
        kept, prior = np.flatnonzero(good), self.of(len(bad))
        prior = prior.astype(said.dtype) if self.kind == "numbers" else prior
        return assemble([(kept, take(said, kept)), (bad, prior)])


def table_of(said: Any, test: TestSet, task: Task, about: dict[str, Any]) -> pd.DataFrame:
    """The submission of predictions of `test.ids`, under the columns of home."""
    if not len(test.sample):
        return test.sample
    place = {name: row for row, name in enumerate(test.ids)}
    rows = np.array([place[name] for name in test.form.images])
    rule = Rule.from_json(about["rule"])
    return fill(test.form, test.sample, task, take(said, rows), rule, about["dataset"])


def write(working: Path, table: pd.DataFrame) -> None:
    write_csv(working / OUTPUT, table)


def run(bundle: Path, mount: Path, working: Path) -> None:
    """`predict_competition`; where Kaggle runs the hidden test a mistake leaves the submission of the prior
    in place, for there an exception scores nothing. At home and in the first run it is raised."""
    only, keep = os.environ.get("NNTRICKS_FOLD"), "NNTRICKS_PREDICTIONS" in os.environ
    print(f"versions: {image.said(read_json(bundle / 'manifest.json')['versions'])}", flush=True)
    try:
        predict_competition(bundle, mount, working, None if only is None else int(only), keep)
    except Exception as error:
        if not os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
            raise
        print(f"FALLBACK: {type(error).__name__}: {error}", flush=True)
        rows = 0
        if not (working / OUTPUT).exists():
            table = last_resort(mount, bundle)
            write(working, table)
            rows = len(table)
        note_fallback(working, f"{type(error).__name__}: {error}", rows)


def last_resort(mount: Path, bundle: Path) -> pd.DataFrame:
    """The sample as it is mounted, or the columns of home alone: where not even the prior could be
    written."""
    about = read_json(bundle / "competition.json")
    try:
        return read(find(mount, about["config"]["data"]["sample_csv"], SAMPLES))
    except UserError:
        return pd.DataFrame(columns=about["form"]["columns"])
