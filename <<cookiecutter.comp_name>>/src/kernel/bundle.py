"""`make bundle`: build the folder with everything a kernel needs to predict, to upload as a private dataset.

| file | holds |
|---|---|
| `src/` | the project's own code |
| `members/<run>-fold<k>.safetensors` | a fold's weights, float16 if `kaggle.half` is on; `-snapshot<i>` |
| `members/<run>-fold<k>-gallery.safetensors` | retrieval: the model's embeddings of the training images |
| `competition.json` | experiments, stack, decision rule, prior, the form of the sample submission |
| `manifest.json` | the hash of each file, versions, the git commit; the kernel finds the bundle by it |
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from src import __version__
from src.artifacts import write_json
from src.config import Config, UserError
from src.configfile import load_config
from src.data.images import open_images
from src.data.loaders import read_folds
from src.data.submission_form import describe_sample
from src.data.tables import IMAGE_SUFFIXES, read_table, read_test_table
from src.inference.predict import embed
from src.inference.snapshots import model_files
from src.kaggle.scan import check_folder, copy_code, refuse_secret, refuse_secret_settings
from src.kernel.image import versions
from src.models.names import unknown_on_kaggle
from src.models.weights import load_model
from src.rawfiles import raw_tables
from src.reading import read_architecture, read_dataset, read_json, read_metrics, read_parquet, read_tensors
from src.stamps import check_outputs
from src.steps import submission_source
from src.submission.manifest import write_manifest
from src.submission.table import git_commit
from src.tasks import create_task
from src.tasks.base import targets_in
from src.training.devices import devices

CODE = Path(__file__).resolve().parents[1]
_LARGEST = 60_000.0  # the maximum of half precision is 65,504


def build_bundle(config: Config, folder: Path) -> dict[str, Any]:
    """Build the bundle of what stage 06 submits; return its manifest. Raises `UserError` if a kernel cannot
    reproduce it, or if the folder must not be uploaded."""
    source, _ = submission_source(config)
    check_outputs(source / ("stack.stamp.json" if source.parent.name == "stacks" else "score.stamp.json"))
    metrics = read_metrics(source, rule=dict)
    stacker, path = None, source / "stacker.json"
    if source.parent.name == "stacks":
        stacker = read_json(path, members=list, kept=str, best_single=str)
    names = [source.name] if stacker is None else stacker["members"]
    for name in names:  # before an earlier bundle is removed
        for fold in range(config.cv.n_folds):
            check_outputs(config.root / "runs" / name / f"fold{fold}" / "train.stamp.json")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "members").mkdir(parents=True)
    refuse_secret_settings(config.settings())
    copy_code(CODE, folder / "src")
    dataset = read_dataset(config.root)
    about = {
        "config": config.settings(),
        "dataset": dataset,
        "source": f"{source.parent.name}/{source.name}",
        "stacker": stacker,
        "rule": metrics["rule"],
        "prior": prior_of(config, source, dataset["outputs"]),
        "form": form_of(config, source, dataset["outputs"]),
        "hours": config.kaggle.hours,
        "half": config.kaggle.half,
        "members": [member(config, name, folder) for name in names],
        "owners": gallery_identities(config, dataset["outputs"]),
        "folds": read_folds(config)["fold"].tolist() if config.task.name == "retrieval" else [],
    }
    write_json(folder / "competition.json", about)
    manifest = write_manifest(
        folder,
        made_by="nntricks-comp",
        version=__version__,
        competition=config.competition.slug,
        source=about["source"],
        metric=metrics["metric"],
        cv=metrics["cv"],
        columns=list(read_table(raw_tables(config)["sample"], may_be_empty=True).columns),
        git_commit=git_commit(config.root),
        versions=versions(),
    )
    check_folder(folder)
    return manifest


def member(config: Config, name: str, folder: Path) -> dict[str, Any]:
    """Copy a run's models into the bundle and return its entry for competition.json."""
    run = config.root / "runs" / name
    own = load_config(run / "config.yaml")
    if (why := unknown_on_kaggle(own.model.backbone)) is not None:
        raise UserError(f"{run / 'config.yaml'}: {why}, train it, and bundle again")
    if own.inference.average == "rank":
        raise UserError(
            f"{name}: inference.average=rank puts a row's place among all test rows in place of its "
            f"prediction, and a kernel sees them piece by piece; predict again with probability or logit"
        )
    folds = []
    for fold in range(config.cv.n_folds):
        models = []
        for path in model_files(run / f"fold{fold}"):
            end = "" if path.stem == "model" else f"-{path.stem}"
            place = f"members/{name}-fold{fold}{end}.safetensors"
            if config.kaggle.half:
                save_half(path, folder / place)
            else:
                shutil.copy(path, folder / place)
            models.append(place)
        entry: dict[str, Any] = {"models": models}
        if config.task.name == "retrieval":
            entry["gallery"] = f"members/{name}-fold{fold}-gallery.safetensors"
            here = own.model_copy(update={"root": config.root})
            save_gallery(here, folder, entry, config.kaggle.half)
        folds.append(entry)
    return {"name": name, "config": own.settings(), "folds": folds}


