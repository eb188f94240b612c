"""Infer the roles of the columns: the id, the image name, the target, and the group column."""

from __future__ import annotations

import re

import pandas as pd

from src.data.sniff.files import RawImages
from src.data.sniff.findings import Findings, first_few

GROUP_WORDS = re.compile(
    r"patient|subject|board|group|study|series|case|user|camera|photographer|location|scene|slide|specimen|"
    r"plot|field|session|video|clip|sequence|donor|batch|hospital|center|centre|institution|device|farm|cluster|"
    r"site",
    re.IGNORECASE,
)
TARGET_WORDS = re.compile(r"target|label|class|category|species|diagnosis|score|count|^y$", re.IGNORECASE)


def find_id(findings: Findings, tables: dict[str, pd.DataFrame], files: RawImages) -> str:
    """The id column: in every table, and unique if a row is an image."""
    train, sample, test = tables["train"], tables["sample"], tables.get("test")
    every = [c for c in train.columns if c in sample.columns and (test is None or c in test.columns)]
    narrow = sample if test is None else test
    unique = [c for c in every if not narrow[c].duplicated().any()]
    pool = unique or every
    why = f"in {'train and sample' if test is None else 'train, test and sample'}"
    if not pool and test is not None:  # the sample's ids may be pairs: <image>_<class>
        pool = [c for c in train.columns if c in test.columns and not test[c].duplicated().any()]
        why = "in train and test"
    if not pool:
        pool, why = list(train.columns), "its values name images"
    shares = {c: round(files.share(train[c].head(500)), 2) for c in pool}
    guess = max(pool, key=lambda c: (shares[c], -pool.index(c)))
    others = [c for c in pool if c != guess and shares[c] >= shares[guess] and shares[guess] > 0]
    doubt = f"{first_few(others)} would do as well" if others else None
    if why.startswith("its values") and shares[guess] < 0.95:
        doubt = f"no column is in every table, and only {shares[guess]:.0%} of its values name an image"
    if guess in unique:
        why += ", no value twice"
    if shares[guess] >= 0.95:
        why += ", names images" if "images" not in why else ""
    return findings.settle(
        "data.id", guess, why, doubt, lambda own: own in train and (own in narrow or own in sample)
    )


def find_image(findings: Findings, train: pd.DataFrame, files: RawImages, key: str) -> str | None:
    """The column that names the image, if the id does not."""
    shares = {c: files.share(train[c].head(500)) for c in train.columns}
    others = [c for c in train.columns if c != key and shares[c] > max(shares[key], 0.5)]

    def works(own: str | None) -> bool:
        return (own or key) in shares and shares[own or key] >= max(shares.values())

    if shares[key] >= 0.95 or not others:
        why = f"the id names the image in {shares[key]:.0%} of the rows"
        doubt = (
            None if shares[key] >= 0.95 else "no column names an image in every row; are all images unpacked?"
        )
        return findings.settle("data.image", None, why, doubt, works)
    guess = max(others, key=lambda c: shares[c])
    return findings.settle(
        "data.image", guess, f"its values name images ({shares[guess]:.0%}), the id's do not", None, works
    )


def sample_ids(tables: dict[str, pd.DataFrame], key: str) -> str:
    """The sample's id column: the one named like the id, or the first column."""
    sample = tables["sample"]
    return key if key in sample.columns else str(sample.columns[0])


def candidates_for_target(
    tables: dict[str, pd.DataFrame], key: str, image: str | None
) -> tuple[list[str], str]:
    """The training columns that may be the target (only the most certain kind), and the reason."""
    train, sample, test = tables["train"], tables["sample"], tables.get("test")
    free = [c for c in train.columns if c not in (key, image)]
    asked = [c for c in sample.columns if c != sample_ids(tables, key)]
    named = [c for c in asked if c in free]
    if named:
        return named, "the sample asks for it" if len(named) == 1 else "the sample asks for them"
    hidden = free if test is None else [c for c in free if c not in test.columns]
    holding = [c for c in hidden if len(asked) > 1 and set(asked) <= set(train[c])]
    if holding:
        return holding[:1], "its values are the sample's columns"
    why = "in train, not in test" if test is not None else "what train has beside the id"
    return hidden, why


def find_group(findings: Findings, tables: dict[str, pd.DataFrame], taken: list[str | None]) -> str | None:
    """The group column: its values repeat, look like names, and differ between train and test."""
    train, test = tables["train"], tables.get("test")
    marks: dict[str, tuple[int, list[str]]] = {}
    for column in train.columns:
        if (
            column not in taken
            and 1 < train[column].nunique() <= 0.8 * len(train)
            and (train[column] != "").all()
        ):
            marks[column] = _looks_like_a_group(
                column, train[column], None if test is None else test.get(column)
            )
    fits = sorted((c for c in marks if marks[c][0] >= 2), key=lambda c: -marks[c][0])
    maybe = sorted((c for c in marks if marks[c][0] == 1), key=lambda c: -train[c].nunique())

    def works(own: str | None) -> bool:
        return own in train.columns or (own is None and not fits)

    if not fits:
        doubt = f"{first_few(maybe)} repeat(s): name it if its rows belong together" if maybe else None
        return findings.settle("data.group", None, "no column looks like one", doubt, works)
    best, values = fits[0], train[fits[0]].nunique()
    sure = marks[best][0] >= 3 and len(fits) == 1
    doubt = (
        None if sure else f"it only {' and '.join(marks[best][1])}; null if its rows do not belong together"
    )
    if len(fits) > 1:
        doubt = f"{first_few(fits[1:])} could be meant too"
    why = f"{values} values in {len(train):,} rows; {', '.join(marks[best][1])}"
    return findings.settle("data.group", best, why, doubt, works)


def _looks_like_a_group(name: str, values: pd.Series, other: pd.Series | None) -> tuple[int, list[str]]:
    """A score from 0 to 4 for a group column, and the reasons."""
    marks, reasons = 0, []
    if GROUP_WORDS.search(name):
        marks, reasons = 2, ["is called like one"]
    distinct = pd.Series(values.unique())
    if distinct.str.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])[\w.-]{3,}").mean() > 0.8:
        marks, reasons = marks + 1, [*reasons, "holds names with numbers"]
    if other is not None and marks and not set(other) <= set(values):
        marks, reasons = marks + 1, [*reasons, "has values in test that train has not"]
    return marks, reasons


def note_the_rest(findings: Findings, tables: dict[str, pd.DataFrame], used: list[str | None]) -> None:
    """Note the columns that no key names."""
    train, test = tables["train"], tables.get("test")
    extra = [c for c in train.columns if c not in used]
    both = [c for c in extra if test is not None and c in test.columns]
    if both:
        findings.note("extra columns", first_few(both, 8), "in train and test; no model looks at them")
    lost = [c for c in extra if c not in both]
    if lost:
        findings.note("train only", first_few(lost, 8), "not in test, not asked for: of no use to a model")
