"""How long stage 05 takes over many runs, and how much memory; written into docs/benchmarks.md.

    python benchmarks/stacking.py run                # 50 runs x 10 classes, 100,000 and 1,000,000 rows
    python benchmarks/stacking.py run --share 0.1    # a tenth of the rows, to try it
    python benchmarks/stacking.py write

Each line is a process of its own: reading the tables and one blender, then the whole stage with its choice.
Lines that are there already are not measured again; `write` takes those there are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT, BUILD = ROOT / "<<cookiecutter.comp_name>>", ROOT / "build" / "stacking"
KEPT = ROOT / "benchmarks" / "measured" / "stacking.json"
RUNS, CLASSES, FOLDS = 50, 10, 5
TEST_SHARE = 0.2  # test rows to a training row
LINES = {  # of the larger table the plain mean, which all else is compared with, and the whole
    100_000: ("mean", "hill_climbing", "linear", "lightgbm", "mlp", "cnn", "all"),
    1_000_000: ("mean", "all"),
}
OUTPUTS = [f"c{c}" for c in range(CLASSES)]
HEADING = "## Stacking many runs"
ABOUT = """

Written by `benchmarks/stacking.py`: {runs} runs of {classes} classes, their OOF tables and a fifth as many
test rows, log loss, five folds. Each line is a process of its own that reads the tables, scores one blender
by nested CV and applies it; the last line of a size is the whole of `05_stack.py` with all blenders and its
choice. Time is the processor's, over that of the plain mean, most of which is reading. All members' OOF
predictions of a million rows are {size} GiB in float32: tables are read a run and its columns at a time, and
beyond 1 GiB they lie in a file whose pages the system may drop; those that were touched count in the peak. A
second level learns from at most 30 million numbers (60,000 of these rows) and is scored on all rows. The two
networks start from the same linear shares and, where no epoch gains on the watched fold, stay there.

| rows | blender | time / mean | peak memory | CV |
|--:|---|--:|--:|--:|
"""


def main() -> None:
    """Run, write, or (in a process of its own) measure one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "write", "one"])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--blender")
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(ROOT / "docs" / "benchmarks.md")
    elif arguments.what == "one":
        print(json.dumps(one(arguments.rows, arguments.blender)))
    else:
        run(arguments.share)


def run(share: float) -> None:
    """Make the tables of each size, and measure every line in a process of its own."""
    path = KEPT
    lines = json.loads(path.read_text()) if path.exists() else []
    for size, blenders in LINES.items():
        rows = int(size * share)
        missing = [
            r for r in blenders if (rows, r) not in [(line["rows"], line["blender"]) for line in lines]
        ]
        if missing:
            make(rows)
        for blender in missing:
            command = [sys.executable, __file__, "one", "--rows", str(rows), "--blender", blender]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            lines.append(json.loads(done.stdout.splitlines()[-1]))
            print(lines[-1], flush=True)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def make(rows: int) -> None:
    """OOF and test tables of members of unlike skill that share many faults, unless they are there."""
    import numpy as np
    import pandas as pd

    for table, n in (("oof", rows), ("test", int(rows * TEST_SHARE))):
        random = np.random.default_rng(0)
        truth = random.integers(0, CLASSES, n)
        common = 1.5 * random.standard_normal((n, CLASSES), np.float32)  # what all of them get wrong
        for member in range(RUNS):
            path = BUILD / str(rows) / f"run{member:02d}" / f"{table}.parquet"
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            own = np.random.default_rng(member + 1)
            logits = common + own.standard_normal((n, CLASSES), np.float32)
            logits[np.arange(n), truth] += 1.5 + own.random()
            p = np.exp(logits - logits.max(1, keepdims=True))
            said = pd.DataFrame(p / p.sum(1, keepdims=True), columns=OUTPUTS)
            said.insert(0, "id", np.arange(n))
            if table == "oof":
                said.insert(1, "fold", np.arange(n) % FOLDS)
                said.insert(2, "target", np.array(OUTPUTS)[truth])
            said.to_parquet(path.with_suffix(".tmp"), index=False)
            os.replace(path.with_suffix(".tmp"), path)


def one(rows: int, blender: str) -> dict[str, object]:
    """Seconds, peak bytes and CV of a stack with one blender, or of the stage as it is."""
    sys.path.insert(0, str(PROJECT))
    import numpy as np

    from src.artifacts import Step
    from src.config import Config
    from src.ensemble.blenders import fitter
    from src.ensemble.blenders.base import apply_blender, fit_blender, nested_oof
    from src.ensemble.second_level import level_data
    from src.ensemble.stack import build_stack, read_members
    from src.ensemble.tables import check_tables
    from src.tasks import create_task

    config = Config(root=BUILD, task={"metric": "log_loss"})
    task, folders = create_task(config), sorted((BUILD / str(rows)).glob("run*"))
    step = Step("05", BUILD / str(rows) / f"stack-{blender}", ("metrics.json",), {})
    start = time.process_time()
    if blender == "all":
        cv = build_stack(step, config, task, folders, OUTPUTS)["cv"]
    else:
        table, test_ids = check_tables(folders, OUTPUTS)
        members = read_members(step, config, task, folders, OUTPUTS, table, test_ids)
        level = level_data(task, members, config.stack, config.seed)
        cv = task.score(members.truth, nested_oof(fitter(blender), level))
        fitted = fit_blender(fitter(blender), level, np.arange(len(level.fold)))
        apply_blender(fitted, level.but(oof=members.test), np.arange(members.test.shape[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return {
        "rows": rows,
        "blender": blender,
        "seconds": time.process_time() - start,
        "peak": peak,
        "cv": float(cv),
    }


def write(page: Path) -> None:
    """The table, in the place of the one before."""
    lines = json.loads(KEPT.read_text(encoding="utf-8"))
    size = RUNS * CLASSES * 1_000_000 * 4 / 2**30
    text = HEADING + ABOUT.format(runs=RUNS, classes=CLASSES, size=f"{size:.1f}")
    means = {line["rows"]: line["seconds"] for line in lines if line["blender"] == "mean"}
    for line in lines:
        name = "the whole stage" if line["blender"] == "all" else f"`{line['blender']}`"
        times, peak = line["seconds"] / means[line["rows"]], line["peak"] / 2**30
        text += f"| {line['rows']:,} | {name} | {times:.1f} | {peak:.1f} GiB | {line['cv']:.4f} |\n"
    before, _, after = page.read_text(encoding="utf-8").partition(HEADING)
    rest = after.partition("\n## ")[2]
    page.write_text(before.rstrip() + "\n\n" + text + (f"\n## {rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
