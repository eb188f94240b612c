"""`make rehearse`: the kernel as Kaggle will run it, on every test set that it may meet there.

| case | what is mounted |
|---|---|
| public | some of the test set as it was downloaded, under today's layout |
| old layout | the same where Kaggle used to put it |
| hidden | more rows, shuffled, under names that were never seen |
| empty, one row | what a public test set may be |
| broken | one image that is none, and one that is missing |
| replay | a fold's validation images: its models must say what stage 03 stored |
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts import read_json, sha256
from src.config import Config, UserError
from src.data.tables import Tables, load_tables
from src.kaggle.names import bundle_folder
from src.kaggle.output import check_table
from src.kaggle.push import KERNEL, OUTPUT
from src.kaggle.receipts import write_receipt
from src.kernel.mounts import Asked, lay_out
from src.kernel.sandbox import Outcome, namespaces, run_kernel
from src.submission.manifest import read_manifest
from src.tasks import create_task

PUBLIC, HIDDEN, REPLAYED, FOLD = 100, 300, 100, 0  # images of a case
MEMORY, DISK = 29_000, 20_000  # MiB of a T4 x2 session, and of its working folder
APART = 0.02  # of a probability, or of the spread of a number: half precision costs a tenth of that
AGREE = 0.97  # of answers where they are names
NO_IMAGE = b"<html>429 Too Many Requests</html>"


@dataclass(frozen=True)
class Case:
    """One run: how many images, how it went, and what was wrong, in a sentence, if anything."""

    name: str
    images: int
    outcome: Outcome
    wrong: str | None

    def line(self) -> str:
        """For the table."""
        o = self.outcome
        return (
            f"{self.name:<11} {self.images:>5} images {o.seconds:>7.1f} s {o.memory:>8,.0f} MiB  "
            f"{self.wrong or 'good'}"
        )


def rehearse(config: Config, project: Path) -> list[Case]:
    """Run all cases, print the table and the projection, write the receipt."""
    bundle, kernel = bundle_folder(config), project / KERNEL
    manifest = read_manifest(bundle, made_by="make bundle")
    tables = load_tables(config)
    how = "in namespaces: no network, read-only input, the project out of sight"
    weaker = "WITHOUT namespaces: no network and an empty home, but the project is in sight"
    print(f"rehearsing bundle {manifest['bundle_hash'][:12]} {how if namespaces() else weaker}", flush=True)
    cases = []
    for name, choose in CASES.items():
        asked = choose(config, tables)
        with tempfile.TemporaryDirectory(prefix="input-") as folder:
            mount, out = Path(folder), config.root / "kaggle" / "rehearsal" / name.replace(" ", "-")
            lay_out(config, tables, bundle, mount, asked, old=name == "old layout")
            variables = {"NNTRICKS_FOLD": str(FOLD)} if name == "replay" else {}
            limit = 3600 * config.kaggle.hours
            done = run_kernel(kernel, mount, out, config.root, limit, **variables)
            cases.append(Case(name, len(asked), done, wrong_with(config, name, done, mount)))
        print(cases[-1].line(), flush=True)
    lines, fits = projection(config, cases)
    print("\n".join(lines))
    write_receipt(
        config,
        "rehearsal",
        bundle_hash=manifest["bundle_hash"],
        kernel_sha256=sha256(kernel),
        passed=fits and all(case.wrong is None for case in cases),
        namespaces=namespaces(),
        cases={case.name: case.wrong or "good" for case in cases},
    )
    return cases


# --- what each case asks ------------------------------------------------------------------------------------


def public(config: Config, tables: Tables) -> list[Asked]:
    pairs = list(zip(tables.test[config.data.id], tables.images["test"], strict=True))
    return [Asked(name, name, file) for name, file in pairs[:PUBLIC]]


def hidden(config: Config, tables: Tables) -> list[Asked]:
    """The test images again and again in another order, under new names that look like the old ones."""
    known = public(config, tables)
    order = np.random.default_rng(0).permutation(np.resize(np.arange(len(known)), max(HIDDEN, len(known))))
    return [
        Asked(f"hidden{number:06d}{_extension(known[row].id)}", known[row].id, known[row].file)
        for number, row in enumerate(order)
    ]


def broken(config: Config, tables: Tables) -> list[Asked]:
    first, second, *others = public(config, tables)[:12]
    spoiled = [
        Asked(first.id, first.like, first.file, NO_IMAGE),
        Asked(second.id, second.like, second.file, None),
    ]
    return [*spoiled, *others]


def replay(config: Config, tables: Tables) -> list[Asked]:
    """Images that the fold's models have not seen, as test images."""
    folds = pd.read_csv(config.root / "data" / "folds.csv", dtype=str, keep_default_na=False)
    rows = np.flatnonzero(folds["fold"].to_numpy() == str(FOLD))[:REPLAYED]
    like = tables.test[config.data.id].iloc[0]
    return [Asked(folds["id"].iloc[row], like, tables.images["train"][row]) for row in rows]


