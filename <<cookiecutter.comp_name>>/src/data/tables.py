"""Read and validate Kaggle's tables. All values are text, so that an id such as 00123 stays intact; errors
name the row."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from src.config import Config, UserError
from src.data.masks import mask_classes
from src.data.submission_form import SampleForm, describe_sample
from src.data.targets import filled, present, read_targets, target_columns
from src.rawfiles import column_names, image_folders, line_of, line_with, raw_tables

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".dcm", ".dicom")


@dataclass(frozen=True)
class Tables:
    """The competition's tables; all values are text. `images` holds the file of each train and test row.

    `train` and `test` have one row per id in every format; `targets` has the rows of `train`.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    sample: pd.DataFrame
    images: dict[str, list[Path]]
    targets: pd.DataFrame  # one column per target, see src/data/targets.py
    form: SampleForm  # form of the submission
    masks: list[Path] | None = None  # mask file of each train row, if masks are files
    extra: tuple[str, ...] = ()  # unused columns that train and test share
    paths: dict[str, Path] = field(default_factory=dict)  # the file of each role
    key: str = "id"  # value of data.id

    def line(self, role: str, row: int) -> int:
        """The line in the file of row 0, 1, ... of `train` or `test`."""
        name = getattr(self, role)[self.key].iloc[row]
        return line_with(self.paths.get(role, self.paths["sample"]), self.key, name, row)


def load_tables(config: Config) -> Tables:
    """Read and validate all tables of the competition. Raises `UserError` with file and row for invalid
    data."""
    from src.tasks import create_task

    paths, data = raw_tables(config), config.data
    task = create_task(config)
    empty = config.kaggle.code_competition  # its whole test set may be hidden
    whole, sample = read_table(paths["train"]), read_table(paths["sample"], empty)
    _check_ids(whole, data.id, paths["train"], repeated=_repeats(config))
    if data.group is not None:
        present(whole, data.group, paths["train"], key="data.group")
        filled(whole, data.group, paths["train"])
    train, targets = read_targets(whole, config, paths["train"])
    task.check_targets(targets, paths["train"])
    outputs = (
        mask_classes(config, targets)
        if config.task.name == "segmentation"
        else task.describe(targets)["outputs"]
    )
    test = _read_test(config, paths)
    known = None if test is None else test[data.id].tolist()
    form = describe_sample(sample, config, outputs, paths["sample"], known)
    _check_ids(sample, form.id_column, paths["sample"], repeated=form.classes is not None)
    if test is None:
        test = pd.DataFrame({data.id: list(dict.fromkeys(form.images))})
    _check_same_ids(test[data.id], form, paths)
    if form.kind in ("label", "columns"):  # the other forms do not depend on the task
        task.check_sample(sample, form.id_column, outputs, paths["sample"])
    folders = image_folders(config)
    images = {
        "train": find_images(train, folders["train"], data.id, data.image, paths["train"]),
        "test": find_images(test, folders["test"], data.id, data.image, paths.get("test", paths["sample"])),
    }
    masks = None
    if "masks" in folders and config.task.name == "segmentation":
        column = data.mask if data.mask is not None else data.image
        masks = find_images(
            train, folders["masks"], data.id, column, paths["train"], what="mask", by_stem=True
        )
    extra = _extra(train, test, config)
    return Tables(train, test, sample, images, targets, form, masks, extra, paths, data.id)


def _repeats(config: Config) -> bool:
    """Whether an id may occur in several rows of train.csv."""
    return config.data.long is not None or (
        config.task.name == "segmentation" and config.data.rle is not None
    )


def _read_test(config: Config, paths: dict[str, Path]) -> pd.DataFrame | None:
    """The test table with one row per id; None if the sample submission lists the test rows."""
    if "test" not in paths:
        return None
    test, repeated = read_test_table(paths["test"], config), _repeats(config)
    _check_ids(test, config.data.id, paths["test"], repeated=repeated)
    return test.drop_duplicates(config.data.id).reset_index(drop=True) if repeated else test


