"""What each trick brings: `make ablate` on real competitions, the effects written into docs/tricks.md.

    python benchmarks/tricks.py run FOLDER --weights FILE [--only NAME ...]   # hours; killed, it goes on
    python benchmarks/tricks.py write                                         # the column of docs/tricks.md

FOLDER and FILE are those of packs.py. A lesson takes some rows of a pack, in two folds, so that a training
takes seconds and half of the rows are scored; all pairs of fold and seed that fit its minutes are trained.
Short trainings of few rows say what a trick does there, and no more. Where a trick fits the task of one pack
alone, another pack's images are asked a second question (asked.py). What was found stays in measured/tricks,
so that a page can be written without the hours. The ways to fine-tune, which finetuning.py writes into
docs/results.md, are measured with the photographs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asked
from packs import BUILD, PACKS, ROOT, prepare

KEPT = ROOT / "benchmarks" / "measured" / "tricks"

TEST_ROWS = 200  # of its test images, for what learns from them; the others would only be predicted
TRAINED = {"optimizer": "adamw", "lr": 1e-3, "batch_size": 32, "ema": {"decay": 0.99}}  # of few steps
PRETRAINED = {"backbone": "mobilenetv2_100", "weights": "weights.safetensors"}
ONE_CORE = {"jobs": 1, "threads": 1}  # two ablations may then run side by side
SCRATCH = {"backbone": "test_resnet", "pretrained": False}


@dataclass(frozen=True)
class Lesson:
    """What docs/tricks.md calls it, the minutes it is given, how many of the pack's rows are taken (None:
    all), its base experiment; the task where it is not the pack's own, and what makes the tables of it."""

    label: str
    minutes: int
    rows: int | None
    base: dict[str, Any]
    pack: str = ""  # the lesson's own name
    task: dict[str, str] = field(default_factory=dict)
    ask: Callable[[Path], None] | None = None


