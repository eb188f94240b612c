"""The preview: real images of the fold, as training draws them, with labels that are right."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import BASELINE, forget_the_listings, write_config
from digits import write_competition
from PIL import Image

from src.cli import main
from src.commands import preview
from src.configfile import load_config
from src.data.images import open_images
from src.data.loaders import TrainingRows
from src.data.prepare import prepare_dataset
from src.models.scale import TargetScale
from src.report import preview as report
from src.report.pictures import outlined
from src.report.preview import PreviewImage, caption_of_targets, draw_preview


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def call(project: Path, *overrides: str) -> tuple[int, str, str]:
    """The command in this process: its exit status and what it prints."""
    forget_the_listings()
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["preview", "--config", "configs/baseline.yaml", *overrides]
    with (
        contextlib.chdir(project),
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(preview.run, preview.__doc__)
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """What the command had drawn."""
    found: dict = {}

    def look(path, heads, rows):
        found.update(path=path, heads=heads, rows=rows)
        draw_preview(path, heads, rows)

    monkeypatch.setattr(report, "draw_preview", look)
    return found


MIXED = ("mixing.mixup=1", "augment.rotate=20", "augment.crop_scale=[1,1]")


def test_it_draws_a_picture_and_says_where_it_is_and_how_long_an_image_took(prepared, drawn):
    code, out, err = call(prepared, *MIXED)
    assert (code, err) == (0, "")
    assert re.fullmatch(
        r"data/preview-baseline.png: an image takes \d+\.\d\d ms to augment at 16 px, in one process\n", out
    )
    with Image.open(prepared / "data" / "preview-baseline.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
    assert drawn["heads"] == ["cached"] + ["augmented"] * 4 + ["mixed"] * 3
    assert [len(row) for row in drawn["rows"]] == [8] * 6


def test_rows_are_real_images_before_and_after_and_never_twice_the_same_draw(prepared, drawn):
    call(prepared, *MIXED)
    config = load_config(prepared / "configs" / "baseline.yaml")
    store = open_images(config)
    cached = {pixels.tobytes() for pixels in store.pixels[store.train]}
    for first, *rest in drawn["rows"]:
        assert first.image.tobytes() in cached
        assert len({one.image.tobytes() for one in [first, *rest]}) == 8
    assert len({row[0].caption for row in drawn["rows"]}) == 6  # six rows, six of the ten digits


def test_mixed_images_are_those_of_the_row_and_the_one_before_in_the_shares_that_are_said(prepared, drawn):
    # turned off, so that a mixture can be told from its parts alone
    call(prepared, "mixing.mixup=1", "augment.crop_scale=[1,1]", "augment.hflip=0")
    rows = drawn["rows"]
    for i, row in enumerate(rows):
        own, other = row[0].image.astype(float), rows[i - 1][0].image.astype(float)
        for one in row[5:]:
            parts = [part.rsplit(" ", 1) for part in one.caption.split(" + ")]
            said = {part[-1]: float(part[0]) if len(part) > 1 else 1.0 for part in parts}
            share = said.get(row[0].caption, 0.0)
            assert said.keys() <= {row[0].caption, rows[i - 1][0].caption}
            expected = share * own + (1 - share) * other
            assert np.abs(one.image - expected).max() <= 255 * 0.006 + 1


def test_without_mixing_nothing_is_mixed(prepared, drawn):
    call(prepared)
    assert drawn["heads"] == ["cached"] + ["augmented"] * 4


@pytest.mark.parametrize(
    ("task", "settings", "captions"),
    [
        ("binary", "task: {name: binary}\n", {"yes", "not yes"}),
        ("regression", "task: {name: regression}\ndata: {target: target}\n", None),
    ],
)
def test_targets_are_told_in_their_own_units(tmp_path, drawn, task, settings, captions):
    write_competition(tmp_path / "data" / "raw", n_train=40, n_test=8, task=task)
    write_config(tmp_path, "common", BASELINE)
    write_config(tmp_path, "baseline", "base: common\n" + settings)
    prepare_dataset(load_config(tmp_path / "configs" / "baseline.yaml"))
    code, _, err = call(tmp_path, "mixing.mixup=1")
    assert (code, err) == (0, "")
    said = {row[0].caption for row in drawn["rows"]}
    if captions:
        assert said == captions
        return
    values = [float(row[0].caption.removeprefix("prediction ")) for row in drawn["rows"]]
    truth = {float(line.split(",")[1]) for line in (tmp_path / "data/raw/train.csv").read_text().split()[1:]}
    assert all(min(abs(value - t) for t in truth) < 0.01 for value in values)
    for i, row in enumerate(drawn["rows"]):
        low, high = sorted((values[i], values[i - 1]))
        assert all(low - 0.01 <= float(one.caption.split()[1]) <= high + 0.01 for one in row[5:])


def test_masks_are_outlined_where_they_are(tmp_path, drawn):
    write_competition(tmp_path / "data" / "raw", n_train=40, n_test=8, task="segmentation")
    write_config(tmp_path, "common", BASELINE)
    write_config(tmp_path, "baseline", "base: common\ntask: {name: segmentation}\ndata: {rle: rle}\n")
    prepare_dataset(load_config(tmp_path / "configs" / "baseline.yaml"))
    code, _, err = call(tmp_path, "mixing.cutmix=1", "augment.erasing=1")
    assert (code, err) == (0, "")
    for row in drawn["rows"]:
        assert all(one.masks.shape == (16, 16, 1) for one in row)
        assert row[0].masks.any()  # images that show something come first
    masks = np.zeros((16, 16, 2), np.uint8)
    masks[4:9, 5:11, 1] = 1
    found = outlined(np.zeros((16, 16, 3), np.uint8), masks).any(2)
    border = np.zeros((16, 16), bool)
    border[4:9, 5:11] = True
    border[5:8, 6:10] = False
    assert np.array_equal(found, border)


def test_stage_01_comes_first(project):
    code, _, err = call(project)
    assert code == 2
    assert "run `make folds EXP=baseline` first" in err


def test_rows_differ_in_their_targets_as_far_as_they_can():
    targets = np.eye(3, dtype=np.float32)[[0] * 50 + [1] * 2 + [2]]
    rows = TrainingRows(np.arange(53), targets, np.ones(53, np.float32))
    labels = targets[preview.different_rows(rows, seed=0)].argmax(1).tolist()
    assert sorted(labels[:3]) == [0, 1, 2]
    assert sorted(labels) == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("task", "targets", "outputs", "said"),
    [
        ("multiclass", [0.3, 0, 0.7], ["cat", "fox", "dog"], "0.70 dog + 0.30 cat"),
        ("multiclass", [0, 1, 0], ["cat", "fox", "dog"], "fox"),
        ("multiclass", [0.996, 0.004], ["cat", "dog"], "cat"),
        ("multilabel", [1, 1, 0], ["loop", "even", "big"], "loop + even"),
        ("multilabel", [0, 0, 0], ["loop", "even", "big"], "none"),
        ("multilabel", [0.25, np.nan, 0], ["loop", "even", "big"], "0.25 loop + even?"),
        ("binary", [0.7], ["ill"], "0.70 ill + 0.30 not ill"),
        ("binary", [0], ["ill"], "not ill"),
        ("regression", [12.5, 1e6], ["age", "price"], "age 12.5, price 1e+06"),
        ("retrieval", [2], ["w_a", "w_b", "w_c"], "w_c"),
    ],
)
def test_a_caption_says_shares_in_words(task, targets, outputs, said):
    assert caption_of_targets(task, np.array(targets, float), outputs) == said


def test_images_of_any_channels_can_be_drawn(tmp_path):
    row = [PreviewImage(np.full((8, 8, channels), 90, np.uint8), "a caption") for channels in (1, 3, 5)]
    draw_preview(tmp_path / "a.png", ["one", "three", "five"], [row])
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_pixels_come_back_as_they_were():
    images = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8)
    shown = preview.pictures(images.float(), torch.eye(2), TargetScale(), "multiclass", ["a", "b"])
    assert [one.caption for one in shown] == ["a", "b"]
    assert np.array_equal(shown[1].image, images[1].permute(1, 2, 0).numpy())
