"""Kaggle's input folder as a kernel may meet it, laid out in a scratch folder: the bundle, and a competition
whose test set is what a case wants."""

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

SPARE_ROOM = 64 * 2**20  # bytes: the tables, and what the kernel itself puts there


@dataclass(frozen=True)
class TestImage:
    """One test image of a case: its id, the test row that its rows are copied from (None where the public
    test set has none), and its file; bytes are what stands in the file's place, None that there is none."""

    id: str
    like: str | None
    file: Path
    content: bytes | bool | None = True  # True: the file's own


def write_mounts(
    config: Config, tables: Tables, bundle: Path, folder: Path, asked: list[TestImage], old: bool
) -> None:
    """The bundle and the competition below `folder`, under today's layout or the old one: links to the files
    here where a kernel cannot write to them, else copies. Raises `UserError` where these do not fit."""
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
    """sample_submission.csv and test.csv of these images: rows of the real ones under the images' ids."""
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
    """The id of a row where its image is called otherwise: `<image>_<class>` keeps its class; an id may lack
    the image's extension."""
    for old, new in ((image, name), (Path(image).stem, Path(name).stem)):
        if cell.startswith(old):
            return new + cell[len(old) :]
    return name


def file_name(one: TestImage) -> str:
    """What the file is called: after the id, which says so where no column does."""
    suffix = one.file.suffix
    return one.id if one.id.lower().endswith(suffix.lower()) else f"{one.id}{suffix}"


def lay_out_images(
    config: Config, place: Path, asked: list[TestImage], put: Callable[[str, str], object]
) -> None:
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
    """Raise `UserError` where the disk of `folder` has no room for what would be copied there."""
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
    """The same file under another name, or a copy where a disk ends between them."""
    if os.path.exists(target):
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
