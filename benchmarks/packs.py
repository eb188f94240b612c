"""Real competitions from raw files to hidden score: does the pipeline beat the floor, and does CV tell the
truth?

    python benchmarks/packs.py FOLDER --weights FILE [--only NAME ...] [--results docs/results.md]

FOLDER holds `<name>.zip` (train.csv, test.csv, sample_submission.csv, images) and `<name>.solution.zip`
(solution.csv with the hidden labels) of each competition in PACKS. Each is baked with cookiecutter, run
through sniff, folds, training and prediction on this machine, and only then scored. FILE is a small
pretrained mobilenetv2_100.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from math import hypot
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "packs"

# What a competitor would add to what `make sniff` finds: a metric, a small network, a few epochs. Tuned on
# nothing hidden.
PRETRAINED = {"backbone": "mobilenetv2_100", "weights": "weights.safetensors"}
FLIPS = ["identity", "hflip", "vflip", "rot180"]
PACKS = {
    "trashnet": {
        "floor": 0.824,
        "task": {"metric": "accuracy"},
        "data": {"image_size": 112},
        "model": PRETRAINED,
        "train": {"epochs": 6, "lr": 1e-3, "optimizer": "adamw", "batch_size": 32},
    },
    "pneumonia": {
        "floor": 0.950,
        "task": {"metric": "roc_auc"},
        "data": {"image_size": 32},
        "model": {"backbone": "resnet10t", "pretrained": False},
        "train": {"epochs": 5, "lr": 2e-3, "optimizer": "adamw", "batch_size": 64},
    },
    "pcb_tiles": {
        "floor": 0.776,
        "task": {"metric": "roc_auc"},
        "data": {"image_size": 96},
        "model": PRETRAINED,
        "train": {"epochs": 5, "lr": 1e-3, "optimizer": "adamw", "batch_size": 32},
        "augment": {"vflip": 0.5},
        "inference": {"tta": FLIPS},
    },
    "dsb_count": {
        "floor": 11.7,
        "task": {"metric": "mae"},
        "data": {"image_size": 128, "fit": "pad"},
        "model": PRETRAINED,
        "train": {
            "epochs": 12,
            "lr": 1e-3,
            "optimizer": "adamw",
            "batch_size": 16,
            "loss": "mae",
            "target_log": True,
        },
        "augment": {"vflip": 0.5, "crop_scale": [1.0, 1.0]},
        "inference": {"tta": FLIPS},
    },
    "dsb2018": {
        "floor": 0.856,
        "task": {"metric": "dice"},
        "data": {"image_size": 128},
        "model": PRETRAINED,
        "train": {"epochs": 12, "lr": 1e-3, "optimizer": "adamw", "batch_size": 16},
        "augment": {"vflip": 0.5},
        "inference": {"tta": FLIPS},
    },
    "omniglot_id": {
        "floor": 0.734,
        "task": {"metric": "map5"},
        "data": {"image_size": 56},
        "model": {"backbone": "resnet10t", "pretrained": False, "embedding": 256},
        "train": {
            "epochs": 30,
            "lr": 3e-3,
            "optimizer": "adamw",
            "weight_decay": 0.01,
            "batch_size": 48,
            "ema": {"decay": 0.99},
        },
        "augment": {"hflip": 0.0, "crop_scale": [1.0, 1.0], "rotate": 10, "shift": 0.06, "zoom": 0.1},
        "inference": {"tta": ["identity"]},
    },
}


def main() -> None:
    """Run the packs and print, or write, the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(PACKS), default=list(PACKS))
    parser.add_argument("--results", type=Path, help="put the table into this page, below its last heading")
    arguments = parser.parse_args()
    rows = [run(name, arguments.folder, arguments.weights) for name in arguments.only]
    table = "\n".join([HEAD, *rows]) + "\n"
    print(table)
    if arguments.results:
        page = arguments.results.read_text(encoding="utf-8").split(HEADING)[0].rstrip()
        arguments.results.write_text(f"{page}\n\n{HEADING}{ABOUT}{table}", encoding="utf-8")


HEADING = "## Real competitions"
ABOUT = """

Written by `benchmarks/packs.py`, two cores, one seed. The floor is a linear probe or a plain run on the same
files. CV and its standard error over the folds; the hidden score of the folds' own models (their mean), which
CV speaks of, with its standard error over resampled test rows; how many standard errors lie between the two;
the hidden score of all folds together.

"""
HEAD = """| pack | task, metric | floor | CV | hidden, a fold | apart | hidden, all folds | minutes |
|---|---|--:|--:|--:|--:|--:|--:|"""


