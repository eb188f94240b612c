"""What second levels score on members that know nothing: .5, or they have learned from labels that they must
not see. Written into docs/benchmarks.md.

    python benchmarks/noise.py run [--seeds 40]    # minutes; killed, it goes on
    python benchmarks/noise.py write

The noise is that of the project's tests/project/test_leaks.py. Beside the blenders as they are stand the
usual ones that we refuse: free weights and free trees."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[1]
PROJECT, LINES = ROOT / "<<cookiecutter.comp_name>>", ROOT / "benchmarks" / "measured" / "noise.json"
BLENDERS = ("mean", "hill_climbing", "linear", "lightgbm", "mlp", "cnn")
FREE = ("free logistic", "free lightgbm")
HEADING = "## Second levels on noise"
ABOUT = """

Written by `benchmarks/noise.py`: four members that learned 60 random columns of 300 rows, five folds, up to
{seeds} seeds. AUC at the mean of the folds (and of three classes) with its standard error; how much it lies
above that of the plain mean, paired by seed, and how many standard errors that is. Free ones may give weights
and trees either sign.

| second level | classes | AUC | to the mean | errors |
|---|--:|--:|--:|--:|
"""


def main() -> None:
    """Run, or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "write"])
    parser.add_argument("--seeds", type=int, default=40)
    arguments = parser.parse_args()
    run(arguments.seeds) if arguments.what == "run" else write(ROOT / "docs" / "benchmarks.md")


def run(seeds: int) -> None:
    """Score every second level on every seed's noise."""
    os.environ["BAKED_PROJECT"] = str(PROJECT)  # which tests/project is to test
    sys.path[:0] = [str(PROJECT), str(ROOT / "tests" / "project")]
    from test_leaks import free_logistic, level_two, of

    found = json.loads(LINES.read_text()) if LINES.exists() else {}
    for seed in range(seeds):
        for classes, kind in ((2, "labels"), (3, "classes")):
            stacks = {name: of(name, kind) for name in BLENDERS if name != "cnn" or classes > 2}
            stacks["free lightgbm"] = of("lightgbm", kind, monotone=False)
            stacks |= {"free logistic": free_logistic} if classes == 2 else {}
            for name, stack in stacks.items():
                key = f"{name}/{classes}/{seed}"
                if key not in found:
                    found[key] = level_two(seed, stack, classes)
        LINES.parent.mkdir(exist_ok=True)
        LINES.write_text(json.dumps(found))
        print(f"seed {seed} of {seeds}", flush=True)


def write(page: Path) -> None:
    """The table, in the place of the one before."""
    scores: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    for key, score in json.loads(LINES.read_text()).items():
        name, classes, seed = key.split("/")
        scores[name, int(classes)][int(seed)] = score
    if min(map(len, scores.values())) < 2:
        sys.exit("one seed has no error: run again with more, such as --seeds 40")
    text = HEADING + ABOUT.format(seeds=max(map(len, scores.values())))
    for classes in (2, 3):
        for name in (*BLENDERS, *FREE):
            if own := scores.get((name, classes)):
                base = scores["mean", classes]
                more = [score - base[seed] for seed, score in own.items()]
                beyond = "" if name == "mean" else f"{mean(more):+.3f} | {mean(more) / error(more):.1f}"
                found = f"{mean(own.values()):.3f} ± {error(own.values()):.3f}"
                text += f"| {name} | {classes} | {found} | {beyond or ' | '} |\n"
    before, _, after = page.read_text(encoding="utf-8").partition(HEADING)
    rest = after.partition("\n## ")[2]
    page.write_text(before.rstrip() + "\n\n" + text + (f"\n## {rest}" if rest else ""), encoding="utf-8")


def error(values) -> float:
    """Standard error of the mean."""
    return stdev(values) / len(values) ** 0.5


if __name__ == "__main__":
    main()
