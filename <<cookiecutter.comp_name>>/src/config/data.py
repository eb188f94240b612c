"""The competition, its data and the folds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.section import Positive, Section, Share, Text

TaskName = Literal["multiclass", "binary", "multilabel", "regression", "segmentation", "retrieval"]


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
    label_separator: Text | None = None  # between the labels, or the answers, of a cell; null: one a cell
    long: str | None = None  # one row an id-and-class pair: the column of the class; null: one row an id
    image: str | None = None  # column that holds the file name; null: the id, with or without its extension
    group: str | None = None  # column whose rows must stay in one fold (patient, board, photographer)
    train_images: str | tuple[str, ...] = "train_images"  # folders below raw, one or several
    test_images: str | tuple[str, ...] = "test_images"
    train_masks: str | None = None  # folder of mask images (segmentation); null: the masks are in data.rle
    mask: str | None = None  # column that holds the mask's file name; null: the image's own name
    mask_classes: tuple[Text, ...] | None = (
        None  # names of the mask values 1, 2, ...; null: not 0 is one class
    )
    mask_exif: Literal["upright", "stored"] | None = None  # masks of images that EXIF turns; null: sizes tell
    rle: str | None = None  # column of run-length masks (segmentation), several rows an image or one
    new_label: Text | None = None  # retrieval: the answer for what no training image shows, such as new_id
    image_size: Annotated[int, Field(ge=8, le=4096)] = 224  # pixels, square: the size trained at, and cached
    cache_size: Annotated[int, Field(ge=8, le=4096)] | None = None  # larger: image_size is cropped from it
    storage: Literal["packed", "shards", "files"] = "packed"  # shards: JPEGs in tars; files: no cache at all
    fit: Literal["stretch", "pad"] = "stretch"  # pad keeps the aspect ratio and fills with black
    max_value: Positive | None = None  # white of images deeper than 8 bits; null: the full range
    squeeze: Positive | None = None  # tanh(x / this) of deeper values, where none is white; null: linear
    damaged: Literal["refuse", "keep"] = "refuse"  # keep: JPEGs with a hole, or cut off, as they decode
    preprocess: Text | None = None  # a function of src/data/own.py, for every image before it is cached
    near_duplicates: Annotated[int, Field(ge=-1, le=16)] = 4  # bits of 64 that hashes may differ; -1: none

    @property
    def cached_size(self) -> int:
        """Pixels a side in the cache."""
        return self.cache_size or self.image_size

    @property
    def ending(self) -> str:
        """Of the file that a store of images is opened by."""
        return "npy" if self.storage == "packed" else f"{self.storage}.parquet"


class CrossValidation(Section):
    kind: Literal["stratified", "group", "stratified_group", "plain"] = "stratified"
    n_folds: Annotated[int, Field(ge=2, le=50)] = 5  # 80 % of the rows to learn from, five trainings
    seed: int = 42
    stop_parts: Annotated[int, Field(ge=2, le=50)] = 10  # a tenth of the training rows decides when to stop
    allow_rare: bool = False  # true: classes with fewer rows than folds are spread as far as they go
    new_share: Share = 0.2  # retrieval with data.new_label: the share of identities held out whole, as new
