"""The whole config tree, and which of its keys exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from src.config.consistency import Consistency, check_consistency
from src.config.data import Competition, CrossValidation, Data, Task
from src.config.distill import Distill, check_distill
from src.config.effects import effective, effective_settings
from src.config.inference import Inference, check_inference
from src.config.kaggle import Kaggle
from src.config.model import Model
from src.config.pixels import Augment, Mixing, check_pixels
from src.config.pseudo import Pseudo, check_pseudo
from src.config.runtime import Runtime, Submit, Tracking
from src.config.section import Index, Name, Section
from src.config.stack import Stack, check_stack
from src.config.train import Train, check_train, with_epochs


class Config(Section):
    """The whole tree. `name`, `root` and `source` come from the file; `fold` and `folds` choose what a call
    works on."""

    name: Name = "baseline"
    """Name of the experiment: its folder below `runs/`. The file's name unless it is set."""

    seed: int = 42
    """Seed of training: initial weights, order of the rows, augmentation."""

    competition: Competition = Competition()
    """The competition."""

    task: Task = Task()
    """What is predicted, and the metric."""

    data: Data = Data()
    """Tables, images and masks."""

    cv: CrossValidation = CrossValidation()
    """Cross-validation: the folds, decided once."""

    model: Model = Model()
    """Backbone, pooling, neck, head and decoder."""

    augment: Augment = Augment()
    """Augmentation of single images."""

    mixing: Mixing = Mixing()
    """Mixup and CutMix: pairs of images, their targets mixed in the same shares."""

    train: Train = Train()
    """Training: loss, optimiser, schedule, and which weights are kept."""

    distill: Distill = Distill()
    """Knowledge distillation (KD) from finished runs."""

    consistency: Consistency | None = None
    """Consistency training (mean teacher, FixMatch) on unlabelled test images. `null`: off."""

    pseudo: Pseudo = Pseudo()
    """Pseudo-labels (self-training)."""

    inference: Inference = Inference()
    """Prediction: TTA, averaging, retrieval."""

    stack: Stack = Stack()
    """Stacking (second level) over OOF predictions."""

    submit: Submit = Submit()
    """The submission."""

    tracking: Tracking = Tracking()
    """Experiment tracking."""

    runtime: Runtime = Runtime()
    """How it runs; nothing here changes a result."""

    kaggle: Kaggle = Kaggle()
    """Kernels, bundle and submission on Kaggle."""

    fold: Index | None = None
    """Work on one fold in this call, such as `fold=0`."""

    folds: tuple[Index, ...] | None = None
    """Work on some folds in this call, such as `folds=[0,3]`."""

    root: Path = Field(default=Path("."), exclude=True)
    """The project's folder."""

    @property
    def selected_folds(self) -> tuple[int, ...]:
        """The folds this call works on: `fold=2`, `folds=[0,3]`, or all of them."""
        if self.fold is not None:
            return (self.fold,)
        return self.folds if self.folds is not None else tuple(range(self.cv.n_folds))

    @property
    def partial(self) -> bool:
        """Whether this call was asked for some folds alone."""
        return set(self.selected_folds) != set(range(self.cv.n_folds))

    @property
    def identities(self) -> bool:
        """Whether a batch is made of a few classes with a few rows each, as a triplet needs it."""
        return self.task.name == "retrieval" or self.train.triplet_weight(self.task.name) > 0

    def effective(self, section: str) -> dict[str, Any] | None:
        """A section for a fingerprint: what has no effect on a result is left out, see effects.py."""
        return effective(self, section)

    def with_epochs(self, epochs: int) -> Config:
        """The same experiment in another number of epochs: what is told in epochs goes along."""
        off = min(round(self.mixing.off_epochs * epochs / self.train.epochs), epochs - 1)
        changed = {"mixing": self.mixing.model_copy(update={"off_epochs": off})}
        if self.consistency is not None and self.consistency.ramp_epochs is not None:
            ramp = {"ramp_epochs": self.consistency.ramp_epochs * epochs / self.train.epochs}
            changed["consistency"] = self.consistency.model_copy(update=ramp)
        return self.model_copy(update={"train": with_epochs(self.train, epochs), **changed})

    def settings(self) -> dict[str, Any]:
        """The tree as plain values, without what chooses folds for one call: what is stored beside a run. A
        key that is ignored has its default."""
        return effective_settings(self)

    @model_validator(mode="after")
    def _combinations_make_sense(self) -> Config:
        """Refuse what cannot mean anything, with the reason."""
        if self.fold is not None and self.folds is not None:
            raise ValueError("fold and folds were both given: give one, such as fold=2 or folds=[0,3]")
        beyond = [k for k in self.selected_folds if k >= self.cv.n_folds]
        if beyond:
            raise ValueError(
                f"fold {beyond[0]} does not exist: "
                f"cv.n_folds={self.cv.n_folds} makes folds 0 to {self.cv.n_folds - 1}"
            )
        if self.cv.kind in ("group", "stratified_group") and self.data.group is None:
            raise ValueError(
                f"cv.kind={self.cv.kind} needs data.group, the column of train.csv whose rows stay together"
            )
        self._table_habits_make_sense()
        if self.folds is not None and (not self.folds or len(set(self.folds)) < len(self.folds)):
            raise ValueError(
                f"folds={list(self.folds)} must name one fold or more, each once, such as [0, 3]"
            )
        low, high = self.augment.crop_scale
        if not 0 < low <= high:
            raise ValueError(
                f"augment.crop_scale=[{low}, {high}] must be two rising shares, such as [0.7, 1.0]"
            )
        low, high = self.augment.crop_ratio
        if not 0 < low <= high:
            raise ValueError(
                f"augment.crop_ratio=[{low}, {high}] must be two rising ratios, such as [0.8, 1.25]"
            )
        check_pixels(self.augment, self.mixing, self.data, self.train, self.task.name)
        check_distill(self.distill, self.name, self.task.name)
        check_train(self.train, self.model.pretrained or self.model.weights is not None)
        self.train.check(self.task.name)
        if self.identities and self.train.batch_size < 2 * self.train.images_per_class:
            raise ValueError(
                f"train.batch_size={self.train.batch_size} holds fewer than two identities of "
                f"train.images_per_class={self.train.images_per_class}; raise the one or lower the other"
            )
        if self.train.target_log and self.task.name != "regression":
            raise ValueError(f"train.target_log is for regression, task.name is {self.task.name}")
        self._model_suits_the_task()
        check_consistency(self.consistency, self.train, self.task.name)
        check_inference(self.inference, self.task.name)
        if self.kaggle.code_competition and self.kaggle.internet:
            raise ValueError(
                "kaggle.internet=true: a code competition takes no kernel that had internet; set it to false"
            )
        check_pseudo(self.pseudo, self.task.name, self.train.early_stopping.enabled)
        check_stack(self.stack, self.data, self.task.name)
        return self

    def _model_suits_the_task(self) -> None:
        """Refuse what only a network of one answer an image can have, and what a task has no use for."""
        model, task = self.model, self.task.name
        of_images = ("pooling", "neck", "dropout_samples", "parts", "subcenters")
        given = [name for name in of_images if getattr(model, name) is not None]
        if task == "segmentation" and given:
            raise ValueError(
                f"model.{given[0]}={getattr(model, given[0])} is for one answer an image, and segmentation "
                f"answers every pixel from maps that are never pooled; set model.{given[0]}=null"
            )
        if model.neck is not None and task not in ("multiclass", "retrieval"):
            raise ValueError(
                f"model.neck={model.neck} has a classifier without a bias, which cannot say how rare a label "
                f"or how large a number is; it is for multiclass and retrieval, task.name is {task}"
            )

    def _table_habits_make_sense(self) -> None:
        """The keys that say how train.csv writes its labels exclude each other in places."""
        data, several = self.data, not isinstance(self.data.target, str)
        if data.squeeze is not None and data.max_value is not None:
            raise ValueError(
                f"data.squeeze={data.squeeze:g} and data.max_value={data.max_value:g} both say how deep "
                f"values become 8 bits: give one of the two"
            )
        if several and (not data.target or len(set(data.target)) < len(data.target)):
            raise ValueError(
                f"data.target={list(data.target)} must name one column or more, each once, such as [cat, dog]"
            )
        if data.label_separator is not None and (several or data.long is not None):
            other = f"data.long={data.long}" if data.long is not None else "several columns in data.target"
            raise ValueError(
                f"data.label_separator={data.label_separator!r} reads many labels from one cell, "
                f"{other} reads them from elsewhere: give one of the two"
            )
        if several and data.long is not None:
            raise ValueError(
                f"data.long={data.long} needs one data.target: the column of the values, "
                f"or {data.long} itself where a listed pair means yes"
            )
        if data.mask_classes is not None and len(set(data.mask_classes)) < len(data.mask_classes):
            raise ValueError(
                f"data.mask_classes={list(data.mask_classes)} must name each class once, such as [cell, wall]"
            )
        if data.rle is not None and data.train_masks is not None:
            raise ValueError(
                f"data.rle={data.rle} and data.train_masks={data.train_masks} both name the masks: give one"
            )
