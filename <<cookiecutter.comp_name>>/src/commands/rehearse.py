"""Rehearsal: run the inference kernel locally as Kaggle will, on every kind of test set that it may meet.

Reads   kaggle/bundle/, data/raw/, runs/
Writes  kaggle/receipts/rehearsal.json, which `make push` requires; kaggle/rehearsal/ (logs)
"""

import sys
from pathlib import Path

from src.cli import main
from src.locks import alone

_PROJECT = Path(__file__).resolve().parents[2]


def run(config, force):
    from src.kaggle.receipts import read_receipt
    from src.kernel.rehearse import rehearse

    with alone(config.root / "kaggle" / "bundle"):
        cases = rehearse(config, _PROJECT)
    if not read_receipt(config, "rehearsal")["passed"]:
        bad = [case.name for case in cases if case.wrong is not None] or ["it does not fit into the limits"]
        print(f"error: the rehearsal did not pass: {', '.join(bad)}; nothing may be pushed", file=sys.stderr)
        sys.exit(1)
    print("the rehearsal passed; next: `make push`")


if __name__ == "__main__":
    main(run, __doc__)
