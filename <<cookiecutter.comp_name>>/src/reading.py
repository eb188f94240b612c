"""Readers of the project's own files; a damaged file is set aside as `<name>.unreadable`.

The error message says which command makes it again. Every decoder error becomes an `Unreadable`, so callers
need not know the errors of each format.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import UserError
from src.machine import memory_available

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

ASIDE = ".unreadable"  # suffix of a damaged file that was renamed
NUMBER = (int, float)
MAYBE = (int, float, type(None))  # a score; null if the metric is undefined
# Pattern of a file's path in a project, and the command that makes it again.
_MADE_BY = {
    r"runs/([^/]+)-round\d+/.+": "make pseudo EXP={0} ARGS=--force",
    r"runs/([^/]+)-(ablate|sweep)-[0-9a-f]{8}/.+": "make {1} EXP={0}",
    r"runs/([^/]+)/fold\d+/(oof|test|stop|blind|predict)\.[^/]+": "make oof EXP={0}",
    r"runs/([^/]+)/fold\d+/extra\.[^/]+": "make pseudo EXP={0}",
    r"runs/([^/]+)/fold\d+/.+": "make train oof EXP={0}",
    r"runs/([^/]+)/pseudo\.[^/]+": "make pseudo EXP={0}",
    r"runs/([^/]+)/[^/]+": "make oof EXP={0}",
    r"stacks/[^/]+/[^/]+": "make stack",
    r"ablations/([^/]+)/[^/]+": "make ablate EXP={0}",
    r"sweeps/([^/]+)/[^/]+": "make sweep EXP={0}",
    r"submissions/[^/]+": "make submit",
    r"kaggle/bundle/.+": "make bundle",
    r"data/(?:[^/]+|cache/.+)": "make folds",
}


class Unreadable(UserError):
    """A file of the project that is missing, damaged or of an unexpected structure."""


def made_by(path: Path) -> str:
    """Advice on how to make the file again, from its path in the project."""
    place = Path(os.path.abspath(path)).as_posix()
    for pattern, command in _MADE_BY.items():
        if found := re.search(f"/{pattern}$", place):
            return f"run `{command.format(*found.groups())}`, which makes it again"
    return "run the command that wrote it again"


def damaged(path: Path, why: str) -> Unreadable:
    """Set a file aside and return the error to raise: file, reason, and the command that makes it again."""
    aside = set_aside(path)
    return Unreadable(f"{path}: {why}{f'; set aside as {aside.name}' if aside else ''}; {made_by(path)}")


def set_aside(path: Path) -> Path | None:
    """Rename a file to `<name>.unreadable`; None if the folder cannot be written."""
    aside = path.with_name(path.name + ASIDE)
    try:
        os.replace(path, aside)
    except OSError:
        return None
    return aside


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Context manager: any decoder error on `path` becomes an `Unreadable`, and the file is set aside.

    System errors (permissions, a failing disk) become a `UserError` and leave the file in place.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise Unreadable(f"{path}: is not there; {made_by(path)}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
        raise damaged(path, f"cannot be read ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type if it has none."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return (str(error).strip().splitlines() or [""])[0][:200] or type(error).__name__


def read_json(path: Path, **fields: type | tuple[type, ...]) -> Any:
    """Read a JSON file of the project.

    `fields` maps required names to their types; with it, the file must contain an object with these.
    """
    with decoding(path):
        value = json.loads(path.read_text(encoding="utf-8"))
    if fields and not isinstance(value, dict):
        raise damaged(path, f"holds a {type(value).__name__} where an object should be")
    for name, kind in fields.items():
        if not isinstance(value.get(name, ...), kind):
            raise damaged(path, f"has no valid `{name}`")
    return value


def read_metrics(folder: Path, **fields: type | tuple[type, ...]) -> dict[str, Any]:
    """Read metrics.json of a run or a stack: its metric, its CV, and the extra `fields` as in `read_json`."""
    path = folder / "metrics.json"
    metrics = read_json(path, metric=str, cv=MAYBE, **fields)
    if not all(isinstance(score, MAYBE) for score in metrics.get("folds", ())):
        raise damaged(path, "has no valid `folds`")
    return metrics


def read_dataset(root: Path) -> dict[str, Any]:
    """Read data/dataset.json of the project at `root`: the task's outputs and a summary of the targets."""
    return read_json(root / "data" / "dataset.json", outputs=list)


def contents_in(path: Path) -> str | None:
    """The `contents` digest in a JSON file of stage 01; None if the file does not exist or is damaged."""
    if not path.is_file():
        return None
    try:
        return read_json(path, contents=str)["contents"]
    except Unreadable as error:
        print(error, flush=True)
        return None


def parquet_footer(path: Path, columns: list[str] | None = None) -> tuple[int, list[str]]:
    """Number of rows and column names from the footer of a parquet file; no data is read.

    Raises `Unreadable` if one of `columns` is missing, and `UserError` if the table would not fit into
    memory.
    """
    import pyarrow.parquet as pq

    with decoding(path):
        meta = pq.read_metadata(path)
        there = list(meta.schema.to_arrow_schema().names)
    rows, wanted = meta.num_rows, there if columns is None else columns
    if lost := [name for name in wanted if name not in there]:
        raise damaged(path, f"has no column {lost[0]!r}; there are {', '.join(there[:8])}")
    needed, free = 8 * max(rows, 0) * len(wanted), memory_available()
    if rows < 0 or (free is not None and needed > free):
        raise UserError(
            f"{path}: says that it has {rows:,} rows of {len(wanted)} columns, more than {free or 0:,} bytes "
            f"of free memory can hold; if that is not what it should have, remove it; {made_by(path)}"
        )
    return rows, there


def read_parquet(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a parquet table of the project, all of it or only `columns`; the footer is checked first."""
    import pandas as pd

    parquet_footer(path, columns)
    with decoding(path):
        return pd.read_parquet(path, columns=columns, engine="pyarrow", page_checksum_verification=True)


def read_csv(path: Path, columns: tuple[str, ...], **options: Any) -> pd.DataFrame:
    """Read a CSV table of the project that must have `columns` and rows; `options` go to pandas."""
    import pandas as pd

    with decoding(path):
        table = pd.read_csv(path, **options)
        if lost := [name for name in columns if name not in table]:
            there = ", ".join(map(str, table)) or "none"
            raise damaged(path, f"has no column {lost[0]!r}; there are {there}")
        if not len(table):
            raise damaged(path, "has no rows")
    return table


def read_array(path: Path, ndim: int) -> np.ndarray:
    """A .npy file of uint8 with `ndim` axes, memory-mapped."""
    import numpy as np

    with decoding(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.uint8 or array.ndim != ndim:
        raise damaged(path, f"holds {array.dtype} of shape {array.shape}, not uint8 of {ndim} axes")
    return array


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file."""
    from safetensors.torch import load_file

    with decoding(path):
        return load_file(path)


def read_architecture(path: Path) -> dict[str, Any]:
    """The architecture of a model, from the metadata of its safetensors file."""
    from safetensors import safe_open

    with decoding(path), safe_open(path, framework="pt") as file:
        values = json.loads((file.metadata() or {})["architecture"])
        return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
