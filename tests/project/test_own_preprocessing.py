"""A function of the competitor's own before the cache: seen by train and test, noticed when it changes, and
its mistakes told with the line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src import owncode
from src.config import Data, UserError
from src.configfile import load_config
from src.data import own
from src.data.decode import decode
from src.data.images import open_images
from src.data.own import local_contrast, trim_border
from src.owncode import preprocessing
from src.steps import folds_step, images_step, masks_step


def read(project: Path, *overrides: str):
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


def some_image(path: Path, height: int = 40, width: int = 30) -> np.ndarray:
    """Write a colourful PNG and give it as RGB."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return pixels


@pytest.fixture
def mine(monkeypatch):
    """`mine(function)` puts a function into src/data/own.py for one test, called `mine`."""
    return lambda function: monkeypatch.setattr(own, "mine", function, raising=False)


# --- the two that are there ---------------------------------------------------------------------------------


def test_trim_border_cuts_the_black_frame_and_nothing_else():
    inner = np.random.default_rng(0).integers(40, 256, (20, 12, 3), dtype=np.uint8)
    inner[5] = 0  # black inside is no frame
    framed = np.full((33, 40, 3), 7, np.uint8)
    framed[4:24, 9:21] = inner
    assert np.array_equal(trim_border(framed), inner)
    assert np.array_equal(trim_border(inner), inner)
    black = np.zeros((6, 5, 3), np.uint8)
    assert np.array_equal(trim_border(black), black)


def test_local_contrast_spreads_a_faint_image_and_keeps_its_colours():
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    faint = (118 + 6 * np.sin(x / 5) * np.cos(y / 7)).astype(np.uint8)
    image = np.stack([faint, faint, faint], axis=2)
    found = local_contrast(image)
    assert found.shape == image.shape
    assert found.dtype == np.uint8
    assert found.std() > 1.5 * image.std()
    assert np.abs(found.astype(int) - found.mean(2, keepdims=True)).max() < 4  # grey stays grey


# --- where it is called -------------------------------------------------------------------------------------


def test_it_is_given_the_whole_upright_rgb_image_before_it_is_resized(tmp_path, mine):
    pixels = some_image(tmp_path / "a.png")
    seen = []

    def look(image):
        seen.append(image.copy())
        return 255 - image

    mine(look)
    found = decode(tmp_path / "a.png", Data(image_size=16, preprocess="mine"))
    plain = decode(tmp_path / "a.png", Data(image_size=16))
    assert np.array_equal(seen[0], pixels)
    assert np.abs(found.pixels.astype(int) - (255 - plain.pixels.astype(int))).max() <= 1
    assert (found.height, found.width) == (40, 30)


def test_which_images_are_alike_does_not_hang_on_it(tmp_path, mine):
    some_image(tmp_path / "a.png")
    mine(lambda image: np.zeros_like(image))
    found, plain = (decode(tmp_path / "a.png", Data(image_size=16, preprocess=p)) for p in ("mine", None))
    assert (found.phash, found.thumbnail, found.content) == (plain.phash, plain.thumbnail, plain.content)
    assert not found.pixels.any()


def test_train_and_test_images_pass_through_it_and_the_folds_stay(prepared, stage_here):
    before = (prepared / "data" / "folds.csv").read_bytes()
    plain = open_images(read(prepared))
    done = stage_here(prepared, "01_folds.py", "data.preprocess=local_contrast")
    assert (done.returncode, done.stderr) == (0, "")
    assert "folds (2, stratified): up to date" in done.stdout
    assert (prepared / "data" / "folds.csv").read_bytes() == before
    config = read(prepared, "data.preprocess=local_contrast")
    store, raw = open_images(config), prepared / "data" / "raw"
    assert images_step(config).folder.name == "16px-stretch-local_contrast"  # the other cache stays beside it
    for role in ("train", "test"):
        ids, places = getattr(store, f"{role}_ids"), getattr(store, role)
        for name, place in list(zip(ids, places, strict=True))[:5]:
            image = cv2.imread(str(raw / f"{role}_images" / f"{name}.png"))[:, :, ::-1]
            wanted = cv2.resize(local_contrast(image), (16, 16), interpolation=cv2.INTER_AREA)
            assert np.array_equal(store.pixels[place], wanted)
            assert not np.array_equal(
                store.pixels[place], plain.pixels[getattr(plain, role)[ids.index(name)]]
            )


def test_channels_that_it_adds_are_cached(project, mine, monkeypatch, tmp_path):
    mine(lambda image: np.dstack([image, 255 - image[:, :, :1]]))
    with_it(monkeypatch, tmp_path, "def mine(image):\n    return image\n")
    from src.data.prepare import prepare_dataset

    config = read(project, "data.preprocess=mine")
    prepare_dataset(config)
    store = open_images(config)
    assert store.pixels.shape[1:] == (16, 16, 4)
    assert np.abs(store.pixels[..., 3].astype(int) - (255 - store.pixels[..., 0].astype(int))).max() <= 1
    assert len(store.mean) == 4


# --- what a change of it makes stale ------------------------------------------------------------------------

CODE = "import cv2\n\n\ndef mine(image):\n    return 255 - image  # a comment\n"


