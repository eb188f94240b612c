"""The pipeline as a graph: every file of every stage, and what it depends on. No work is done here.

| step | writes | depends on |
|---|---|---|
| images | `data/cache/<key>/` images.npy, index.parquet, statistics.json | tables, files, image settings |
| masks | there too: masks.npy, masks.parquet (segmentation) | tables, files, image and mask settings |
| folds | `data/folds.csv`, `data/dataset.json` | the tables, duplicates in the index, `cv`, `task` |
| train, a fold | `runs/<name>/fold<k>/` model.safetensors, history.csv, score.json, snapshots | ... |
| predict, a fold | `runs/<name>/fold<k>/` oof.parquet, test.parquet | that model, `inference` |
| score | `runs/<name>/` oof.parquet, test.parquet, metrics.json | every fold's predictions, the metric |
| select, a fold | `runs/<name>-round<r>/fold<k>.pseudo.parquet` | that fold's test predictions, `pseudo` |
| stack | `stacks/<name>/` oof.parquet, test.parquet, metrics.json, models | the members' tables, `stack` |
| submit | `submissions/<name>.csv`, `<name>.json` | the source's table, the sample submission |
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.artifacts import Step, digest
from src.config import Config, UserError, snapshot_names
from src.owncode import preprocessing
from src.rawfiles import image_folders, listing, raw_tables

# What of `data` decides the rows, their labels and which belong together.
MASKS = {"train_masks", "mask", "mask_classes", "rle", "long"}
LABELS = MASKS | {"id", "target", "label_separator", "group", "new_label", "near_duplicates"}


@dataclass(frozen=True)
class Run:
    """A run: one experiment's folder. A pseudo-label round is a run too, with `labels_from` the run before
    it."""

    config: Config
    name: str
    labels_from: str | None = None

    @property
    def folder(self) -> Path:
        return self.config.root / "runs" / self.name

    def fold_folder(self, fold: int) -> Path:
        return self.folder / f"fold{fold}"

    def pseudo_labels(self, fold: int) -> Path | None:
        """The table of extra rows that fold `fold` may learn from, or None."""
        return self.folder / f"fold{fold}.pseudo.parquet" if self.labels_from else None


def run_of(config: Config) -> Run:
    """The run that this config trains."""
    return Run(config, config.name)


def round_of(config: Config, number: int) -> Run:
    """Round `number` (1, 2, ...) of this config's pseudo-labelling."""
    before = config.name if number == 1 else f"{config.name}-round{number - 1}"
    if config.pseudo.epochs is not None:
        config = config.with_epochs(config.pseudo.epochs)
    return Run(config, f"{config.name}-round{number}", labels_from=before)


def images_step(config: Config) -> Step:
    """The packed image cache, one folder a size and content, shared by every run."""
    data, size = config.data, config.data.cached_size
    settings = data.model_dump(mode="json", include={"fit", "max_value", "squeeze", "id", "image"})
    settings |= {"image_size": size, "preprocess": preprocessing(data)}
    tables = {role: digest(path) for role, path in raw_tables(config).items()}
    listings = {role: [listing(path) for path in paths] for role, paths in image_folders(config).items()}
    key = f"{size}px-{data.fit}" + ("" if data.max_value is None else f"-max{data.max_value:g}")
    key += "" if data.squeeze is None else f"-tanh{data.squeeze:g}"
    key += "" if data.preprocess is None else f"-{data.preprocess}"
    return Step(
        title=f"01 images at {size} px",
        folder=config.root / "data" / "cache" / key,
        outputs=("images.npy", "index.parquet", "statistics.json"),
        recipe={"data": settings, "tables": tables, "images": listings},
    )


def masks_step(config: Config) -> Step | None:
    """The true masks beside the packed images; None where the task has none."""
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
        outputs=("masks.npy", "masks.parquet"),
        recipe={
            "data": settings,
            "train": digest(raw_tables(config)["train"]),
            "masks": [listing(path) for path in folders.get("masks", [])],
            "contents": _contents(images.folder / "index.parquet"),
        },
        stamp_name="masks",
    )


