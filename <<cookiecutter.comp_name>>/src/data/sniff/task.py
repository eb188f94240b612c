"""Infer what is to be predicted: the task and the target columns, from the labels and the sample."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pandas as pd

from src.data.sniff.columns import TARGET_WORDS, candidates_for_target, sample_ids
from src.data.sniff.findings import first_few
from src.data.targets import labels_of

RLE_WORDS = re.compile(r"rle|encoded|pixels|mask|segment|annotation|run.?length", re.IGNORECASE)
CLASS_WORDS = re.compile(r"label|class|category|species|breed|kind|type|variety|digit", re.IGNORECASE)
GRADE_WORDS = re.compile(r"grade|stage|level|severity|degree|rating|isup|gleason|diagnosis", re.IGNORECASE)
NUMBER_WORDS = re.compile(
    r"count|number|^n_|^num|age|price|score|weight|height|amount|rate|ratio|density|volume|area|length|popularity|"
    r"biomass|yield|concentration|angle|distance",
    re.IGNORECASE,
)
SEPARATORS = (" ", ",", ";", "|")


@dataclass
class Answer:
    """The inferred task and target. `others` are tasks that also fit the files; a competitor who chose one
    keeps it."""

    task: str
    why: str
    targets: list[str] = field(default_factory=list)
    why_targets: str = ""
    unsure: str | None = None
    unsure_targets: str | None = None
    others: tuple[str, ...] = ()
    separator: str | None = None
    long: str | None = None
    rle: str | None = None
    new_label: str | None = None
    ordinal: bool = False


def find_answer(
    tables: dict[str, pd.DataFrame], key: str, image: str | None, masks: str | None, own: object
) -> Answer:
    """Infer the task and its target; `own` is the target the competitor chose, used if it is in train."""
    train, sample = tables["train"], tables["sample"]
    asked = [c for c in sample.columns if c != sample_ids(tables, key)]
    runs = [c for c in train.columns if c not in (key, image) and _holds_runs(train[c])]
    wants_runs = any(
        RLE_WORDS.search(c) or _holds_runs(sample[c], named=False) or (sample[c] == "").all() for c in asked
    )
    if runs or (masks is not None and (wants_runs or not asked)):
        return _segmentation(train, key, runs, masks, asked, wants_runs)
    columns, why = candidates_for_target(tables, key, image)
    own = [own] if isinstance(own, str) else list(own) if own else []
    theirs = bool(own) and set(own) <= set(train.columns)
    if train[key].duplicated().any():
        return _long(train, key, own if theirs else columns)
    if len(columns) > 1 and why.startswith(("in train", "what train")):
        columns, doubt = _pick(train, columns)
    else:
        doubt = None
    if theirs and own != columns:
        columns, why, doubt = own, "as you set it", None
    if not columns:
        return Answer(
            "multiclass", "nothing says what is asked for", unsure="no column of train is left to predict"
        )
    answer = (_several if len(columns) > 1 else _one)(train, columns, sample, asked)
    answer.why_targets, answer.unsure_targets = why, doubt
    if masks is not None:
        answer.unsure = "; ".join(
            filter(None, [answer.unsure, f"there are masks in {masks}, so segmentation"])
        )
        answer.others = (*answer.others, "segmentation")
    return answer


def _segmentation(train, key, runs, masks, asked, wants_runs) -> Answer:
    """Segmentation with mask files, or with run-length masks in a column."""
    answer = Answer("segmentation", "", rle=None if masks else runs[0])
    where = f"masks in {masks}" if masks else f"`{runs[0]}` holds run lengths"
    answer.why = f"{where}, and the sample asks for run lengths" if wants_runs else where
    if not wants_runs:
        answer.unsure = f"the sample's {first_few(asked) or 'columns'} do not look like run-length masks"
    if not masks and train[key].duplicated().any():
        others = [c for c in train.columns if c not in (key, runs[0]) and 1 < train[c].nunique() <= 100]
        answer.long = next((c for c in others if not train.duplicated([key, c]).any()), None)
    return answer


def _holds_runs(values: pd.Series, named: bool = True) -> bool:
    """Whether a column holds run lengths: `start length` pairs, each start after the end of the previous
    run."""
    cells = values[~values.str.strip().isin(["", "-1"])].head(50)
    if named and RLE_WORDS.search(str(values.name)) is None and cells.str.len().median() < 40:
        return False
    good = 0
    for cell in cells:
        if not re.fullmatch(r"\d+ \d+( \d+ \d+)*", cell.strip()):
            return False
        numbers = [int(n) for n in cell.split()]
        ends = [s + n for s, n in zip(numbers[::2], numbers[1::2], strict=True)]
        good += all(start >= end for start, end in zip(numbers[2::2], ends, strict=False))
    return len(cells) > 0 and good >= 0.9 * len(cells)


def _long(train: pd.DataFrame, key: str, columns: list[str]) -> Answer:
    """Long format, one row per id-class pair: the class is the column that distinguishes the rows of an
    id."""
    rest = [c for c in train.columns if c != key]
    classes = [
        c for c in rest if not train.duplicated([key, c]).any() and train[c].nunique() < len(train) / 2
    ]
    if not classes:
        doubt = f"`{key}` repeats in train, and no column tells the rows of an id apart"
        return Answer("multilabel", "an id has several rows", columns[:1], "a guess", unsure=doubt)
    kind = min(classes, key=lambda c: (_zero_one(train[c]), train[c].nunique()))
    values = [c for c in rest if c != kind and _numbers(train[c]) and c in {*columns, *rest[-1:]}]
    why = f"an id has several rows, told apart by `{kind}` ({train[kind].nunique()} classes)"
    if not values:
        return Answer(
            "multilabel", f"{why}; a listed pair means yes", [kind], "there is no value beside it", long=kind
        )
    target = values[0]
    task = "multilabel" if _zero_one(train[target]) else "regression"
    doubt = None if task == "multilabel" else f"`{target}` holds numbers beyond 0 and 1"
    return Answer(
        task, why, [target], f"its value for each `{kind}`", doubt, long=kind, others=("multilabel",)
    )


def _pick(train: pd.DataFrame, columns: list[str]) -> tuple[list[str], str | None]:
    """Choose among columns that are only in train: all 0/1 columns, otherwise the one with a target-like
    name."""
    flags = [c for c in columns if _zero_one(train[c])]
    if len(flags) > 1:
        rest = [c for c in columns if c not in flags]
        return flags, f"{first_few(rest)} is not in test either" if rest else None
    repeats = [c for c in columns if train[c].nunique() < len(train)] or columns
    best = next((c for c in repeats if TARGET_WORDS.search(c)), repeats[0])
    return [best], f"{first_few([c for c in columns if c != best])} is not in test either"


def _several(train: pd.DataFrame, columns: list[str], sample: pd.DataFrame, asked: list[str]) -> Answer:
    """Several target columns: one per label, or one per number."""
    if all(_zero_one(train[c]) for c in columns):
        ones = train[columns].apply(pd.to_numeric).sum(axis=1)
        if (ones == 1).all():
            why = f"{len(columns)} columns of 0 and 1, exactly one 1 a row"
            return Answer(
                "multiclass",
                why,
                columns,
                unsure="multilabel if test rows may have several, or none",
                others=("multilabel",),
            )
        return Answer(
            "multilabel", f"{len(columns)} columns of 0 and 1; {ones.mean():.2f} ones a row", columns
        )
    if all(_numbers(train[c]) for c in columns):
        values = train[columns].apply(pd.to_numeric)
        shares = bool(((values >= 0) & (values <= 1)).all().all())
        doubt = "all lie from 0 to 1: shares of votes, perhaps" if shares else None
        return Answer("regression", f"{len(columns)} columns of numbers", columns, unsure=doubt)
    doubt = (
        f"the sample asks for several columns of classes ({first_few(columns)}); one model learns one of them"
    )
    best = max(columns, key=lambda c: train[c].nunique())
    answer = _one(train, [best], sample, asked)
    answer.unsure = "; ".join(filter(None, [answer.unsure, doubt]))
    return answer


def _one(train: pd.DataFrame, columns: list[str], sample: pd.DataFrame, asked: list[str]) -> Answer:
    """One target column: its values, its name and the sample's values decide the task."""
    name, values = columns[0], train[columns[0]]
    shown = sample[asked[0]] if len(asked) == 1 else None
    labels = set(values)
    if len(asked) > 1 and set(asked) >= labels:
        return Answer("multiclass", f"a column of the sample for each of its {len(labels)} values", columns)
    separator = _separator(values, shown, asked)
    if separator is not None:
        parts = {label for cell in labels for label in labels_of(cell, separator[0])}
        why = f"cells hold several of {len(parts)} labels, {separator[0]!r} between them"
        return Answer(
            "multilabel", why, columns, unsure=separator[1], separator=separator[0], others=("multiclass",)
        )
    answer = _identities(values, shown, columns)
    if answer is not None:
        return answer
    text = not _numbers(values) or any(re.fullmatch(r"0\d+", label) for label in labels)
    number_shown = shown is not None and _numbers(shown)
    if len(labels) == 2:
        return _two(labels, text, columns, number_shown)
    if text:
        rows = values.value_counts().median()
        doubt = (
            f"{len(labels)} classes of {rows:.0f} rows at the median: retrieval, perhaps"
            if len(labels) >= 100 and rows <= 10
            else None
        )
        return Answer(
            "multiclass", f"{len(labels)} different words", columns, unsure=doubt, others=("retrieval",)
        )
    return _numeric(name, values, shown, columns)