def with_it(monkeypatch, folder: Path, code: str) -> None:
    """Have src/data/own.py hold this code, for what reads it as text."""
    (folder / "own.py").write_text(code)
    monkeypatch.setattr(owncode, "OWN", folder / "own.py")


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (CODE.replace("a comment", "another one"), True),
        (CODE.replace("255 - image", "(255\n            - image)"), True),
        (CODE.replace("255", "254"), False),
        (CODE + "\n\ndef other(image):\n    return image\n", False),  # it may be called by the first
    ],
    ids=["comment", "layout", "number", "helper"],
)
def test_the_cache_is_stale_when_the_code_changes_and_not_for_a_comment(
    prepared, monkeypatch, tmp_path, changed, same
):
    config = read(prepared, "data.preprocess=mine")
    with_it(monkeypatch, tmp_path, CODE)
    before = images_step(config).fingerprint
    with_it(monkeypatch, tmp_path, changed)
    assert (images_step(config).fingerprint == before) is same


def test_who_does_not_use_it_is_never_made_stale_by_it(prepared, monkeypatch, tmp_path):
    with_it(monkeypatch, tmp_path, CODE.replace("255", "1"))
    assert images_step(read(prepared)).fresh()
    assert folds_step(read(prepared)).fresh()
    monkeypatch.setattr(owncode, "OWN", tmp_path / "nowhere.py")
    assert images_step(read(prepared)).fresh()


def test_a_recipe_without_it_does_not_name_it(prepared):
    """Null leaves do not count, so that a key that is off makes nothing stale."""
    step = images_step(read(prepared))
    leaves = {k: v for k, v in step.recipe["data"].items() if v is not None}
    assert leaves == {"image_size": 16, "fit": "stretch", "id": "id", "damaged": "refuse"}
    assert step.folder.name == "16px-stretch"


# --- mistakes -----------------------------------------------------------------------------------------------


def test_a_function_that_is_not_there_is_refused_with_those_that_are(prepared, stage_here):
    done = stage_here(prepared, "01_folds.py", "data.preprocess=trim_boarder")
    assert done.returncode == 2
    assert (
        "data.preprocess: src/data/own.py has no function 'trim_boarder'; it has trim_border" in done.stderr
    )


def test_a_file_that_is_no_python_is_told_with_the_line(prepared, monkeypatch, tmp_path):
    with_it(monkeypatch, tmp_path, "import cv2\n\ndef mine(image)\n    return image\n")
    with pytest.raises(UserError, match=r"src/data/own.py, line 3: expected ':'"):
        preprocessing(read(prepared, "data.preprocess=mine").data)


def test_an_error_inside_it_names_the_image_the_line_and_what_was_wrong(project, stage_here, monkeypatch):
    monkeypatch.setattr(own.cv2, "createCLAHE", lambda **_: 1 / 0)
    done = stage_here(project, "01_folds.py", "data.preprocess=local_contrast")
    line = next(
        number
        for number, text in enumerate(Path(own.__file__).read_text().splitlines(), 1)
        if "createCLAHE" in text
    )
    assert done.returncode == 2
    assert f"own.py, line {line}: ZeroDivisionError: division by zero" in done.stderr
    assert "raw/train_images" in done.stderr


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda image: image / 255.0, r"gave float64 \(40, 30, 3\); it should give uint8"),
        (lambda image: image[:, :, 0], r"gave uint8 \(40, 30\)"),
        (lambda image: image[:0], r"gave uint8 \(0, 30, 3\)"),
        (lambda image: None, "gave NoneType"),
    ],
    ids=["float", "grey", "empty", "nothing"],
)
def test_anything_else_than_an_image_is_refused(tmp_path, mine, function, says):
    some_image(tmp_path / "a.png")
    mine(function)
    with pytest.raises(UserError, match=says):
        decode(tmp_path / "a.png", Data(image_size=16, preprocess="mine"))


@pytest.mark.parametrize("masks", [{"rle": "pixels"}, {"train_masks": "masks"}], ids=["runs", "files"])
def test_a_size_that_changes_under_its_mask_is_refused(tmp_path, mine, masks):
    some_image(tmp_path / "a.png")
    mine(lambda image: image[:-1])
    with pytest.raises(UserError, match=r"made \(40, 30\) into \(39, 30\), and the mask"):
        decode(tmp_path / "a.png", Data(image_size=16, preprocess="mine", **masks))
    mine(lambda image: 255 - image)
    decode(tmp_path / "a.png", Data(image_size=16, preprocess="mine", **masks))


def test_masks_do_not_depend_on_it(project):
    masks = ("task.name=segmentation", "data.rle=label")
    plain, own_ = (
        masks_step(read(project, *masks, *more)) for more in ((), ("data.preprocess=trim_border",))
    )
    recipes = [json.dumps(step.recipe) for step in (plain, own_)]
    assert recipes[0] == recipes[1]
    assert plain.folder != own_.folder


def test_the_index_tells_the_files_own_size(prepared, stage_here):
    stage_here(prepared, "01_folds.py", "data.preprocess=trim_border")
    index = pd.read_parquet(prepared / "data/cache/16px-stretch-trim_border/index.parquet")
    assert set(index["height"]) == set(index["width"]) == {32}
