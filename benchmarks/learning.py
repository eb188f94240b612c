"""What unlabelled images, a teacher and a stack bring where nobody looked: a tenth of the labels, then all.

    python benchmarks/learning.py run FOLDER --weights FILE [--only NAME ...] [--seeds 0 1 2]
    python benchmarks/learning.py write                       # a section of docs/results.md, of what is there

FOLDER and FILE are those of packs.py. A seed draws the labels that are kept, the folds and the first weights.
It has two projects: in `few` nine tenths of the training rows are test rows, whose labels no stage sees;
`all` keeps every label. A killed run goes on. All stages run in one process, for the imports take as long as
such small trainings.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest import mock

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NO_ALBUMENTATIONS_UPDATE"):
    os.environ[_name] = "1"  # before numpy is imported

from packs import BUILD, PACKS, ROOT, prepare  # noqa: E402

KEPT = 0.1  # of the labels
HOME = BUILD.parent / "learning"
TABLES = ("train", "test", "sample_submission")
TRAINED = {
    "optimizer": "adamw",
    "batch_size": 32,
    "ema": {"decay": 0.99},
    "early_stopping": {"enabled": False},  # a tenth of a tenth is too little to stop by
    "label_smoothing": 0.0,
}
SHARED = {
    "cv": {"n_folds": 2, "allow_rare": True},
    "runtime": {"device": "cpu", "jobs": 1, "threads": 1},
    "tracking": {"wandb": "disabled"},
}
# Rows of the pack's that are taken, what all experiments share, epochs, rounds, the student.
# Set before any label that is hidden here was looked at. Labels of a round are soft, so that what is not
# sure is not left out: the threshold is low.
LAB: dict[str, dict[str, Any]] = {
    "pneumonia": {
        "rows": 1000,
        "base": {
            "data": {"image_size": 32},
            "model": {"backbone": "test_resnet", "pretrained": False},
            "train": {**TRAINED, "lr": 4e-3},
            "augment": {"shift": 0.1, "zoom": 0.1},
        },
        "epochs": {"few": 60, "all": 12},
        "pseudo": {"rounds": 2, "threshold": 0.6, "epochs": 5},
        "student": {},
    },
    "trashnet": {
        "rows": 1000,
        "base": {
            "data": {"image_size": 48},
            "model": {"backbone": "mobilenetv2_100", "weights": "weights.safetensors"},
            "train": {**TRAINED, "lr": 1e-3, "freeze_stages": 4},
            "inference": {"tta": ["identity"]},
        },
        "epochs": {"few": 20, "all": 6},
        "pseudo": {"rounds": 2, "threshold": 0.6, "epochs": 3},
        "student": {
            "model": {"backbone": "test_resnet", "pretrained": False, "weights": None},
            "train": {"epochs": 40, "lr": 4e-3, "freeze_stages": None},
        },
    },
}
HEADING = "## A tenth of the labels"
ABOUT = """

Written by `benchmarks/learning.py`: a tenth of a pack's labels are kept, drawn anew for each seed, and the
other training images are test images without a label ({rows}). Two folds, small images, small
networks. Each score is the mean of the folds' own models over {seeds} seeds with its standard error, once on
the pack's hidden solution, once on the rows whose labels were hidden (the rounds have learned from their
images; with all labels each is predicted by the fold that did not). Differences are paired by seed.

What did not work: soft labels of a model that learned from fifty rows teach its pupil nothing it does not
know. Such rounds do not beat the CV of a hundred rows by more than its error, and stage 04 keeps none.

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
    run.add_argument("--only", nargs="*", choices=list(LAB), default=list(LAB))
    run.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    what.add_parser("write")
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(ROOT / "docs" / "results.md")
        return
    for name in arguments.only:
        for seed in arguments.seeds:
            base = baked(name, arguments.folder.resolve(), arguments.weights.resolve())
            if not (HOME / name / f"seed{seed}.json").exists():
                measure(name, seed, base, arguments.folder.resolve())


def baked(name: str, folder: Path, weights: Path) -> Path:
    """The pack's project with what `make sniff` found; made once."""
    project = HOME / name / "project"
    if not (project / "ready").exists():
        project.parent.mkdir(parents=True, exist_ok=True)
        prepare(project, name, folder, weights)
        command = ["make", "--no-print-directory", "sniff", f"PYTHON={sys.executable}"]
        subprocess.run(command, cwd=project, check=True)
        (project / "ready").touch()
    return project


