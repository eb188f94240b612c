"""The names of all packages in Kaggle's image, from the lists that it is built from.

    python requirements/kaggle_packages.py                  # reads both lists at the commits below
    python requirements/kaggle_packages.py --from FOLDER    # reads copies that lie in FOLDER

Kaggle's image is Colab's (`pip-freeze.gpu.txt` of googlecolab/backend-info: what is installed there) with
`kaggle_requirements.txt` of Kaggle/docker-python on top and what its Dockerfile adds or removes by hand.
Writes `requirements/kaggle-packages.txt` of the project, by which a rehearsal knows what a kernel may import.
What the packages of Kaggle's own list bring along is in no list, so it is missing here too.
"""

from __future__ import annotations

import argparse
import re
import urllib.request
from pathlib import Path

RAW = "https://raw.githubusercontent.com"
# Of 2026-05-08, the state of the base image in the Dockerfile of 2026-08-12.
COLAB = f"{RAW}/googlecolab/backend-info/6f388035049b36c8555cd6467d07059189ea4e3e/pip-freeze.gpu.txt"
KAGGLE = f"{RAW}/Kaggle/docker-python/78aaa43f8cc8e6b01bbaa5a56c39b4a2f61a8277/kaggle_requirements.txt"
BY_HAND = ("learntools", "grpcio-tools", "setuptools", "pycuda", "graphviz")  # RUN lines of that Dockerfile
REMOVED = ("google-cloud-bigquery-storage",)
TARGET = Path(__file__).resolve().parents[1] / "<<cookiecutter.comp_name>>/requirements/kaggle-packages.txt"


def names_of(text: str) -> set[str]:
    """The packages of a requirements file or of `pip freeze`, in the one way names are compared."""
    found = set()
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith(("git+", "http")):  # a repository alone: it is called as its package
            found.add(plain(line.rstrip("/").rpartition("/")[2].removesuffix(".git")))
        elif named := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line):
            found.add(plain(named[0]))
    return found


def plain(name: str) -> str:
    """A package's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(colab: str, kaggle: str) -> list[str]:
    """All names, sorted, of the two lists and what is done by hand."""
    return sorted((names_of(colab) | names_of(kaggle) | set(BY_HAND)) - set(REMOVED))


def read(url: str, folder: Path | None) -> str:
    """A list, from the network or from its copy in a folder."""
    if folder is not None:
        return (folder / url.rpartition("/")[2]).read_text(encoding="utf-8")
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode("utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="folder", type=Path, help="a folder with copies of both lists")
    folder = parser.parse_args().folder
    names = packages(read(COLAB, folder), read(KAGGLE, folder))
    head = [
        "# Packages in Kaggle's image, made by requirements/kaggle_packages.py of the template from:",
        f"# {COLAB}",
        f"# {KAGGLE}",
    ]
    TARGET.write_text("\n".join([*head, *names]) + "\n", encoding="utf-8")
    print(f"{TARGET}: {len(names)} packages")


if __name__ == "__main__":
    main()
