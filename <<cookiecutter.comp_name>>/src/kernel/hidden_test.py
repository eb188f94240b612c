"""Reading a mounted test set: ids, order and size come from the mounted sample submission.

A missing or broken image affects only its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.config import Config, Data, UserError
from src.data.decode import decode
from src.data.images import ImageStore
from src.data.submission_form import SampleForm
from src.kernel.asked import Asked, asked_for, find, made_up, read, same_columns
from src.kernel.search import find_test_images, image_files, test_folders
from src.machine import cpu_count

SAMPLES = r".*sample.*submission.*\.csv"  # possible names of a sample that is not called as it is locally


@dataclass(frozen=True)
class TestSet:
    """A mounted test set: the requested rows, the test ids in order, and the image name of each id."""

    __test__ = False  # not a pytest test class

    asked: Asked
    ids: list[str]
    names: list[str]  # image names as the tables list them
    table: pd.DataFrame  # columns of test.csv by id, if there is a test.csv
    files: tuple[Path | None, ...] = ()  # the file of each image, set by `located`; None if it is missing

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sample(self) -> pd.DataFrame:
        """The requested rows under the columns of the local sample submission."""
        return self.asked.sample

    @property
    def form(self) -> SampleForm:
        """The form of the sample submission: the image and class of each row."""
        return self.asked.form

    @property
    def path(self) -> Path:
        """The path of the sample submission, or of the table that replaces it."""
        return self.asked.path

    def located(self, mount: Path, data: Data) -> TestSet:
        """The same test set with the file of each image.

        Searching for files is a separate step, so that a submission of the prior exists before it starts.
        """
        return replace(self, files=tuple(find_test_images(self.names, mount, data)))


def read_test(mount: Path, config: Config, form: dict[str, Any], outputs: list[str]) -> TestSet:
    """Read the test set below `mount`; `form` describes the local sample submission.

    Without a sample submission the rows are those of test.csv. Without both, each image in the test folders
    is a row.
    """
    data = config.data
    sample, path = _table(mount, data.sample_csv, "asking for what the test table lists", SAMPLES)
    test = None
    if data.test_csv is not None:
        test, test_path = _table(mount, data.test_csv, "going by the sample submission")
        path = path or test_path
    if test is not None:
        wanted = [data.id, *(one for one in form["test_columns"] if one != data.id)]
        hints = None if sample is None or data.id in test else sample.to_numpy().ravel().tolist()
        test = test.rename(columns=same_columns(test, wanted, data.id, hints))
        test = _one_row_an_id(test, data) if data.id in test else None
    known = None if test is None else test.index.tolist()
    if sample is None:
        ids = known if known is not None else _ids_of_files(mount, data, form)
        sample, path = made_up(ids, form, outputs), path or mount
        if not ids:
            print(f"WARNING: {mount}: neither tables nor images say what is asked for", flush=True)
    asked = asked_for(sample, path, form, outputs, known)
    ids = list(dict.fromkeys(asked.form.images))
    names = ids
    if test is not None and data.image is not None and data.image in test:
        column = test[data.image]
        names = [column.get(name, name) for name in ids]
    table = pd.DataFrame(index=ids) if test is None else test.reindex(ids)
    return TestSet(asked, ids, names, table)


def _table(
    mount: Path, name: str, instead: str, like: str = "(?!)"
) -> tuple[pd.DataFrame | None, Path | None]:
    """Read a table and return it with its path. If that fails, return (None, None) and log what happens
    `instead`."""
    try:
        path = find(mount, name, like)
        return read(path), path
    except UserError as error:
        print(f"test: {error}; {instead}", flush=True)
        return None, None


def _one_row_an_id(test: pd.DataFrame, data: Data) -> pd.DataFrame:
    """The test table indexed by id, with one row per id. An id whose rows name different images gets no
    image, because the right one is unknown."""
    if data.image in test:
        several = test.groupby(data.id)[data.image].transform("nunique") > 1
        test = test.assign(**{data.image: test[data.image].mask(several, "")})
    return test.drop_duplicates(data.id).set_index(data.id, drop=False)


def _ids_of_files(mount: Path, data: Data, form: dict[str, Any]) -> list[str]:
    """Test ids derived from the image files, with their extension if the local ids have one."""
    files = sorted(image_files(mount, data))
    folders = test_folders(mount, data)
    at_home = [file for file in files if any(file.is_relative_to(folder) for folder in folders)]
    files = at_home or [file for file in files if "test" in file.relative_to(mount).as_posix().lower()]
    return list(dict.fromkeys(file.name if form["suffixes"] else file.stem for file in files))


def read_images(
    files: Sequence[Path | None], data: Data, seen: int | None, tick: Callable[[], None] | None = None
) -> tuple[ImageStore, np.ndarray, list[tuple[int, int]]]:
    """Read images into a store of test rows; also return a mask of the readable ones (n,) and their sizes.

    A size is (height, width). An unreadable image is black and has the size (1, 1). Of a damaged JPEG the
    decodable part is used. `tick` is called before every image and may raise to stop the reading.
    """
    data = data.model_copy(update={"damaged": "keep"})

    def one(path: Path | None) -> Any:
        if tick is not None:
            tick()
        if path is None:
            return None
        try:
            return decode(path, data, hashes=False)
        except ImportError:  # a missing package affects all images and is an error of this project
            raise
        except Exception as error:  # any defect of one image must not affect the others
            print(f"test: {path.name} cannot be read ({error}); its row gets the prior", flush=True)
            return None

    with ThreadPoolExecutor(cpu_count()) as pool:
        found = list(pool.map(one, files))
    good = np.array([image is not None for image in found], dtype=bool)
    channels = next((image.pixels.shape[2] for image in found if image is not None), 3)
    good &= np.array([image is not None and image.pixels.shape[2] == channels for image in found], dtype=bool)
    side = data.cached_size
    pixels = np.zeros((len(files), side, side, channels), np.uint8)
    for row in np.flatnonzero(good):
        pixels[row] = found[row].pixels
    sizes = [(image.height, image.width) if ok else (1, 1) for image, ok in zip(found, good, strict=True)]
    nothing = np.arange(0)
    names = [str(row) for row in range(len(files))]
    store = ImageStore(pixels, nothing, np.arange(len(files)), [], names, (), (), test_sizes=sizes, seen=seen)
    return store, good, sizes
