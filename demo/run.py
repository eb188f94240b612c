"""The demo: bake a project, give it a competition of real handwritten digits, run all six stages, show what each scored.

    make demo                  from nothing
    make demo ARGS=--keep      go on with the last one; finished stages are skipped

The competition has 600 labelled and 1,197 unlabelled digits; the hidden labels are read here, after the last stage.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "demo"
STAGES = (
    ("folds", "baseline"),
    ("train", "baseline"),
    ("oof", "baseline"),
    ("train", "student_alone"),
    ("oof", "student_alone"),
    ("train", "student"),
    ("oof", "student"),
    ("pseudo", "baseline"),
    ("stack", "baseline"),
    ("submit", "baseline"),
)


def main() -> None:
    """Bake, run, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="go on with the demo of last time")
    arguments = parser.parse_args()
    began = time.monotonic()
    project, solution = BUILD / "digits-demo", BUILD / "solution.csv"
    if not arguments.keep:
        shutil.rmtree(BUILD, ignore_errors=True)
    if not project.exists():
        bake(project)
        run([sys.executable, "tests/digits.py", "data/raw", "--solution", str(solution)], project)
    seconds = {}
    for target, experiment in STAGES:
        start = time.monotonic()
        print(f"\n--- make {target} EXP={experiment}", flush=True)
        run(["make", "--no-print-directory", target, f"EXP={experiment}", f"PYTHON={sys.executable}"], project)
        seconds[target] = seconds.get(target, 0.0) + time.monotonic() - start
    print("\n" + report(project, solution))
    times = ", ".join(f"{target} {value:.0f}" for target, value in seconds.items())
    print(f"\n{time.monotonic() - began:.0f} s in all ({times}); the project is {project.relative_to(ROOT)}")


def bake(project: Path) -> None:
    """Bake the template as cookiecutter would for anyone, with the demo's answers and experiments."""
    from cookiecutter.main import cookiecutter

    answers = {"comp_name": project.name, "title": "Handwritten digits", "backbone": "test_resnet", "image_size": "32"}
    template = project.parent / "template"  # a local path is baked with whatever lies in it, caches too: leave those out
    junk = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, template, ignore=junk, dirs_exist_ok=True)
    cookiecutter(
        str(template), no_input=True, default_config=True, extra_context=answers, output_dir=str(project.parent)
    )
    for config in (HERE / "configs").glob("*.yaml"):
        shutil.copy(config, project / "configs" / config.name)


def run(command: list[str], folder: Path) -> None:
    """Run a command in the project with one thread a process; end the demo with its status if it fails."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    status = subprocess.run(command, cwd=folder, env={**os.environ, **threads}).returncode
    if status:
        sys.exit(status)


def report(project: Path, solution: Path) -> str:
    """A table: CV and hidden score of every run and of the stack, and what each trick did."""
    import pandas as pd

    truth = pd.read_csv(solution, dtype=str).set_index("id")["label"]

    def hidden(path: Path) -> float:
        table = pd.read_parquet(path).set_index("id").loc[truth.index]
        return float((table.columns.to_numpy()[table.to_numpy().argmax(1)] == truth.to_numpy()).mean())

    lines = [
        f"{'':20} {'CV':>8} {'± error':>8} {'hidden, one fold':>17} {'hidden, all folds':>18}",
    ]
    scores = {}
    rounds = json.loads((project / "runs" / "baseline" / "pseudo.json").read_text())["rounds"]
    kept = {row["run"]: row["kept"] for row in rounds}
    names = ["baseline", "student_alone", "student", *(row["run"] for row in rounds[1:])]
    for name in names:
        folder = project / "runs" / name
        metrics = json.loads((folder / "metrics.json").read_text())
        single = sum(hidden(path) for path in sorted(folder.glob("fold?/test.parquet"))) / len(metrics["folds"])
        together = hidden(folder / "test.parquet")
        scores[name] = (metrics["cv"], single, together)
        note = "" if kept.get(name, True) else "  not kept"
        lines.append(
            f"{name:20} {metrics['cv']:8.4f} {metrics['standard_error']:8.4f} {single:17.4f} {together:18.4f}{note}"
        )
    stack = json.loads((project / "stacks" / "stack" / "metrics.json").read_text())
    final = hidden(project / "stacks" / "stack" / "test.parquet")
    lines.append(f"{'stack: ' + stack['kept']:20} {stack['cv']:8.4f} {stack['standard_error']:8.4f} {'':17} {final:18.4f}")
    submitted = pd.read_csv(project / "submissions" / "stack.csv", dtype=str).set_index("id")["label"]
    lines.append(f"{'submission':20} {'':8} {'':8} {'':17} {(submitted.loc[truth.index] == truth).mean():18.4f}")
    best = json.loads((project / "runs" / "baseline" / "pseudo.json").read_text())["best"]
    lines += [
        "",
        effect("distillation", scores["student"], scores["student_alone"]),
        effect("pseudo-labels", scores[best], scores["baseline"])
        if best != "baseline"
        else "pseudo-labels: no round beat the baseline's CV, none was kept",
    ]
    return "\n".join(lines)


def effect(name: str, after: tuple[float, ...], before: tuple[float, ...]) -> str:
    """One line: what a trick did to CV and to the hidden scores."""
    cv, single, together = (b - a for a, b in zip(before, after, strict=True))
    return f"{name}: {cv:+.4f} in CV, {single:+.4f} hidden for one fold, {together:+.4f} for all folds"


if __name__ == "__main__":
    main()
