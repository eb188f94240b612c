"""Leak check: scan what the runs learned from, then run all stages on permuted images.

On these every CV must be at chance level. Ends with status 1 if a leak is found.

Reads   data/raw/; runs/ and data/folds.csv if they exist
Writes  nothing; the permuted competition lies in a temporary folder that is deleted at the end
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from src.cli import main


def run(config, force):
    from src.commands.leakscan import scan
    from src.commands.permuted_labels import ROWS, TEST_ROWS, checks, noise_config, run_stages
    from src.commands.small_copy import copy_sample

    leaks = 0
    if (config.root / "runs").exists() and (config.root / "data" / "folds.csv").exists():
        found = scan(config)
        leaks += len(found.leaks)
        for line in found.lines():
            print(f"leakcheck: {line}")
    with tempfile.TemporaryDirectory(prefix="leakcheck-") as folder:
        copy_sample(config, Path(folder), ROWS, TEST_ROWS, deal=True)
        print("leakcheck: all stages on images dealt out anew, from which nothing can be learned")
        small = noise_config(config, Path(folder))
        run_stages(small)
        for check in checks(small):
            leaks += check.leaks
            print(f"leakcheck: {check.line()}")
    if leaks:
        print(f"error: leakcheck: {leaks} leak(s), see above; do not believe these CVs", file=sys.stderr)
        sys.exit(1)
    print("leakcheck: no leak was found")


if __name__ == "__main__":
    main(run, __doc__)
