"""Extra features of a stack: columns of the competition's tables, and the image size.

They are not predictions and contain no labels, so they need no care across folds. Text columns become
category codes. Applying stored features needs only numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.config import Config, UserError

OF_IMAGE = ("height", "width", "aspect")  # height and width of the file in pixels; aspect is width / height
_MOST = 1000  # maximum number of categories of a column


@dataclass(frozen=True)
class StackFeatures:
    """Feature names, and for each categorical column its categories in the order of their codes."""

    names: tuple[str, ...]
    words: dict[str, list[str]]

    @property
    def categories(self) -> tuple[int, ...]:
        """Indices of the categorical columns."""
        return tuple(i for i, name in enumerate(self.names) if name in self.words)

    def encode(self, table: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Encode values or text by column name as an (N, F) float64 array: numbers, or category codes. Empty
        and unknown values are NaN."""
        columns = []
        for name in self.names:
            text = [str(value).strip() for value in table[name]]
            if name in self.words:
                code = {word: float(i) for i, word in enumerate(self.words[name])}
                columns.append([code.get(value, np.nan) for value in text])
            else:
                columns.append([number(value) for value in text])
        return np.array(columns, np.float64).T.reshape(-1, len(self.names))

    def as_json(self) -> dict[str, Any]:
        """Names and categories."""
        return {"names": list(self.names), "words": self.words}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> StackFeatures:
        """Rebuild from the output of `as_json`."""
        return cls(tuple(stored["names"]), stored["words"])


def number(value: str) -> float:
    """The text as a float; NaN if it is not a number or not finite."""
    try:
        found = float(value)
    except ValueError:
        return np.nan
    return found if np.isfinite(found) else np.nan


def find_features(names: tuple[str, ...], columns: Mapping[str, Sequence[Any]], rows: int) -> StackFeatures:
    """Decide from the training rows which columns are numeric and which are categorical. Raises `UserError`
    for a categorical column with almost as many categories as rows, such as a name."""
    words = {}
    for name in names:
        known = [text for text in (str(value).strip() for value in columns[name]) if text]
        if all(number(text) == number(text) for text in known):
            continue
        words[name] = sorted(set(known))
        if len(words[name]) > min(_MOST, max(2, rows // 2)):
            raise UserError(
                f"stack.features: `{name}` holds {len(words[name]):,} different words in {rows:,} rows, such "
                f"as {words[name][0]!r}; a feature repeats itself, a name does not: take it out"
            )
    return StackFeatures(names, words)


def read_features(
    config: Config, ids: list[str], test_ids: list[str]
) -> tuple[StackFeatures, np.ndarray, np.ndarray]:
    """Read the features named in `stack.features` for these training and test rows: their description, (N, F)
    and (T, F). Raises `UserError` if one of the tables lacks a column."""
    from src.data.tables import read_table, read_test_table
    from src.rawfiles import raw_tables

    names, paths = config.stack.features, raw_tables(config)
    tables = {"train": read_table(paths["train"])}
    if "test" in paths:
        tables["test"] = read_test_table(paths["test"], config)
    found: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for name in names:
        there = [role for role, table in tables.items() if name in table.columns]
        if len(there) == 2:
            for role, wanted in (("train", ids), ("test", test_ids)):
                table = tables[role].drop_duplicates(config.data.id).set_index(config.data.id)
                found[role][name] = table[name].reindex(wanted, fill_value="").tolist()
        elif name in OF_IMAGE:
            for role, wanted in (("train", ids), ("test", test_ids)):
                found[role][name] = _of_image(config, role, wanted, name)
        else:
            _refuse(config, name, there, [*map(str, paths.values())])
    features = find_features(names, found["train"], len(ids))
    return features, features.encode(found["train"]), features.encode(found["test"])


def _refuse(config: Config, name: str, there: list[str], paths: list[str]) -> None:
    if there:
        lacking = "test" if there == ["train"] else "train"
        raise UserError(
            f"stack.features: `{name}` is a column of the {there[0]} table alone, the {lacking} rows have "
            f"none; take it out"
        )
    raise UserError(
        f"stack.features: `{name}` is no column of {paths[0]}, and not {', '.join(OF_IMAGE[:-1])} or "
        f"{OF_IMAGE[-1]} of the image"
    )


def _of_image(config: Config, role: str, ids: list[str], name: str) -> list[float]:
    """Height, width or aspect ratio of each row's image file, from the index of the image cache."""
    from src.reading import read_parquet
    from src.steps import images_step

    step = images_step(config)
    path = step.folder / "index.parquet"
    if not path.is_file():
        raise UserError(f"stack.features: `{name}` is read from {path}, which is not there; run `make folds`")
    index = read_parquet(path, ["set", "id", "height", "width"])
    index = index[index["set"] == role].astype({"id": str}).drop_duplicates("id").set_index("id").loc[ids]
    values = index["width"] / index["height"] if name == "aspect" else index[name]
    return values.astype(float).tolist()
