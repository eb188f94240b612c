"""The pipeline as a dependency graph: the files of every stage and what they depend on. Computes nothing.

| step | writes | depends on |
|---|---|---|
| images | `data/cache/<key>/` the store, index.parquet, statistics.json | tables, files, image settings |
| external images | there too: extra-<key>.npy, extra-<key>.parquet | their files, the index, image settings |
| masks | there too: masks.npy, .parquet, .json (segmentation) | tables, files, image and mask settings |
| folds | `data/folds.csv`, `data/dataset.json` | the tables, duplicates in the index, `cv`, `task` |
| train, per fold | `runs/<name>/fold<k>/` model.safetensors, history.csv, score.json, snapshots | ... |
| predict, per fold | `runs/<name>/fold<k>/` oof.parquet, test.parquet | that model, `inference` |
| score | `runs/<name>/` oof.parquet, test.parquet, metrics.json | every fold's predictions, the metric |
| select, per fold | `runs/<name>-round<r>/fold<k>.pseudo.parquet` | see src/pseudo/steps.py |
| stack | `stacks/<name>/` oof.parquet, test.parquet, metrics.json, models | the members' tables, `stack` |
| submit | `submissions/<name>.csv`, `<name>.json` | the source's table, the sample submission |
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.artifacts import Step, digest
from src.config import Config, UserError, snapshot_names
from src.optimism import why_optimistic
from src.owncode import preprocessing
from src.rawfiles import external_folders, image_folders, listing, raw_tables
from src.reading import contents_in

# The keys of `data` that decide the rows, their labels and their groups.
MASKS = {"train_masks", "mask", "mask_classes", "mask_exif", "rle", "long"}
LABELS = MASKS | {"id", "target", "label_separator", "group", "new_label", "near_duplicates"}


@dataclass(frozen=True)
class Run:
    """An experiment and its run folder; a pseudo-label round is a run too, after the run `labels_from`."""

    config: Config
    name: str
    labels_from: str | None = None

    @property
    def folder(self) -> Path:
        """The run's folder, `runs/<name>`."""
        return self.config.root / "runs" / self.name

    def fold_folder(self, fold: int) -> Path:
        """The folder of one fold, `runs/<name>/fold<k>`."""
        return self.folder / f"fold{fold}"

    def pseudo_labels(self, fold: int) -> Path | None:
        """The table of pseudo-labelled rows for training fold `fold`; None outside a pseudo-label round."""
        return self.folder / f"fold{fold}.pseudo.parquet" if self.labels_from else None

    def start(self, fold: int) -> Path | None:
        """The initial weights of fold `fold` in a pseudo-label round: the previous run's model of that fold.

        None if the fold starts as in any other run.
        """
        if self.labels_from is None or self.config.pseudo.start == "scratch":
            return None
        return self.folder.with_name(self.labels_from) / f"fold{fold}" / "model.safetensors"


def run_of(config: Config) -> Run:
    """The run that a config trains."""
    return Run(config, config.name)


def round_of(config: Config, number: int) -> Run:
    """Round `number` (1, 2, ...) of the config's pseudo-labelling; 0 is the run it starts from."""
    if number == 0:
        return run_of(config)
    before = config.name if number == 1 else f"{config.name}-round{number - 1}"
    if config.pseudo.epochs is not None:
        config = config.with_epochs(config.pseudo.epochs)
    config = config.model_copy(update={"pseudo": config.pseudo.of_round(number)})
    return Run(config, f"{config.name}-round{number}", labels_from=before)


def images_step(config: Config) -> Step:
    """The image cache: one folder per size and content settings, shared by all runs."""
    data, size = config.data, config.data.cached_size
    settings = data.model_dump(mode="json", include={"fit", "max_value", "squeeze", "damaged", "id", "image"})
    storage = None if data.storage == "packed" else data.storage
    settings |= {"image_size": size, "preprocess": preprocessing(data), "storage": storage}
    tables = {role: digest(path) for role, path in raw_tables(config).items()}
    listings = {role: [listing(path) for path in paths] for role, paths in image_folders(config).items()}
    key = f"{size}px-{data.fit}" + ("" if data.max_value is None else f"-max{data.max_value:g}")
    key += "" if data.squeeze is None else f"-tanh{data.squeeze:g}"
    key += "".join(f"-{name}" for name in (data.preprocess, storage) if name is not None)
    return Step(
        title=f"01 images at {size} px",
        folder=config.root / "data" / "cache" / key,
        outputs=(f"images.{data.ending}", "index.parquet", "statistics.json"),
        recipe={"data": settings, "tables": tables, "images": listings},
    )