def measure(name: str, seed: int, base: Path, folder: Path) -> None:
    """All runs of one seed, then their scores on what was hidden."""
    if str(base) not in sys.path:
        sys.path.insert(0, str(base))
    few, whole = (copied(base, kind, name, seed) for kind in ("few", "all"))
    for kind, project in (("few", few), ("all", whole)):
        text = json.dumps(page_of(name, kind, seed))  # JSON is YAML
        (project / "configs" / "baseline.yaml").write_text(text, encoding="utf-8")
        for script in ("01_folds.py", "02_train.py", "03_oof_predict.py"):
            stage(project, script)
    stage(few, "04_pseudo_label.py")
    lesson = {"distill": {"teacher": read(few / "runs/baseline/pseudo.json")["best"], "weight": 0.7}}
    for experiment, more in (("alone", {}), ("taught", lesson)):
        page = {"base": "baseline", "seed": seed + 1000, **LAB[name]["student"], **more}
        (few / "configs" / f"{experiment}.yaml").write_text(json.dumps(page), encoding="utf-8")
        stage(few, "02_train.py", experiment)
        stage(few, "03_oof_predict.py", experiment)
    stage(few, "05_stack.py")
    with zipfile.ZipFile(folder / f"{name}.solution.zip") as archive:
        archive.extractall(HOME / "solutions")
    found = scores(few, whole, next((HOME / "solutions").glob(f"{name}/solution.csv")))
    (HOME / name / f"seed{seed}.json").write_text(json.dumps(found, indent=2), encoding="utf-8")


def copied(base: Path, kind: str, name: str, seed: int) -> Path:
    """A project beside the pack's, its files linked; in `few` most training rows are test rows."""
    import pandas as pd

    project, lab = base.parent / f"seed{seed}" / kind, LAB[name]
    if (project / "ready").exists():
        return project
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(base, project, copy_function=os.link, ignore=shutil.ignore_patterns("ready"))
    raw = project / "data" / "raw"
    tables = {t: pd.read_csv(raw / f"{t}.csv", dtype=str, keep_default_na=False) for t in TABLES}
    train, test, sample = tables.values()
    train = train.sample(lab["rows"], random_state=0).sort_index()
    if kind == "few":
        kept = train.sample(frac=KEPT, random_state=seed).sort_index()
        train, hidden = kept, train.drop(kept.index)
        blank = {c: hidden[c] if c in test.columns else sample[c].iloc[0] for c in sample.columns}
        test, sample = pd.concat([test, hidden[test.columns]]), pd.concat([sample, pd.DataFrame(blank)])
        hidden.to_csv(project / "hidden.csv", index=False)
    for table, rows in zip(TABLES, (train, test, sample), strict=True):
        (raw / f"{table}.csv").unlink()  # a link: the pack's own stays as it is
        rows.to_csv(raw / f"{table}.csv", index=False)
    (project / "configs" / "baseline.yaml").unlink()  # another link
    (project / "ready").touch()
    return project


def page_of(name: str, kind: str, seed: int) -> dict[str, Any]:
    """The experiment that all others of a project are changes of."""
    lab = LAB[name]
    page = {"base": "default", "task": PACKS[name]["task"], "seed": seed, **SHARED, **lab["base"]}
    page |= {"cv": {**SHARED["cv"], "seed": seed}, "pseudo": lab["pseudo"]}
    page["train"] = {**page["train"], "epochs": lab["epochs"][kind]}
    if kind == "few":
        page["data"] = {**page["data"], "test_images": ["test_images", "train_images"]}
    return page


def stage(project: Path, script: str, experiment: str = "baseline") -> None:
    """Run a stage script in this process; what is up to date is passed over."""
    print(f"--- {project.relative_to(HOME)}: {script} {experiment}", flush=True)
    argv = [script, "--config", f"configs/{experiment}.yaml"]
    with contextlib.chdir(project), mock.patch.object(sys, "argv", argv):
        runpy.run_path(script, run_name="__main__")


def scores(few: Path, whole: Path, solution: Path) -> dict[str, Any]:
    """Of each run its CV and what it scores on the solution and on the hidden rows; of the stack and the best
    run by CV what all folds score together."""
    import pandas as pd

    truths = {
        "solution": pd.read_csv(solution, dtype=str, keep_default_na=False),
        "hidden": pd.read_csv(few / "hidden.csv", dtype=str, keep_default_na=False),
    }
    score = scorer(few)
    runs: dict[str, Any] = {"rounds": read(few / "runs/baseline/pseudo.json")}
    for run in sorted(path.parent for path in (few / "runs").glob("*/metrics.json")):
        folds = [pd.read_parquet(path) for path in sorted(run.glob("fold?/test.parquet"))]
        runs[run.name] = {"cv": read(run / "metrics.json")["cv"]}
        runs[run.name] |= {k: mean(score(fold, truth) for fold in folds) for k, truth in truths.items()}
    folds = sorted((whole / "runs" / "baseline").glob("fold?"))
    test, oof = ([pd.read_parquet(f / f"{table}.parquet") for f in folds] for table in ("test", "oof"))
    runs["all labels"] = {
        "cv": read(whole / "runs/baseline/metrics.json")["cv"],
        "solution": mean(score(fold, truths["solution"]) for fold in test),
        "hidden": mean(score(fold, truths["hidden"]) for fold in oof),
    }
    metrics = read(few / "stacks/stack/metrics.json")
    for title, folder in (("stack", few / "stacks/stack"), ("single", few / "runs" / metrics["best_single"])):
        table = pd.read_parquet(folder / "test.parquet")
        runs[title] = {k: score(table, truth) for k, truth in truths.items()}
    runs["stack"] |= {"cv": metrics["cv"], "kept": metrics["kept"]}
    runs["single"] |= {"cv": metrics["members"][metrics["best_single"]], "name": metrics["best_single"]}
    return runs


