"""How high a bar a second level has to clear before it takes the place of the mean or the best single run.

    python benchmarks/bars.py run FOLDER --weights FILE [--only NAME ...] [--seeds 100 101 ...]
    python benchmarks/bars.py write                       # a section of docs/benchmarks.md, of what is there

FOLDER and FILE are those of packs.py. Half of a pack's labels are kept, drawn anew for each seed, and the
other training rows are the test rows: no solution is opened. Three runs a seed as in learning.py; every
candidate's folds and what it scores on the hidden rows are kept, and `write` tries the bars on them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from learning import ROOT, around, baked, begun, learn, put, read, scorer, students

FOUND = ROOT / "benchmarks" / "measured" / "bars"
EQUALS = {"second": {}, "third": {"augment": {"crop_scale": [0.35, 1.0]}, "model": {"pooling": "gem"}}}
STACKS = {  # what a competitor stacks on a bad and on a good day
    "one and two weaker": ("baseline", "alone", "taught"),
    "three equals": ("baseline", "second", "third"),
}
STACKED = ("trashnet", "pcb_tiles", "pneumonia", "dsb_count")

HEADING = "## How high a bar"
ABOUT = """

Written by `benchmarks/bars.py`: what is kept of a stack of three runs, and what that scores on rows whose
labels no stage saw. Half of a pack's labels are kept, the other training rows are the test rows, {seeds}
seeds; no solution is opened. Three equals: one recipe with three seeds, of which one has tighter crops and
GeM. One and two weaker: that recipe, and two students of less training. An OOF row is the word of one model a
run, a test row the mean of four, so that CV promises of the unequal ones what is not there.

