"""The demo: generate a project with a competition of real digits, run all six stages, print the scores.

    make demo                  from scratch
    make demo ARGS=--keep      continue with the last demo; finished stages are skipped

The competition has 600 labelled and 1,197 unlabelled digits. The hidden labels are read here, after the last
stage. `--results FILE` also writes the table as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "demo"
EXPERIMENTS = ("baseline", "student_alone", "student")  # the last is distilled from the first


def main() -> None:
    """Generate the project, run all stages and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="go on with the demo of last time")
    parser.add_argument("--results", type=Path, help="also write the table there, as a page")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # the encoding may lack a character of the table
    began = time.monotonic()
    project, solution = BUILD / "digits-demo", BUILD / "solution.csv"
    if not arguments.keep:
        shutil.rmtree(BUILD, ignore_errors=True)
    if not project.exists():
        bake(project)
        run([sys.executable, "tests/digits.py", "data/raw", "--solution", str(solution)], project)
    print(f'\n--- make all EXP="{" ".join(EXPERIMENTS)}"', flush=True)
    run(command(), project)
    page = f"{report(project, solution)}\n\n{time.monotonic() - began:.0f} s in all."
    print(f"\n{page}\nThe project is {project.relative_to(ROOT)}.")
    if arguments.results:
        write_page(arguments.results, PAGE + page + "\n")


def write_page(path: Path, text: str) -> None:
    """Write the page; the sections of other scripts, which follow the demo's, are kept."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    sections = re.split(r"(?m)^(?=## )", old)[2:]  # after the title and the demo's own section
    parts = [text, *sections]
    path.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n", encoding="utf-8")


PAGE = """# Results

## The embedded competition

Written by `make demo ARGS="--results docs/results.md"`: 600 labelled digits, 1,197 to predict, accuracy,
four folds, two cores. The hidden labels are read once, at the end. An ensemble of folds is better than its
members by nature; a fold's own model is what CV speaks of.

"""


def bake(project: Path) -> None:
    """Generate a project from the template with cookiecutter, with the demo's answers and experiments."""
    from cookiecutter.main import cookiecutter

    answers = {
        "comp_name": project.name,
        "title": "Handwritten digits",
        "backbone": "test_resnet",
        "image_size": "32",
    }
    answers["n_folds"] = "4"  # an even number, so that two cores share the folds evenly
    template = (
        project.parent / "template"
    )  # cookiecutter copies a local template with all its files, so caches are left out here
    junk = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, template, ignore=junk, dirs_exist_ok=True)
    cookiecutter(
        str(template),
        no_input=True,
        default_config={"replay_dir": str(project.parent / "replay")},  # the home folder may be read-only
        extra_context=answers,
        output_dir=str(project.parent),
    )
    for config in (HERE / "configs").glob("*.yaml"):
        shutil.copy(config, project / "configs" / config.name)


def command(python: str = sys.executable) -> list[str]:
    """The command for all stages: each experiment's run, pseudo-labels of the first, the stack and a
    submission."""
    return ["make", "--no-print-directory", "all", f"EXP={' '.join(EXPERIMENTS)}", f"PYTHON={python}"]


def run(command: list[str], folder: Path) -> None:
    """Run a command in the project with one thread per process; exit with its status if it fails."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Variables of the calling make or of the user's account must not affect the demo.
    ours = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS", "EXP", "GPUS", "LAUNCHER")
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    status = subprocess.run(command, cwd=folder, env={**kept, **threads}).returncode
    if status:
        sys.exit(status)


def report(project: Path, solution: Path) -> str:
    """A Markdown table with CV and hidden score of every run and of the stack, then the effect of two tricks:
    distillation and pseudo-labels."""
    import pandas as pd

    truth = pd.read_csv(solution, dtype=str).set_index("id")["label"]

    def hidden(path: Path) -> float:
        table = pd.read_parquet(path).set_index("id").loc[truth.index]
        return float((table.columns.to_numpy()[table.to_numpy().argmax(1)] == truth.to_numpy()).mean())

    lines = [
        "| run | CV | ± error | hidden, one fold's model | hidden, all folds | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    labelling = read(project / "runs/baseline/pseudo.json")
    kept = {row["run"]: row["kept"] for row in labelling["rounds"]}
    scores = {}
    for name in ("baseline", "student_alone", "student", *list(kept)[1:]):
        folder = project / "runs" / name
        metrics = read(folder / "metrics.json")
        folds = [hidden(path) for path in sorted(folder.glob("fold?/test.parquet"))]
        score = scores[name] = (metrics["cv"], sum(folds) / len(folds), hidden(folder / "test.parquet"))
        note = "" if kept.get(name, True) else "not kept"
        lines.append(row_of(name, score[0], metrics["standard_error"], *score[1:], note))
    stack = read(project / "stacks/stack/metrics.json")
    final = hidden(project / "stacks/stack/test.parquet")
    lines.append(row_of(f"stack ({stack['kept']})", stack["cv"], stack["standard_error"], None, final))
    submitted = pd.read_csv(project / "submissions/stack.csv", dtype=str).set_index("id")["label"]
    same = (submitted.loc[truth.index] == truth).mean()
    lines.append(row_of("submission", None, None, None, same))
    lines += ["", effect("Distillation", scores["student"], scores["student_alone"])]
    best = labelling["best"]
    lines.append(
        effect("Pseudo-labels", scores[best], scores["baseline"]) if best != "baseline" else NO_ROUND
    )
    return "\n".join(lines)


NO_ROUND = "Pseudo-labels: no round beat the baseline's CV by more than its error, none was kept."


def read(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def row_of(name: str, *cells: float | str | None) -> str:
    """A row of the table; None gives an empty cell."""
    texts = [f"{cell:.4f}" if isinstance(cell, float) else cell or "" for cell in cells]
    return f"| {name:18} | " + " | ".join(f"{text:6}" for text in [*texts, *[""] * (5 - len(texts))]) + " |"


def effect(name: str, after: tuple[float, ...], before: tuple[float, ...]) -> str:
    """One line with the effect of a trick on CV and on the hidden scores."""
    cv, single, together = (b - a for a, b in zip(before, after, strict=True))
    return (
        f"{name}: {cv:+.4f} in CV, {single:+.4f} hidden for one fold's model, {together:+.4f} for all folds."
    )


if __name__ == "__main__":
    main()
