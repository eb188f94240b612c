"""How long a competitor waits for an answer that needs no work: --help, a config error, an up-to-date stage.

    python benchmarks/startup.py build/demo/digits-demo      # any project whose stages are up to date

Prints a table of medians of five runs, in seconds, and as a share of importing torch in a fresh process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str], folder: Path, status: int) -> float:
    """Median wall time of five runs; the exit status must be the expected one."""
    times = []
    for _ in range(5):
        start = time.monotonic()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        times.append(time.monotonic() - start)
        if done.returncode != status:
            sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
    return statistics.median(times)


def main() -> None:
    """Time the six stages and importing torch, in turn."""
    project = Path(sys.argv[1])
    torch = seconds([sys.executable, "-c", "import torch"], project, 0)
    print(f"| stage | --help | config error | up to date | slowest / import torch ({torch:.1f} s) |")
    print("|---|--:|--:|--:|--:|")
    for script in sorted(path.name for path in project.glob("0?_*.py")):
        python = [sys.executable, script]
        row = [
            seconds([*python, "--help"], project, 0),
            seconds([*python, "train.epochss=3"], project, 2),
            seconds(python, project, 0),
        ]
        cells = " | ".join(f"{value:.2f}" for value in row)
        print(f"| `{script}` | {cells} | {max(row) / torch:.2f} |")


if __name__ == "__main__":
    main()