One error: a blender beats the mean, or the best run where that is better by CV, by more than the standard
error of the difference. Luck of the best: by more than the best of all blenders reaches by luck as rarely
as one alone reaches one error (Šidák 1967, Student's t). Folds averaged: by one error, and its correlation
with the truth is not lower by more than an error once the noise is taken off that averaging the folds takes
off (Spearman 1904; `ensemble/attenuation.py`): what stage 05 does. Differences in the pack's metric,
positive where better.

"""


def main() -> None:
    """Run the packs, or write what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    run = what.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("--weights", type=Path, required=True)
    run.add_argument("--only", nargs="*", choices=STACKED, default=STACKED)
    run.add_argument("--seeds", type=int, nargs="*", default=list(range(100, 106)))
    what.add_parser("write")
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(ROOT / "docs" / "benchmarks.md")
        return
    for name in arguments.only:
        for seed in arguments.seeds:
            base = baked(name, arguments.folder.resolve(), arguments.weights.resolve())
            if not (FOUND / name / f"seed{seed}.json").exists():
                measure(name, seed, base)


def measure(name: str, seed: int, base: Path) -> None:
    """The five runs of a seed, and every second level over three of them."""
    if str(base) not in sys.path:
        sys.path.insert(0, str(base))
    project = begun(base, "half", name, seed)
    students(project, name, seed)
    for experiment, changes in EQUALS.items():
        page = {"base": "baseline", "seed": seed + 2000 + len(experiment), **changes}
        (project / "configs" / f"{experiment}.yaml").write_text(json.dumps(page), encoding="utf-8")
        learn(project, experiment)
    found = {kind: candidates(project, runs) for kind, runs in STACKS.items()}
    (FOUND / name).mkdir(parents=True, exist_ok=True)
    (FOUND / name / f"seed{seed}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def candidates(project: Path, runs: tuple[str, ...]) -> dict[str, Any]:
    """Of every candidate of a stack the scores of its folds, its correlation with the truth once they are
    averaged and, decided by a rule of all OOF rows, its score on the hidden rows."""
    import pandas as pd

    from src.configfile import load_config
    from src.decisions import fit_rule
    from src.ensemble.attenuation import AveragedScore, variance_between_folds
    from src.ensemble.choice import SINGLE, best_member, best_single_oof, scores
    from src.ensemble.second_level import CANDIDATES_BY_KIND
    from src.ensemble.stack import read_members
    from src.ensemble.tables import check_tables
    from src.steps import stack_step
    from src.tasks import create_task

    config = load_config(project / "configs" / "baseline.yaml")
    task, folders = create_task(config), [project / "runs" / run for run in runs]
    outputs = read(project / "data" / "dataset.json")["outputs"]
    rows, ids = check_tables(folders, list(task.columns(outputs)))
    step = stack_step(config, folders)
    members = read_members(step, config, task, folders, outputs, rows, ids)
    made = CANDIDATES_BY_KIND[task.kind](task, members, config.stack, config.seed)
    single = best_member(task, members.oof, members.truth, members.fold)
    oof = made.oof | {SINGLE: best_single_oof(task, members.oof, members.truth, members.fold)}
    test = made.test | {SINGLE: members.test[single]}
    noise = made.noise | {SINGLE: variance_between_folds([part[single] for part in members.of_folds])}
    averaged = AveragedScore(oof, members.targets, members.fold, noise)
    score, sign = scorer(project)
    hidden = pd.read_csv(project / "hidden.csv", dtype=str, keep_default_na=False)
    found = {}
    for name, predictions in oof.items():
        rule = fit_rule(task.metric, members.truth, predictions).as_json()
        table = pd.DataFrame({"id": ids}).join(task.write(test[name], outputs))
        folds = scores(task, members.truth, predictions, members.fold).folds
        found[name] = {"folds": folds, "averaged": averaged(name)}
        found[name]["hidden"] = sign * score(table, hidden, rule)
    return {"metric": task.metric.name, "candidates": found}


def errors(blenders: int, folds: int, bar: str) -> float:
    """How many standard errors a blender must lie above who is kept otherwise: one; or what the best of so
    many reaches by luck as rarely as one alone reaches one, with so few folds (Šidák 1967, Student's t)."""
    from scipy.stats import norm, t

    return 1.0 if bar == "one error" else float(t.ppf(norm.cdf(1.0) ** (1 / blenders), folds - 1))


BARS = ("the mean", "one error", "luck of the best", "one error, folds averaged", "the best run")


def kept(candidates: dict[str, Any], bar: str) -> str:
    """Who is kept, by CV and a bar."""
    import numpy as np

    if bar.startswith("the "):
        return "mean" if bar == "the mean" else "best single"
    bar, averaged = bar.partition(",")[::2]
    folds = {name: np.array(one["folds"]) for name, one in candidates.items()}

    def lasts(name: str, base: str) -> bool:
        gained = np.subtract(candidates[name]["averaged"], candidates[base]["averaged"])
        return not averaged or gained.mean() >= -gained.std(ddof=1) / len(gained) ** 0.5

    gained = (folds["best single"] - folds["mean"]).mean()
    base = "best single" if gained > 0 or not lasts("mean", "best single") else "mean"
    best, lead = base, 0.0
    for name, own in folds.items():
        gained = own - folds[base]
        least = errors(len(folds) - 1, len(own), bar) * gained.std(ddof=1) / len(own) ** 0.5
        if name != base and lasts(name, base) and gained.mean() > max(least, lead):
            best, lead = name, gained.mean()
    return best


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """What each bar keeps, what CV promises of it, and what the hidden rows give."""
    head = (
        "| pack, metric | bar | kept: the mean, the best run, another | CV to the best run | hidden, to it "
    )
    lines = [
        f"{head}| CV to the best run | hidden, to it | hidden, to the mean |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, stack in ((name, stack) for name in found for stack in STACKS):
        seeds = [seed[stack] for seed in found[name]]
        for bar in BARS:
            chosen = [kept(seed["candidates"], bar) for seed in seeds]
            counts = [chosen.count("mean"), chosen.count("best single")]
            cells = [", ".join(map(str, [*counts, len(chosen) - sum(counts)]))]
            both = [(s["candidates"][one], s["candidates"]) for one, s in zip(chosen, seeds, strict=True)]
            cells.append(around([mean(o["folds"]) - mean(c["best single"]["folds"]) for o, c in both], "+"))
            for base in ("best single", "mean"):
                cells.append(around([o["hidden"] - c[base]["hidden"] for o, c in both], "+"))
            lines.append(f"| {name}, {seeds[0]['metric']}, {stack} | {bar} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(page: Path) -> None:
    """The section of what there is."""
    found = {name: [read(path) for path in sorted((FOUND / name).glob("seed*.json"))] for name in STACKED}
    found = {name: seeds for name, seeds in found.items() if len(seeds) > 1}
    seeds = " or ".join(map(str, sorted({len(seeds) for seeds in found.values()})))
    put(page, HEADING, ABOUT.format(seeds=seeds) + table(found))


if __name__ == "__main__":
    main()
