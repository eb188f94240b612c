"""Kaggle's image: which packages are in it, and whether those here are the same.

`requirements/kaggle.lock` holds the versions there of all that a kernel of ours imports, and
`requirements/kaggle-packages.txt` beside it the names of all that is there; `make kaggle-image` makes an
environment of the former.
"""

from __future__ import annotations

import functools
import re
import sys
from importlib import metadata
from pathlib import Path

LOCK = "requirements/kaggle.lock"
NAMES = "kaggle-packages.txt"
PYTHON = ".kaggle-image/bin/python"

# What a kernel imports, for the manifest and the kernel's log.
_PACKAGES = ("torch", "torchvision", "timm", "opencv-python-headless", "numpy", "scipy", "pandas", "pyarrow")
_PACKAGES += ("lightgbm", "safetensors", "pydantic")


def versions() -> dict[str, str]:
    """Of Python and of what a kernel imports, as far as it is installed."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # such as OpenCV under its other name
            continue
    return found


def versions_line(made_with: dict[str, str]) -> str:
    """The versions here in one line, with the bundle's beside where that is another: for a kernel's log."""
    here = versions()
    names = [
        f"{name} {here[name]}"
        + (f" (bundle: {made_with[name]})" if made_with.get(name, here[name]) != here[name] else "")
        for name in here
    ]
    return ", ".join(names)


@functools.cache
def absent(lock: Path) -> frozenset[str]:
    """Modules that can be imported here and not there, as far as the lock and the list beside it tell; none
    where either is missing."""
    files = (lock, lock.with_name(NAMES))
    if not all(path.is_file() for path in files):
        return frozenset()
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    there = {_plain(line.partition("==")[0]) for line in lines if line and not line.startswith("#")}
    modules = metadata.packages_distributions()
    return frozenset(
        name for name, owners in modules.items() if not any(_plain(owner) in there for owner in owners)
    )


def _plain(name: str) -> str:
    """A distribution's name in the one way it is compared."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
