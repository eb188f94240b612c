"""Knowledge distillation: a finished run teaches this one, fold by fold."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.artifacts import read_json
from src.config import Config, UserError
from src.models.build import Architecture
from src.models.output import Output
from src.models.weights import load_model


class Teacher:
    """The teacher run's model of the same fold: it saw no row that this fold is scored on.

    Any other fold's model did, and its opinion of the training rows would carry those labels over: on pure
    noise, a pupil of out-of-fold teachers scores .68, a pupil of the same fold's .49.
    """

    def __init__(self, config: Config, fold: int, pupil: Architecture, device: torch.device):
        folder = config.root / "runs" / str(config.distill.teacher) / f"fold{fold}"
        self.check_folds(config, folder)
        self.model = load_model(folder / "model.safetensors", device)
        size, wanted = self.model.architecture.n_outputs, pupil.n_outputs
        if size != wanted:
            raise UserError(
                f"distill.teacher: {config.distill.teacher} has {size} outputs, this task has {wanted}"
            )
        self.size, self.name = self.model.architecture.image_size, config.distill.teacher

    @staticmethod
    def check_folds(config: Config, folder) -> None:
        """Raise `UserError` unless the teacher was trained on the folds of today's folds.csv."""
        from src.artifacts import digest

        try:
            recipe = read_json(folder / "train.stamp.json")["recipe"]
        except FileNotFoundError:
            raise UserError(
                f"distill.teacher: {folder} is not finished; "
                f"run `make train EXP={config.distill.teacher}` first"
            ) from None
        if recipe["inputs"]["folds"] != digest(config.root / "data" / "folds.csv"):
            raise UserError(
                f"distill.teacher: {config.distill.teacher} was trained on other folds "
                f"than data/folds.csv holds now; run `make train EXP={config.distill.teacher}` again"
            )

    def check_length(self, said: torch.Tensor, pupil: torch.Tensor) -> None:
        """Raise `UserError` unless two embeddings (B, D) have one length, as their angles need."""
        if said.shape != pupil.shape:
            raise UserError(
                f"distill.teacher: {self.name} has embeddings of {said.shape[1]} numbers, this network of "
                f"{pupil.shape[1]}; give both runs one model.embedding, such as 512"
            )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> Output:
        """What it says of the very view that the pupil is shown, resized to the teacher's own size: logits,
        or numbers in the target's units; maps come back at the pupil's size."""
        seen = images
        if images.shape[-1] != self.size:
            size = (self.size, self.size)
            seen = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
        said = self.model(seen)
        logits = self.model.scale.decode(said.logits)
        if logits.ndim == 4 and logits.shape[-2:] != images.shape[-2:]:
            logits = F.interpolate(logits.float(), size=images.shape[-2:], mode="bilinear")
        return Output(logits=logits, embedding=said.embedding)