def _extension(name: str) -> str:
    suffix = Path(name).suffix
    return suffix if suffix.lower() in (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".npy", ".dcm") else ""


CASES: dict[str, Callable[[Config, Tables], list[Asked]]] = {
    "public": public,
    "old layout": public,
    "hidden": hidden,
    "empty": lambda config, tables: [],
    "one row": lambda config, tables: public(config, tables)[:1],
    "broken": broken,
    "replay": replay,
}


# --- what is wrong with it ----------------------------------------------------------------------------------


def wrong_with(config: Config, name: str, done: Outcome, mount: Path) -> str | None:
    """What went wrong, in a sentence; None where nothing did."""
    log = done.working.parent / "log.txt"
    if done.status == 124:
        return f"it took longer than the {config.kaggle.hours:g} h of kaggle.hours; see {log}"
    if done.status != 0:
        last = (done.said.strip().splitlines() or ["it said nothing"])[-1]
        return f"exit status {done.status}: {last}; see {log}"
    if name == "replay":
        return wrong_replay(config, done)
    sample = next(mount.rglob(Path(config.data.sample_csv).name))
    try:
        check_table(done.working / OUTPUT, sample)
    except UserError as error:
        return str(error)
    if name == "broken" and "2 of " not in done.said:
        return f"two images were spoiled and the kernel did not count them; see {log}"
    return None


def wrong_replay(config: Config, done: Outcome) -> str | None:
    """The members' predictions of a fold against those that stage 03 stored."""
    task = create_task(config)
    outputs = read_json(config.root / "data" / "dataset.json")["outputs"]
    about = read_json(bundle_folder(config) / "competition.json")
    for name in [member["name"] for member in about["members"]]:
        said = pd.read_parquet(done.working / f"replay-{name}.parquet")
        stored = pd.read_parquet(config.root / "runs" / name / f"fold{FOLD}" / "oof.parquet")
        stored = stored.set_index("id").loc[said["id"]].reset_index()
        found, wanted = task.read(said, outputs), task.read(stored, outputs)
        if task.kind == "numbers":
            scale = wanted.std(0).max() if task.scaled else 1.0
            apart = float(np.abs(found - wanted).max() / max(scale, 1e-9))
            if apart > APART:
                return f"{name}: fold {FOLD}'s models say something else here, by {apart:.3f} at most"
        elif task.kind == "maps":
            apart = max(
                float(np.abs(a / 255.0 - b / 255.0).mean()) for a, b in zip(found, wanted, strict=True)
            )
            if apart > APART:
                return f"{name}: fold {FOLD}'s maps are others here, by {apart:.3f} of a pixel on average"
        else:
            same = np.mean([a[:1] == b[:1] for a, b in zip(found.labels, wanted.labels, strict=True)])
            if same < AGREE:
                return f"{name}: of fold {FOLD}'s first answers only {same:.0%} are those of stage 03"
    return None


def projection(config: Config, cases: list[Case]) -> tuple[list[str], bool]:
    """Seconds an image, how many images fit into the hours, memory and disk against Kaggle's; and whether all
    of it fits."""
    by_name = {case.name: case for case in cases}
    many, one = by_name["hidden"], by_name["one row"]
    pace = max(1e-4, (many.outcome.seconds - one.outcome.seconds) / max(1, many.images - one.images))
    fit = int((3600 * config.kaggle.hours - one.outcome.seconds) / pace)
    memory, disk = (max(getattr(case.outcome, what) for case in cases) for what in ("memory", "disk"))
    lines = [
        f"an image takes {pace * 1000:.0f} ms on this machine: {fit:,} images fit into "
        f"{config.kaggle.hours:g} h (beyond that the kernel drops views, then folds)",
        f"peak memory {memory:,.0f} of {MEMORY:,} MiB, working folder {disk:,.1f} of {DISK:,} MiB",
    ]
    return lines, memory < 0.8 * MEMORY and disk < DISK and fit > 0