def _two(labels: set[str], text: bool, columns: list[str], number_shown: bool) -> Answer:
    low, high = sorted(labels)
    if {low, high} == {"0", "1"}:
        return Answer("binary", "two values, 0 and 1", columns)
    doubt = f"{high!r} counts as yes, the second in order"
    if text and not number_shown:
        why = f"two words, {low} and {high}, and the sample shows a word"
        return Answer(
            "multiclass", why, columns, unsure="binary if a probability is asked for", others=("binary",)
        )
    return Answer("binary", f"two values, {low} and {high}", columns, unsure=doubt, others=("multiclass",))


def _numeric(name: str, values: pd.Series, shown: pd.Series | None, columns: list[str]) -> Answer:
    """A numeric target: classes, grades or quantities."""
    numbers = pd.to_numeric(values)
    distinct = sorted(numbers.unique())
    shape = f"{len(distinct)} different numbers, {distinct[0]:g} to {distinct[-1]:g}"
    if (numbers % 1 != 0).any():
        return Answer("regression", f"{shape}, not all of them whole", columns)
    broken = shown is not None and _numbers(shown) and shown.str.contains(r"\.", regex=True).any()
    if broken and not values.str.contains(r"\.", regex=True).any():
        doubt = None if len(distinct) > 20 else "multiclass if they are classes"
        return Answer(
            "regression", f"{shape}; the sample shows decimals", columns, unsure=doubt, others=("multiclass",)
        )
    if len(distinct) <= 12 and distinct == list(range(int(distinct[0]), int(distinct[0]) + len(distinct))):
        if GRADE_WORDS.search(name):
            doubt = "ordinal, by its name; multiclass does not know that 3 lies between 2 and 4"
            return Answer(
                "regression",
                f"{shape}, in order",
                columns,
                unsure=doubt,
                others=("multiclass",),
                ordinal=True,
            )
        sure = CLASS_WORDS.search(name) is not None and NUMBER_WORDS.search(name) is None
        doubt = None if sure else "regression if the numbers are amounts or grades"
        why = f"{shape}{', called like a class' if sure else ''}"
        return Answer("multiclass", why, columns, unsure=doubt, others=("regression",))
    if CLASS_WORDS.search(name) and not NUMBER_WORDS.search(name):
        doubt = "regression if the numbers are amounts" if len(distinct) > 50 else None
        return Answer(
            "multiclass", f"{shape}, called like a class", columns, unsure=doubt, others=("regression",)
        )
    sure = NUMBER_WORDS.search(name) is not None or len(distinct) > 50
    doubt = None if sure else "multiclass if the numbers are names of classes"
    return Answer("regression", f"{shape}", columns, unsure=doubt, others=("multiclass",))


