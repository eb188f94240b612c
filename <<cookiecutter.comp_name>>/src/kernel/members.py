"""Ensemble members of a bundle: load each member's fold models onto the devices, and predict with them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.config import Config, UserError
from src.data.images import ImageStore
from src.inference.fold_tables import identities
from src.inference.predict import _Report, embed, predict, predict_maps
from src.kernel.time_guard import Guard, InferencePlan, Load
from src.models.build import Network
from src.models.weights import load_model
from src.reading import decoding, read_tensors
from src.tasks import create_task
from src.tasks.base import Task


@dataclass(frozen=True)
class Member:
    """One run of the stack: its experiment and, for each fold, the models whose predictions are averaged."""

    name: str
    config: Config
    task: Task
    outputs: list[str]
    models: list[list[Network]]
    galleries: list[np.ndarray]  # retrieval: each fold model's embeddings of the training images
    owners: np.ndarray  # the identity of each training image
    folds: np.ndarray  # the fold of each training image; a replay of a fold must not use its images

    @property
    def views(self) -> int:
        """The number of TTA views of an image, over all scales."""
        inference = self.config.inference
        return len(inference.tta) * len(inference.scales or (1,))

    def ask(
        self,
        fold: int,
        store: ImageStore,
        sizes: list[tuple[int, int]],
        plan: InferencePlan,
        device: torch.device,
        replay: bool = False,
        report: _Report = lambda rows: None,
    ) -> Any:
        """The predictions of one fold for all test images of the store, averaged over its snapshots.

        In a `replay` the test images are the fold's own validation images, and the retrieval gallery holds
        only the other folds, as in stage 03. `report` is called after every batch. The batch size is halved
        when a GPU runs out of memory.
        """
        settings = self.config.inference
        if not plan.all_views:
            settings = settings.model_copy(update={"tta": settings.tta[:1], "scales": None})
        said = []
        for model in self.models[fold]:
            while True:
                try:
                    said.append(self._ask(model, fold, store, sizes, settings, device, replay, report))
                    break
                except torch.cuda.OutOfMemoryError:
                    if settings.batch_size == 1:
                        raise
                    torch.cuda.empty_cache()
                    settings = settings.model_copy(update={"batch_size": settings.batch_size // 2})
        return said[0] if len(said) == 1 else self.task.mean(said)

    def _ask(
        self,
        model: Network,
        fold: int,
        store: ImageStore,
        sizes: list,
        settings: Any,
        device: torch.device,
        replay: bool,
        report: _Report,
    ) -> Any:
        if self.task.kind == "maps":
            return predict_maps(
                model, self.task, store, store.test, sizes, settings, self.config.data, device, report
            )
        if self.task.kind == "rankings":
            queries = embed(model, store, store.test, settings, device, report)
            seen = self.folds != fold if replay else np.ones(len(self.owners), dtype=bool)
            gallery = self.galleries[fold][seen].astype(np.float32)
            numbers, similarity = identities(queries, gallery, self.owners[seen], settings)
            return self.task.ranking(numbers, similarity, self.outputs)
        said = predict(model, self.task, store, store.test, settings, device, report)[0]
        if not np.isfinite(said).all():
            raise UserError(
                f"{self.name}: fold {fold}'s model says values that are no numbers: do its weights fit into "
                f"half precision? `make bundle` with kaggle.half=false keeps them whole"
            )
        return said


def open_members(bundle: Path, about: dict[str, Any], devices: list[torch.device]) -> list[Member]:
    """Load every member of the bundle; its fold models are distributed over the devices in turn."""
    members, number = [], 0
    for entry in about["members"]:
        config = Config.model_validate(entry["config"])
        models, galleries = [], []
        for fold in entry["folds"]:
            device = devices[number % len(devices)]
            models.append([open_model(bundle, name, device) for name in fold["models"]])
            if fold.get("gallery"):
                galleries.append(read_gallery(bundle / fold["gallery"]))
            number += 1
        owners, folds_of = (np.array(about[name], dtype=np.int64) for name in ("owners", "folds"))
        task, outputs = create_task(config), about["dataset"]["outputs"]
        members.append(Member(entry["name"], config, task, outputs, models, galleries, owners, folds_of))
    return members


def open_model(bundle: Path, name: str, device: torch.device) -> Network:
    """Load a model of the bundle. Raises `UserError` naming the file if it holds no usable weights."""
    try:
        return load_model(bundle / name, device)
    except UserError as error:
        raise UserError(f"{name}: holds no weights that can be used ({error}); bundle again") from None


def read_gallery(path: Path) -> np.ndarray:
    """The embeddings (N, D) of the training images by a retrieval model."""
    with decoding(path):
        return read_tensors(path)["embeddings"].numpy()


def loads_of(members: list[Member], devices: list[torch.device]) -> list[Load]:
    """The workload of each fold of each member per image, and the index of its device."""
    return [
        Load(number, fold, devices.index(place_of(models)), len(models), member.views)
        for number, member in enumerate(members)
        for fold, models in enumerate(member.models)
    ]


def place_of(models: list[Network]) -> torch.device:
    """The device that a fold's models are on."""
    return next(models[0].parameters()).device


def predict_all(
    members: list[Member],
    stores: list[tuple[ImageStore, list[tuple[int, int]]]],
    plan: InferencePlan,
    devices: list[torch.device],
    only_fold: int | None = None,
    guard: Guard | None = None,
) -> list[Any]:
    """The predictions of each member for the images, averaged over its folds.

    There is one worker per device, which runs the models on that device. The guard checks the time after
    every batch and records how long each fold took. With `only_fold` that fold alone is replayed.
    """
    jobs = []
    for number, member in enumerate(members):
        folds = range(plan.models(len(member.models))) if only_fold is None else [only_fold]
        jobs += [(number, fold) for fold in folds]
    said: dict[tuple[int, int], Any] = {}
    lock = threading.Lock()

    def work(device: torch.device) -> None:
        report: _Report = (lambda rows: guard.tick()) if guard else (lambda rows: None)
        report(0)
        for number, fold in jobs:
            member, (store, sizes) = members[number], stores[number]
            if place_of(member.models[fold]) != device:
                continue
            began = guard.clock() if guard else 0.0
            answer = member.ask(fold, store, sizes, plan, device, only_fold is not None, report)
            with lock:
                said[number, fold] = answer
                if guard:
                    guard.looked(number, fold, len(sizes), guard.clock() - began)

    with ThreadPoolExecutor(len(devices)) as pool:
        for finished in [pool.submit(work, device) for device in devices]:
            finished.result()
    result = []
    for number, member in enumerate(members):
        own = [said[job] for job in jobs if job[0] == number]
        result.append(own[0] if len(own) == 1 else member.task.mean(own))
    return result
