"""Infer the roles of the files: the raw folder, the tables, the folders of images and masks, the image
sizes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from src.config import UserError
from src.data.decode import pillow
from src.data.masks import stored_values
from src.data.sniff.findings import Findings, first_few
from src.data.tables import IMAGE_SUFFIXES, read_table

MASK_WORDS = re.compile(r"mask|annotation|segment|ground_?truth", re.IGNORECASE)
LOOKED_AT = 200  # image headers read: enough for a median
MASKS_READ = 40
CLASSES_READ = 32  # a larger value is a brightness, not a class number
MOST_FOLDERS = 8  # listed one by one; more are one folder per class, and all of them are used
SIDES = (32, 384)  # suggested sizes: at least a network's stride, at most what a first experiment can afford


@dataclass
class RawImages:
    """Index of all images below the raw folder by the names that a table may use."""

    raw: Path
    images: list[str] = field(default_factory=list)  # paths below raw, with forward slashes
    by_name: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def below(cls, raw: Path) -> RawImages:
        files = cls(raw)
        seen: set[str] = set()  # a link may lead back to a folder above it
        for base, folders, names in os.walk(raw, followlinks=True):
            seen.add(os.path.realpath(base))
            folders[:] = sorted(f for f in folders if os.path.realpath(Path(base, f)) not in seen)
            for name in sorted(names):
                if name.lower().endswith(IMAGE_SUFFIXES):
                    path = Path(base, name).relative_to(raw).as_posix()
                    files.images.append(path)
                    for key in {name, PurePosixPath(name).stem}:
                        files.by_name.setdefault(key, []).append(path)
        return files

    def called(self, value: str) -> list[str]:
        """The images that a table value may mean: by name, or by path if the value contains one."""
        value = value.replace("\\", "/").removeprefix("./")
        found = self.by_name.get(value.rpartition("/")[2], [])
        if "/" in value:
            ends = [
                p for p in found if p.endswith(value) or str(PurePosixPath(p).with_suffix("")).endswith(value)
            ]
            return ends or ([] if len(found) > 1 else found)
        return found

    def share(self, values: Iterable[str], masks: bool = False) -> float:
        """The share of values that match an image."""
        values = list(values)
        return sum(any(self.is_mask(p) == masks for p in self.called(v)) for v in values) / max(
            1, len(values)
        )

    @staticmethod
    def is_mask(path: str) -> bool:
        return MASK_WORDS.search(path.rpartition("/")[0]) is not None

    def folders(
        self, values: Iterable[str], word: str, against: str, masks: bool = False
    ) -> tuple[list[str], str]:
        """The fewest folders that hold an image of every value, and a doubt if other folders hold them too.

        Among folders that hold the same images, one with `word` in its path is preferred and one with
        `against` is avoided.
        """
        hits = [[p for p in self.called(v) if self.is_mask(p) == masks] for v in values]
        hits = [paths for paths in hits if paths]
        chosen: list[str] = []
        others: list[str] = []
        while hits:
            inside = [{f for p in paths for f in _above(p)} for paths in hits]
            held = Counter(folder for folders in inside for folder in folders)
            if all(
                "/" in p for paths in hits for p in paths
            ):  # no single folder holds all: add folders one by one
                held.pop(".", None)
            best = _deepest(held, max(held.values()))
            best.sort(key=lambda f: (against in f.lower(), word not in f.lower(), len(f), f))
            same = [f for f in best[1:] if all(f in one for one in inside if best[0] in one)]
            others += [f for f in same if against not in f.lower()]
            chosen.append(best[0])
            hits = [paths for paths, one in zip(hits, inside, strict=True) if best[0] not in one]
        doubt = f"{first_few(others)} hold(s) images of the same names" if others else ""
        if len(chosen) > MOST_FOLDERS:
            return ["."], f"{first_few(sorted(chosen))} hold them"
        return sorted(chosen), doubt


def _above(path: str) -> list[str]:
    """All parent folders of a path; the raw folder is `.`."""
    return [str(parent) for parent in PurePosixPath(path).parents]


def _deepest(held: Counter[str], count: int) -> list[str]:
    """The folders that hold `count` images, without those that hold them only through a subfolder."""
    full = {folder for folder, number in held.items() if number == count}
    return [f for f in full if not any(f != g and (f == "." or g.startswith(f"{f}/")) for g in full)]


def find_raw(findings: Findings, root: Path, setting: str) -> Path:
    """The folder with the tables: `data.raw`, or the only subfolder with tables. Raises `UserError` if there
    is none."""
    raw = root / setting
    if not raw.is_dir():
        raise UserError(f"{raw}: there is no such folder; put Kaggle's files there, or set data.raw")
    if not _tables_in(raw):
        below = sorted(
            p for p in raw.iterdir() if p.is_dir() and not p.name.startswith(".") and _tables_in(p)
        )
        if not below:
            archives = sorted(p.name for p in raw.glob("*.zip"))
            what = f"only archives ({first_few(archives)}): unpack them first" if archives else "no CSV file"
            raise UserError(
                f"{raw}: there is {what}; Kaggle's files belong there, such as {raw / 'train.csv'}"
            )
        doubt = f"{first_few(p.name for p in below[1:])} hold(s) tables too" if len(below) > 1 else None
        findings.settle(
            "data.raw", f"{setting.rstrip('/')}/{below[0].name}", "the tables lie one folder down", doubt
        )
        return below[0]
    findings.settle("data.raw", setting, "the tables lie here")
    return raw


def _tables_in(folder: Path) -> list[str]:
    """Names of the CSV files, except files with hidden labels (solutions), which must not be read."""
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() == ".csv" and p.is_file())
    return [name for name in names if "solution" not in name.lower()]


def find_tables(findings: Findings, raw: Path, hidden: bool = False) -> dict[str, pd.DataFrame]:
    """Read the train, test and sample tables, identified by their names; the test table is optional. With
    `hidden`, test and sample may have no rows."""
    names = _tables_in(raw)
    patterns = {"sample": r"sample|submission", "test": r"test", "train": r"train"}
    found: dict[str, str | None] = {}
    for role, pattern in patterns.items():
        free = [name for name in names if name not in found.values()]
        fits = [name for name in free if re.search(pattern, name, re.IGNORECASE)]
        fits.sort(key=lambda name: (name != DEFAULTS[role], len(name), name))
        if not fits and role == "train" and free:
            fits = sorted(free, key=lambda name: (-(raw / name).stat().st_size, name))
            doubt = f"no table is called train; {first_few(free)} is what is left"
        else:
            sure = not fits or fits[0] == DEFAULTS[role] or len(fits) == 1
            doubt = None if sure else f"{first_few(fits[1:])} could be meant too"
        found[role] = fits[0] if fits else None
        if role != "test" and not fits:
            what = "train table" if role == "train" else "sample submission"
            raise UserError(f"{raw}: none of {first_few(names, 8)} is the {what}; set data.{role}_csv")
        why = (
            f"by its name, of {first_few(names, 6)}"
            if fits
            else "no table is called test: the sample lists the test rows"
        )
        found[role] = findings.settle(
            f"data.{role}_csv", found[role], why, doubt, lambda name: name is None or (raw / name).is_file()
        )
    there = {role: raw / name for role, name in found.items() if name is not None}
    tables = {role: read_table(path, hidden and role != "train") for role, path in there.items()}
    for role, table in tables.items():
        findings.note(f"{role} rows", f"{len(table):,}", f"columns {first_few(table.columns, 8)}")
    return tables


DEFAULTS = {"train": "train.csv", "test": "test.csv", "sample": "sample_submission.csv"}


def find_folders(findings: Findings, files: RawImages, role: str, names: list[str]) -> None:
    """Infer the image folder or folders of one role."""
    key, against = f"data.{role}_images", "test" if role == "train" else "train"
    held = files.share(names)
    folders, doubt = files.folders(names, role, against)
    if not folders:
        likely = sorted({f for p in files.images for f in _above(p)[:-1] if role in f.lower()}, key=len)
        guess = likely[0] if likely else f"{role}_images"
        findings.settle(
            key, guess, "by its name alone", "no image answers to any id; are all images unpacked?"
        )
        return
    guess = folders[0] if len(folders) == 1 else tuple(folders)
    why = f"images of {held:.0%} of the {role} rows lie there"
    if held < 1:
        doubt = "; ".join(filter(None, [doubt, f"{1 - held:.1%} of the rows have no image"]))

    def works(own: object) -> bool:
        own = [own] if isinstance(own, str) else list(own or ())
        inside = sum(any(set(_above(p)) & set(own) for p in files.called(name)) for name in names)
        return inside >= held * len(names)

    findings.settle(key, guess, why, doubt or None, works)


def find_masks(
    findings: Findings, files: RawImages, train: pd.DataFrame, names: list[str], id_column: str
) -> str | None:
    """The folder of mask images for the training rows, and the column that names them; None if there is
    none."""
    if not any(files.is_mask(path) for path in files.images):
        return None
    candidates = {None: names} | {c: train[c].tolist() for c in train.columns if c != id_column}
    stems = {c: [PurePosixPath(v).stem for v in values] for c, values in candidates.items()}
    shares = {c: max(files.share(candidates[c], True), files.share(stems[c], True)) for c in candidates}
    best = max(shares, key=lambda c: (round(shares[c], 3), c is None))
    if shares[best] < 0.5:
        return None
    whole = files.share(candidates[best], True) >= shares[best]
    folders, doubt = files.folders(candidates[best] if whole else stems[best], "train", "test", masks=True)
    if shares[best] < 1:
        doubt = "; ".join(filter(None, [doubt, f"{1 - shares[best]:.1%} of the rows have no mask"]))
    why = f"mask images of {shares[best]:.0%} of the train rows lie there"
    findings.settle(
        "data.train_masks", folders[0], why, doubt or None, lambda own: (files.raw / own).is_dir()
    )
    if best is not None:
        findings.settle("data.mask", best, f"it names a mask in {folders[0]}", works=lambda own: own in train)
    _note_masks(findings, files, folders[0])
    return folders[0]


def _note_masks(findings: Findings, files: RawImages, folder: str) -> None:
    """Note the coverage of the masks and their values: two values are background and one class."""
    import numpy as np

    inside = [p for p in files.images if folder in _above(p)]
    counts: Counter[float] = Counter()
    for path in inside[:: max(1, len(inside) // MASKS_READ)][:MASKS_READ]:
        try:
            values, _ = stored_values(files.raw / path)
        except UserError:  # stage 01 reports a broken file with its row
            continue
        counts.update(dict(zip(*(v.tolist() for v in np.unique(values, return_counts=True)), strict=True)))
    top = max(counts, default=0)
    if 2 <= top <= CLASSES_READ and all(value == int(value) for value in counts):
        findings.settle(
            "data.mask_classes",
            tuple(str(value) for value in range(1, int(top) + 1)),
            f"the masks hold the values {first_few([f'{v:g}' for v in sorted(counts)], 6)}",
            "give the classes their names",
            works=lambda own: own is not None and len(own) >= top,
        )
    total = sum(counts.values())
    shares = [f"{value:g}: {counts[value] / total:.1%}" for value in sorted(counts)]
    doubt = f"{len(counts)} values: soft edges, or an image and no mask" if len(counts) > 64 else None
    findings.note(
        "mask values", first_few(shares, 6), f"shares of the pixels of {MASKS_READ} masks at most", doubt
    )


def find_sizes(findings: Findings, files: RawImages, folders: str | tuple[str, ...]) -> None:
    """Note sizes, channels and depth from the headers of some training images, and suggest an image size."""
    folders = [folders] if isinstance(folders, str) else folders
    inside = [p for p in files.images if set(_above(p)) & set(folders) and not files.is_mask(p)]
    sizes, modes, broken = [], Counter(), 0
    for path in inside[:: max(1, len(inside) // LOOKED_AT)][:LOOKED_AT]:
        try:
            with pillow().open(files.raw / path) as image:
                sizes.append(image.size)
                modes[f"{image.format} {_KINDS.get(image.mode, image.mode)}"] += 1
        except Exception:  # stage 01 reports a broken file with its row
            broken += 1
    if not sizes:
        return
    kinds = ", ".join(f"{kind} ({count})" for kind, count in modes.most_common())
    trouble = f"{broken} of them cannot be opened" if broken else None
    findings.note("images", kinds, f"headers of {len(sizes)} of {len(inside):,} train images", trouble)
    table = pd.DataFrame(sizes, columns=["width", "height"])
    low, middle, high = (
        f"{q['width']:.0f}x{q['height']:.0f}" for q in (table.min(), table.median(), table.max())
    )
    findings.note("sizes", low if low == high else f"{low} to {high}", f"median {middle}")
    side = float(((table["width"] * table["height"]) ** 0.5).median())
    guess = int(min(max(round(side / 32) * 32, SIDES[0]), SIDES[1]))
    why = f"the multiple of 32 nearest to the median side, {side:.0f}"
    why += f", and {SIDES[1]} at most to begin with" if side > SIDES[1] + 16 else ""
    findings.settle("data.image_size", guess, why)


_KINDS = {
    "1": "black and white, 1 bit",
    "L": "grey, 8 bits",
    "P": "palette, 8 bits",
    "RGB": "RGB, 8 bits",
    "RGBA": "RGBA, 8 bits",
    "I": "grey, 16 or 32 bits",
    "I;16": "grey, 16 bits",
    "F": "grey, float",
}
