"""One fold, trained by us, by timm's train.py and by fastai: the same network, images, epochs and batch.

    python benchmarks/peers.py run FOLDER --weights FILE --timm TRAIN.PY --fastai PYTHON [--seeds 1 2 3]
    python benchmarks/peers.py write                            # a section of docs/benchmarks.md

FOLDER and FILE are those of packs.py. TRAIN.PY is the script of timm's repository, which its package lacks;
PYTHON is that of an environment with timm and fastai. Each training is a process of its own, from its start
to its score; seed after seed, so that what else the machine does falls on all three.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NO_ALBUMENTATIONS_UPDATE"):
    os.environ[_name] = "1"  # of the processes that are started too

from packs import BUILD, ROOT, prepare  # noqa: E402

FOUND = ROOT / "benchmarks" / "measured" / "peers.json"
HOME = BUILD.parent / "peers"
SIZE, EPOCHS, BATCH, RATE, DECAY, SCALE = 96, 6, 32, 1e-3, 0.05, (0.5, 1.0)
PAGE = {
    "base": "default",
    "task": {"metric": "accuracy"},
    "data": {"image_size": SIZE},
    "model": {"backbone": "mobilenetv2_100", "weights": "weights.safetensors"},
    "augment": {"hflip": 0.5, "crop_scale": list(SCALE), "brightness": 0.0, "contrast": 0.0, "cutout": 0.0},
    "train": {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "lr": RATE,
        "weight_decay": DECAY,
        "optimizer": "adamw",
        "warmup_epochs": 1,
        "label_smoothing": 0.0,
        "ema": {"enabled": False},
        "early_stopping": {"enabled": False},  # all rows are learned from, as by the others
    },
    "inference": {"tta": ["identity"]},
    "runtime": {"device": "cpu", "jobs": 1, "threads": 1, "workers": 0},
    "tracking": {"wandb": "disabled"},
}
FASTAI = """
import sys
import timm, torch
from fastai.vision.all import *
folder, weights, seed, head, size, epochs, batch, rate, decay, low, high = sys.argv[1:]
torch.set_num_threads(1)
set_seed(int(seed), reproducible=True)
loaders = ImageDataLoaders.from_folder(
    folder, train="train", valid="valid", bs=int(batch), num_workers=0,
    item_tfms=RandomResizedCrop(int(size), min_scale=float(low)),
    batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)],
)
model = timm.create_model(
    "mobilenetv2_100", pretrained=True, num_classes=6, pretrained_cfg_overlay={"file": weights}
)
if head == "ours":
    torch.nn.init.xavier_uniform_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
learner = Learner(loaders, model, metrics=accuracy, wd=float(decay))
with learner.no_bar():
    learner.fit_one_cycle(int(epochs), float(rate))
print(float(learner.validate()[1]))
"""
HEADING = "## One fold beside timm and fastai"
ABOUT = """

Written by `benchmarks/peers.py`: a fold of trashnet ({rows:,} photographs to learn from, {held} held out),
{size} px, a pretrained mobilenetv2_100, {epochs} epochs, batches of {batch}, AdamW with one cycle or a
cosine, flips and resized crops; one process, one thread, no workers, one core. Wall time from the start of
the process, imports and validation included, over the faster of the two others; medians of {seeds} seeds,
least and most in brackets. Ours reads a cache that stage 01 builds once for all folds, runs and rounds;
building it took {cache:.0f} s. timm starts a new classifier of this network with weights up to .41, whose
first epoch costs 6.5 (cross-entropy, read from the two logs) where ours costs 1.5: that is the difference in
accuracy. fastai with the head started as ours, by Glorot and Bengio 2010, has none.

| what | wall time / the faster other | CPU s | accuracy, last epoch |
|---|--:|--:|--:|
"""


def main() -> None:
    """Run, or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    run = what.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("--weights", type=Path, required=True)
    run.add_argument("--timm", type=Path, required=True)
    run.add_argument("--fastai", type=Path, required=True)
    run.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    what.add_parser("write")
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(ROOT / "docs" / "benchmarks.md")
        return
    weights, python = arguments.weights.resolve(), arguments.fastai.absolute()
    found = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else {}
    project = HOME / "trashnet"
    if not (project / "peers" / "ready").exists():
        found = {"about": set_up(project, arguments.folder.resolve(), weights)}
    images = project / "peers"
    for seed in arguments.seeds:
        blenders = {
            "ours": lambda seed=seed: ours(project, seed),
            "timm's train.py": lambda seed=seed: timms(arguments.timm, python, images, weights, seed),
            "fastai": lambda seed=seed: fastais(python, images, weights, seed, "timm's"),
            "fastai, head as ours": lambda seed=seed: fastais(python, images, weights, seed, "ours"),
        }
        for name, train in blenders.items():
            if f"{name}/{seed}" not in found:
                found[f"{name}/{seed}"] = measured(train)
                print(name, seed, found[f"{name}/{seed}"], flush=True)
                FOUND.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def set_up(project: Path, folder: Path, weights: Path) -> dict[str, Any]:
    """Our project after stage 01, and fold 0 as folders of classes, which the others read."""
    import pandas as pd

    HOME.mkdir(parents=True, exist_ok=True)
    prepare(project, "trashnet", folder, weights)
    for target in ("sniff", "folds"):
        if target == "folds":
            (project / "configs" / "baseline.yaml").write_text(json.dumps(PAGE), encoding="utf-8")
        start = time.monotonic()
        command = ["make", "--no-print-directory", target, f"PYTHON={sys.executable}"]
        subprocess.run(command, cwd=project, check=True)
    cache = time.monotonic() - start
    table = pd.read_csv(project / "data" / "folds.csv", dtype=str)
    target = next(c for c in table.columns if c not in ("id", "fold", "stop", "group"))
    raw = {path.stem: path for path in (project / "data" / "raw" / "train_images").iterdir()}
    for name, label, fold in zip(table["id"], table[target], table["fold"], strict=True):
        place = project / "peers" / ("valid" if fold == "0" else "train") / label
        place.mkdir(parents=True, exist_ok=True)
        file = raw[Path(name).stem]
        os.link(file, place / file.name)
    (project / "peers" / "ready").touch()
    held = int((table["fold"] == "0").sum())
    return {"cache": cache, "rows": len(table) - held, "held": held}