LAB = {
    "trashnet": Lesson(
        "photos",
        100,
        800,
        {"data": {"image_size": 64}, "model": PRETRAINED, "train": {**TRAINED, "epochs": 5}},
    ),
    "pcb_tiles": Lesson(
        "boards",
        30,
        1000,
        {
            "data": {"image_size": 64, "near_duplicates": -1},  # empty tiles would tie the boards together
            "model": PRETRAINED,
            "train": {**TRAINED, "epochs": 5},
            "augment": {"vflip": 0.5},
        },
    ),
    "pneumonia": Lesson(
        "X-rays",
        50,
        2000,
        {
            "data": {"image_size": 32},
            "model": SCRATCH,
            "train": {**TRAINED, "lr": 4e-3, "epochs": 8},
        },
    ),
    "omniglot_id": Lesson(
        "characters",
        22,
        None,
        {
            "data": {"image_size": 32},
            "model": {"backbone": "resnet10t", "pretrained": False, "embedding": 128},
            "train": {**TRAINED, "lr": 3e-3, "epochs": 12, "batch_size": 48},
            "augment": {"hflip": 0.0, "crop_scale": [1.0, 1.0], "rotate": 10, "shift": 0.06},
            "inference": {"tta": ["identity"]},
        },
    ),
    "dsb2018": Lesson(
        "masks",
        25,
        None,
        {
            "data": {"image_size": 64},
            "model": PRETRAINED,
            "train": {**TRAINED, "lr": 2e-3, "epochs": 8, "batch_size": 8},
            "augment": {"vflip": 0.5},
        },
    ),
    "dsb_count": Lesson(
        "counts",
        8,
        None,
        {
            "data": {"image_size": 96, "fit": "pad"},
            "model": SCRATCH,
            "train": {
                **TRAINED,
                "lr": 4e-3,
                "epochs": 20,
                "batch_size": 16,
                "loss": "mae",
                "target_log": True,
            },
            "augment": {"vflip": 0.5, "crop_scale": [1.0, 1.0]},
        },
    ),
    "kinds": Lesson(
        "photos of a kind",
        10,
        800,
        {
            "data": {"image_size": 64},
            "model": {**PRETRAINED, "embedding": 128},
            "train": {**TRAINED, "epochs": 5},
            "inference": {"tta": ["identity"]},
        },
        pack="trashnet",
        task={"name": "retrieval", "metric": "map5"},
    ),
    "faults": Lesson(
        "faults counted",
        9,
        1000,
        {
            "data": {"image_size": 64, "near_duplicates": -1},
            "model": PRETRAINED,
            "train": {**TRAINED, "epochs": 5, "loss": "mae", "target_log": True},
            "augment": {"vflip": 0.5},
        },
        pack="pcb_tiles",
        task={"name": "regression", "metric": "mae"},
        ask=asked.faults,
    ),
    "flaws": Lesson(
        "masks of flaws",
        30,
        600,
        {
            "data": {"image_size": 96, "near_duplicates": -1},
            "model": PRETRAINED,
            "train": {**TRAINED, "lr": 2e-3, "epochs": 8, "batch_size": 8},
            "augment": {"vflip": 0.5, "crop_scale": [1.0, 1.0]},
        },
        pack="pcb_tiles",
        task={"name": "segmentation", "metric": "dice"},
        ask=asked.flaws,
    ),
    "two": Lesson(
        "X-rays as two classes",
        8,
        2000,
        {
            "data": {"image_size": 32},
            "model": SCRATCH,
            "train": {**TRAINED, "lr": 4e-3, "epochs": 8},
        },
        pack="pneumonia",
        task={"name": "multiclass", "metric": "accuracy"},
    ),
    "photos_96": Lesson(
        "larger photos",
        8,
        800,
        {"data": {"image_size": 96}, "model": PRETRAINED, "train": {**TRAINED, "epochs": 5}},
        pack="trashnet",
    ),
    "characters_96": Lesson(
        "larger characters",
        10,
        None,
        {
            "data": {"image_size": 96},
            "model": {"backbone": "resnet10t", "pretrained": False, "embedding": 128},
            "train": {**TRAINED, "lr": 3e-3, "epochs": 8, "batch_size": 48},
            "augment": {"hflip": 0.0, "crop_scale": [1.0, 1.0], "rotate": 10, "shift": 0.06},
            "inference": {"tta": ["identity"]},
        },
        pack="omniglot_id",
    ),
}

ALL = tuple(LAB)
IMAGES = ("trashnet", "pneumonia")  # an answer an image
TUNED = ("trashnet", "pcb_tiles")  # pretrained
CLASSES = ("trashnet", "omniglot_id")  # one class of several a row
LABELS = ("pcb_tiles", "pneumonia")  # yes or no
RESNETS = ("pneumonia", "omniglot_id")
MASKS = ("dsb2018", "flaws")
NUMBERS = ("dsb_count", "faults")
GALLERIES = ("omniglot_id", "kinds")
LARGE = ("photos_96", "characters_96")  # MGN cuts maps of three rows at least
SEVERAL = ("trashnet", "two")  # classes
AVERAGED = "train.ema.enabled=false train.early_stopping.patience=null"