def extra_step(config: Config) -> Step | None:
    """The cache of external unlabelled images, beside the other images; None if there are none.

    The index is an input too: an external image that duplicates a competition image is left out.
    """
    folders = external_folders(config)
    if not folders:
        return None
    images = images_step(config)
    key = "extra-" + hashlib.sha256(json.dumps(sorted(folders)).encode()).hexdigest()[:8]
    recipe = {
        "data": images.recipe["data"],
        "near_duplicates": config.data.near_duplicates,
        "images": {name: listing(path) for name, path in folders.items()},
        "contents": _contents(images.folder / "index.parquet"),
    }
    return Step(
        title=f"01 external images at {config.data.cached_size} px",
        folder=images.folder,
        outputs=(f"{key}.{config.data.ending}", f"{key}.parquet"),
        recipe=recipe,
        stamp_name=key,
    )


def masks_step(config: Config) -> Step | None:
    """The ground-truth masks beside the cached images; None for tasks without masks."""
    if config.task.name != "segmentation":
        return None
    data = config.data
    if data.rle is None and data.train_masks is None:
        raise UserError(
            "task.name=segmentation needs masks: set data.train_masks, the folder of mask images, or "
            "data.rle, the column of run-length masks; `make sniff` looks for them"
        )
    images, folders = images_step(config), image_folders(config)
    settings = data.model_dump(mode="json", include=MASKS | {"fit", "id", "image"})
    settings["image_size"] = data.cached_size
    return Step(
        title=f"01 masks at {data.cached_size} px",
        folder=images.folder,
        outputs=("masks.npy", "masks.parquet", "masks.json"),
        recipe={
            "data": settings,
            "train": digest(raw_tables(config)["train"]),
            "masks": [listing(path) for path in folders.get("masks", [])],
            "contents": _contents(images.folder / "index.parquet"),
        },
        stamp_name="masks",
    )


def folds_step(config: Config) -> Step:
    """The assignment of every training row to a fold."""
    cache, masks = images_step(config).folder / "index.parquet", masks_step(config)
    labels = {key: value for key, value in config.effective("data").items() if key in LABELS}
    return Step(
        title=f"01 folds ({config.cv.n_folds}, {config.cv.kind})",
        folder=config.root / "data",
        outputs=("folds.csv", "dataset.json", "summary.md"),
        recipe={
            "cv": config.effective("cv"),
            "task": config.task.name,
            "data": labels,
            "masks": None if masks is None else contents_in(masks.folder / "masks.json"),
            "tables": {role: digest(path) for role, path in raw_tables(config).items()},
            "contents": _contents(cache),
        },
        stamp_name="folds",
    )


def dataset_inputs(config: Config) -> dict[str, Any]:
    """Digests of everything from stage 01 that later stages read.

    Raises `UserError` with the command to run if a step of stage 01 is missing or stale.
    """
    images, folds, masks = images_step(config), folds_step(config), masks_step(config)
    for step in (images, masks, folds):
        if step is not None and not step.fresh():
            changed = f" ({'; '.join(step.why())})" if step.why() else ""
            raise UserError(
                f"{step.title}: not made for this config yet{changed}; "
                f"run `make folds EXP={config.name}` first"
            )
    return {
        "folds": digest(folds.folder / "folds.csv"),
        "images": {**images.recipe["data"], "contents": _contents(images.folder / "index.parquet")},
        "crop": config.data.image_size if config.data.cache_size else None,  # the crop of the cached image
        "statistics": digest(images.folder / "statistics.json"),
        "masks": None if masks is None else contents_in(masks.folder / "masks.json"),
    }


def train_step(run: Run, fold: int) -> Step:
    """The training of one fold's model."""
    config = run.config
    recipe = {key: config.effective(key) for key in ("model", "augment", "train", "consistency", "seed")}
    recipe["task"] = {"name": config.task.name, "metric": config.task.metric}
    recipe["stop_parts"] = config.cv.stop_parts if config.train.early_stopping.enabled else None
    recipe["inputs"] = dataset_inputs(config)
    recipe["fold"] = fold
    if config.model.normalize == "dataset":  # as before this key existed: those stamps stay valid
        recipe["model"]["normalize"] = None
    if config.model.weights:
        recipe["inputs"]["weights"] = digest_of(config.root / config.model.weights, "model.weights")
    for number, name in enumerate(config.distill.teachers):
        model = config.root / "runs" / name / f"fold{fold}" / "model.safetensors"
        recipe["distill"] = config.effective("distill")
        recipe["inputs"][f"teacher{number or ''}"] = digest_of(
            model, "distill.teacher", hint=f"make train EXP={name}"
        )
    if config.mixing.on:
        recipe["mixing"] = config.effective("mixing")
    recipe["optimistic"] = why_optimistic(config, run.labels_from, fold)
    if (labels := run.pseudo_labels(fold)) is not None:
        recipe["pseudo"] = {"weight": config.pseudo.weight}
        recipe["inputs"]["pseudo_labels"] = digest(labels)
        if (extra := extra_step(config)) is not None:
            recipe["inputs"]["extra"] = digest(extra.folder / extra.outputs[1])
    if (start := run.start(fold)) is not None:
        recipe["inputs"]["start"] = digest(start)
    return Step(
        title=f"02 train {run.name} fold {fold}",
        folder=run.fold_folder(fold),
        outputs=("model.safetensors", "history.csv", "score.json", *snapshot_names(config.train)),
        recipe=recipe,
        stamp_name="train",
        replaces=True,
    )