def _extra(train: pd.DataFrame, test: pd.DataFrame, config: Config) -> tuple[str, ...]:
    data = config.data
    used = {data.id, data.image, data.group, data.mask, data.long, data.rle, *target_columns(config)}
    return tuple(column for column in train.columns if column in test.columns and column not in used)


def read_test_table(path: Path, config: Config) -> pd.DataFrame:
    """Read test.csv; for a code competition, whose test set may be hidden entirely, also a file without a
    header."""
    if config.kaggle.code_competition and not path.read_bytes().strip():
        return pd.DataFrame({config.data.id: pd.Series([], dtype=str)})
    return read_table(path, config.kaggle.code_competition)


def read_table(path: Path, may_be_empty: bool = False) -> pd.DataFrame:
    """Read a CSV as text columns without parsing missing values. Raises `UserError` for a broken file, and
    for one without rows unless `may_be_empty`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Without index_col=False, a superfluous comma on every line shifts all columns by one without an
            # error.
            table = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, index_col=False)
            table = table.fillna("")  # older versions of pandas fill short rows with NaN anyway
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the file is empty; it should start with a line of column names") from None
    except pd.errors.ParserWarning:
        raise UserError(
            f"{path}: its lines hold more values than there are column names; is there a comma too many?"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV ({str(error).strip().splitlines()[-1]})") from None
    if len(table) == 0 and not may_be_empty:
        raise UserError(
            f"{path}: there are column names but no rows; is the download complete? A test set that Kaggle "
            f"hides as a whole goes with kaggle.code_competition=true"
        )
    _check_once(column_names(path), path)
    return table


def _check_once(names: list[str], path: Path) -> None:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"{path}: the column {twice!r} is there twice; rename or drop one in a copy of the file, and "
            f"name the copy in the config, such as in data.train_csv"
        )


def find_images(
    table: pd.DataFrame,
    folders: Path | Sequence[Path],
    id_column: str,
    image_column: str | None,
    path: Path,
    what: str = "image",
    by_stem: bool = False,
) -> list[Path]:
    """The image file of each row, looked up by file name with or without extension.

    `by_stem` also accepts another extension: the mask of a.jpg is a.png. Raises `UserError` naming the first
    row without a file and the number of such rows, or a name that matches two files.
    """
    folders = [folders] if isinstance(folders, Path) else list(folders)
    place, key = " or ".join(str(folder) for folder in folders), f"data.{what}"
    column = id_column if image_column is None else present(table, image_column, path, key=key)
    found = _candidates(table[column].tolist(), folders, by_stem)
    for row, several in enumerate(found):
        if len(several) > 1:
            raise UserError(
                f"{path}, row {line_with(path, id_column, table[id_column].iloc[row], row)}: `{column}` "
                f"{table[column].iloc[row]!r} could be {several[0]} or {several[1]}; "
                f"give the path inside {' or '.join(f.name for f in folders)} in a column and name that "
                f"column in {key}"
            )
    files = [several[0] if several else None for several in found]
    missing = [row for row, file in enumerate(files) if file is None]
    if missing:
        row = missing[0]
        name = table[column].iloc[row]
        example = name if name.lower().endswith(IMAGE_SUFFIXES) else f"{name}.png"
        raise UserError(
            f"{path}, row {line_with(path, id_column, table[id_column].iloc[row], row)}: no {what} for "
            f"`{column}` {name!r} in {place} ({len(missing)} of {len(files)} missing); "
            f"{near_miss(name, folders) or f'a file such as {example} should be there'}"
        )
    return files


def near_miss(name: str, folders: Sequence[Path]) -> str | None:
    """The file that a name without an image may mean, and how the two differ; None if there is none."""
    file = PurePosixPath(name.replace("\\", "/"))
    stem = file.stem if file.name.lower().endswith(IMAGE_SUFFIXES) else file.name
    for there in (there for folder in folders for _, _, names in os.walk(folder) for there in names):
        here = PurePosixPath(there).stem
        if stem in (here, there) and not there.lower().endswith(IMAGE_SUFFIXES):
            kinds = ", ".join(IMAGE_SUFFIXES)
            return f"{there} is there, but only files that end in {kinds} are read; convert or rename them"
        if here == stem:
            why = "its ending is another"
        elif _plain(here) == _plain(stem):
            why = "its letters are of another case, or composed otherwise (Unicode NFC and NFD)"
        elif stem.isdecimal() and here.isdecimal() and int(here) == int(stem):
            why = "the zeros before the number differ"
        else:
            continue
        return f"{there} is there, but {why}; correct the names in a copy of the table, or the files' own"
    return None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def files_by_name(values: Sequence[str], folders: Sequence[Path]) -> list[Path | None]:
    """The image file of each name, as in `find_images`, with any extension; None for no match or several."""
    found = _candidates(values, list(folders), by_stem=True)
    return [several[0] if len(several) == 1 else None for several in found]


def _candidates(values: Sequence[str], folders: list[Path], by_stem: bool) -> list[Sequence[Path]]:
    """The files that each name may mean: those of the most specific kind of name that matches."""
    by_name = _files_by_name(folders)
    found: list[Sequence[Path]] = []
    for value in values:
        names = _spellings(value, folders)
        if by_stem:
            names += [
                str(Path(name).with_suffix("")) for name in names if name.lower().endswith(IMAGE_SUFFIXES)
            ]
        found.append(next((known[name] for name in names for known in by_name if name in known), ()))
    return found


def _spellings(value: str, folders: list[Path]) -> list[str]:
    """The spellings of a name: relative to the folder if it starts with the folder's path, then unchanged."""
    name = value.replace("\\", "/").removeprefix("./").removeprefix("/")
    names: list[str] = []
    for folder in folders:
        for start in range(1, min(4, len(folder.parts))):
            prefix = "/".join(folder.parts[-start:]) + "/"
            if name.startswith(prefix):
                inside = name.removeprefix(prefix)
                names += [f"{folder.name}/{inside}", inside] if len(folders) > 1 else [inside]
    return [*names, name]


