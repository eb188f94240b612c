"""Cross-validation folds: assign each training row to a fold, and write `folds.csv` once for all later
stages.

No later stage recomputes the folds: another scikit-learn version gives different folds for the same seed.
Besides `fold` the file has a column `stop`. Among the training rows of fold k, those with `stop == k % parts`
are the early-stopping split, so the validation rows of a fold decide nothing and its score is unbiased.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import Step, write_csv, write_json, write_text
from src.config import Config, CrossValidation, UserError
from src.data.classes import targets_of
from src.data.domain import undefined_notes
from src.data.hamming import near_pairs
from src.data.identities import assign_identities
from src.data.summary import summarize
from src.data.tables import Tables
from src.reading import read_parquet
from src.tasks.base import Task, as_target_columns

BLANK = 1.0  # standard deviation of a thumbnail, of 255: below it the image counts as blank
DENSE = 20_000_000  # groups times classes: scikit-learn searches a table of this size for each group
ALIKE = 6.0  # mean difference of two thumbnails, of 255: above JPEG noise, below two different photographs


def build_folds(
    step: Step, config: Config, tables: Tables, targets: pd.DataFrame, task: Task, cache: Path
) -> None:
    """Write folds.csv, dataset.json and summary.md."""
    index = read_parquet(cache / "index.parquet")
    alike = duplicate_groups(index, config.data.near_duplicates)
    of_train = alike[(index["set"] == "train").to_numpy()]
    column = None if config.data.group is None else tables.train[config.data.group]
    groups = _kept_together(of_train, column, config.cv.n_folds)
    folds, stop = parts_of(config, task, task.strata(targets), groups)
    table = pd.DataFrame(
        {"id": tables.train[config.data.id], "fold": folds, "stop": stop, "group": groups}
    ).join(as_target_columns(targets))
    write_csv(step.folder / "folds.csv", table)
    description = task.describe(targets)
    write_json(step.folder / "dataset.json", {"task": task.name, "n_folds": config.cv.n_folds, **description})
    encoded = None if task.kind == "rankings" else targets_of(task, targets, description["outputs"])
    summary = summarize(table, index, alike, encoded, description, large_group(groups, column, config.cv))
    if task.kind == "numbers":
        truth = task.truth(targets, outputs := description["outputs"])
        notes = undefined_notes(config, task, truth, outputs, folds, stop)
        summary += "".join(f"{line}\n" for line in (["", *notes] if notes else []))
    write_text(step.folder / "summary.md", summary)
    step.done()
    print(summary)


def large_group(groups: np.ndarray, column: pd.Series | None, cv: CrossValidation) -> list[str]:
    """A summary line about the largest group of rows (N,) if it is larger than a fold; the folds are then of
    unequal size."""
    counts = np.bincount(groups)
    rows, fold = int(counts.max()), len(groups) / cv.n_folds
    if rows <= fold:
        return []
    said = f"- the largest group holds {rows:,} of {len(groups):,} rows, more than a fold of {fold:,.0f}"
    if column is None:
        return [f"{said}: look-alikes in a chain; look at data.near_duplicates, or lower cv.n_folds"]
    values = column[groups == counts.argmax()].value_counts()
    return [
        f"{said}: {values.iloc[0]:,} have `{column.name}` {values.index[0]!r}; if that means no group, give "
        f"each such row a value of its own in a copy of the file, named in data.train_csv, or lower "
        f"cv.n_folds"
    ]


def parts_of(
    config: Config, task: Task, strata: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) fold numbers and (N,) early-stopping parts, for rows with these strata and groups (N,)."""
    if task.kind == "rankings":
        new = config.cv.new_share if config.data.new_label is not None else 0.0
        return tuple(
            assign_identities(strata, groups, n, config.cv.seed + i, new)
            for i, n in enumerate((config.cv.n_folds, config.cv.stop_parts))
        )
    # With fewer groups than early-stopping parts the split ignores the groups. It only decides when to stop.
    enough = len(np.unique(groups)) >= config.cv.stop_parts
    rows = groups if enough else np.arange(len(groups))
    folds = assign(config.cv.kind, strata, groups, config.cv.n_folds, config.cv.seed)
    stop = assign(config.cv.kind, strata, rows, config.cv.stop_parts, config.cv.seed + 1, key="cv.stop_parts")
    return folds, stop


