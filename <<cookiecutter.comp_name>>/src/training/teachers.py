"""Knowledge distillation: the models of finished runs are the teachers, each of the same fold."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.artifacts import digest
from src.config import Config, Distill, UserError
from src.losses.distillation import averaged, distillation, hard_distillation
from src.losses.relations import relations
from src.models.build import Architecture
from src.models.output import Output
from src.models.scale import TargetScale
from src.models.weights import load_model
from src.stamps import check_outputs, recipe_in


class Teachers:
    """Ensemble of all teachers of a fold: the mean of their probabilities or numbers.

    Embeddings of several teachers are normalised and concatenated.
    """

    def __init__(self, config: Config, kind: str, fold: int, pupil: Architecture, device: torch.device):
        """`kind` is `Task.distillation`; `pupil` is the student's architecture."""
        self.each = [Teacher(config, name, fold, pupil, device) for name in config.distill.teachers]
        self.kind, self.temperature = kind, 1.0 if config.distill.hard else config.distill.temperature

    def __call__(self, images: torch.Tensor) -> Output:
        """The teachers' averaged outputs for the student's own view of the images, see `Teacher`."""
        said = [teacher(images) for teacher in self.each]
        kind = "kl" if self.kind == "cosine" else self.kind  # logits of identities in ranking tasks
        logits = averaged(kind, [one.logits for one in said], self.temperature)
        return Output(logits, averaged("cosine", [one.embedding for one in said], self.temperature))


class Teacher:
    """A teacher run's model of the same fold, which was not trained on the rows this fold is scored on.

    A model of another fold has been, and its outputs for the training rows would leak those labels: on pure
    noise its student scores far above chance (tests/project/test_leakcheck.py plants such a teacher).
    """

    def __init__(self, config: Config, name: str, fold: int, pupil: Architecture, device: torch.device):
        folder = config.root / "runs" / name / f"fold{fold}"
        self.check_folds(config, name, fold)
        self.model = load_model(folder / "model.safetensors", device)
        size, wanted = self.model.architecture.n_outputs, pupil.n_outputs
        if size != wanted:
            raise UserError(f"distill.teacher: {name} has {size} outputs, this task has {wanted}")
        self.size = self.model.architecture.image_size

    @staticmethod
    def check_folds(config: Config, name: str, fold: int) -> None:
        """Raise `UserError` unless the teacher is finished and its folds are those of today's folds.csv."""
        folder = config.root / "runs" / name / f"fold{fold}"
        recipe = recipe_in(folder / "train.stamp.json")
        if recipe is None:
            raise UserError(f"distill.teacher: {folder} is not finished; run `make train EXP={name}` first")
        check_outputs(folder / "train.stamp.json", ["model.safetensors"])
        if (recipe.get("inputs") or {}).get("folds") != digest(config.root / "data" / "folds.csv"):
            raise UserError(
                f"distill.teacher: {name} was trained on other folds than data/folds.csv holds now; "
                f"run `make train EXP={name}` again"
            )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> Output:
        """The teacher's outputs for the student's own view, resized to the teacher's image size.

        Logits, or numbers in the target's units; maps are resized back to the student's size.
        """
        seen = images
        if images.shape[-1] != self.size:
            size = (self.size, self.size)
            seen = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
        said = self.model(seen)
        logits = self.model.scale.decode(said.logits)
        if logits.ndim == 4 and logits.shape[-2:] != images.shape[-2:]:
            logits = F.interpolate(logits.float(), size=images.shape[-2:], mode="bilinear")
        return Output(logits=logits, embedding=said.embedding)


def distilled_losses(
    settings: Distill, kind: str, scale: TargetScale, losses: torch.Tensor, pupil: Output, said: Output
) -> torch.Tensor:
    """Per-sample losses (B,) of a student: the weighted mean of supervised loss and distillation loss.

    `losses` (B,) are the supervised losses and `said` the teachers' outputs for the same view. With
    `distill.features` the relational loss of the embeddings is added. `scale` is the student's target scale.
    """
    told = settings.weight * _answer(settings, kind, scale, pupil, said) + (1 - settings.weight) * losses
    if settings.features is None:
        return told
    return told + settings.features * relations(pupil.embedding, said.embedding)


def _answer(settings: Distill, kind: str, scale: TargetScale, pupil: Output, said: Output) -> torch.Tensor:
    """Distillation loss (B,) between the student's and the teachers' outputs."""
    if kind == "cosine":
        _check_lengths(settings, said.embedding, pupil.embedding)
        return distillation(kind, pupil.embedding, said.embedding, settings.temperature)
    if settings.hard:
        return hard_distillation(kind, pupil.logits, said.logits)
    return distillation(kind, pupil.logits, scale.encode_tensor(said.logits), settings.temperature)


def _check_lengths(settings: Distill, said: torch.Tensor, pupil: torch.Tensor) -> None:
    """Raise `UserError` unless two embeddings (B, D) have the same length, which a cosine needs."""
    if said.shape == pupil.shape:
        return
    theirs, ours = said.shape[1], pupil.shape[1]
    if len(settings.teachers) > 1:
        raise UserError(
            f"distill.teacher: the embeddings of {' and '.join(settings.teachers)} side by side have "
            f"{theirs} numbers, those of this network {ours}; set model.embedding={theirs}, or name one "
            f"teacher"
        )
    raise UserError(
        f"distill.teacher: {settings.teachers[0]} has embeddings of {theirs} numbers, this network of "
        f"{ours}; give both runs one model.embedding, such as 512"
    )
