"""Masks and identities that cannot be right, through stage 01: one sentence that says where, and what a good
one looks like; exit status 2; no folds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import BASELINE, call_stage, write_config
from digits import write_competition
from PIL import Image
from six_stages import COMPETITIONS, text

from src.maps import decode_map

ROW = 4  # the row that goes wrong, counted from 0; row 6 of the file, its image 40 wide and 24 high


@dataclass(frozen=True)
class Project:
    """A project whose raw files are a test's to spoil."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "data" / "raw"

    @property
    def name(self) -> str:
        """The id of the row that goes wrong."""
        return text(self.raw / "train.csv")["id"][ROW]

    def tell(self, column: str, value: str | list[str]) -> None:
        """Write `value` into the wrong row's cell, or a list down the whole column."""
        table = text(self.raw / "train.csv")
        table.loc[ROW if isinstance(value, str) else slice(None), column] = value
        table.to_csv(self.raw / "train.csv", index=False)

    def draw(self, values: np.ndarray) -> None:
        """Write the wrong row's mask."""
        cv2.imwrite(str(self.raw / "train_masks" / f"{self.name}.png"), values.astype(np.uint8))

    def folds(self, *overrides: str):
        """Stage 01."""
        return call_stage(self.root, "01_folds.py", *overrides)

    def refusal(self, *overrides: str) -> str:
        """What stage 01 says, having written no folds and left nothing half-written."""
        stage = self.folds(*overrides)
        assert stage.returncode == 2, stage.stdout
        assert stage.stderr.startswith("error: ")
        assert stage.stderr.count("\n") == 1
        assert not (self.root / "data" / "folds.csv").exists()
        assert not [path for path in self.root.rglob(".*.tmp")]
        return stage.stderr.removeprefix("error: ").rstrip("\n").replace(f"{self.root}/", "")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Callable[[str], Path]:
    """A small competition of masks, run lengths or identities, written once."""
    base = tmp_path_factory.mktemp("untouched")

    def write(name: str) -> Path:
        if not (base / name).exists():
            write_competition(base / name / "data" / "raw", n_train=40, n_test=6, task=name)
            write_config(base / name, "common", BASELINE)
            write_config(base / name, "baseline", "base: common\n" + COMPETITIONS[name].settings)
        return base / name

    return write


@pytest.fixture
def spoiled(untouched, tmp_path) -> Callable[[str], Project]:
    return lambda name: Project(Path(shutil.copytree(untouched(name), tmp_path / name)))


# --- mask files ---------------------------------------------------------------------------------------------


def mask_file(project: Project) -> str:
    """How a mask file and its row are named."""
    return f"data/raw/train_masks/{project.name}.png (row 6 of the train table): "


def test_a_mask_of_another_size_than_its_image(spoiled):
    project = spoiled("masks")
    project.draw(np.ones((12, 20)))
    assert project.refusal() == mask_file(project) + (
        "the mask is 12 high and 20 wide, its image 24 and 40; every mask should have its image's size"
    )


def test_a_mask_file_of_zero_bytes(spoiled):
    project = spoiled("masks")
    (project.raw / "train_masks" / f"{project.name}.png").write_bytes(b"")
    assert project.refusal() == mask_file(project) + ("the file is empty (0 bytes); fetch it again")


def test_a_mask_with_a_value_that_no_class_has(spoiled):
    project = spoiled("masks")
    project.draw(np.full((24, 40), 7))
    assert project.refusal() == mask_file(project) + (
        "it holds value 7, data.mask_classes names 2 classes, values 1 to 2"
    )


def test_several_wrong_masks_are_counted_and_the_first_is_named(spoiled):
    project = spoiled("masks")
    project.draw(np.full((24, 40), 7))
    for name in text(project.raw / "train.csv")["id"][ROW + 1 : ROW + 3]:
        (project.raw / "train_masks" / f"{name}.png").write_bytes(b"")
    assert project.refusal() == mask_file(project) + (
        "it holds value 7, data.mask_classes names 2 classes, values 1 to 2 (3 such masks in all)"
    )


def test_mask_files_without_a_mask_among_them(spoiled):
    project = spoiled("masks")
    for path in (project.raw / "train_masks").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), -1) * (cv2.imread(str(path), -1) == 1))
    assert project.refusal() == "class 'loop' is empty in every mask; is data.train_masks right?"