# The catalogue's row (its first cell), the change, the packs. A row may have several changes.
TRICKS: list[tuple[str, str, tuple[str, ...]]] = [
    ("Adam, AdamW, SGD", "train.optimizer=adam", IMAGES),
    ("Adam, AdamW, SGD", "train.optimizer=sgd train.lr=0.02", IMAGES),
    ("Adam, AdamW, SGD", "train.optimizer=lion train.lr=1e-4", IMAGES),
    ("Adam, AdamW, SGD", "train.optimizer=nadam", IMAGES),
    ("Adam, AdamW, SGD", "train.optimizer=radam", IMAGES),
    ("no weight decay on", "train.weight_decay=0.05", IMAGES),
    ("discriminative rates", "train.backbone_lr=0.1", TUNED),
    ("layer-wise decay", "train.layer_decay=0.75", TUNED),
    ("the head first", "train.freeze_epochs=1", TUNED),
    ("frozen shallow stages", "train.freeze_stages=2", TUNED),
    ("frozen batch norm", "train.freeze_bn=true", TUNED),
    ("linear warm-up", "train.warmup_epochs=0", IMAGES),
    ("linear warm-up", "train.hold_epochs=1", IMAGES),
    ("cosine, with warm restarts", "train.schedule=constant", IMAGES),
    ("cosine, with warm restarts", "train.cycles=2", IMAGES),
    ("steps, by a factor", "train.schedule=step train.steps=[2,4]", IMAGES),
    ("lines between", "train.schedule=piecewise train.steps=[2,5] train.step_lrs=[5e-4,1e-6]", IMAGES),
    (
        "reduce on plateau",
        "train.schedule=plateau train.plateau_patience=1 train.early_stopping.patience=null",
        IMAGES,
    ),
    ("one cycle", "train.schedule=onecycle", IMAGES),
    ("exponential", "train.schedule=exponential", IMAGES),
    ("exponential", "train.schedule=inverse_time", IMAGES),
    ("label smoothing", "train.label_smoothing=0", IMAGES),
    ("focal loss", "train.loss=focal", ("trashnet", *LABELS, *MASKS)),
    ("asymmetric loss", "train.loss=asymmetric", LABELS),
    ("hinge", "train.loss=hinge", ("trashnet", *LABELS)),
    ("symmetric cross-entropy", "train.loss=symmetric_cross_entropy", SEVERAL),
    ("generalised cross-entropy", "train.loss=generalized_cross_entropy", SEVERAL),
    ("soft F-beta", "train.loss=fbeta", (*LABELS, *MASKS)),
    ("BCE, CE or focal with Dice", "train.loss=ce_dice", MASKS),
    ("BCE, CE or focal with Dice", "train.loss=focal_dice", MASKS),
    ("BCE, CE or focal with Dice", "train.dice_weight=0", MASKS),
    ("BCE, CE or focal with Dice", "train.dice_weight=1", MASKS),
    ("Lovász", "train.loss=lovasz", ("pcb_tiles", *MASKS)),
    ("Lovász", "train.lovasz_weight=0.5", ("pcb_tiles", *MASKS)),
    ("NormFace", "train.loss=arcface", ("trashnet",)),
    ("NormFace", "train.loss=cosface", CLASSES),
    ("NormFace", "train.loss=sphereface", CLASSES),
    ("NormFace", "train.loss=normface", CLASSES),
    ("NormFace", "train.loss=cross_entropy", ("omniglot_id",)),
    ("larger margins", "train.loss=arcface train.margin.rarest=0.5", ("trashnet",)),
    ("larger margins", "train.margin.rarest=0.5", ("omniglot_id",)),
    ("batch-hard triplet", "train.margin.triplet_weight=1", ("trashnet",)),
    ("batch-hard triplet", "train.margin.triplet_weight=0", ("omniglot_id",)),
    ("centre loss", "train.center_weight=0.003", CLASSES),
    ("class weights", "train.class_weights=inverse", IMAGES),
    ("class weights", "train.class_weights=effective", IMAGES),
    ("the hardest rows", "train.top_share=0.5", IMAGES),
    ("MSE, MAE, Huber", "train.loss=mse", NUMBERS),
    ("MSE, MAE, Huber", "train.loss=huber", NUMBERS),
    ("log(1 + target)", "train.target_log=false", NUMBERS),
    ("gradient accumulation", "train.accumulate=2", IMAGES),
    ("gradient clipping", "train.clip_grad=1", IMAGES),
    ("EMA of weights", "train.ema.enabled=false", IMAGES),
    ("SWA", f"train.swa.start=0.6 {AVERAGED}", IMAGES),
    ("snapshots of cycles", "train.cycles=2 train.snapshots=2 train.early_stopping.patience=null", IMAGES),
    ("greedy soup", "train.soup=3 train.early_stopping.patience=null", IMAGES),
    ("early stopping", "train.early_stopping.enabled=false", IMAGES),
    ("whitening", "model.normalize=backbone", TUNED),
    ("flips, resized crops", "augment.hflip=0", IMAGES),
    ("flips, resized crops", "augment.crop_scale=[1,1]", IMAGES),
    ("flips, resized crops", "augment.crop_scale=[0.3,1]", IMAGES),
    ("flips, resized crops", "augment.rotate=15 augment.shift=0.1 augment.zoom=0.15", IMAGES),
    ("flips, resized crops", "augment.brightness=0.2 augment.contrast=0.2", IMAGES),
    ("the square's eight", "augment.d4=1", ("trashnet", "pcb_tiles", "dsb2018", "dsb_count")),
    ("random crops of a larger cache", "data.cache_size=80", TUNED),
    ("hue, saturation", "augment.hue=0.05 augment.saturation=0.3 augment.gamma=0.2", IMAGES),
    ("hue, saturation", "augment.blur=0.3 augment.noise=0.3", IMAGES),
    ("JPEG artefacts", "augment.compression=0.5", IMAGES),
    ("cutout", "augment.cutout=0.5", IMAGES),
    ("random erasing", "augment.erasing=0.5", IMAGES),
    ("AutoAugment", "augment.policy=autoaugment", IMAGES),
    ("RandAugment", "augment.policy=randaugment", IMAGES),
    ("TrivialAugment", "augment.policy=trivialaugment", IMAGES),
    ("multi-scale training", "augment.scales=[0.5,1,1.5]", TUNED),
    ("mixup", "mixing.mixup=0.2", (*IMAGES, "dsb_count")),
    ("CutMix", "mixing.cutmix=1", IMAGES),
    ("last epochs without mixing", "mixing.cutmix=1 mixing.off_epochs=2", IMAGES),
    ("class-balanced and square-root", "train.sampling=balanced", IMAGES),
    ("class-balanced and square-root", "train.sampling=sqrt", IMAGES),
    ("dropout, stochastic depth", "model.drop_rate=0.3", IMAGES),
    ("dropout, stochastic depth", "model.drop_path_rate=0.1", IMAGES),
    ("multi-sample dropout", "model.drop_rate=0.3 model.dropout_samples=4", IMAGES),
    ("pooling:", "model.pooling=max", IMAGES),
    ("pooling:", "model.pooling=dual", IMAGES),
    ("pooling:", "model.pooling=gem", IMAGES),
    ("BNNeck", "model.neck=bnneck", CLASSES),
    ("IBN-a", "model.ibn=a", RESNETS),
    ("IBN-a", "model.ibn=b", RESNETS),
    ("local parts in stripes", "model.parts=pcb model.stripes=2", TUNED),
    ("local parts of several sizes", "model.parts=mgn", LARGE),
    ("sub-centres", "train.loss=arcface model.subcenters=2", ("trashnet",)),
    ("sub-centres", "model.subcenters=2", ("omniglot_id",)),
    ("TTA by views", "inference.tta=[identity]", (*IMAGES, "dsb2018", "dsb_count")),
    ("TTA by views", "inference.tta=[identity,hflip,centre]", IMAGES),
    ("TTA by views", "inference.average=logit", IMAGES),
    ("TTA by views", "inference.average=rank", ("pcb_tiles", "pneumonia")),
    ("several sizes at test", "inference.scales=[64,96]", TUNED),
    ("k-reciprocal", "inference.rerank={}", GALLERIES),
    ("alpha query expansion", "inference.expansion={}", GALLERIES),
    ("database-side", "inference.expansion.gallery=true", GALLERIES),
    ("U-Net, FPN", "model.decoder=fpn", MASKS),
    ("batches of identities", "train.images_per_class=2", GALLERIES),
    ("knowledge distillation", "distill.teacher=teacher", IMAGES),
    ("several teachers", "distill.teacher=[teacher,second]", IMAGES),
    ("hard distillation", "distill.teacher=teacher distill.hard=true", IMAGES),
    ("feature distillation", "distill.teacher=teacher distill.features=1", IMAGES),
    ("mean teacher", "consistency={}", IMAGES),
]

