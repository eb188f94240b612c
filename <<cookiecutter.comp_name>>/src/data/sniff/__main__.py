"""Inspect Kaggle's files in data/raw, print what they contain, and fill in the config.

Reads   data/raw/ (the tables, the names of the images, the headers of some)
Writes  the task and data sections of the file that every experiment builds on, configs/default.yaml

A value that you set and that works is kept; `--force` replaces it by the inferred one. Uncertain values
are marked in the file and listed last.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from src.entry import plain_errors


@plain_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m src.data.sniff",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", default="configs/baseline.yaml", help="the experiment (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace what you set, too")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="what you know: data.train_csv=labels.csv"
    )
    arguments = parser.parse_intermixed_args()
    from src.data.sniff.report import sniff

    sniff(Path(arguments.config), arguments.overrides, arguments.force, arguments.dry)


if __name__ == "__main__":
    main()