def _identities(values: pd.Series, shown: pd.Series | None, columns: list[str]) -> Answer | None:
    """Retrieval if the sample has a label for new identities, or several answers per row with few images per
    identity; otherwise None, or multiclass with several answers per row."""
    if shown is None:
        return None
    labels, counts = set(values), values.value_counts()
    tokens = {token for cell in shown.head(1000) for token in cell.split()}
    new = sorted(t for t in tokens - labels if re.match(r"(new|unknown|none)(_|$)", t, re.IGNORECASE))
    shape = f"{len(labels)} identities, {counts.median():.0f} images each at the median"
    if new:
        why = f"the sample answers {new[0]!r}, no label of train; {shape}"
        return Answer("retrieval", why, columns, new_label=new[0])
    whole = shown.isin(labels).all()
    answers = shown.head(1000).str.split().str.len().max()
    if answers > 1 and not whole and tokens <= labels:
        if counts.median() <= 20 and len(labels) >= 50:
            doubt = "multiclass if every test row is of a class in train"
            return Answer(
                "retrieval",
                f"{answers} answers a row in the sample; {shape}",
                columns,
                unsure=doubt,
                others=("multiclass",),
            )
        why = f"{len(labels)} classes, {answers} answers a row in the sample"
        return Answer("multiclass", why, columns, others=("retrieval",))
    return None


def _separator(values: pd.Series, shown: pd.Series | None, asked: list[str]) -> tuple[str, str | None] | None:
    """The separator between the labels of a cell, and a doubt; None if a cell holds one label.

    `healthy leaf` is one label: its words do not occur alone, and rarely with others.
    """
    cells = set(values)
    for separator in SEPARATORS:
        several = {cell for cell in cells if len(labels_of(cell, separator)) > 1}
        if not several:
            continue
        places: dict[str, int] = {}
        for cell in cells:
            for label in set(labels_of(cell, separator)):
                places[label] = places.get(label, 0) + 1
        mixed = sum(count > 1 for count in places.values()) / len(places)
        alone = sum(label in cells for label in places) / len(places)
        if set(asked) == set(places):
            return separator, None
        if mixed >= 0.8 and (alone >= 0.5 or len(cells) > len(places)):
            also = shown is not None and shown.str.contains(separator, regex=False).any()
            sure = also or alone >= 0.5
            return separator, None if sure else f"multiclass if {min(several)!r} is one label"
    return None


def _zero_one(values: pd.Series) -> bool:
    return set(values.unique()) <= {"0", "1", "0.0", "1.0"}


def _numbers(values: pd.Series) -> bool:
    return bool(pd.to_numeric(values, errors="coerce").notna().all())
