"""A mounted test set as it is found: ids, order and size are those of the sample submission there; an image
that is missing or broken costs its own row alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.config import Config, Data, UserError
from src.data.decode import decode
from src.data.images import ImageStore
from src.data.sample import SampleForm, describe_sample
from src.data.tables import files_of
from src.machine import cpu_count


@dataclass(frozen=True)
class TestSet:
    """What is asked for: the sample and its form, the test ids in their order, the file of each, or None."""

    __test__ = False  # pytest: no class of tests

    sample: pd.DataFrame
    form: SampleForm
    path: Path
    ids: list[str]
    files: list[Path | None]
    table: pd.DataFrame  # columns of test.csv by id, where there is one

    def __len__(self) -> int:
        return len(self.ids)


def read_test(mount: Path, config: Config, form: dict[str, Any], outputs: list[str]) -> TestSet:
    """The test set below `mount`; `form` is the sample's as it was at home, which a hidden one shares."""
    data = config.data
    path = find(mount, data.sample_csv)
    sample, test = read(path), None
    if data.test_csv is not None:
        try:
            test = read(find(mount, data.test_csv)).drop_duplicates(data.id).set_index(data.id, drop=False)
        except UserError as error:  # the sample says what is asked for; this only where the images are
            print(f"test: {error}; going by the sample submission", flush=True)
    known = None if test is None else test.index.tolist()
    said = of_the_same_form(sample, config, outputs, path, known, form)
    ids = list(dict.fromkeys(said.images))
    folders = [data.test_images] if isinstance(data.test_images, str) else list(data.test_images)
    there = [mount / name for name in folders if (mount / name).is_dir()]
    names = ids
    if test is not None and data.image is not None and data.image in test:
        column = test[data.image]
        names = [column.get(name, name) for name in ids]
    files = files_of(names, there)
    table = pd.DataFrame(index=ids) if test is None else test.reindex(ids)
    return TestSet(sample, said, path, ids, files, table)


def read(path: Path) -> pd.DataFrame:
    """A table of text, with no rows too."""
    return pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, index_col=False)


def find(mount: Path, name: str) -> Path:
    """A file of the competition, where it was at home or anywhere below."""
    if (mount / name).is_file():
        return mount / name
    found = sorted(mount.rglob(Path(name).name), key=lambda path: len(path.parts))
    if not found:
        raise UserError(f"{mount}: there is no {Path(name).name} in it")
    return found[0]


def of_the_same_form(
    sample: pd.DataFrame,
    config: Config,
    outputs: list[str],
    path: Path,
    known: list[str] | None,
    form: dict[str, Any],
) -> SampleForm:
    """The sample's form: its kind, columns and separator from home, where there was more to go by."""
    same = {key: form[key] for key in ("kind", "id_column", "separator", "most", "class_column")}
    same["value_columns"] = tuple(form["value_columns"])
    ids = tuple(sample[form["id_column"]])
    if form["kind"] in ("label", "columns", "separated") or not len(sample) or not form["pairs"]:
        return SampleForm(images=ids, classes=() if form["pairs"] else None, **same)
    return replace(describe_sample(sample, config, outputs, path, known), **same)


def read_images(
    files: list[Path | None], data: Data, seen: int | None
) -> tuple[ImageStore, np.ndarray, list[tuple[int, int]]]:
    """The images as a store of test rows, which of them could be read (n,), and the size of each file.

    What cannot be read is black, and its size (1, 1).
    """

    def one(path: Path | None) -> Any:
        if path is None:
            return None
        try:
            return decode(path, data, hashes=False)
        except ImportError:  # of all images, and nobody's fault but ours
            raise
        except Exception as error:  # whatever is wrong with it, the others count
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
