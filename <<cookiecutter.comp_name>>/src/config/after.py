"""What comes of trained models: teachers, predictions, stacks, submissions. How it all runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from src.config.data import Data
from src.config.section import Count, Index, Name, Positive, Section, Share, Switch, Text

Side = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]  # pixels; strides of 32 then fit
CropShare = Annotated[float, Field(ge=0.5, lt=1)]  # of the side; four crops of a half just cover the image
Names = Annotated[  # told apart before they are checked: a wrong one of several is told as what it is
    Annotated[Name, Tag("one")] | Annotated[tuple[Name, ...], Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, list | tuple) else "one"),
]


class Distill(Section):
    teacher: Names | None = None  # finished runs; their fold k alone teaches our fold k
    weight: Share = 0.5  # of the teacher's word; the rest is the label's
    temperature: Positive = 2.0
    hard: Switch = None  # true: its likeliest class as a label; keeps less, suits a teacher that is too sure
    features: Positive | None = None  # weight of how rows lie to each other; the paper: 1, of classes 25

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of all teachers; none where it is off."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher or ()

    @field_validator("teacher")
    @classmethod
    def _each_once(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """A list of one is that one."""
        if not isinstance(value, tuple):
            return value
        if not value or len(set(value)) < len(value):
            raise ValueError("it must name one finished run or more, each once, such as [big, wide]")
        return value[0] if len(value) == 1 else value


def check_distill(distill: Distill, name: str, task: str) -> None:
    """Raise ValueError for a run that teaches itself, a lesson without a teacher, and one that the task does
    not have."""
    if name in distill.teachers:
        raise ValueError(f"distill.teacher={name} is this run itself: name another finished run")
    for key in ("hard", "features"):
        if getattr(distill, key) is not None and not distill.teachers:
            raise ValueError(
                f"distill.{key} is about a teacher, and there is none; name it in distill.teacher"
            )
    if distill.hard and task in ("regression", "retrieval"):
        what = "a number" if task == "regression" else "an embedding"
        raise ValueError(
            f"distill.hard makes labels of probabilities, and a {task}'s teacher says {what}; leave it out"
        )


class Rerank(Section):
    """k-reciprocal re-ranking (Zhong et al. 2017), see src/inference/rerank.py; the paper's own numbers."""

    k1: Count = 20  # nearest images that may be neighbours, if they hold each other so; for many an identity
    k2: Count = 6  # images whose neighbourhoods are averaged, the image itself among them; 1: none
    weight: Share = 0.3  # of the cosine; the rest is the overlap of the neighbourhoods


class Expansion(Section):
    """Query expansion (Chum et al. 2007; Radenovic et al. 2018), see src/inference/expansion.py."""

    k: Count = 5  # nearest gallery images added to a query; about as many as an identity has
    alpha: Annotated[float, Field(ge=0)] = 3.0  # each weighs its cosine to this power; 0: all the same
    gallery: bool = False  # true: gallery images are averaged with their neighbours, too


class Inference(Section):
    tta: tuple[str, ...] = ("identity", "hflip")  # views, see src/data/views.py; averaged
    scales: tuple[Side, ...] | None = None  # pixels, each view at each of them; null: data.image_size alone
    crop: CropShare | None = None  # share of the side that a crop keeps; null: 7/8, 224 of 256 as ever
    average: Literal["probability", "logit", "rank"] = "probability"  # rank: for AUC and the like
    batch_size: Count = 64
    candidates: Count = 50  # retrieval: identities kept of each query's ranking
    expansion: Expansion | None = None  # retrieval: queries averaged with their nearest images
    rerank: Rerank | None = None  # retrieval: images are alike that have neighbours in common