def assign(
    kind: str, strata: np.ndarray, groups: np.ndarray, n: int, seed: int, key: str = "cv.n_folds"
) -> np.ndarray:
    """k-fold assignment: (N,) part numbers 0 to n-1. Rows of one group always share a part (group k-fold).

    `strata` is (N,) classes (stratified k-fold of scikit-learn) or (N, L) binary labels (iterative
    stratification: Sechidis, Tsoumakas, Vlahavas 2011, On the Stratification of Multi-label Data). Raises
    `UserError` naming `key` when there are too few groups for `n` parts.
    """
    n_groups = len(np.unique(groups))
    grouped = n_groups < len(groups)
    hint = (
        ", or look at data.near_duplicates: -1 groups nothing by its looks" if n_groups < len(groups) else ""
    )
    if n_groups < n:
        raise UserError(f"{key}={n}: there are only {n_groups} groups of rows to share out; lower it{hint}")
    stratified = kind in ("stratified", "stratified_group")
    classes = len(np.unique(strata)) if strata.ndim == 1 else 0
    if stratified and grouped and (strata.ndim == 2 or n_groups * classes > DENSE):
        parts = share_out_groups(strata, groups, n, seed)
    else:
        splitter = _splitter(strata, stratified, grouped, n, seed)
        if grouped:  # GroupKFold takes no seed before scikit-learn 1.6
            groups = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
        parts = np.full(len(strata), -1)
        with warnings.catch_warnings():  # a class with fewer rows than parts: `check_rare` reports it
            warnings.simplefilter("ignore", UserWarning)
            for part, (_, rows) in enumerate(splitter.split(np.zeros(len(strata)), strata, groups)):
                parts[rows] = part
    if len(np.unique(parts)) < n:
        raise UserError(f"{key}={n}: the groups are too few or too large to fill every fold; lower it")
    return parts


def _splitter(strata: np.ndarray, stratified: bool, grouped: bool, n: int, seed: int) -> Any:
    """The splitter of scikit-learn or iterstrat for this kind of target and groups."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if strata.ndim == 2 and stratified:
        return MultilabelStratifiedKFold(n, shuffle=True, random_state=seed)
    # scikit-learn refuses to stratify if no class has a row for every part
    if stratified and np.unique(strata, return_counts=True)[1].max() >= n:
        return (StratifiedGroupKFold if grouped else StratifiedKFold)(n, shuffle=True, random_state=seed)
    return GroupKFold(n) if grouped else KFold(n, shuffle=True, random_state=seed)


def share_out_groups(labels: np.ndarray, groups: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Stratified group k-fold for (N, L) labels or (N,) classes: (N,) part numbers. Groups are assigned from
    the largest to the smallest, each to the part that lacks its labels most.

    It is the greedy method of scikit-learn's StratifiedGroupKFold, extended to several labels and to the row
    count, and without the dense table of groups by classes.
    """
    from scipy.sparse import coo_array, csr_array

    keys, place = np.unique(groups, return_inverse=True)
    if labels.ndim == 1:
        rows, columns = np.arange(len(labels)), np.unique(labels, return_inverse=True)[1]
    else:
        rows, columns = labels.nonzero()
    sizes, last = np.bincount(place), columns.max(initial=-1) + 1  # the row count is the last column
    rows, columns = (
        np.concatenate(pair)
        for pair in ((place[rows], np.arange(len(keys))), (columns, np.full(len(keys), last)))
    )
    counts = np.concatenate([np.ones(len(rows) - len(keys)), sizes])
    wealth = csr_array(coo_array((counts, (rows, columns)), shape=(len(keys), last + 1)))
    share = wealth.multiply(1 / np.maximum(wealth.sum(0), 1)).tocsr()  # as a share of all rows with the label
    order = np.random.default_rng(seed).permutation(len(keys))
    order = order[np.argsort(-sizes[order], kind="stable")]
    held, part = np.zeros((n, last + 1)), np.zeros(len(keys), dtype=np.int64)
    for group in order:
        mine = slice(share.indptr[group], share.indptr[group + 1])
        at, value = share.indices[mine], share.data[mine]
        part[group] = np.argmin(held[:, at] @ value)
        held[part[group], at] += value
    return part[place]