def save_half(path: Path, to: Path) -> None:
    """Save the weights in half precision (float16). Batch-norm statistics and tensors that exceed its range
    stay in full precision."""
    about = {"architecture": json.dumps(read_architecture(path), sort_keys=True)}
    state = {}
    for name, tensor in read_tensors(path).items():
        fits = tensor.dtype == torch.float32 and "running_" not in name and tensor.numel() > 0
        fits = fits and float(tensor.abs().max()) < _LARGEST
        state[name] = tensor.half() if fits else tensor
    save_file(state, to, metadata=about)


def save_gallery(own: Config, folder: Path, entry: dict[str, Any], half: bool) -> None:
    """Save the bundled model's embeddings of the training images, in the precision of the bundle."""
    if len(entry["models"]) > 1:
        raise UserError(f"{own.name}: snapshots of a retrieval cannot be bundled; set train.snapshots=null")
    store = open_images(own)
    device = devices(own)[0]
    model = load_model(folder / entry["models"][0], device)
    found = embed(model, store, store.train, own.inference, device)
    said = torch.from_numpy(found)
    save_file({"embeddings": said.half() if half else said}, folder / entry["gallery"])


def gallery_identities(config: Config, outputs: list[str]) -> list[int]:
    """Retrieval: the identity of each training image as its index in the outputs; empty for other tasks."""
    if config.task.name != "retrieval":
        return []
    task = create_task(config)
    return task.encode(targets_in(read_folds(config)), outputs)[:, 0].astype(int).tolist()


def prior_of(config: Config, source: Path, outputs: list[str]) -> list[Any]:
    """The prior for images that cannot be read: the mean OOF prediction, or the most common identities."""
    task, oof = create_task(config), read_parquet(source / "oof.parquet")
    if task.kind == "maps":
        return []
    if task.kind == "rankings":
        counts = targets_in(oof).iloc[:, 0].value_counts()
        return [name for name in counts.index if name in set(outputs)][: config.inference.candidates]
    return np.asarray(task.read(oof, outputs), dtype=np.float64).mean(0).tolist()


def form_of(config: Config, source: Path, outputs: list[str]) -> dict[str, Any]:
    """The form of the sample submission without its rows; a hidden one has the same form or a similar one."""
    tables = raw_tables(config)
    sample, path = read_table(tables["sample"], may_be_empty=True), tables["sample"]
    known = read_parquet(source / "test.parquet", ["id"])["id"].tolist()
    read = describe_sample(sample, config, outputs, path, known)
    form = asdict(read)
    pairs = form.pop("classes") is not None
    images = form.pop("images")
    more = {
        "pairs": pairs,
        "columns": list(sample.columns),
        "test_columns": list(read_test_table(tables["test"], config).columns) if "test" in tables else [],
        "suffixes": any(name.lower().endswith(IMAGE_SUFFIXES) for name in images),
        "joint": None,
        "stems": False,
    }
    if pairs and read.class_column is None:  # `<image>_<class>`: separator, extension
        cell, image, name = sample[read.id_column].iloc[0], images[0], read.classes[0]
        more["stems"] = not cell.startswith(image)
        more["joint"] = cell[len(Path(image).stem if more["stems"] else image) : -len(name)]
    return {**form, **more}


def write_notebook(kernel: Path, to: Path) -> None:
    """Save the kernel's script as a notebook with one cell, for submitting from Kaggle's editor. Raises
    `UserError` if the script holds a secret."""
    refuse_secret(str(kernel), kernel.read_text(encoding="utf-8"))
    cell = {"cell_type": "code", "execution_count": None, "id": "infer", "metadata": {}, "outputs": []}
    cell["source"] = kernel.read_text(encoding="utf-8").splitlines(keepends=True)
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    page = {"cells": [cell], "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
    write_json(to, page)
