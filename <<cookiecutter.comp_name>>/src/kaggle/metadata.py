"""Pydantic models of `dataset-metadata.json` and `kernel-metadata.json`: all keys explicit, limits checked.

Kaggle accepts unknown and missing keys silently: a kernel without `enable_internet` gets internet access, and
one with a misspelt `machine_shape` gets a different machine. So the models here reject both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from src.artifacts import write_json
from src.config import Config, UserError
from src.config.kaggle import MACHINES
from src.kaggle.names import competition, title_of

Title = Annotated[str, Field(min_length=6, max_length=50)]


def _check_ref(value: str) -> str:
    """Validate `owner/slug` without a prefix or a version."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{2,}/[a-z0-9]+(-[a-z0-9]+)*", value):
        raise ValueError(f"{value!r} is not owner/slug, such as quickfox/leaf-disease-bundle")
    if not 6 <= len(value.partition("/")[2]) <= 50:
        raise ValueError(f"{value!r}: a slug has 6 to 50 characters")
    return value


Ref = Annotated[str, AfterValidator(_check_ref)]
Bare = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]  # a competition's slug alone, without the prefix c/
_Model = Annotated[str, Field(pattern=r"^[^/]+/[^/]+/[^/]+/[^/]+/\d+$")]  # owner/model/framework/variation/4


class Metadata(BaseModel):
    """Base class of the metadata files. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(Metadata):
    """A licence by its name on Kaggle."""

    name: str


class DatasetMetadata(Metadata):
    """The schema of `dataset-metadata.json`."""

    id: Ref
    title: Title
    licenses: tuple[Licence]  # exactly one
    subtitle: Annotated[str, Field(min_length=20, max_length=80)]
    keywords: tuple[str, ...] = ()


class KernelMetadata(Metadata):
    """The schema of `kernel-metadata.json`."""

    id: Ref
    title: Title
    code_file: str
    language: Literal["python"]
    kernel_type: Literal["script", "notebook"]  # cannot be changed once the kernel exists
    is_private: bool
    enable_gpu: bool
    enable_tpu: Literal[False]
    enable_internet: bool  # Kaggle's default is true
    machine_shape: str
    docker_image_pinning_type: Literal["original", "latest"]
    dataset_sources: tuple[Ref, ...]
    competition_sources: tuple[Bare, ...]
    kernel_sources: tuple[Ref, ...]
    model_sources: tuple[_Model, ...]
    keywords: tuple[str, ...]

    @model_validator(mode="after")
    def _title_leads_to_the_slug(self) -> KernelMetadata:
        if re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") != self.id.partition("/")[2]:
            raise ValueError(f"the title {self.title!r} does not lead to the slug of {self.id}")
        return self


def dataset_metadata(ref: str, licence: str) -> DatasetMetadata:
    """The metadata of a private dataset of this project."""
    return _checked(
        DatasetMetadata,
        id=ref,
        title=title_of(ref),
        licenses=[{"name": licence}],
        subtitle="Code and weights of one competition",
    )


def kernel_metadata(
    config: Config,
    ref: str,
    code_file: str,
    *,
    internet: bool,
    datasets: tuple[str, ...],
    kernels: tuple[str, ...] = (),
) -> KernelMetadata:
    """The metadata of a private kernel of this project on the machine `kaggle.machine_shape`."""
    shape = config.kaggle.machine_shape
    return _checked(
        KernelMetadata,
        id=ref,
        title=title_of(ref),
        code_file=code_file,
        language="python",
        kernel_type="notebook" if code_file.endswith(".ipynb") else "script",
        is_private=True,
        enable_gpu=MACHINES[shape] > 0,
        enable_tpu=False,
        enable_internet=internet,
        machine_shape="None" if shape == "cpu" else shape,
        docker_image_pinning_type="latest",  # `original` keeps a CPU image even after a change to a GPU
        dataset_sources=datasets,
        competition_sources=(competition(config),),
        kernel_sources=kernels,
        model_sources=(),
        keywords=(),
    )


def write_metadata(folder: Path, metadata: Metadata) -> None:
    """Write the metadata into the folder under the file name that the client expects."""
    name = "dataset" if isinstance(metadata, DatasetMetadata) else "kernel"
    write_json(folder / f"{name}-metadata.json", metadata.model_dump(mode="json"))


def _checked(model: type[Metadata], **values: Any) -> Any:
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "metadata"
        raise UserError(
            f"{values['id']}: {key} is {first['input']!r}: {first['msg']}; "
            f"set competition.slug, competition.kaggle_username and the keys of `kaggle` in the config"
        ) from None
