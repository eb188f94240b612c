"""What the demo's stages take, and how much of that is neither training nor inference.

    python benchmarks/shares.py run       # the demo's competition and stages, several times
    python benchmarks/shares.py write     # a section of docs/benchmarks.md

Wall time, on as many cores as the machine has. A moment counts as training or inference while at least one
process of the stage trains or predicts, second levels of the stack included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
FOUND = ROOT / "benchmarks" / "measured" / "shares.json"
HEADING = "## Where the demo's seconds go"
ABOUT = """

Written by `benchmarks/shares.py`: the stages of `make demo`, wall seconds on {cores} cores (load before:
{load:.1f}), medians of {rounds} rounds. "First batch": from the start of the process to the first training
step or prediction. "Neither": the share in which no process of the stage trains or predicts; imports,
decoding, tables, pictures and checkpoints are in it.

| stage | runs | seconds | first batch after | neither |
|---|--:|--:|--:|--:|
"""


def main() -> None:
    """Run, or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "write"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    run(arguments.rounds) if arguments.what == "run" else write(ROOT / "docs" / "benchmarks.md")


def run(rounds: int) -> None:
    """Bake the demo's project, and run its stages anew each round."""
    sys.path.insert(0, str(ROOT / "demo"))
    import run as demo

    load = os.getloadavg()[0]
    demo.BUILD = ROOT / "build" / "shares"
    project = demo.BUILD / "digits-demo"
    shutil.rmtree(demo.BUILD, ignore_errors=True)
    demo.bake(project)
    demo.run([sys.executable, "tests/digits.py", "data/raw", "--solution", "../solution.csv"], project)
    found = []
    for number in range(rounds):
        for made in (
            "data/cache",
            "data/folds.csv",
            "data/folds.stamp.json",
            "runs",
            "stacks",
            "submissions",
        ):
            path = project / made
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        stages = []
        for target, experiment in demo.STAGES:
            stages.append({"target": target, **clocked(project, target, experiment)})
            print(number, stages[-1], flush=True)
        found.append(stages)
        text = json.dumps({"load": load, "cores": os.cpu_count(), "rounds": found}, indent=1) + "\n"
        FOUND.write_text(text, encoding="utf-8")


def clocked(project: Path, target: str, experiment: str) -> dict[str, float]:
    """Seconds of one stage, until its first batch, and of nothing but other work."""
    clock = project / "clock.jsonl"
    clock.unlink(missing_ok=True)
    python = f"{sys.executable} {ROOT / 'benchmarks' / 'clocked.py'}"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = ["make", "--no-print-directory", target, f"EXP={experiment}", f"PYTHON={python}"]
    environment = {**os.environ, **threads, "CLOCK": str(clock), "NO_ALBUMENTATIONS_UPDATE": "1"}
    start = time.time()
    subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.DEVNULL)
    whole = time.time() - start
    lines = [json.loads(line) for line in clock.read_text(encoding="utf-8").splitlines()]
    work = sorted((line["first"], line["last"]) for line in lines if line["kind"] != "stage")
    busy, upto = 0.0, 0.0
    for first, last in work:  # the union of intervals that overlap
        busy += max(0.0, last - max(first, upto))
        upto = max(upto, last)
    return {"seconds": whole, "first": work[0][0] - start if work else whole, "busy": busy}


def write(page: Path) -> None:
    """The section, in the place of the one before."""
    found = json.loads(FOUND.read_text(encoding="utf-8"))
    rounds = found["rounds"]
    text = HEADING + ABOUT.format(rounds=len(rounds), cores=found["cores"], load=found["load"])
    targets = list(dict.fromkeys(stage["target"] for stage in rounds[0]))
    for target in [*targets, None]:
        mine = [[s for s in stages if target in (None, s["target"])] for stages in rounds]
        seconds = median(sum(s["seconds"] for s in stages) for stages in mine)
        idle = median(
            1 - sum(s["busy"] for s in stages) / sum(s["seconds"] for s in stages) for stages in mine
        )
        first = median(s["first"] for stages in mine for s in stages)
        works = any(s["busy"] for stages in mine for s in stages)
        cells = [
            target or "all",
            len(mine[0]),
            f"{seconds:.1f}",
            f"{first:.1f} s" if works and target else "-",
        ]
        text += f"| {' | '.join(map(str, cells))} | {idle:.0%} |\n"
    before, _, after = page.read_text(encoding="utf-8").partition(HEADING)
    rest = after.partition("\n## ")[2]
    page.write_text(before.rstrip() + "\n\n" + text + (f"\n## {rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