def scorer(project: Path) -> Callable[[Any, Any], float]:
    """A function of predictions and a table of truth: the metric over the rows that are in both."""
    from src.configfile import load_config
    from src.tasks import create_task

    config = load_config(project / "configs" / "baseline.yaml")
    task, data = create_task(config), config.data
    outputs = read(project / "data" / "dataset.json")["outputs"]
    targets = [data.target] if isinstance(data.target, str) else list(data.target)

    def score(said: Any, truth: Any) -> float:
        truth = truth[truth[data.id].isin(said["id"])].set_index(data.id)
        rows = said.set_index("id").loc[truth.index]
        return float(task.score(task.truth(truth[targets], outputs), task.read(rows, outputs)))

    return score


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(page: Path) -> None:
    """The section, in the place of the one before."""
    found = {name: [read(path) for path in sorted((HOME / name).glob("seed*.json"))] for name in LAB}
    found = {name: seeds for name, seeds in found.items() if seeds}
    seeds = sorted({len(seeds) for seeds in found.values()})
    rows = ", ".join(f"{name}: {LAB[name]['rows']:,} of its rows" for name in found)
    text = HEADING + ABOUT.format(seeds=" or ".join(map(str, seeds)), rows=rows) + report(found)
    before, _, after = page.read_text(encoding="utf-8").partition(HEADING)
    rest = after.partition("\n## ")[2]
    page.write_text(before.rstrip() + "\n\n" + text + (f"\n## {rest}" if rest else ""), encoding="utf-8")


def report(found: dict[str, list[dict[str, Any]]]) -> str:
    """The table of runs, and what came of the three aims."""
    lines = ["| pack | run | CV | solution | hidden rows |", "|---|---|--:|--:|--:|"]
    verdicts = []
    for name, seeds in found.items():
        for run in ("baseline", "baseline-round1", "baseline-round2", KEPT_ROUND, "all labels", *STUDENTS):
            said = [of(seed, run) for seed in seeds if of(seed, run) is not None]
            if said:
                cells = [around([one[k] for one in said]) for k in ("cv", "solution", "hidden")]
                count = "" if len(said) == len(seeds) else f" ({len(said)} of {len(seeds)} seeds)"
                lines.append(f"| {name} | {TITLES.get(run, run)}{count} | {' | '.join(cells)} |")
        for where in ("solution", "hidden"):
            verdicts.append(closed(name, seeds, where))
        for title, run, base, aim in AIMS:
            for where in ("solution", "hidden"):
                difference = around([seed[run][where] - seed[base][where] for seed in seeds], "+")
                verdicts.append(f"- {name}, {WHERE[where]}: {title} {difference}; {aim}.")
    return "\n".join([*lines, "", *verdicts, ""])


KEPT_ROUND = "kept"
AIMS = (
    ("taught against alone", "taught", "alone", "more than one error is the aim"),
    ("the stack against the best run by CV", "stack", "single", "no more than one error below is the aim"),
)
STUDENTS = ("alone", "taught", "single", "stack")
WHERE = {"solution": "solution", "hidden": "hidden rows"}
TITLES = {
    "baseline": "a tenth of the labels",
    "baseline-round1": "round 1",
    "baseline-round2": "round 2",
    KEPT_ROUND: "the round that CV keeps",
    "alone": "student alone",
    "taught": "student, taught",
    "single": "best run by CV, all folds",
    "stack": "stack, all folds",
}


def of(seed: dict[str, Any], run: str) -> dict[str, float] | None:
    """A run's scores in one seed; of KEPT_ROUND those of the run that stage 04 kept last."""
    return seed[seed["rounds"]["best"]] if run == KEPT_ROUND else seed.get(run)


def closed(name: str, seeds: list[dict[str, Any]], where: str) -> str:
    """How much of the gap to all labels the kept round closes, and the last: a ratio of means, its standard
    error by the residuals of the seeds."""
    gap = [seed["all labels"][where] - seed["baseline"][where] for seed in seeds]
    words = []
    for title, run in (("the kept round closes", KEPT_ROUND), ("the last", "last")):
        last = [max(k for k in seed if k.startswith("baseline")) if run == "last" else run for seed in seeds]
        gained = [of(seed, k)[where] - seed["baseline"][where] for seed, k in zip(seeds, last, strict=True)]
        share = mean(gained) / mean(gap)
        rest = [a - share * b for a, b in zip(gained, gap, strict=True)]
        error = stdev(rest) / len(rest) ** 0.5 / abs(mean(gap)) if len(rest) > 1 else float("nan")
        words.append(f"{title} {share:.0%} ± {error:.0%}")
    return f"- {name}, {WHERE[where]}: of a gap of {around(gap)} {', '.join(words)}; a third is the aim."


def around(values: list[float], sign: str = "") -> str:
    """Mean and standard error."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):{sign}.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()
