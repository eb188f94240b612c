"""Rehearsal input: Kaggle's input folder, built in a temporary folder.

It holds the bundle and a competition with the test set of a case.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.artifacts import write_csv
from src.config import Config, UserError
from src.data.tables import Tables
from src.kernel.sandbox import namespaces

SPARE_ROOM = 64 * 2**20  # bytes for the tables and for what the kernel itself writes there


@dataclass(frozen=True)
class TestImage:
    """One test image of a case: its id, the test row that its rows are copied from, and its file.

    `like` is None if the public test set has no such row. Bytes in `content` replace the file; None means
    that the file is missing.
    """

    id: str
    like: str | None
    file: Path
    content: bytes | bool | None = True  # True: the unchanged file


def write_mounts(
    config: Config, tables: Tables, bundle: Path, folder: Path, asked: list[TestImage], old: bool
) -> None:
    """Create the bundle and the competition below `folder`, in Kaggle's current layout or the `old` one.

    The files are hard links if the kernel cannot write to them, else copies. Raises `UserError` if the disk
    has no space for copies.
    """
    linked = namespaces()
    folder.mkdir(parents=True, exist_ok=True)
    check_space_for_copies(folder, bundle, [one.file for one in asked if one.content is True], linked)
    put = _link if linked else shutil.copy
    slug = config.competition.slug
    here = folder / ("bundle" if old else "datasets/me/bundle")
    shutil.copytree(bundle, here, copy_function=put)
    place = folder / (slug if old else f"competitions/{slug}")
    place.mkdir(parents=True)
    lay_out_tables(config, tables, place, asked)
    lay_out_images(config, place, asked, put)


def lay_out_tables(config: Config, tables: Tables, place: Path, asked: list[TestImage]) -> None:
    """Write sample_submission.csv and test.csv of these images: rows of the real tables under the images'
    ids."""
    data, form = config.data, tables.form
    rows: dict[str | None, list[int]] = {}
    for row, image in enumerate(form.images):
        rows.setdefault(image, []).append(row)
    cells = tables.sample[form.id_column].tolist()
    chosen = [(row, one) for one in asked for row in rows.get(one.like, [-1])]  # -1: no row to copy
    sample = tables.sample.reset_index(drop=True).reindex([row for row, _ in chosen], fill_value="0")
    sample = sample.reset_index(drop=True)
    sample[form.id_column] = [
        one.id if row < 0 else renamed(cells[row], form.images[row], one.id) for row, one in chosen
    ]
    write_csv(place / data.sample_csv, sample)
    if data.test_csv is None:
        return
    test = tables.test.set_index(data.id, drop=False).reindex([one.like for one in asked], fill_value="")
    test = test.reset_index(drop=True)
    test[data.id] = [one.id for one in asked]
    if data.image is not None and data.image in test:
        test[data.image] = [file_name(one) for one in asked]
    write_csv(place / data.test_csv, test)


def renamed(cell: str, image: str, name: str) -> str:
    """The id of a row after its image is renamed: `<image>_<class>` keeps its class. The id may lack the
    image's extension."""
    for old, new in ((image, name), (Path(image).stem, Path(name).stem)):
        if cell.startswith(old):
            return new + cell[len(old) :]
    return name


def file_name(one: TestImage) -> str:
    """The name of the image's file: its id, because that identifies the image if no column does."""
    suffix = one.file.suffix
    return one.id if one.id.lower().endswith(suffix.lower()) else f"{one.id}{suffix}"


def lay_out_images(
    config: Config, place: Path, asked: list[TestImage], put: Callable[[str, str], object]
) -> None:
    """Write the test images into the first folder of `data.test_images`; missing ones are left out."""
    names = config.data.test_images
    folders = [place / name for name in ([names] if isinstance(names, str) else names)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for one in asked:
        path = folders[0] / file_name(one)
        path.parent.mkdir(parents=True, exist_ok=True)
        if one.content is True:
            put(str(one.file.resolve()), str(path))
        elif isinstance(one.content, bytes):
            path.write_bytes(one.content)


def check_space_for_copies(folder: Path, bundle: Path, images: list[Path], linked: bool) -> None:
    """Raise `UserError` if the disk of `folder` has no space for the files that would be copied."""
    files = {path for path in bundle.rglob("*") if path.is_file()} | {path.resolve() for path in images}
    here = os.stat(folder).st_dev
    copied = [path.stat() for path in files]
    needed = SPARE_ROOM + sum(one.st_size for one in copied if not linked or one.st_dev != here)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder.parent}: a rehearsal copies {needed / 2**20:,.0f} MiB there, and {free / 2**20:,.0f} "
            f"are free; make room, or set TMPDIR to a folder on a larger disk, such as `TMPDIR=$PWD/kaggle`"
        )


def _link(source: str, target: str) -> None:
    """Create a hard link, or copy the file if it is on another file system."""
    if os.path.exists(target):
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