def ours(project: Path, seed: int) -> float:
    """Stage 02 of the fold; its score is that of the last epoch, for nothing stops earlier."""
    shutil.rmtree(project / "runs", ignore_errors=True)
    command = [sys.executable, "02_train.py", "--config", "configs/baseline.yaml", "fold=0", f"seed={seed}"]
    subprocess.run(command, cwd=project, check=True, stdout=subprocess.DEVNULL)
    score = json.loads((project / "runs/baseline/fold0/score.json").read_text(encoding="utf-8"))
    return score["score"]


def timms(script: Path, python: Path, images: Path, weights: Path, seed: int) -> float:
    """timm's script with what it needs to do the same."""
    shutil.rmtree(HOME / "timm", ignore_errors=True)
    options = {
        "data-dir": images,
        "train-split": "train",
        "val-split": "valid",
        "model": "mobilenetv2_100",
        "pretrained-path": weights,
        "num-classes": 6,
        "img-size": SIZE,
        "batch-size": BATCH,
        "opt": "adamw",
        "lr": RATE,
        "weight-decay": DECAY,
        "epochs": EPOCHS,
        "warmup-epochs": 1,
        "min-lr": 0,
        "sched": "cosine",
        "hflip": 0.5,
        "color-jitter": 0,
        "smoothing": 0,
        "crop-pct": 1.0,
        "interpolation": "bilinear",
        "train-interpolation": "bilinear",
        "workers": 0,
        "device": "cpu",
        "seed": seed,
        "output": HOME / "timm",
        "experiment": "fold0",
    }
    command = [str(python), str(script), "--pretrained", "--sched-on-updates", "--no-prefetcher"]
    command += ["--scale", *map(str, SCALE), *(f"--{key}={value}" for key, value in options.items())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(HOME / "timm" / "fold0" / "summary.csv", newline="", encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["eval_top1"]) / 100


def fastais(python: Path, images: Path, weights: Path, seed: int, head: str) -> float:
    """fastai's usual lines; the new head's first weights are timm's, or as small as ours."""
    knobs = [images, weights, seed, head, SIZE, EPOCHS, BATCH, RATE, DECAY, *SCALE]
    command = [str(python), "-c", FASTAI, *map(str, knobs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def measured(train: Any) -> dict[str, float]:
    """Wall and CPU seconds of the processes that `train` starts, and the accuracy it gives."""

    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    start, before = time.monotonic(), cpu()
    score = train()
    return {"wall": time.monotonic() - start, "cpu": cpu() - before, "accuracy": score}


def write(page: Path) -> None:
    """The section, in the place of the one before."""
    found = json.loads(FOUND.read_text(encoding="utf-8"))
    about = found.pop("about")
    names = list(dict.fromkeys(key.split("/")[0] for key in found))
    seeds = sorted({key.split("/")[1] for key in found})
    text = HEADING + ABOUT.format(size=SIZE, epochs=EPOCHS, batch=BATCH, seeds=len(seeds), **about)
    for name in names:
        mine = [found[f"{name}/{seed}"] for seed in seeds]
        ratios = []
        for one, seed in zip(mine, seeds, strict=True):
            others = [found[f"{other}/{seed}"]["wall"] for other in ("timm's train.py", "fastai")]
            ratios.append(one["wall"] / min(others))
        scores = [one["accuracy"] for one in mine]
        error = f" ± {stdev(scores) / len(scores) ** 0.5:.3f}" if len(scores) > 1 else ""
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        cpu = median(one["cpu"] for one in mine)
        text += f"| {name} | {ratio} | {cpu:.0f} | {mean(scores):.3f}{error} |\n"
    before, _, after = page.read_text(encoding="utf-8").partition(HEADING)
    rest = after.partition("\n## ")[2]
    page.write_text(before.rstrip() + "\n\n" + text + (f"\n## {rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
