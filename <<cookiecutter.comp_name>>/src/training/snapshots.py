"""Weights saved during training: a snapshot per cosine cycle (snapshot ensemble), or epochs for a soup."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from src.config import Train, snapshot_names
from src.models.build import Architecture
from src.models.weights import save_model
from src.reading import read_tensors
from src.training.schedule import cycle_ends

_State = dict[str, torch.Tensor]


class Snapshots:
    """Files with weights in a fold's folder: snapshots of a cyclic schedule, or ingredients of a model soup.

    Predictions are averaged over the snapshots of the last cycles (Huang et al. 2017, Snapshot Ensembles:
    Train 1, Get M for Free). The ingredients of a soup are in `ingredients/`, which is deleted with the
    checkpoint.
    """

    def __init__(self, folder: Path, settings: Train):
        self.folder, self.ingredients, self.soup = folder, folder / "ingredients", settings.soup
        self.names = snapshot_names(settings)
        ends = cycle_ends(settings)[-(settings.snapshots or 0) :] if settings.snapshots else None
        self.ends = ends if ends is not None else range(1, settings.epochs + 1) if settings.soup else []
        self.live = settings.snapshots is not None

    def due(self, epoch: int) -> Path | None:
        """The file for the weights after this epoch (0-based), or None if they are not saved."""
        if epoch + 1 not in self.ends:
            return None
        if self.soup is not None:
            return self.ingredients / f"epoch{epoch + 1:04d}.safetensors"
        return self.folder / self.names[self.ends.index(epoch + 1)]

    def take(self, epoch: int, architecture: Architecture, live: _State, averaged: _State) -> None:
        """Save the weights after this epoch if needed: raw ones for a snapshot, averaged ones (EMA) for a
        soup.

        Call it before the epoch's checkpoint is written, which relies on these files.
        """
        path = self.due(epoch)
        if path is None:
            return
        save_model(path, architecture, live if self.live else averaged)
        if self.soup is not None:  # one more than the soup uses: a killed training may repeat its last epoch
            for old in sorted(self.ingredients.glob("epoch*.safetensors"))[: -self.soup - 1]:
                old.unlink()

    def read(self, epochs: int) -> tuple[list[int], list[_State]]:
        """Ingredients of a training that ended after `epochs` epochs: their epochs, in order, and weights."""
        paths = sorted(self.ingredients.glob("epoch*.safetensors"))
        found = {int(path.stem.removeprefix("epoch")): path for path in paths}
        last = [epoch for epoch in found if epoch <= epochs][-self.soup :]
        return last, [read_tensors(found[epoch]) for epoch in last]

    def check(self, epochs: int) -> None:
        """Raise `Unreadable` if a file that a training of `epochs` epochs wrote is missing or damaged."""
        names = [path for epoch in range(epochs) if (path := self.due(epoch)) is not None]
        for path in names if self.soup is None else names[-self.soup :]:
            read_tensors(path)

    def clear(self, finished: bool = False) -> None:
        """Delete the files of an earlier training; with `finished`, those that are not needed any more."""
        shutil.rmtree(self.ingredients, ignore_errors=True)
        for path in self.folder.glob("snapshot*.safetensors"):
            if not finished or path.name not in self.names:
                path.unlink()