# Ways to fine-tune, beyond those of the list above; each against all weights trained at one rate.
MODES = {
    "(2) the head alone for an epoch, then all": "train.freeze_epochs=1",
    "(3) the backbone at a tenth of the rate": "train.backbone_lr=0.1",
    "(4) the shallow stages frozen": "train.freeze_stages=2",
    "layer-wise decay by 0.75": "train.layer_decay=0.75",
    "(2) and (3)": "train.freeze_epochs=1 train.backbone_lr=0.1",
    "(3) and (4)": "train.backbone_lr=0.1 train.freeze_stages=2",
    "(2), (3) and (4)": "train.freeze_epochs=1 train.backbone_lr=0.1 train.freeze_stages=2",
    "(3) and layer-wise decay": "train.backbone_lr=0.1 train.layer_decay=0.75",
    "(1) with batch norms frozen": "train.freeze_bn=true",
    "from scratch: no pretrained weights": "model.weights=null model.pretrained=false",
}


def main() -> None:
    """Run ablations, or write what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    run = what.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("--weights", type=Path, required=True)
    run.add_argument("--only", nargs="*", choices=ALL, default=list(ALL))
    run.add_argument(
        "--missing", action="store_true", help="changes that were not measured yet, and no others"
    )
    what.add_parser("write")
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(ROOT / "docs" / "tricks.md")
        return
    for name in arguments.only:
        ablate(name, arguments.folder.resolve(), arguments.weights.resolve(), arguments.missing)


def ablate(name: str, folder: Path, weights: Path, missing: bool) -> None:
    """Compare a lesson's changes with its base experiment, and keep what was found."""
    lesson = LAB[name]
    modes = MODES.values() if name == "trashnet" else ()
    changes = [*dict.fromkeys([*modes, *(change for _, change, names in TRICKS if name in names)])]
    earlier = measured(name) if missing else {}
    changes = [change for change in changes if change not in earlier.get("changes", {})]
    if not changes:
        return
    base = {"task": task_of(name), "runtime": ONE_CORE, **lesson.base}
    project = BUILD / f"tricks_{name}"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

    def make(*words: str) -> None:
        command = ["make", "--no-print-directory", *words, f"PYTHON={sys.executable}"]
        subprocess.run(command, cwd=project, env={**os.environ, **threads}, check=True)

    if not (project / "configs" / "second.yaml").exists():
        prepare(project, lesson.pack or name, folder, weights)
        if lesson.ask:
            lesson.ask(project / "data" / "raw")
        sample(project / "data" / "raw", lesson.rows)
        make("sniff")
        page = {"base": "default", "cv": {"n_folds": 2}, "tracking": {"wandb": "disabled"}, **base}
        (project / "configs" / "baseline.yaml").write_text(json.dumps(page), encoding="utf-8")
        (project / "configs" / "teacher.yaml").write_text("base: baseline\n", encoding="utf-8")
        (project / "configs" / "second.yaml").write_text("base: baseline\nseed: 7\n", encoding="utf-8")
    (project / "configs" / "ablate.yaml").write_text(json.dumps({"try": changes}), encoding="utf-8")
    make("folds")
    for teacher in ("teacher", "second"):
        if any(teacher in change for change in changes):
            make("train", f"EXP={teacher}")
    make("ablate", f"MINUTES={lesson.minutes}")
    found = found_in(project)
    if earlier:
        found = earlier | {"changes": earlier["changes"] | found["changes"]}
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def task_of(name: str) -> dict[str, str]:
    """The lesson's `task` section."""
    return LAB[name].task or PACKS[LAB[name].pack or name]["task"]


