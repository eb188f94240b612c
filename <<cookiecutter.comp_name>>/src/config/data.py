"""The competition, its data and the folds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.section import Positive, Section, Share, Text

TaskName = Literal["multiclass", "binary", "multilabel", "regression", "segmentation", "retrieval"]


class Competition(Section):
    slug: str = ""
    """Kaggle's name of the competition: the last part of its address."""

    title: str = ""
    """Title of the competition, for reports and kernel titles."""

    kaggle_username: str = ""
    """Your Kaggle username; needed for `make bundle`, `push`, `send` and `train-kernel`."""


class Task(Section):
    name: TaskName = "multiclass"
    """What one row asks for: one class of several, yes or no, any number of labels, numbers, a mask, or the
    identity among many."""

    metric: str | None = None
    """Competition metric, by its name in `src/metrics/`. `null`: the task's usual one. Early stopping, CV,
    thresholds and the stack all use it."""


class Data(Section):
    raw: str = "data/raw"
    """Folder of Kaggle's files. It is read and never written."""

    train_csv: str = "train.csv"
    """Training table, below `data.raw`."""

    test_csv: str | None = "test.csv"
    """Test table, below `data.raw`. `null`: the test rows are those of the sample submission."""

    sample_csv: str = "sample_submission.csv"
    """Sample submission, below `data.raw`; it decides the rows, columns and form of what stage 06 writes."""

    id: str = "id"
    """Column that names a row."""

    target: str | tuple[str, ...] = "label"
    """Target column; several columns for multilabel (one per label) or regression with several numbers."""

    label_separator: Text | None = None
    """Separator between several labels, or several ranked answers, in one cell. `null`: one label per
    cell."""

    long: str | None = None
    """Column of the class in the long format, where each row of train.csv is one id-class pair. `null`: one
    row per id (wide format)."""

    image: str | None = None
    """Column with the image's file name. `null`: the id, with or without an extension."""

    group: str | None = None
    """Column whose rows must stay in one fold, such as patient, site or photographer; without it CV is too
    high wherever such rows look alike."""

    train_images: str | tuple[str, ...] = "train_images"
    """Folder or folders of training images, below `data.raw`."""

    test_images: str | tuple[str, ...] = "test_images"
    """Folder or folders of test images, below `data.raw`."""

    train_masks: str | None = None
    """Folder of mask images for segmentation. `null`: the masks are run lengths in `data.rle`."""

    mask: str | None = None
    """Column with the mask's file name. `null`: the name of the image."""

    mask_classes: tuple[Text, ...] | None = None
    """Names of the mask values 1, 2, ... `null`: every value but 0 is one class."""

    mask_exif: Literal["upright", "stored"] | None = None
    """How masks of images with an EXIF orientation are drawn: on the `upright` picture or on the pixels as
    `stored`. `null`: decided by the sizes, refused where both fit."""

    rle: str | None = None
    """Column of run-length encoded (RLE) masks for segmentation; an image may have one row or several."""

    new_label: Text | None = None
    """Answer for a query whose identity no training image shows, such as `new_whale`. `null`: every query has
    a known identity."""

    image_size: Annotated[int, Field(ge=8, le=4096)] = 224
    """Side of the square training image in pixels; also the size of the image cache."""

    cache_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Side of the cached image in pixels, larger than `data.image_size`, which is then cropped from it.
    `null`: cache at `data.image_size`."""

    storage: Literal["packed", "shards", "files"] = "packed"
    """Image cache: `packed` is one memory-mapped array (fastest), `shards` are tar files of JPEGs (a tenth of
    the disk), `files` decodes the originals each time (no disk, slowest)."""

    fit: Literal["stretch", "pad"] = "stretch"
    """How an image becomes square: `stretch` changes the aspect ratio, `pad` keeps it and fills with black
    (letterbox)."""

    max_value: Positive | None = None
    """Pixel value shown as white for images deeper than 8 bits. `null`: the full range of the file's type."""

    squeeze: Positive | None = None
    """Tanh range scaling for values without a natural white: tanh(x / this). `null`: linear scaling."""

    damaged: Literal["refuse", "keep"] = "refuse"
    """Images with damaged contents, such as a JPEG that breaks off: `refuse` stops and names them, `keep`
    takes what decodes and names them."""

    preprocess: Text | None = None
    """Function of `src/data/own.py` applied to every image once, before it is resized and cached. `null`:
    none."""

    near_duplicates: Annotated[int, Field(ge=-1, le=16)] = 4
    """Perceptual-hash distance (bits of 64) up to which two images count as duplicates and share a fold. -1:
    only exact copies are looked for."""

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
    """Fold assignment: stratified by target, by group, both, or plain random. Groups need `data.group`."""

    n_folds: Annotated[int, Field(ge=2, le=50)] = 5
    """Number of folds (k of k-fold cross-validation). Five: each model learns from 80 % of the rows, at five
    times the cost of one."""

    seed: int = 42
    """Seed of the fold assignment; another value gives other folds, on which every run must be trained
    again."""

    stop_parts: Annotated[int, Field(ge=2, le=50)] = 10
    """Early-stopping split: one of this many parts of the training rows decides when a fold stops; 10 sets a
    tenth aside."""

    allow_rare: bool = False
    """`true`: classes with fewer rows than folds are spread as far as they go, instead of being refused."""

    new_share: Share = 0.2
    """Retrieval with `data.new_label`: share of identities held out whole, which then count as new."""