def stored_under(project: Project, orientation: int, undo: Image.Transpose) -> np.ndarray:
    """Turn the wrong row's image and mask so that EXIF, in the image alone, shows the image as it was; gives
    the mask as it was."""
    path, exif = project.raw / "train_images" / f"{project.name}.png", Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).transpose(undo).save(path, exif=exif)
    path = project.raw / "train_masks" / f"{project.name}.png"
    mask = np.asarray(Image.open(path))
    Image.open(path).transpose(undo).save(path)
    return mask


def test_a_mask_of_an_image_that_exif_turns_lies_on_it_or_is_asked_about(spoiled):
    project = spoiled("masks")
    mask = stored_under(project, 6, Image.Transpose.ROTATE_90)
    assert project.folds().returncode == 0
    table = pd.read_parquet(next(project.root.glob("data/cache/*/masks.parquet")))
    row = table[table["id"] == project.name].iloc[0]
    for value, name in enumerate(table.columns[1:3], start=1):
        assert (decode_map(row[name]) > 0).tolist() == (mask == value).tolist()


def test_a_mask_that_fits_its_turned_image_both_ways_is_named(spoiled):
    project = spoiled("masks")
    stored_under(project, 3, Image.Transpose.ROTATE_180)
    said = project.refusal()
    assert said.startswith(mask_file(project))
    assert "data.mask_exif" in said
    assert project.folds("data.mask_exif=stored").returncode == 0


# --- run lengths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ("1 3 950 11", "its run 2 ends at pixel 960; the image has 960, 24 high and 40 wide"),
        ("1 3 950 12", "its run 2 ends at pixel 961; the image has 960, 24 high and 40 wide"),
        ("1 3 950", "its runs are 3 numbers; they should be pairs, a start and a length"),
        ("0 3", "its run 1 starts at 0; the first pixel is 1"),
        ("5 0", "its run 1 has the length 0; a run is 1 or more"),
        ("5 2.5", "its run 1 has '2.5', which is no whole number"),
    ],
)
def test_run_lengths_that_leave_the_image_or_are_no_pairs(spoiled, runs, says):
    project = spoiled("segmentation")
    project.tell("rle", runs)
    if runs == "1 3 950 11":  # up to the last pixel is inside
        assert project.folds().returncode == 0
    else:
        assert project.refusal() == f"train.csv, `id` {project.name!r}: {says}"


def test_run_lengths_that_are_empty_in_every_row(spoiled):
    project = spoiled("segmentation")
    project.tell("rle", ["", "-1"] * 20)
    assert project.refusal() == "class 'mask' is empty in every mask; is data.rle right?"


def test_segmentation_that_is_not_told_where_the_masks_are(spoiled):
    assert spoiled("segmentation").refusal("data.rle=null") == (
        "task.name=segmentation needs masks: set data.train_masks, the folder of mask images, or data.rle, "
        "the column of run-length masks; `make sniff` looks for them"
    )


# --- identities ---------------------------------------------------------------------------------------------


def test_an_identity_with_one_image_is_refused_unless_rare_ones_are_allowed(spoiled):
    project = spoiled("retrieval")
    project.tell("Id", "w_alone")
    assert project.refusal() == (
        "data/raw/train.csv: identity 'w_alone' has one image and cannot be found when it is held out "
        "(1 such identities); set cv.allow_rare=true (it is then only ever 'new_id'), or take it out"
    )
    stage = project.folds("cv.allow_rare=true")
    assert (stage.returncode, stage.stderr) == (0, "")
    folds = text(project.root / "data" / "folds.csv")
    assert folds["target"].tolist().count("w_alone") == 1
    assert "1 with one alone" in (project.root / "data" / "summary.md").read_text()


# --- images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 40, 11), (11, 24, 40)], ids=["last", "first"])
def test_an_array_of_eleven_channels(spoiled, shape):
    project = spoiled("segmentation")
    image = project.raw / "train_images" / f"{project.name}.npy"
    image.with_suffix(".png").unlink()
    np.save(image, np.zeros(shape, np.uint8))
    assert project.refusal() == (
        f"data/raw/train_images/{project.name}.npy (row 6 of the train table): its array has shape {shape}; "
        f"an image has 10 channels at most; fetch it again, or take its row out"
    )
