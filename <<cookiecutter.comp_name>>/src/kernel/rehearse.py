"""`make rehearse`: run the kernel as Kaggle will run it, on every kind of test set that it may meet there.

| case | mounted test set |
|---|---|
| public | part of the downloaded test set, current layout: predictions must equal what stage 06 submits |
| old layout | the same in Kaggle's former layout |
| hidden | more rows, shuffled, with new names, as in the scored run; the time per image is measured |
| empty, one row | what a public test set may be |
| broken | one image that is no image, and one that is missing |
| replay | a fold's validation images: its models must reproduce the predictions that stage 03 stored |
| versions | the replay with the package versions of Kaggle's image, if `make kaggle-image` installed them |
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.artifacts import sha256
from src.config import Config
from src.data.tables import Tables, load_tables
from src.kaggle.names import bundle_folder
from src.kaggle.push import KERNEL
from src.kaggle.receipts import write_receipt
from src.kernel.image import LOCK, PYTHON, absent
from src.kernel.projection import projection
from src.kernel.sandbox import namespaces, run_kernel
from src.kernel.test_sets import TestImage, write_mounts
from src.kernel.verdict import DISK, FOLD, Case, wrong_with
from src.reading import read_csv
from src.submission.manifest import read_manifest

PUBLIC, HIDDEN, REPLAYED = 100, 300, 100  # number of images of a case
ENOUGH = 12  # test images for cases other than public; if there are fewer, training images are added
SECONDS = 10  # duration of the timing measurement
VARIABLES = {
    "public": {"NNTRICKS_PREDICTIONS": "1"},
    "hidden": {"KAGGLE_IS_COMPETITION_RERUN": "1"},
    "replay": {"NNTRICKS_FOLD": str(FOLD)},
}
VARIABLES["versions"] = VARIABLES["replay"]
NO_IMAGE = b"<html>429 Too Many Requests</html>"


def rehearse(config: Config, project: Path) -> list[Case]:
    """Run all cases, print the result table and the projection, and write the receipt."""
    bundle, kernel = bundle_folder(config), project / KERNEL
    manifest = read_manifest(bundle, made_by="make bundle")
    tables = load_tables(config)
    how = "in namespaces: no network, read-only input, the project out of sight"
    weaker = "WITHOUT namespaces: no network and an empty home, but the project is in sight"
    print(f"rehearsing bundle {manifest['bundle_hash'][:12]} {how if namespaces() else weaker}", flush=True)
    cases, lacking, python = [], absent(project / LOCK), project / PYTHON
    chosen = CASES | ({"versions": replay_fold} if python.exists() else {})
    for name, choose in chosen.items():
        asked = choose(config, tables)
        with tempfile.TemporaryDirectory(prefix="input-") as folder:
            mount, out = Path(folder), config.root / "kaggle" / "rehearsal" / name.replace(" ", "-")
            write_mounts(config, tables, bundle, mount, asked, old=name == "old layout")
            limit = 3600 * config.kaggle.hours
            variables: dict[str, Any] = VARIABLES.get(name, {})
            if name == "hidden":
                variables = variables | {"NNTRICKS_MEASURE": str(SECONDS)}
            if name == "versions":  # that environment lies in the project, which isolation would hide
                variables = variables | {"isolated": False, "interpreter": python}
            done = run_kernel(kernel, mount, out, config.root, limit, DISK, absent=lacking, **variables)
            ids = [one.id for one in asked]
            wrong = wrong_with(config, tables.form, name, ids, done, mount)
            cases.append(Case(name, len(asked), done, wrong))
        print(cases[-1].line(), flush=True)
    if "versions" not in chosen:
        print("not tried under the versions of Kaggle's image: `make kaggle-image` installs them (8 GB)")
    lines, fits = projection(config, cases, len(tables.images["test"]))
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


# --- the images of each case --------------------------------------------------------------------------------


def public(config: Config, tables: Tables) -> list[TestImage]:
    """The first images of the public test set."""
    pairs = list(zip(tables.test[config.data.id], tables.images["test"], strict=True))
    return [TestImage(name, name, file) for name, file in pairs[:PUBLIC]]


def known_images(config: Config, tables: Tables) -> list[TestImage]:
    """The public test images, supplemented by training images if Kaggle hides almost all of its test set."""
    found = public(config, tables)
    if len(found) >= ENOUGH:
        return found
    like = found[0].like if found else None
    others = zip(tables.train[config.data.id], tables.images["train"], strict=True)
    return (found + [TestImage(name, like, file) for name, file in others])[:PUBLIC]


def hidden(config: Config, tables: Tables) -> list[TestImage]:
    """The known images, repeated and shuffled, with new names of the same form."""
    known = known_images(config, tables)
    order = np.random.default_rng(0).permutation(np.resize(np.arange(len(known)), max(HIDDEN, len(known))))
    return [
        TestImage(f"hidden{number:06d}{_extension(known[row].id)}", known[row].like, known[row].file)
        for number, row in enumerate(order)
    ]


def broken(config: Config, tables: Tables) -> list[TestImage]:
    """Some known images, of which the first is no image and the second is missing."""
    first, second, *others = known_images(config, tables)[:12]
    spoiled = [
        TestImage(first.id, first.like, first.file, NO_IMAGE),
        TestImage(second.id, second.like, second.file, None),
    ]
    return [*spoiled, *others]


def replay_fold(config: Config, tables: Tables) -> list[TestImage]:
    """The validation images of the replayed fold, which its models have not seen, as test images."""
    path = config.root / "data" / "folds.csv"
    folds = read_csv(path, ("id", "fold"), dtype=str, keep_default_na=False)
    rows = np.flatnonzero(folds["fold"].to_numpy() == str(FOLD))[:REPLAYED]
    like = next(iter(tables.test[config.data.id]), None)
    return [TestImage(folds["id"].iloc[row], like, tables.images["train"][row]) for row in rows]


def _extension(name: str) -> str:
    suffix = Path(name).suffix
    return suffix if suffix.lower() in (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".npy", ".dcm") else ""


CASES: dict[str, Callable[[Config, Tables], list[TestImage]]] = {
    "public": public,
    "old layout": public,
    "hidden": hidden,
    "empty": lambda config, tables: [],
    "one row": lambda config, tables: known_images(config, tables)[:1],
    "broken": broken,
    "replay": replay_fold,
}