def check_inference(inference: Inference, task: str) -> None:
    """Raise ValueError for knobs of inference that exclude each other, or the task."""
    if not inference.tta:
        raise ValueError("inference.tta is empty: give at least [identity]")
    scales, rerank = inference.scales, inference.rerank
    if scales is not None and (not scales or len(set(scales)) < len(scales)):
        raise ValueError(
            f"inference.scales={list(scales)} must name one size or more, each once, such as [224, 256]"
        )
    if inference.average == "rank" and task not in ("binary", "multilabel", "multiclass"):
        raise ValueError(f"inference.average=rank does not suit {task}: {RANKLESS[task]}")
    for key in ("expansion", "rerank"):
        if getattr(inference, key) is not None and task != "retrieval":
            raise ValueError(
                f"inference.{key} works on the neighbours of an image in a gallery, and {task} has none; "
                f"leave it null"
            )
    if rerank is not None and rerank.k2 > rerank.k1:
        raise ValueError(
            f"inference.rerank.k2={rerank.k2} lies above inference.rerank.k1={rerank.k1}, and only the k1 "
            f"nearest are known; give a smaller k2, such as {min(6, rerank.k1)}"
        )


RANKLESS = {  # why ranks cannot take the place of predictions
    "regression": "a rank is not in the target's units",
    "segmentation": "a pixel's rank among all pixels of all images says nothing of its own image",
    "retrieval": "embeddings are averaged, and they have no order",
}


Blender = Literal["rank_mean", "hill_climbing", "linear", "lightgbm", "mlp", "cnn", "xgboost"]


class Stack(Section):
    """Beside the mean and the best single run, see src/ensemble/blenders; maps and rankings have their
    own."""

    name: Name = "stack"
    members: tuple[str, ...] = ("*",)  # run names or patterns
    blenders: tuple[Blender, ...] = (  # xgboost: where it is installed
        "rank_mean",  # for metrics of order, such as AUC
        "hill_climbing",
        "linear",
        "lightgbm",
        "mlp",
        "cnn",  # from three outputs on
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    num_leaves: Annotated[int, Field(ge=2, le=256)] = 4  # small: a few columns overfit at LightGBM's 31
    min_data_in_leaf: Count = 20
    max_rounds: Count = 300
    patience: Count = 20
    monotone: bool = True  # false: trees may fall with a member's word, and learn from luck on noise
    features: tuple[Text, ...] | None = (
        None  # columns of train.csv and test.csv, and of the image its height,
    )
    # width, aspect: for trees alone, which also see the members
    calibrate: bool = True  # temperature, Platt, or a line, where its nested score is better by an error


def check_stack(stack: Stack, data: Data, task: str) -> None:
    """Raise ValueError for knobs of the stack that exclude each other, or the task, and for a feature that
    would give the answer away."""
    for key in ("blenders", "features"):
        given = getattr(stack, key) or ()
        twice = [name for name in given if given.count(name) > 1]
        if twice:
            raise ValueError(f"stack.{key} names {twice[0]!r} twice; name each once")
    if stack.features is None:
        return
    if not stack.features:
        raise ValueError("stack.features is empty: name columns, such as [age, height], or leave it null")
    if task in ("segmentation", "retrieval"):
        raise ValueError(
            f"stack.features stand beside predictions of an image, one row each; {task} stacks "
            f"{'pixels' if task == 'segmentation' else 'pairs of images'}; leave it null"
        )
    if not {"lightgbm", "xgboost"} & set(stack.blenders):
        raise ValueError(
            "stack.features are looked at by trees alone: add lightgbm to stack.blenders, or leave them null"
        )
    targets = (data.target,) if isinstance(data.target, str) else data.target
    for key, columns, why in (
        ("id", (data.id, data.image), "which names a row and says nothing of it"),
        ("target", (*targets, data.long, data.rle, data.mask), "which is the answer"),
        ("group", (data.group,), "whose values the test rows do not share"),
    ):
        given = [name for name in stack.features if name in columns]
        if given:
            raise ValueError(
                f"stack.features: {given[0]!r} is the column of data.{key}, {why}; take it out: a feature is "
                f"what train.csv and test.csv both tell of an image, such as its site"
            )


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
    save_minutes: Annotated[float, Field(ge=0)] | None = 10  # between checkpoints; null: at ends of epochs
    retries: Index = 2  # where a process of a fold was killed; more would only meet the same lack of memory