def folds_step(config: Config) -> Step:
    """The one decision of which fold each training row belongs to."""
    cache, masks = images_step(config).folder / "index.parquet", masks_step(config)
    cv = config.cv.model_dump(mode="json")
    if config.task.name != "retrieval":
        del cv["new_share"]
    return Step(
        title=f"01 folds ({config.cv.n_folds}, {config.cv.kind})",
        folder=config.root / "data",
        outputs=("folds.csv", "dataset.json", "summary.md"),
        recipe={
            "cv": cv,
            "task": config.task.name,
            "data": config.data.model_dump(mode="json", include=LABELS),
            "masks": None if masks is None else _digest_if_there(masks.folder / "masks.parquet"),
            "tables": {role: digest(path) for role, path in raw_tables(config).items()},
            "contents": _contents(cache),
        },
        stamp_name="folds",
    )


def dataset_inputs(config: Config) -> dict[str, Any]:
    """Digests of what every later stage reads of stage 01; says which command to run where it is missing or
    stale."""
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
        "crop": config.data.image_size if config.data.cache_size else None,  # of what is cached
        "statistics": digest(images.folder / "statistics.json"),
        "masks": None if masks is None else digest(masks.folder / "masks.parquet"),
    }


def train_step(run: Run, fold: int) -> Step:
    """One model on one fold."""
    config = run.config
    sections = {"task", "model", "augment", "train"}
    recipe = config.model_dump(mode="json", include=sections | {"seed"}, exclude=config.of_no_use)
    recipe["task"] = {"name": config.task.name, "metric": config.task.metric}
    recipe["stop_parts"] = config.cv.stop_parts
    recipe["inputs"] = dataset_inputs(config)
    recipe["fold"] = fold
    if config.model.normalize == "dataset":  # as it was before there was a choice
        recipe["model"]["normalize"] = None
    if config.model.weights:
        recipe["inputs"]["weights"] = _digest_of(config.root / config.model.weights, "model.weights")
    if config.distill.teacher:
        teacher = config.root / "runs" / config.distill.teacher / f"fold{fold}" / "model.safetensors"
        recipe["distill"] = config.distill.model_dump(mode="json")
        recipe["inputs"]["teacher"] = _digest_of(
            teacher, "distill.teacher", hint=f"make train EXP={config.distill.teacher}"
        )
    if config.mixing.on:
        recipe["mixing"] = config.mixing.model_dump(mode="json")
    labels = run.pseudo_labels(fold)
    if labels is not None:
        recipe["pseudo"] = {"weight": config.pseudo.weight}
        recipe["inputs"]["pseudo_labels"] = digest(labels)
    return Step(
        title=f"02 train {run.name} fold {fold}",
        folder=run.fold_folder(fold),
        outputs=("model.safetensors", "history.csv", "score.json", *snapshot_names(config.train)),
        recipe=recipe,
        stamp_name="train",
        replaces=True,
    )


def predict_step(run: Run, fold: int) -> Step:
    """One fold model's predictions for its validation rows and for every test row."""
    trained = train_step(run, fold)
    if not trained.fresh():
        why = "; ".join(trained.why())
        changed = f"settings differ from the trained ones: {why}" if why else "not trained yet"
        raise UserError(
            f"{run.name} fold {fold}: {changed}; "
            f"run `make train EXP={run.config.name}` with the same ARGS first"
        )
    ranks = run.config.task.name == "retrieval"
    of_inference = {"tta", "scales", "crop"}
    of_inference |= {"candidates", "expansion", "rerank"} if ranks else {"average"}
    return Step(
        title=f"03 predict {run.name} fold {fold}",
        folder=run.fold_folder(fold),
        outputs=("oof.parquet", "test.parquet", *(("stop.parquet", "blind.parquet") if ranks else ())),
        recipe={
            "inference": run.config.inference.model_dump(mode="json", include=of_inference),
            "model": digest(trained.folder / "model.safetensors"),
            "snapshots": [digest(trained.folder / name) for name in snapshot_names(run.config.train)] or None,
            "inputs": dataset_inputs(run.config),
        },
        stamp_name="predict",
    )


def score_step(run: Run) -> Step:
    """The run's OOF and test tables and its CV."""
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


