"""What comes of trained models: teachers, pseudo-labels, predictions, stacks, submissions. How it all
runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.section import Count, Index, Name, Positive, Section, Share


class Distill(Section):
    teacher: Name | None = None  # a finished run; its fold k teaches our fold k, never another
    weight: Share = 0.5  # of the teacher's word; the rest is the label's
    temperature: Positive = 2.0


class Pseudo(Section):
    rounds: Annotated[int, Field(ge=0, le=10)] = 2
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.9
    labels: Literal["soft", "hard"] = "soft"  # hard ones harden the majority class
    pixels: Share = 0.8  # segmentation: an image needs this share of pixels that reach the threshold
    quantile: Share = 0.5  # of the test rows, those whose views agree best; a regression has no probability
    weight: Positive = 1.0  # of a pseudo-labelled row's loss against a labelled one's
    epochs: Count | None = None  # of a round; null: train.epochs


class Inference(Section):
    tta: tuple[str, ...] = ("identity", "hflip")  # views, see src/data/augment.py; averaged
    average: Literal["probability", "logit"] = "probability"
    batch_size: Count = 64
    candidates: Count = 50  # retrieval: identities kept of each query's ranking


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