def check_rare(counts: dict[str, int], cv: CrossValidation, path: Path) -> None:
    """Raise `UserError` for a class or label with fewer rows than folds, unless `cv.allow_rare`."""
    if cv.kind not in ("stratified", "stratified_group") or cv.allow_rare:
        return
    rare = sorted((count, label) for label, count in counts.items() if count < cv.n_folds)
    if rare:
        count, label = rare[0]
        raise UserError(
            f"{path}: class {label!r} has {count} row(s), fewer than cv.n_folds={cv.n_folds} "
            f"({len(rare)} such class(es)); lower cv.n_folds, merge the class, or set cv.allow_rare=true"
        )


def duplicate_groups(index: pd.DataFrame, bits: int) -> np.ndarray:
    """Duplicate and near-duplicate detection: (N,) group numbers. Rows share a group if their files are
    byte-identical or near-duplicates, directly or through a chain.

    Near-duplicates have perceptual hashes (pHash) that differ in at most `bits` of 64 bits, and similar
    thumbnails; with -1 neither kind is searched for. Blank images join no groups: a black tile in every scan
    would chain all scans into one group, although it carries no information.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(index)
    if bits < 0:
        return np.arange(n)
    whole = np.stack([np.frombuffer(t, np.uint8) for t in index["thumbnail"].to_numpy()])
    blank = whole.std(1) < BLANK
    first = pd.Series(np.arange(n)).groupby(index["content"].to_numpy()).transform("min").to_numpy()
    first = np.where(blank, np.arange(n), first)
    unique = np.flatnonzero((first == np.arange(n)) & ~blank)
    hashes = index["phash"].to_numpy()[unique]
    left, right = near_pairs(hashes, bits)
    alike = _thumbnails_agree(whole[unique], left, right)
    left, right = left[alike], right[alike]
    rows = np.concatenate([np.arange(n), unique[left]])
    columns = np.concatenate([first, unique[right]])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _thumbnails_agree(thumbnails: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(pairs,) whether two thumbnails look the same. Works in blocks, because a thousand black frames make
    half a million pairs."""
    agree = np.zeros(len(left), dtype=bool)
    for start in range(0, len(left), 2**15):
        block = slice(start, start + 2**15)
        difference = np.abs(
            thumbnails[left[block]].astype(np.int16) - thumbnails[right[block]]
        )  # (pairs, pixels)
        agree[block] = difference.mean(1) <= ALIKE
    return agree


def _kept_together(alike: np.ndarray, column: pd.Series | None, parts: int) -> np.ndarray:
    """(N,) groups of rows that must share a fold: duplicates, equal values of the group column, and chains of
    both.

    If duplicates would chain the column's groups into too few groups for the folds, only the group column is
    used. The competitor chose that column, while some images (an empty corner of a board) look alike by
    chance.
    """
    groups = merge_groups(alike, column)
    if column is None or len(np.unique(groups)) >= min(parts, column.nunique()):
        return groups
    print(f"look-alikes span the groups of `{column.name}`: they are left apart, the column decides")
    return pd.factorize(column)[0]


def merge_groups(alike: np.ndarray, column: pd.Series | None) -> np.ndarray:
    """(N,) groups 0, 1, ...: rows that share a duplicate group or a value of the group column, directly or
    through a chain."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(alike)
    keys = [pd.factorize(alike)[0]]
    if column is not None:
        keys.append(pd.factorize(column)[0])
    rows, columns, offset = [], [], n
    for key in keys:  # bipartite graph: rows on one side, key values on the other
        rows.append(np.arange(n))
        columns.append(key + offset)
        offset += key.max() + 1
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(offset, offset))
    return pd.factorize(connected_components(graph, directed=False)[1][:n])[0]
