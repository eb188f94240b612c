"""Kaggle: what the bundle, the kernels and the submission are called there, and what a kernel may use."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from src.config.section import Section


def _check_slug(value: str) -> str:
    """Kaggle's short name of a dataset or kernel, the last part of its address."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value) or not 6 <= len(value) <= 50:
        raise ValueError(
            "Kaggle's slugs are 6 to 50 lower-case letters and digits with single hyphens between"
            ", such as leaf-disease-bundle"
        )
    return value


def _check_shape(value: str) -> str:
    """Kaggle takes any text here, and gives a default machine for what it does not know."""
    if value in RETIRED:
        raise ValueError(f"Kaggle has retired {value} and would run on something else; good is NvidiaTeslaT4")
    if value not in MACHINES:
        raise ValueError(f"Kaggle would run on a default machine instead; it knows {', '.join(MACHINES)}")
    return value


# Machines by Kaggle's names, and how many GPUs each has. Beyond T4 x2 they are for some competitions alone.
MACHINES = {
    "cpu": 0,
    "NvidiaTeslaT4": 2,
    "NvidiaL4": 4,
    "NvidiaL4X1": 1,
    "NvidiaRtxPro6000": 1,
    "NvidiaH100": 1,
    "NvidiaTeslaA100": 1,
}
RETIRED = ("NvidiaTeslaP100", "TpuV38", "Tpu1VmV38")

Slug = Annotated[str, AfterValidator(_check_slug)]
Machine = Annotated[str, AfterValidator(_check_shape)]
Session = Annotated[float, Field(gt=0, le=12)]  # hours; Kaggle ends any GPU session after twelve


class Kaggle(Section):
    code_competition: bool = False
    """`true`: Kaggle runs our kernel on the hidden test set; `false`: it takes a CSV file."""

    dataset: Slug | None = None
    """Slug of the private dataset that holds the bundle. `null`: <competition>-bundle."""

    kernel: Slug | None = None
    """Slug of the inference kernel. `null`: <competition>-infer."""

    half: bool = True
    """Store the bundle's weights in half precision: half the upload, predictions change by about 1e-3."""

    hidden_images: Annotated[int, Field(ge=1)] | None = None
    """Number of images in the hidden test set, as the competition's page says; time and memory are projected
    for it. `null`: as many as here."""

    licence: Literal["other", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "apache-2.0"] = "other"
    """Licence of the private dataset."""

    machine_shape: Machine = "NvidiaTeslaT4"
    """Kaggle's name of the machine; NvidiaTeslaT4 is T4 x2, which every account has."""

    internet: bool = False
    """Internet in the inference kernel; code competitions forbid it."""

    hours: Session = 9.0
    """Hours that a submission's run may take, from the competition's code requirements."""

    network_speedup: Annotated[float, Field(gt=0)] = 1.0
    """How many times as fast as here the networks run on Kaggle's machine; the rehearsal's projection divides
    by it. 1: as fast as here."""

    train_kernel: Slug | None = None
    """Slug of the training kernel. `null`: <competition>-train-<experiment>; later sessions add -2, -3,
    ..."""

    train_internet: bool = True
    """Internet in the training kernel, for pretrained weights; needs a phone-verified account."""

    train_hours: Session = 11.5
    """Hours of training per session, of Kaggle's twelve; the rest saves the results."""

    train_sessions: Annotated[int, Field(ge=1, le=10)] = 1
    """Sessions that one `make train-kernel` may use."""