def found_in(project: Path) -> dict[str, Any]:
    """What `write` wants of a project's ablation."""
    ablation = project / "ablations" / "baseline"
    plan = json.loads((ablation / "plan.json").read_text(encoding="utf-8"))
    with (project / "data/folds.csv").open(encoding="utf-8") as file:
        rows = sum(1 for _ in file) - 1
    with (ablation / "table.csv").open(encoding="utf-8", newline="") as file:
        table = [row for row in csv.DictReader(file) if row["difference"] not in ("", "nan")]
    found = {"rows": rows, "epochs": plan["epochs"], "base": float(table[0]["base"]), "changes": {}}
    for row in table:
        numbers = {key: round(float(row[key]), 5) for key in ("score", "difference", "standard_error")}
        found["changes"][row["change"]] = {
            "pairs": int(row["pairs"]),
            **numbers,
            "verdict": row["verdict"],
        }
    return found


def sample(folder: Path, rows: int | None) -> None:
    """Leave so many rows of train.csv (None: all), and TEST_ROWS of the other tables."""
    import pandas as pd

    for table, kept in {"train": rows, "test": TEST_ROWS, "sample_submission": TEST_ROWS}.items():
        path = folder / f"{table}.csv"
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if kept is not None and kept < len(frame):
            frame.sample(kept, random_state=0).sort_index().to_csv(path, index=False)


