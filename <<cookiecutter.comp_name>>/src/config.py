"""Every knob of the project: one validated tree, its defaults and why they are what they are.

A config is a YAML file in `configs/`; `base:` names the file it changes; `key=value` on the command line
changes it once more. OmegaConf reads and merges, pydantic checks types, bounds and unknown keys. This module
imports nothing else of ours, and nothing heavy, so that a typo is answered at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)


class UserError(Exception):
    """Something the competitor can mend: one sentence that says what, where, and what a good value looks
    like."""


LOSSES = {  # what `train.loss` may be for each task
    "multiclass": ("cross_entropy",),
    "binary": ("bce",),
    "multilabel": ("bce",),
    "regression": ("mse", "mae", "huber"),
    "segmentation": (),
    "retrieval": (),
}


class Section(BaseModel):
    """A part of the tree: unknown keys are errors, values cannot be changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads a bare `off` as false: give the word back where it is one of the choices, else
        refuse."""
        kind = cls.model_fields[info.field_name].annotation
        if not isinstance(value, bool) or kind is bool:
            return value
        if "off" in get_args(kind) and not value:
            return "off"
        raise ValueError("true and false (also yes, no, on, off) mean nothing here; quote it if it is a word")


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
TaskName = Literal["multiclass", "binary", "multilabel", "regression", "segmentation", "retrieval"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Competition(Section):
    slug: str = ""  # Kaggle's name for the competition, the last part of its address
    title: str = ""
    kaggle_username: str = ""


class Task(Section):
    name: TaskName = "multiclass"
    metric: str | None = None  # null: the task's usual one; early stopping, CV and the stack all use it


class Data(Section):
    raw: str = "data/raw"  # Kaggle's files; read, never written
    train_csv: str = "train.csv"
    test_csv: str | None = "test.csv"  # null: the test rows are those of the sample submission
    sample_csv: str = "sample_submission.csv"
    id: str = "id"
    target: str | tuple[str, ...] = "label"  # one column, or one a label (multilabel) or number (regression)
    label_separator: Text | None = None  # between the labels of one cell, such as " "; null: one label a cell
    long: str | None = None  # one row an id-and-class pair: the column of the class; null: one row an id
    image: str | None = None  # column that holds the file name; null: the id, with or without its extension
    group: str | None = None  # column whose rows must stay in one fold (patient, board, photographer)
    train_images: str | tuple[str, ...] = "train_images"  # folders below raw, one or several
    test_images: str | tuple[str, ...] = "test_images"
    train_masks: str | None = None  # folder of mask images (segmentation); null: the masks are in data.rle
    mask: str | None = None  # column that holds the mask's file name; null: the image's own name
    rle: str | None = None  # column of run-length masks (segmentation), several rows an image or one
    image_size: Annotated[int, Field(ge=8, le=4096)] = 224  # pixels, square: the size trained at and cached
    fit: Literal["stretch", "pad"] = "stretch"  # pad keeps the aspect ratio and fills with black
    max_value: Positive | None = None  # white of images deeper than 8 bits; null: the full range
    near_duplicates: Annotated[int, Field(ge=-1, le=16)] = 4  # bits of 64 that hashes may differ; -1: none


class CrossValidation(Section):
    kind: Literal["stratified", "group", "stratified_group", "plain"] = "stratified"
    n_folds: Annotated[int, Field(ge=2, le=50)] = 5  # 80 % of the rows to learn from, five times the time
    seed: int = 42
    stop_parts: Annotated[int, Field(ge=2, le=50)] = 10  # a tenth of the training rows decides when to stop
    allow_rare: bool = False  # true: classes with fewer rows than folds are spread as far as they go


class Model(Section):
    backbone: str = "resnet18"  # any timm name; fast enough to find bugs with, strong enough to rank ideas
    pretrained: bool = True
    weights: str | None = None  # local .safetensors or .pth for the backbone, in place of a download
    drop_rate: Share = 0.0
    drop_path_rate: Share = 0.0


class Augment(Section):
    hflip: Share = 0.5
    vflip: Share = 0.0  # off: most photographs have an up and a down
    crop_scale: tuple[Share, Share] = (
        0.7,
        1.0,
    )  # share of the area kept; 0.08 is too hard here
    crop_ratio: tuple[float, float] = (0.8, 1.25)
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, either way
    shift: Share = 0.0  # share of the side, either way
    zoom: Share = 0.0  # share, in or out
    brightness: Share = 0.0
    contrast: Share = 0.0
    cutout: Share = 0.0  # probability of one erased square, a quarter of the side


class EarlyStopping(Section):
    enabled: bool = True  # false: all epochs, the last weights, and no rows set aside for stopping
    patience: Count = 5  # epochs without a better score


class Ema(Section):
    enabled: bool = True
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999  # warmed up, else the random start stays


class Train(Section):
    epochs: Count = 15
    batch_size: Annotated[int, Field(ge=2)] = 32
    accumulate: Count = 1  # batches a step
    optimizer: Literal["adam", "adamw", "sgd", "lion", "nadam", "radam"] = "adam"
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0  # a fresh head's first gradients are large
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    loss: Literal["cross_entropy", "bce", "mse", "mae", "huber"] | None = None  # null: the task's usual one
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    huber_delta: Positive = 1.0  # in standard deviations of the target
    target_log: bool = False  # learn log(1 + target): for counts and prices, whose tails are heavy
    clip_grad: Positive | None = None  # largest gradient norm
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"  # bf16 where the GPU has it, else fp16; off on CPU
    channels_last: bool = True  # 0.68 to 1.24 times the time, by network; most gain
    early_stopping: EarlyStopping = EarlyStopping()
    ema: Ema = Ema()


class Distill(Section):
    teacher: Name | None = None  # a finished run; its fold k teaches our fold k, never another
    weight: Share = 0.5  # of the teacher's word; the rest is the label's
    temperature: Positive = 2.0


class Pseudo(Section):
    rounds: Annotated[int, Field(ge=0, le=10)] = 2
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.9
    labels: Literal["soft", "hard"] = "soft"  # hard ones harden the majority class
    quantile: Share = 0.5  # of the test rows, those whose views agree best; a regression has no probability
    weight: Positive = 1.0  # of a pseudo-labelled row's loss against a labelled one's
    epochs: Count | None = None  # of a round; null: train.epochs


class Inference(Section):
    tta: tuple[str, ...] = ("identity", "hflip")  # views, see src/data/augment.py; averaged
    average: Literal["probability", "logit"] = "probability"
    batch_size: Count = 64


class Stack(Section):
    name: Name = "stack"
    members: tuple[str, ...] = ("*",)  # run names or patterns
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    num_leaves: Annotated[int, Field(ge=2, le=256)] = 4  # small: a few columns overfit at LightGBM's 31
    min_data_in_leaf: Count = 20
    max_rounds: Count = 300
    patience: Count = 20


class Submit(Section):
    source: str = "stack"  # `stack`, or `run:<name>`
    name: Name | None = None  # file name below submissions/; null: the source's


class Tracking(Section):
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online with a key, else offline
    project: str | None = None  # null: the competition's slug


class Runtime(Section):
    """How, not what: nothing here changes a result, so nothing here makes an artefact stale."""

    device: str = "auto"  # auto: every CUDA device, else mps, else cpu
    jobs: Count | None = None  # folds side by side; null: one a device, or one a core on CPU
    threads: Count | None = None  # a process; null: cores / jobs
    workers: Index | None = None  # loader processes a job; null: none on CPU, up to 4 on a GPU


class Config(Section):
    """The whole tree. `name`, `root` and `source` come from the file; `fold` and `folds` choose what a call
    works on."""

    name: Name = "baseline"
    seed: int = 42
    competition: Competition = Competition()
    task: Task = Task()
    data: Data = Data()
    cv: CrossValidation = CrossValidation()
    model: Model = Model()
    augment: Augment = Augment()
    train: Train = Train()
    distill: Distill = Distill()
    pseudo: Pseudo = Pseudo()
    inference: Inference = Inference()
    stack: Stack = Stack()
    submit: Submit = Submit()
    tracking: Tracking = Tracking()
    runtime: Runtime = Runtime()
    fold: Index | None = None
    folds: tuple[Index, ...] | None = None
    root: Path = Field(default=Path("."), exclude=True)

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

    def settings(self) -> dict[str, Any]:
        """The tree as plain values, without what chooses folds for one call: what is stored beside a run."""
        return self.model_dump(mode="json", exclude={"fold", "folds"})

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
        if self.distill.teacher == self.name:
            raise ValueError(f"distill.teacher={self.name} is this run itself: name another finished run")
        if self.train.min_lr > self.train.lr:
            raise ValueError(f"train.min_lr={self.train.min_lr} lies above train.lr={self.train.lr}")
        fits = LOSSES[self.task.name]
        if self.train.loss is not None and self.train.loss not in fits:
            raise ValueError(
                f"train.loss={self.train.loss} does not suit {self.task.name}; good are {', '.join(fits)}"
            )
        if self.train.target_log and self.task.name != "regression":
            raise ValueError(f"train.target_log is for regression, task.name is {self.task.name}")
        if not self.inference.tta:
            raise ValueError("inference.tta is empty: give at least [identity]")
        return self

    def _table_habits_make_sense(self) -> None:
        """The keys that say how train.csv writes its labels exclude each other in places."""
        data, several = self.data, not isinstance(self.data.target, str)
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
        if data.rle is not None and data.train_masks is not None:
            raise ValueError(
                f"data.rle={data.rle} and data.train_masks={data.train_masks} both name the masks: give one"
            )