def _files_by_name(folders: list[Path]) -> list[dict[str, list[Path]]]:
    """All image files below the folders, indexed by each kind of name, the most specific kind first.

    With several folders the path with the folder's name is the most specific, because two folders may hold
    files of the same name.
    """
    kinds: list[dict[str, list[Path]]] = [{} for _ in range(6)]
    for folder in folders:
        for base, _, names in os.walk(folder):
            for name in names:
                if not name.lower().endswith(IMAGE_SUFFIXES):
                    continue
                file = Path(base, name)
                inside = file.relative_to(folder)
                outside = folder.name / inside if len(folders) > 1 else inside
                pairs = ((outside, outside.with_suffix("")), (inside, inside.with_suffix("")))
                keys = [form.as_posix() for pair in pairs for form in pair] + [file.name, file.stem]
                for known, key in zip(kinds, keys, strict=True):
                    known.setdefault(key, []).append(file)
    return kinds


def _check_ids(table: pd.DataFrame, column: str, path: Path, repeated: bool = False) -> None:
    present(table, column, path)
    filled(table, column, path)
    twice = table[column].duplicated().to_numpy()
    if twice.any() and not repeated:
        row = int(twice.argmax())
        name = table[column].iloc[row]
        first = int((table[column] == name).to_numpy().argmax())
        raise UserError(
            f"{path}, row {line_of(path, row)}: id {name!r} stands already in row "
            f"{line_of(path, first)} ({int(twice.sum())} such row(s)); every id should stand once"
        )


def _check_same_ids(test: pd.Series, form: SampleForm, paths: dict[str, Path]) -> None:
    lost = set(form.images) ^ set(test)
    if lost:
        name = min(lost)
        where, other = ("sample", "test") if name in set(form.images) else ("test", "sample")
        raise UserError(
            f"{paths[where]}: id {name!r} is not in {paths.get(other, paths['sample'])} "
            f"({len(lost)} such id(s)); both files should list the same test rows"
        )
