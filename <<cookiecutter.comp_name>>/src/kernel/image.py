"""Kaggle's Docker image: the packages in it and their versions, compared with the local environment.

`requirements/kaggle.lock` pins the image's versions of everything that the kernels import, and
`requirements/kaggle-packages.txt` lists the names of all its packages. `make kaggle-image` creates an
environment from the lock.
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

# What a kernel imports; the manifest and the kernel's log list these versions.
_PACKAGES = ("torch", "torchvision", "timm", "opencv-python-headless", "numpy", "scipy", "pandas", "pyarrow")
_PACKAGES += ("lightgbm", "safetensors", "pydantic")


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that a kernel imports."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # such as OpenCV under its other name
            continue
    return found


def versions_line(made_with: dict[str, str]) -> str:
    """The versions of this environment in one line for a kernel's log, with the bundle's version where it
    differs."""
    here = versions()
    names = [
        f"{name} {here[name]}"
        + (f" (bundle: {made_with[name]})" if made_with.get(name, here[name]) != here[name] else "")
        for name in here
    ]
    return ", ".join(names)


@functools.cache
def absent(lock: Path) -> frozenset[str]:
    """Modules that can be imported locally but not in Kaggle's image, according to the lock and the package
    list. Empty if either file is missing."""
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
    """Normalise a distribution's name for comparison."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