def unlabelled(run: Run, fold: int) -> Path:
    """What fold `fold`'s own model of the run before says of the test rows; of rankings, which say whose the
    rows of the gallery are, the table without that fold's rows in it."""
    name = "blind" if run.config.task.name == "retrieval" else "test"
    return run.config.root / "runs" / str(run.labels_from) / f"fold{fold}" / f"{name}.parquet"


def select_step(run: Run, fold: int) -> Step:
    """The confident test rows of fold `fold`, by that fold's own model of the run before, and by no other."""
    said = unlabelled(run, fold)
    keys = {"segmentation": {"threshold", "labels", "pixels"}, "retrieval": {"threshold"}}
    keys = keys.get(run.config.task.name, {"threshold", "labels", "quantile"})
    return Step(
        title=f"04 select {run.name} fold {fold}",
        folder=run.folder,
        outputs=(f"fold{fold}.pseudo.parquet",),
        recipe={
            "pseudo": run.config.pseudo.model_dump(mode="json", include=keys),
            "predictions": digest(said),
            "calibrated_on": _digest_if_there(said.with_name("stop.parquet")),
        },
        stamp_name=f"select{fold}",
    )


def pseudo_step(config: Config) -> Step:
    """All rounds of one run's pseudo-labelling, and which of them was kept."""
    base = run_of(config)
    for name in ("oof.parquet", "test.parquet"):
        _digest_of(base.folder / name, "04", hint=f"make oof EXP={config.name}")
    folds = range(config.cv.n_folds)
    recipe = {
        "pseudo": config.pseudo.model_dump(mode="json"),
        "task": config.task.model_dump(mode="json"),
        "train": [train_step(base, k).fingerprint for k in folds],
        "predict": [predict_step(base, k).fingerprint for k in folds],
        "oof": digest(base.folder / "oof.parquet"),
    }
    return Step(f"04 pseudo-label {config.name}", base.folder, ("pseudo.json",), recipe, stamp_name="pseudo")


def stack_step(config: Config, members: list[Path]) -> Step:
    """The stack over the member runs' tables."""
    return Step(
        title=f"05 stack {config.stack.name}",
        folder=config.root / "stacks" / config.stack.name,
        outputs=("oof.parquet", "test.parquet", "metrics.json", "stacker.json"),
        recipe={
            "stack": config.stack.model_dump(mode="json"),
            "task": config.task.model_dump(mode="json"),
            "seed": config.seed,
            "folds": digest(config.root / "data" / "folds.csv"),
            "members": {m.name: [digest(m / "oof.parquet"), digest(m / "test.parquet")] for m in members},
            "features": _features_of(config),
        },
        stamp_name="stack",
    )


def _features_of(config: Config) -> dict[str, Any] | None:
    """What the stack's own features are read from."""
    if config.stack.features is None:
        return None
    tables = {role: digest(path) for role, path in raw_tables(config).items() if role != "sample"}
    return tables | {"images": _contents(images_step(config).folder / "index.parquet")}


def submission_source(config: Config) -> tuple[Path, str]:
    """The folder whose test.parquet is submitted, and the submission's name; raises `UserError` where it is
    not there."""
    kind, _, name = config.submit.source.partition(":")
    if kind == "stack" and not name:
        source, hint = config.root / "stacks" / config.stack.name, "make stack"
    elif kind == "run" and name:
        source, hint = config.root / "runs" / name, f"make oof EXP={name}"
    else:
        raise UserError(f"submit.source: {config.submit.source!r} is neither `stack` nor `run:<name>`")
    for file in ("test.parquet", "metrics.json"):
        _digest_of(source / file, "submit.source", hint=hint)
    return source, config.submit.name or source.name


def submit_step(config: Config, source: Path, name: str) -> Step:
    """One submission file with its provenance."""
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


def _digest_if_there(path: Path) -> str | None:
    return digest(path) if path.is_file() else None


def _digest_of(path: Path, key: str, hint: str | None = None) -> str:
    if not path.is_file():
        more = f"; run `{hint}` first" if hint else ""
        raise UserError(f"{key}: {path} is not there{more}")
    return digest(path)


def _contents(index: Path) -> str | None:
    """A digest of the image contents and hashes, the same at every cached size, so that a new size keeps the
    folds."""
    try:
        return json.loads((index.parent / "statistics.json").read_text(encoding="utf-8"))["contents"]
    except (OSError, ValueError, KeyError):
        return None