def write(page: Path) -> None:
    """Put each row's effects into the last column of the page's table."""
    found = defaultdict(list)
    for row, change, packs in TRICKS:
        cells = [effect(name, change) for name in packs]
        found[row].append((change, [cell for cell in cells if cell]))
    lines, used = [], set()
    catalogue, *traps = re.split(r"(?=\n## Traps\n)", page.read_text(encoding="utf-8"))
    for line in catalogue.splitlines():
        row = next((row for row in found if line.startswith(f"| {row}")), None)
        if row is not None:
            used.add(row)
            said = "<br>".join(f"`{short(c)}` {', '.join(e)}" for c, e in found[row] if e)
            line = re.sub(r"[^|]*\|$", f" {said or '-'} |", line)
        lines.append(line)
    if missing := set(found) - used:
        sys.exit(f"{page} has no row that begins with {', '.join(sorted(missing))}")
    text = re.sub(
        r"\| (pack|name) \|.*?\n\n", packs_table() + "\n\n", "\n".join([*lines, ""]), count=1, flags=re.S
    )
    page.write_text(text + "".join(traps), encoding="utf-8")


def packs_table() -> str:
    """A row a lesson: what was trained there, how often, and what the plain experiment has."""
    rows = [
        "| name | pack, metric | rows | network, pixels | epochs | pairs | base |",
        "|---|---|--:|---|--:|--:|--:|",
    ]
    for name, lesson in LAB.items():
        found = measured(name)
        if not found:
            continue
        model, pairs = lesson.base["model"], {row["pairs"] for row in found["changes"].values()}
        network = model["backbone"] + ("" if "weights" in model else " from scratch")
        cells = (
            f"*{lesson.label}*",
            f"{lesson.pack or name}, {task_of(name)['metric']}",
            f"{found['rows']:,}",
            f"{network}, {lesson.base['data']['image_size']}",
            found["epochs"],
            " or ".join(map(str, sorted(pairs))),
            f"{found['base']:.3f}",
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def short(change: str) -> str:
    """A change without the words that all its like have."""
    return change.replace(f" {AVERAGED}", "").replace(" train.early_stopping.patience=null", "")


def effect(name: str, change: str) -> str:
    """`photos +0.012 ± 0.004 helps`, or nothing where it was not measured."""
    row = measured(name).get("changes", {}).get(change)
    if row is None:
        return ""
    verdict = {"helps": " **helps**", "hurts": " **hurts**"}.get(row["verdict"], "")
    return f"{LAB[name].label} {row['difference']:+.3f} ± {row['standard_error']:.3f}{verdict}"


def measured(name: str) -> dict[str, Any]:
    """What was found of a lesson, or nothing."""
    path = KEPT / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


if __name__ == "__main__":
    main()