def predict_step(run: Run, fold: int) -> Step:
    """One fold's predictions: its validation rows (OOF) and every test row.

    Raises `UserError` if the fold's model is missing or was trained with other settings.
    """
    trained = train_step(run, fold)
    if not trained.fresh():
        why = "; ".join(trained.why())
        changed = f"settings differ from the trained ones: {why}" if why else "not trained yet"
        raise UserError(
            f"{run.name} fold {fold}: {changed}; "
            f"run `make train EXP={run.config.name}` with the same ARGS first"
        )
    ranks = run.config.task.name == "retrieval"
    return Step(
        title=f"03 predict {run.name} fold {fold}",
        folder=run.fold_folder(fold),
        outputs=("oof.parquet", "test.parquet", *(("stop.parquet", "blind.parquet") if ranks else ())),
        recipe={
            "inference": run.config.effective("inference"),
            "model": digest(trained.folder / "model.safetensors"),
            "snapshots": [digest(trained.folder / name) for name in snapshot_names(run.config.train)] or None,
            "inputs": dataset_inputs(run.config),
        },
        stamp_name="predict",
    )


def score_step(run: Run) -> Step:
    """The run's OOF table, its test table and its CV."""
    folds = range(run.config.cv.n_folds)
    return Step(
        title=f"03 score {run.name}",
        folder=run.folder,
        outputs=("oof.parquet", "test.parquet", "metrics.json"),
        recipe={
            "task": run.config.task.model_dump(mode="json"),
            "folds": digest(run.config.root / "data" / "folds.csv"),
            "oof": [digest(run.fold_folder(k) / "oof.parquet") for k in folds],
            "test": [digest(run.fold_folder(k) / "test.parquet") for k in folds],
        },
        stamp_name="score",
    )


def stack_step(config: Config, members: list[Path]) -> Step:
    """The stack of the member runs' prediction tables."""
    return Step(
        title=f"05 stack {config.stack.name}",
        folder=config.root / "stacks" / config.stack.name,
        outputs=("oof.parquet", "test.parquet", "metrics.json", "stacker.json"),
        recipe={
            "stack": config.effective("stack"),
            "task": config.task.model_dump(mode="json"),
            "seed": config.seed,
            "folds": digest(config.root / "data" / "folds.csv"),
            "members": {m.name: [digest(m / "oof.parquet"), digest(m / "test.parquet")] for m in members},
            "features": _features_of(config),
        },
        stamp_name="stack",
    )


def _features_of(config: Config) -> dict[str, Any] | None:
    """Digests of the inputs of the stack's extra features; None if it has none."""
    if config.stack.features is None:
        return None
    tables = {role: digest(path) for role, path in raw_tables(config).items() if role != "sample"}
    return tables | {"images": _contents(images_step(config).folder / "index.parquet")}


def submission_source(config: Config) -> tuple[Path, str]:
    """The folder whose test.parquet is submitted, and the submission's name; `UserError` if it is missing."""
    kind, _, name = config.submit.source.partition(":")
    if kind == "stack" and not name:
        source, hint = config.root / "stacks" / config.stack.name, "make stack"
    elif kind == "run" and name:
        source, hint = config.root / "runs" / name, f"make oof EXP={name}"
    else:
        raise UserError(f"submit.source: {config.submit.source!r} is neither `stack` nor `run:<name>`")
    for file in ("test.parquet", "metrics.json"):
        digest_of(source / file, "submit.source", hint=hint)
    return source, config.submit.name or source.name


def submit_step(config: Config, source: Path, name: str) -> Step:
    """One submission file and its provenance record."""
    return Step(
        title=f"06 submit {name}",
        folder=config.root / "submissions",
        outputs=(f"{name}.csv", f"{name}.json"),
        recipe={
            "task": config.task.model_dump(mode="json"),
            "source": str(source.relative_to(config.root)),
            "predictions": digest(source / "test.parquet"),
            "metrics": digest(source / "metrics.json"),
            "sample": digest(raw_tables(config)["sample"]),
        },
        stamp_name=name,
    )


def digest_of(path: Path, key: str, hint: str | None = None) -> str:
    """The digest of a file; raises `UserError` with its config key if the file does not exist."""
    if not path.is_file():
        more = f"; run `{hint}` first" if hint else ""
        raise UserError(f"{key}: {path} is not there{more}")
    return digest(path)


def _contents(index: Path) -> str | None:
    """A digest of the image contents and hashes; equal at every size, so that a new size keeps the folds."""
    return contents_in(index.parent / "statistics.json")
