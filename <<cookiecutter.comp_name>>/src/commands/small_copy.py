"""A small copy of a competition: a few rows of every class in its own folder, images as symbolic links."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.artifacts import write_csv
from src.config import Config
from src.data.tables import Tables, load_tables, read_table, read_test_table
from src.data.targets import NO_MASK
from src.rawfiles import image_folders, raw_tables
from src.tasks import create_task

ROWS, TEST_ROWS = 96, 24
EACH, IN_ALL = 4, 1024  # rows per class, and in total: many classes get as few as two each
IDENTITIES, IMAGES = 24, 16  # retrieval: the identities with the most images; stage 04 calibrates on some


def copy_sample(
    config: Config, root: Path, rows: int = ROWS, test_rows: int = TEST_ROWS, deal: bool = False
) -> int:
    """Write a sample of the raw files below `root`, at the same relative paths.

    With `deal` the training images are permuted. Returns the number of rows in the full train.csv.
    """
    tables, paths = load_tables(config), raw_tables(config)
    raw, data = root / config.data.raw, config.data
    train = np.sort(choose_rows(tables, config, rows))
    test = np.arange(min(test_rows, len(tables.test)))
    known = set(tables.test[data.id].iloc[test])
    ids = {"train": set(tables.train[data.id].iloc[train]), "test": known}
    for role in paths.keys() & ids.keys():
        table = read_test_table(paths[role], config) if role == "test" else read_table(paths[role])
        write_csv(raw / getattr(data, f"{role}_csv"), table[table[data.id].isin(ids[role])])
    meant = np.array([image in known for image in tables.form.images], dtype=bool)
    write_csv(raw / data.sample_csv, tables.sample[meant])
    images = list(dict.fromkeys(tables.images["train"][i] for i in train))
    shown = shuffled_files(images, config) if deal else images
    others = [tables.images["test"][i] for i in test]
    others += [] if tables.masks is None else [tables.masks[i] for i in train]
    _link_files(dict(zip(images, shown, strict=True)) | {file: file for file in others}, config, raw)
    return len(tables.train)


def shuffled_files(images: list[Path], config: Config) -> list[Path]:
    """The files permuted: each place gets a file of the same type, and for masks also of the same size."""
    from src.data.decode import decode, named

    def kind(path: Path) -> tuple:
        if config.task.name != "segmentation":
            return (path.suffix.lower(),)
        with named(path):
            image = decode(path, config.data)
        return (path.suffix.lower(), image.height, image.width)

    places: dict[tuple, list[int]] = {}
    for place, path in enumerate(images):
        places.setdefault(kind(path), []).append(place)
    random, order = np.random.default_rng(config.seed), np.arange(len(images))
    for members in places.values():
        order[members] = random.permutation(members)
    return [images[place] for place in order]


def choose_rows(tables: Tables, config: Config, most: int = ROWS) -> np.ndarray:
    """Rows of the training table: a few of every class, filled up at random to `most`."""
    random, total = np.random.default_rng(config.seed), len(tables.train)
    members = _classes_of(tables, config)
    each = min(EACH, max(2, IN_ALL // max(1, len(members))))
    each = IMAGES if config.task.name == "retrieval" else each
    chosen: set[int] = set()
    for rows in members:
        here = [row for row in rows if row in chosen]
        more = [row for row in random.permutation(rows) if row not in chosen]
        chosen.update(more[: max(0, each - len(here))])
    if config.task.name != "retrieval":  # an extra row would be an identity without a match
        rest = [row for row in random.permutation(total) if row not in chosen]
        chosen.update(rest[: max(0, most - len(chosen))])
    return np.array(sorted(chosen))


def _classes_of(tables: Tables, config: Config) -> list[np.ndarray]:
    """Rows per class: label, decile of the numbers, or kind of mask; for retrieval the largest identities."""
    if config.task.name == "segmentation":
        cells = tables.targets.to_numpy(dtype=object)  # (N, C); C is 0 if masks are files, not opened here
        return [np.flatnonzero(~np.isin(column, NO_MASK)) for column in cells.T]
    strata = create_task(config).strata(tables.targets)
    if strata.ndim == 2:
        return [np.flatnonzero(column) for column in strata.T if column.any()]
    members = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    if config.task.name == "retrieval":
        members = sorted(members, key=len, reverse=True)[:IDENTITIES]
    return members


def _link_files(files: dict[Path, Path], config: Config, raw: Path) -> None:
    """Create links below `raw` at the places of `files` (place -> content), and the folders of the config."""
    folders = [folder for several in image_folders(config).values() for folder in several]
    old = config.root / config.data.raw
    for folder in folders:
        (raw / folder.relative_to(old)).mkdir(parents=True, exist_ok=True)
    for file, shown in files.items():
        place = raw / file.relative_to(old)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(shown.resolve())
