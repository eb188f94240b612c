"""Search for the test images of a mounted competition: in the configured folders, else anywhere below it.

A hidden test set may use another folder name, deeper folders or another file type than the local one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from src.config import Data
from src.data.tables import IMAGE_SUFFIXES, files_by_name


def find_test_images(names: Sequence[str], mount: Path, data: Data) -> list[Path | None]:
    """The file of each image name, or None: in the folders of `data.test_images`, else in any folder without
    training images."""
    folders = test_folders(mount, data)
    files = files_by_name(names, [folder for folder in folders if folder.is_dir()])
    lost = [row for row, file in enumerate(files) if file is None]
    if not lost:
        return files
    elsewhere = search([names[row] for row in lost], mount, data)
    for row, file in zip(lost, elsewhere, strict=True):
        files[row] = file
    where = Counter(str(file.parent.relative_to(mount)) for file in elsewhere if file is not None)
    if where:
        place, images = where.most_common(1)[0]
        print(
            f"test: {len(lost):,} of {len(names):,} images are not in "
            f"{' or '.join(folder.name for folder in folders)}; {where.total():,} of them were found "
            f"elsewhere ({images:,} in {place})",
            flush=True,
        )
    return files


def search(names: Sequence[str], mount: Path, data: Data) -> list[Path | None]:
    """The file of each image name anywhere below the mount, except in training folders; None if ambiguous.

    Of several files, the one in a folder named as in the config is preferred, then the one in the folder that
    contains most of the names.
    """
    own = {part.lower() for folder in test_folders(mount, data) for part in folder.relative_to(mount).parts}
    by_stem: dict[str, list[Path]] = {}
    for file in image_files(mount, data):
        by_stem.setdefault(file.stem.lower(), []).append(file.relative_to(mount))
    options = [_answers(name, by_stem, own) for name in names]
    votes = Counter(root for several in options for root in set(several.values()))

    def rank(root: Path) -> tuple[bool, bool, int, int]:
        parts = [part.lower() for part in root.parts]
        return not own.isdisjoint(parts), any("test" in part for part in parts), votes[root], -len(parts)

    found: list[Path | None] = []
    for several in options:
        best = max(map(rank, several.values()), default=None)
        files = [file for file, root in several.items() if rank(root) == best]
        found.append(mount / files[0] if len(files) == 1 else None)
    return found


def _answers(name: str, by_stem: dict[str, list[Path]], own: set[str]) -> dict[Path, Path]:
    """The files that may match a name, each with the folder that it is looked up from.

    Extension and case are ignored. A file matches if its path ends in the name, without the configured
    folders before it.
    """
    path = PurePosixPath(name.lower().replace("\\", "/").lstrip("/"))
    if path.name.endswith(IMAGE_SUFFIXES):
        path = path.with_suffix("")
    parts = list(path.parts)
    while len(parts) > 1 and parts[0] in own:
        del parts[0]
    count = len(parts)
    return {
        file: file.parents[count - 1]
        for file in by_stem.get(path.name, [])
        if count <= len(file.parts) and [part.lower() for part in file.parts[-count:-1]] == parts[:-1]
    }


def image_files(mount: Path, data: Data) -> Iterator[Path]:
    """Every image file below the mount, except in training folders, which are recognised by the config or
    their names."""
    tests = test_folders(mount, data)
    kept = {parent for folder in tests for parent in (folder, *folder.parents)}
    named = [
        name
        for names in (data.train_images, data.train_masks)
        for name in ([names] if isinstance(names, str) else names or [])
    ]
    training = {mount / name for name in named}
    for base, folders, files in os.walk(mount):
        here = Path(base)
        folders[:] = [
            name
            for name in sorted(folders)
            if here / name in kept or not (here / name in training or "train" in name.lower())
        ]
        yield from (here / name for name in sorted(files) if name.lower().endswith(IMAGE_SUFFIXES))


def test_folders(mount: Path, data: Data) -> list[Path]:
    """The folders of `data.test_images` below `mount`; in a hidden test set they may not exist."""
    names = [data.test_images] if isinstance(data.test_images, str) else list(data.test_images)
    return [mount / name for name in names]


test_folders.__test__ = False  # not a pytest test
