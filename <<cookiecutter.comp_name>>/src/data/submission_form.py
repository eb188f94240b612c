"""The form of the sample submission: which cell holds which output of which image.

| kind | a row | beside the id |
|---|---|---|
| `label` | an image | one column with a name of its own: the label, or the only number or probability |
| `columns` | an image | one column per output |
| `separated` | an image | one column of several answers, the most likely first |
| `rle` | an image, or an image-class pair | one column of run-length encoded masks |
| `long` | an image-class pair | one column: the value of that output |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import pandas as pd

from src.config import Config, UserError
from src.data.targets import labels_of, present
from src.rawfiles import line_of

JOINTS = ("_", "-", ":", "|", " ", "/", ".", "~")  # separators between image and class in the id of a pair


@dataclass(frozen=True)
class SampleForm:
    """The form of a submission: its kind, columns, and the image (and class) that each row belongs to."""

    kind: Literal["label", "columns", "separated", "rle", "long"]
    id_column: str
    value_columns: tuple[str, ...]
    images: tuple[str, ...]  # the test id of each row of the sample
    classes: tuple[str, ...] | None = None  # the output of each row; None if a row is an image
    # column of the class; None with `classes`: the class is the end of the id
    class_column: str | None = None
    separator: str = " "  # between the answers of a cell
    most: int = 1  # largest number of answers in a cell of the sample


def describe_sample(
    sample: pd.DataFrame, config: Config, outputs: list[str], path: Path, known: list[str] | None = None
) -> SampleForm:
    """Detect the form of the sample submission; `known` are the ids of the test table, if there is one.

    Raises `UserError` if the ids or pairs are ambiguous. Whether the columns can be filled is checked by the
    task.
    """
    id_column = _id_column(sample, config, known, path)
    values = [column for column in sample.columns if column != id_column]
    ids = sample[id_column].tolist()
    by_column = _class_column(sample, id_column, config, outputs)
    if by_column is not None:
        values.remove(by_column)
        pairs = list(zip(ids, sample[by_column].tolist(), strict=True))
    else:
        pairs = _pairs_in(ids, outputs, known) if len(values) == 1 else None
    images, classes = (zip(*pairs, strict=True)) if pairs else (tuple(ids), None)
    if pairs:
        _check_once(pairs, id_column, path)
    segments = config.task.name == "segmentation"
    if segments and not pairs:
        _check_named(_classes_asked(sample, id_column, known), outputs, config, path)
    kind: Literal["label", "columns", "separated", "rle", "long"]
    if segments or pairs:
        kind = "rle" if segments else "long"
        return SampleForm(kind, id_column, tuple(values), tuple(images), classes, by_column)
    separator = config.data.label_separator or " "
    most = _answers(sample[values[0]], outputs, separator, config) if len(values) == 1 else 0
    if most:
        return SampleForm("separated", id_column, tuple(values), tuple(ids), separator=separator, most=most)
    kind = "label" if len(values) == 1 and values[0] not in outputs else "columns"
    return SampleForm(kind, id_column, tuple(values), tuple(ids))


def _id_column(sample: pd.DataFrame, config: Config, known: list[str] | None, path: Path) -> str:
    """The column of `data.id`, or the first column if that has another name and holds test ids or pairs."""
    if config.data.id not in sample.columns and known:
        first, there = sample.columns[0], set(known) | {_stem(name) for name in known}
        if all(name in there or any(_cuts(name, joint, there) for joint in JOINTS) for name in sample[first]):
            return first
    return present(sample, config.data.id, path)


def _cuts(name: str, joint: str, there: set[str]) -> bool:
    parts = name.split(joint)
    return any(joint.join(parts[:end]) in there for end in range(1, len(parts)))


def _class_column(sample: pd.DataFrame, id_column: str, config: Config, outputs: list[str]) -> str | None:
    """The column with the class of a pair: `data.long`, or a column that holds only output names; None if
    there is none."""
    if config.data.long in sample.columns and config.data.long != id_column:
        return config.data.long
    if not sample[id_column].duplicated().any() or len(outputs) < 2:
        return None
    others = [column for column in sample.columns if column != id_column]
    holding = [c for c in others if set(sample[c]) <= set(outputs)]
    return holding[0] if len(holding) == 1 and len(others) > 1 else None


def _pairs_in(ids: list[str], outputs: list[str], known: list[str] | None) -> list[tuple[str, str]] | None:
    """Image and class of each id such as `<image>_<class>`; None if the ids are plain images."""
    whole = None if known is None else {_stem(name): name for name in known} | {name: name for name in known}
    if len(outputs) < 2 or (whole is not None and all(name in whole for name in ids)):
        return None
    for joint in JOINTS:
        pairs = [_cut(name, joint, set(outputs), whole) for name in ids]
        if all(pairs):
            images = {image for image, _ in pairs}
            # without a test table only a complete grid of images and classes is unlikely to be chance
            if whole is not None or (len(images) > 1 and len(ids) == len(images) * len(outputs)):
                return pairs
    return None


def _cut(name: str, joint: str, outputs: set[str], whole: dict[str, str] | None) -> tuple[str, str] | None:
    place = name.find(joint)
    while place >= 0:
        image, kind = name[:place], name[place + len(joint) :]
        if kind in outputs and image and (whole is None or image in whole):
            return (image if whole is None else whole[image]), kind
        place = name.find(joint, place + 1)
    return None


def _classes_asked(sample: pd.DataFrame, id_column: str, known: list[str] | None) -> list[str]:
    """The classes of the sample's rows, under any name: from a column beside repeated ids, or from the ends
    of the ids. Empty if a row is an image."""
    ids = sample[id_column]
    if ids.duplicated().any():
        beside = [c for c in sample.columns if c != id_column and not sample.duplicated([id_column, c]).any()]
        return sample[beside[0]].unique().tolist() if beside else []
    whole = set(known or ()) | {_stem(name) for name in known or ()}
    if whole.issuperset(ids):
        return []
    for joint in JOINTS:
        ends = [_behind(name, joint, whole) for name in ids]
        if all(ends):
            return list(dict.fromkeys(ends))
    return []


def _behind(name: str, joint: str, whole: set[str]) -> str:
    """The class of an id such as `<image>_<class>`, or ""."""
    parts = name.split(joint)
    return next((joint.join(parts[n:]) for n in range(1, len(parts)) if joint.join(parts[:n]) in whole), "")


def _check_once(pairs: list[tuple[str, str]], id_column: str, path: Path) -> None:
    twice = pd.Series(pairs).duplicated().to_numpy()
    if twice.any():
        row = int(twice.argmax())
        raise UserError(
            f"{path}, row {line_of(path, row)}: `{id_column}` {pairs[row][0]!r} with class "
            f"{pairs[row][1]!r} stands there already ({int(twice.sum())} such row(s)); every pair should "
            f"stand once"
        )


def _check_named(asked: list[str], outputs: list[str], config: Config, path: Path) -> None:
    if len(asked) > 1:
        files = "name them so in data.mask_classes, in the order of the masks' values"
        runs = (
            f"data.long={config.data.long} should be the column of {config.data.train_csv} with these names"
        )
        raise UserError(
            f"{path}: its rows are about {', '.join(asked[:6])}, the masks' classes are called "
            f"{', '.join(outputs[:6])}; {files if config.data.rle is None else runs}"
        )


def _answers(cells: pd.Series, outputs: list[str], separator: str, config: Config) -> int:
    """The largest number of answers in a cell if cells hold several, else 0."""
    most = max((len(labels_of(cell, separator)) for cell in cells), default=0)  # a sample may have no rows
    if config.task.name == "retrieval":
        return max(1, most)
    if config.task.name == "multilabel":
        return 0 if cells.name in outputs else max(1, most)
    if config.task.name == "multiclass" and most > 1:
        known = set(outputs)
        several = all(cell not in known and set(labels_of(cell, separator)) <= known for cell in cells)
        return most if several else 0
    return 0


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