def run(name: str, folder: Path, weights: Path) -> str:
    """Bake, unpack, run all stages, score; gives the pack's row of the table."""
    project, settings = BUILD / name, PACKS[name]
    prepare(project, name, folder, weights)
    began = time.monotonic()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    for target in ("sniff", "folds", "train", "oof"):
        command = ["make", "--no-print-directory", target, f"PYTHON={sys.executable}"]
        subprocess.run(command, cwd=project, env={**os.environ, **threads}, check=True)
        if target == "sniff":  # what it found stands in default.yaml; the experiment builds on that
            page = {"base": "default", **settings, "tracking": {"wandb": "disabled"}}
            text = json.dumps({key: value for key, value in page.items() if key != "floor"})  # JSON is YAML
            (project / "configs" / "baseline.yaml").write_text(text, encoding="utf-8")
    minutes = (time.monotonic() - began) / 60
    with zipfile.ZipFile(folder / f"{name}.solution.zip") as archive:
        archive.extractall(BUILD / "solutions")
    metrics = json.loads((project / "runs/baseline/metrics.json").read_text(encoding="utf-8"))
    solution = next((BUILD / "solutions").glob(f"{name}/solution.csv"))
    single, error, together = hidden(project, solution)
    apart = abs(single - metrics["cv"]) / hypot(error, metrics["standard_error"])
    task = json.loads((project / "data" / "dataset.json").read_text(encoding="utf-8"))["task"]
    cells = [
        name,
        f"{task}, {metrics['metric']}",
        settings["floor"],
        f"{metrics['cv']:.4f} ± {metrics['standard_error']:.4f}",
        f"{single:.4f} ± {error:.4f}",
        f"{apart:.1f}",
        f"{together:.4f}",
        f"{minutes:.1f}",
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def prepare(project: Path, name: str, folder: Path, weights: Path) -> None:
    """Bake the project and put the competition's files and the weights into it."""
    from cookiecutter.main import cookiecutter

    shutil.rmtree(project, ignore_errors=True)
    template = BUILD / "template"
    junk = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, template, ignore=junk, dirs_exist_ok=True)
    answers = {"comp_name": name.replace("_", "-")}
    cookiecutter(
        str(template), no_input=True, default_config=True, extra_context=answers, output_dir=str(BUILD)
    )
    (BUILD / answers["comp_name"]).rename(project)
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        archive.extractall(project / "data")
    (project / "data" / "raw").rename(project / "data" / "empty")
    (project / "data" / name).rename(project / "data" / "raw")
    shutil.copy(weights, project / "weights.safetensors")


def hidden(project: Path, solution: Path) -> tuple[float, float, float]:
    """The metric on the hidden labels: the mean of the folds' models, its standard error over 200 resamplings
    of the test rows, and the score of the folds' mean prediction."""
    command = [sys.executable, "-c", SCORE, str(solution)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


SCORE = """
import json, sys
import numpy as np
import pandas as pd
from pathlib import Path
from src.configfile import load_config
from src.data.rle import decode_runs
from src.decisions import Rule, take_rows
from src.tasks import create_task

config = load_config("configs/baseline.yaml")
task, data = create_task(config), config.data
dataset = json.loads(Path("data/dataset.json").read_text())
outputs = dataset["outputs"]
solution = pd.read_csv(sys.argv[1], dtype=str, keep_default_na=False).set_index(data.id)
read = lambda path: task.read(pd.read_parquet(path).set_index("id").loc[solution.index], outputs)
whole = read("runs/baseline/test.parquet")
rule = Rule.from_json(json.loads(Path("runs/baseline/metrics.json").read_text())["rule"])
if task.kind == "maps":
    runs = zip(solution.drop(columns="Usage").iloc[:, 0], whole.sizes, strict=True)
    truth = [decode_runs(text, *size)[None] for text, size in runs]
elif task.kind == "rankings":
    known = solution[data.target].isin(outputs)
    truth = solution[data.target].where(known, data.new_label).to_numpy(dtype=object)
else:
    targets = [data.target] if isinstance(data.target, str) else list(data.target)
    truth = task.truth(solution[targets], outputs)
folds = [rule.apply(read(path)) for path in sorted(Path("runs/baseline").glob("fold?/test.parquet"))]
whole = rule.apply(whole)
if task.kind == "maps":  # a score an image, which is what resampling needs
    each = [np.array([task.score([t], [p]) for t, p in zip(truth, fold, strict=True)]) for fold in folds]
    mean = lambda rows: np.mean([one[rows].mean() for one in each])
else:
    mean = lambda rows: np.mean([task.score(truth[rows], take_rows(fold, rows)) for fold in folds])
random = np.random.default_rng(0)
again = [mean(random.integers(0, len(truth), len(truth))) for _ in range(200)]
print(json.dumps([mean(np.arange(len(truth))), float(np.std(again)), task.score(truth, whole)]))
"""


if __name__ == "__main__":
    main()
