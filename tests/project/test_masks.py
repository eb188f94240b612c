"""True masks: files and run lengths of every usual kind come out as stored, lie where their image lies, or
are refused with the reason."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from src.config import Config, Data, UserError
from src.data import decode
from src.data.masks import (
    build_masks,
    content_box,
    coverage,
    crop_inside,
    fit_mask,
    frame,
    mask_classes,
    open_masks,
    read_mask_file,
    resize_mask,
)
from src.data.rle import encode_runs
from src.maps import decode_map

SIZE = (24, 36)
CLASSES = ("cell", "wall", "dirt")


def labels(size: tuple[int, int] = SIZE, classes: int = 3, seed: int = 0) -> np.ndarray:
    """(H, W) uint8 in blocks, 0 to `classes`, without any symmetry."""
    coarse = np.random.default_rng(seed).integers(0, classes + 1, (4, 6), dtype=np.uint8)
    coarse[0, : classes + 1] = np.arange(classes + 1)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)


def blobs(size: tuple[int, int], seed: int = 0, smooth: float = 3.0) -> np.ndarray:
    """(H, W) bool, about a third of it true."""
    noise = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    field = cv2.GaussianBlur(noise, (0, 0), smooth)
    return field > np.quantile(field, 0.66)


def read(path: Path, classes: tuple[str, ...] | None = None, size: tuple[int, int] = SIZE) -> np.ndarray:
    return read_mask_file(path, *size, classes)


# --- kinds of files -----------------------------------------------------------------------------------------


def palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values, "P")
    image.putpalette(
        [channel for colour in [(9, 9, 9), (200, 0, 0), (0, 200, 0), (0, 0, 200)] for channel in colour]
    )
    return image


WRITERS = {
    "grey.png": lambda path, values: Image.fromarray(values).save(path),
    "palette.png": lambda path, values: palette(values).save(path),
    "rgb.png": lambda path, values: Image.fromarray(np.repeat(values[..., None], 3, 2)).save(path),
    "rgba.png": lambda path, values: Image.fromarray(
        np.concatenate([np.repeat(values[..., None], 3, 2), np.full((*values.shape, 1), 99, np.uint8)], 2)
    ).save(path),
    "deep.png": lambda path, values: cv2.imwrite(str(path), values.astype(np.uint16)),
    "grey.tif": lambda path, values: Image.fromarray(values).save(path),
    "palette.tif": lambda path, values: palette(values).save(path),
    "deep.tif": lambda path, values: cv2.imwrite(str(path), values.astype(np.uint16)),
    "grey.bmp": lambda path, values: Image.fromarray(values).save(path),
    "bytes.npy": np.save,
    "whole.npy": lambda path, values: np.save(path, values.astype(np.int64)),
    "floats.npy": lambda path, values: np.save(path, values.astype(np.float32)),
    "channel.npy": lambda path, values: np.save(path, values[..., None]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_values_of_any_usual_file_are_the_classes_in_their_order(tmp_path, name):
    values = labels()
    WRITERS[name](tmp_path / name, values)
    mask = read(tmp_path / name, CLASSES)
    assert mask.dtype == bool
    assert mask.tolist() == [(values == value).tolist() for value in (1, 2, 3)]


@pytest.mark.parametrize("top", [1, 3, 255])
@pytest.mark.parametrize("name", [name for name in WRITERS if "palette" not in name])
def test_without_names_whatever_is_not_0_is_the_one_class(tmp_path, name, top):
    values = blobs(SIZE) * np.uint8(top)
    WRITERS[name](tmp_path / name, values)
    assert read(tmp_path / name).tolist() == [(values > 0).tolist()]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_a_file_of_one_bit_is_read_either_way(tmp_path, name):
    mask = blobs(SIZE)
    Image.fromarray(mask).save(tmp_path / name)
    assert Image.open(tmp_path / name).mode == "1"
    assert read(tmp_path / name).tolist() == read(tmp_path / name, ("cell",)).tolist() == [mask.tolist()]


def test_an_array_of_bits_and_16_bits_of_white_are_read_too(tmp_path):
    mask = blobs(SIZE)
    np.save(tmp_path / "a.npy", mask)
    cv2.imwrite(str(tmp_path / "a.png"), mask.astype(np.uint16) * 65535)
    assert read(tmp_path / "a.npy").tolist() == read(tmp_path / "a.png").tolist() == [mask.tolist()]


def test_255_alone_is_the_class_where_there_is_but_one(tmp_path):
    mask = blobs(SIZE)
    Image.fromarray(mask * np.uint8(255)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", ("cell",)).tolist() == [mask.tolist()]
    with pytest.raises(
        UserError, match=r"it holds value 255, data\.mask_classes names 2 classes, values 1 to 2"
    ):
        read(tmp_path / "a.png", ("cell", "wall"))


def test_an_empty_and_a_full_mask_are_masks(tmp_path):
    for value in (0, 255):
        Image.fromarray(np.full(SIZE, value, np.uint8)).save(tmp_path / "a.png")
        assert (read(tmp_path / "a.png") == (value > 0)).all()
        assert (read(tmp_path / "a.png", ("cell",)) == (value > 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "palette.png", "a.webp"])
def test_a_mask_is_never_turned_by_exif(tmp_path, name, orientation):
    mask, exif = blobs(SIZE, smooth=5), Image.Exif()
    exif[0x0112] = orientation
    image = palette(mask * np.uint8(1)) if name == "palette.png" else Image.fromarray(mask * np.uint8(255))
    image.save(tmp_path / name, exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    assert Image.open(tmp_path / name).getexif()[0x0112] == orientation
    wrong = (read(tmp_path / name)[0] != mask).mean()
    assert wrong <= (0.01 if name == "a.jpg" else 0)
    assert (mask[::-1, ::-1] != mask).mean() > 0.1  # the test would see a turn


def drawn(values: np.ndarray, orientation: int, tagged: bool = False):
    """Pillow's image of pixels as they are stored so that EXIF shows `values` upright, and its EXIF."""
    undo = {6: 8, 8: 6}.get(orientation, orientation)
    tag, exif = Image.Exif(), Image.Exif()
    tag[0x0112], exif[0x0112] = undo, orientation if tagged else 1
    image = Image.fromarray(values)
    image.getexif().update(tag)
    return ImageOps.exif_transpose(image), exif


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mask_drawn_on_the_stored_pixels_is_turned_with_its_image(tmp_path, orientation, tagged):
    mask = blobs(SIZE)
    stored, exif = drawn(mask * np.uint8(255), orientation, tagged)
    stored.save(tmp_path / "a.png", exif=exif)
    lies = None if orientation >= 5 or tagged else "stored"  # where the sides swap, the size says it
    assert read_mask_file(tmp_path / "a.png", *SIZE, None, orientation, lies).tolist() == [mask.tolist()]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mask_drawn_on_the_upright_picture_stays(tmp_path, orientation):
    mask = blobs(SIZE)
    Image.fromarray(mask * np.uint8(255)).save(tmp_path / "a.png")
    lies = None if orientation >= 5 else "upright"
    assert read_mask_file(tmp_path / "a.png", *SIZE, None, orientation, lies).tolist() == [mask.tolist()]


def test_a_mask_that_fits_both_ways_is_asked_about_unless_it_is_the_same_both_ways(tmp_path):
    mask = blobs((24, 24))
    Image.fromarray(mask * np.uint8(255)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"orientation 6.*data\.mask_exif"):
        read_mask_file(tmp_path / "a.png", 24, 24, None, 6)
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(tmp_path / "a.png")
    assert not read_mask_file(tmp_path / "a.png", 24, 24, None, 6).any()


def test_a_turned_mask_of_an_upright_image_is_followed_where_only_so_it_fits(tmp_path):
    mask = blobs(SIZE)
    stored, exif = drawn(mask * np.uint8(255), 6, tagged=True)
    stored.save(tmp_path / "a.png", exif=exif)
    assert read(tmp_path / "a.png").tolist() == [mask.tolist()]


def test_runs_of_stored_pixels_are_turned_where_the_config_says_so(tmp_path):
    mask = blobs(SIZE)
    stored = np.asarray(drawn(mask * np.uint8(255), 6)[0]) > 0
    tables = tables_of(targets={"runs": [encode_runs(stored)]})
    data = Data(image_size=16, rle="runs", mask_exif="stored")
    build_masks(tmp_path, tables, [SIZE], data, "01 masks", [6])
    assert (decode_map(pd.read_parquet(tmp_path / "masks.parquet")["mask"][0]) > 0).tolist() == mask.tolist()


# --- soft edges, and values that mean nothing ---------------------------------------------------------------


def test_jpeg_is_cut_at_half_of_white(tmp_path):
    mask = blobs(SIZE, smooth=5)
    Image.fromarray(mask * np.uint8(255)).save(tmp_path / "a.jpg", quality=60)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a.jpg")))) > 10
    assert read(tmp_path / "a.jpg").tolist() == [(np.asarray(Image.open(tmp_path / "a.jpg")) > 127).tolist()]
    assert (read(tmp_path / "a.jpg")[0] != mask).mean() < 0.01


@pytest.mark.parametrize("white", [255, 65535, 1.0])
def test_soft_edges_are_cut_at_half_of_white(tmp_path, white):
    soft = cv2.GaussianBlur(blobs(SIZE, smooth=6).astype(np.float64), (3, 3), 0)
    assert ((soft > 0.1) & (soft < 0.9)).any()
    if white == 1.0:
        path = tmp_path / "a.npy"
        np.save(path, soft)
    else:
        path = tmp_path / "a.png"
        cv2.imwrite(str(path), np.rint(soft * white).astype(np.uint8 if white == 255 else np.uint16))
    assert (read(path)[0] == (soft > 0.5))[abs(soft - 0.5) > 0.01].all()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0, 1, 2], "0, 1, 2"),
        ([0, 1, 255], "0, 1, 255"),  # 255 is often what nobody labelled
        ([0, 50, 100], "0, 50, 100"),
        (list(range(9)), "0, 1, 2, 3, 4, 5, ..."),
    ],
)
def test_several_values_without_names_are_asked_about(tmp_path, values, shown):
    Image.fromarray(np.resize(np.uint8(values), SIZE)).save(tmp_path / "a.png")
    with pytest.raises(UserError) as error:
        read(tmp_path / "a.png")
    assert str(error.value).startswith(
        f"it holds the values {shown}; name the classes 1, 2, ... in data.mask_cl"
    )


@pytest.mark.parametrize("values", [[-1, 0, 1], [-1, 0, 200, 255]])
def test_values_below_0_are_asked_about(tmp_path, values):
    np.save(tmp_path / "a.npy", np.resize(values, SIZE))
    with pytest.raises(UserError, match=f"it holds the values {', '.join(map(str, values))};"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("value", "classes", "says"),
    [
        (7, CLASSES, "it holds value 7, data.mask_classes names 3 classes, values 1 to 3"),
        (2, ("cell",), "it holds value 2, data.mask_classes names 1 class, value 1"),
        (0.5, ("cell",), "it holds value 0.5, data.mask_classes names 1 class, value 1"),
        (-1, CLASSES, "it holds value -1, data.mask_classes names 3 classes, values 1 to 3"),
    ],
)
def test_a_value_that_no_class_has_is_refused(tmp_path, value, classes, says):
    values = labels(classes=1).astype(float)
    values[5, 5] = value
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UserError) as error:
        read(tmp_path / "a.npy", classes)
    assert str(error.value) == says


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path):
    Image.fromarray(labels()).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="the mask is 24 high and 36 wide, its image 36 and 24; every mask"):
        read(tmp_path / "a.png", CLASSES, SIZE[::-1])


def test_colours_are_no_numbers(tmp_path):
    colours = np.random.default_rng(0).integers(0, 2, (*SIZE, 3), dtype=np.uint8) * 255
    Image.fromarray(colours).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="its colour channels differ"):
        read(tmp_path / "a.png")


def encoded(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.png", b"", "the file is empty"),
        ("a.npy", b"", "the file is empty"),
        ("a.png", encoded(labels())[:-30], "cut off or damaged"),
        ("a.png", b"<html>429</html>", "no image that can be read"),
        ("a.npy", b"<html>429</html>", "no .npy array of numbers"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert says in str(error.value)


# --- where a mask lies --------------------------------------------------------------------------------------

SIZES = [(24, 48), (48, 24), (40, 40), (7, 100), (100, 7), (3, 500), (33, 31), (16, 16), (64, 64)]


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", SIZES)
def test_the_part_inside_is_where_decode_puts_the_image(size, fit):
    data = Data(image_size=32, fit=fit)
    white = decode.resize_image(np.full((*size, 1), 255, np.uint8), data)[..., 0] > 0
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    assert content_box(*size, data) == (rows[0], columns[0], len(rows), len(columns))
    assert white.sum() == len(rows) * len(columns)
    assert (rows[0], columns[0]) == ((32 - len(rows)) // 2, (32 - len(columns)) // 2)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", SIZES)
def test_a_full_mask_fills_just_that_part(size, fit):
    data = Data(image_size=32, fit=fit)
    white = decode.resize_image(np.full((*size, 1), 255, np.uint8), data)
    fitted = fit_mask(np.stack([np.ones(size, bool), np.zeros(size, bool)]), data)
    assert (fitted.shape, fitted.dtype) == ((32, 32, 2), np.uint8)
    assert fitted[..., :1].tolist() == white.tolist()
    assert not fitted[..., 1].any()


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(96, 64), (64, 96), (128, 128), (96, 32)])
def test_a_shrunk_mask_lies_on_its_image(size, fit):
    """The image is white where the mask is: cut at half, the two are one."""
    data, mask = Data(image_size=32, fit=fit), blobs(size, smooth=6)
    image = decode.resize_image((mask * np.uint8(255))[..., None], data)
    fitted = fit_mask(mask[None], data)
    clear = abs(image.astype(int) - 127.5) > 1
    assert ((image > 127) == (fitted > 0))[clear].all()
    assert set(np.unique(fitted)) == {0, 255}


@pytest.mark.parametrize("factor", [(2, 2), (4, 3), (1, 5)])
def test_a_pixel_is_in_where_half_of_what_it_shows_is(factor):
    mask = np.random.default_rng(0).random((3, 24 * factor[0], 30 * factor[1])) < 0.5
    share = mask.reshape(3, 24, factor[0], 30, factor[1]).mean((2, 4))
    small = resize_mask(mask, 24, 30)
    assert small[share > 0.5].all()
    assert not small[share < 0.5].any()


@pytest.mark.parametrize(("height", "width"), [(48, 72), (60, 50)])
def test_an_enlarged_mask_is_drawn_out_linearly(height, width):
    mask = blobs(SIZE)
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    reference = torch.nn.functional.interpolate(values, (height, width), mode="bilinear", align_corners=False)
    clear = abs(reference[0, 0].numpy() - 0.5) > 0.01
    assert (resize_mask(mask[None], height, width)[0] == (reference[0, 0].numpy() > 0.5))[clear].all()


def test_a_side_that_shrinks_is_averaged_though_the_other_grows():
    mask = np.random.default_rng(0).random((1, 80, 10)) < 0.5
    share = mask.reshape(1, 10, 8, 10).mean(2)
    found = resize_mask(mask, 10, 30)[:, :, 1::3]  # the middle of every three is the pixel itself
    assert found[share > 0.5].all()
    assert not found[share < 0.5].any()


def test_a_mask_of_the_asked_size_is_not_touched():
    mask = np.random.default_rng(0).random((2, *SIZE)) < 0.5
    assert resize_mask(mask, *SIZE).tolist() == mask.tolist()


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", SIZES)
def test_cropping_undoes_framing(size, fit):
    data = Data(image_size=32, fit=fit)
    _, _, height, width = content_box(*size, data)
    maps = np.random.default_rng(0).integers(1, 256, (2, height, width), dtype=np.uint8)
    for fill in (0, 128):
        framed = frame(maps, *size, data, fill)
        assert (framed.shape, framed.dtype) == ((2, 32, 32), np.uint8)
        assert crop_inside(framed, *size, data).tolist() == maps.tolist()
        assert (framed == fill).sum() >= 2 * (32 * 32 - height * width)
    covered = frame(np.ones((1, height, width), bool), *size, data)
    white = decode.resize_image(np.full((*size, 1), 255, np.uint8), data)[..., 0] > 0
    assert covered[0].tolist() == white.tolist()


# --- all masks ----------------------------------------------------------------------------------------------

IMAGE_SIZES = [(20, 30), (31, 17), (16, 16), (40, 25)]


def tables_of(masks: list[Path] | None = None, targets: dict[str, list[str]] | None = None):
    """What `build_masks` asks of the tables."""
    n = len(masks) if masks is not None else len(next(iter(targets.values())))
    train = pd.DataFrame({"id": [f"i{number}" for number in range(n)]})
    targets = pd.DataFrame(targets or {}, index=range(n))
    return SimpleNamespace(train=train, masks=masks, targets=targets, line=lambda role, row: row + 2)


def files(folder: Path, values: list[np.ndarray]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"i{number}.png" for number in range(len(values))]
    for path, value in zip(paths, values, strict=True):
        Image.fromarray(value).save(path)
    return paths


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("source", ["files", "runs"])
def test_the_tables_hold_every_mask_at_both_sizes_in_the_order_of_train_csv(tmp_path, source, fit):
    values = [labels(size, classes=2, seed=number) for number, size in enumerate(IMAGE_SIZES)]
    values[2][:] = 0  # a few images show nothing
    masks = [np.stack([value == 1, value == 2]) for value in values]
    if source == "files":
        data = Data(image_size=16, fit=fit, train_masks="masks", mask_classes=("cell", "wall"))
        tables = tables_of(files(tmp_path / "masks", values))
    else:
        data = Data(image_size=16, fit=fit, rle="runs", long="kind")
        columns = {name: [encode_runs(mask[c]) for mask in masks] for c, name in enumerate(("cell", "wall"))}
        tables = tables_of(targets=columns)
    build_masks(tmp_path / "cache", tables, IMAGE_SIZES, data, "01 masks")

    packed, table = open_masks(tmp_path / "cache"), pd.read_parquet(tmp_path / "cache" / "masks.parquet")
    assert isinstance(packed, np.memmap)
    assert packed.tolist() == [fit_mask(mask, data).tolist() for mask in masks]
    assert table.columns.tolist() == ["id", "cell", "wall", "coverage.cell", "coverage.wall"]
    assert table["id"].tolist() == ["i0", "i1", "i2", "i3"]
    for c, name in enumerate(("cell", "wall")):
        for cell, mask in zip(table[name], masks, strict=True):
            assert decode_map(cell).tolist() == (mask[c] * 255).tolist()
        np.testing.assert_allclose(table[f"coverage.{name}"], [mask[c].mean() for mask in masks])
    shares = coverage(tmp_path / "cache")
    assert shares.columns.tolist() == ["cell", "wall"]
    assert shares["wall"].tolist() == table["coverage.wall"].tolist()


def test_the_digest_is_of_the_masks_and_not_of_the_table_they_lie_in(tmp_path):
    """Another pyarrow or OpenCV writes other bytes for the same masks, and the folds must stay."""
    data, written = Data(image_size=16, rle="runs"), {}
    for name, runs, png in (("a", "1 4", 0), ("b", "1 4", 9), ("c", "1 5", 0)):
        with mock.patch("src.data.masks.encode_map", lambda mask, png=png: pack_with(mask, png)):
            build_masks(tmp_path / name, tables_of(targets={"runs": [runs]}), [(10, 10)], data, "01 masks")
        written[name] = [(tmp_path / name / f"masks.{end}").read_bytes() for end in ("parquet", "json")]
    assert written["a"][0] != written["b"][0]
    assert written["a"][1] == written["b"][1] != written["c"][1]


def pack_with(mask: np.ndarray, level: int) -> bytes:
    """A PNG of more or less effort."""
    return cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()


def test_names_put_the_run_length_columns_in_their_order(tmp_path):
    data = Data(image_size=16, rle="runs", long="kind", mask_classes=("wall", "cell"))
    tables = tables_of(targets={"cell": ["1 4"], "wall": ["9 8"]})
    build_masks(tmp_path, tables, [(10, 10)], data, "01 masks")
    table = pd.read_parquet(tmp_path / "masks.parquet")
    assert table.columns[1:3].tolist() == ["wall", "cell"]
    assert table[["coverage.wall", "coverage.cell"]].iloc[0].tolist() == [0.08, 0.04]
    assert [decode_map(table[name][0]).sum() for name in ("wall", "cell")] == [8 * 255, 4 * 255]


def test_one_class_of_runs_is_called_mask(tmp_path):
    tables = tables_of(targets={"runs": ["1 4", ""]})
    build_masks(tmp_path, tables, [(10, 10)] * 2, Data(image_size=16, rle="runs"), "01 masks")
    assert coverage(tmp_path).to_dict("list") == {"mask": [0.04, 0.0]}


def test_two_builds_give_the_same_bytes(tmp_path, snapshot):
    values = [labels(size, classes=1, seed=number) for number, size in enumerate(IMAGE_SIZES)]
    paths = files(tmp_path / "masks", values)
    for name in ("a", "b"):
        build_masks(
            tmp_path / name, tables_of(paths), IMAGE_SIZES, Data(image_size=16, train_masks="masks"), "01"
        )
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def spoiled(tmp_path: Path, spoil) -> str:
    """What is said of four mask files of which some were spoiled; the earlier tables stay as they are."""
    values = [labels(size, classes=1, seed=number) for number, size in enumerate(IMAGE_SIZES)]
    paths, data = files(tmp_path / "masks", values), Data(image_size=16, train_masks="masks")
    build_masks(tmp_path / "cache", tables_of(paths), IMAGE_SIZES, data, "01 masks")
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    spoil(paths)
    with pytest.raises(UserError) as error:
        build_masks(tmp_path / "cache", tables_of(paths), IMAGE_SIZES, data, "01 masks")
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before
    return str(error.value)


def test_a_bad_file_is_named_with_its_row_and_touches_nothing_made_before(tmp_path):
    said = spoiled(tmp_path, lambda paths: paths[2].write_bytes(b""))
    path = tmp_path / "masks" / "i2.png"
    assert said == f"{path} (row 4 of the train table): the file is empty (0 bytes); fetch it again"


def test_several_bad_files_are_counted_and_the_first_is_named(tmp_path):
    def spoil(paths):
        paths[3].write_bytes(b"")
        Image.fromarray(labels((5, 6), classes=1)).save(paths[1])

    said = spoiled(tmp_path, spoil)
    assert (
        f"{tmp_path / 'masks' / 'i1.png'} (row 3 of the train table): the mask is 5 high and 6 wide" in said
    )
    assert said.endswith("(2 such masks in all)")


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    said = spoiled(tmp_path, lambda paths: (paths[0].unlink(), paths[0].symlink_to("gone.png")))
    assert "i0.png (row 2 of the train table): the file cannot be read (No such file or directory)" in said


def test_a_class_that_no_mask_shows_is_asked_about(tmp_path):
    def spoil(paths):
        for path, size in zip(paths, IMAGE_SIZES, strict=True):
            Image.fromarray(np.zeros(size, np.uint8)).save(path)

    assert spoiled(tmp_path, spoil) == "class 'mask' is empty in every mask; is data.train_masks right?"


@pytest.mark.parametrize("long", [None, "kind"])
def test_bad_runs_are_named_with_their_id(tmp_path, long):
    data = Data(image_size=16, rle="runs", long=long)
    columns = {"cell": ["1 4", "2 3 90 20", "5"]} | ({"wall": ["1 1", "1 1", "1 1"]} if long else {})
    with pytest.raises(UserError) as error:
        build_masks(tmp_path, tables_of(targets=columns), [(10, 10)] * 3, data, "01 masks")
    of = ", class 'cell'" if long else ""
    assert str(error.value) == (
        f"train.csv, `id` 'i1'{of}: its run 2 ends at pixel 109; the image has 100, 10 high and 10 wide "
        f"(2 such masks in all)"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_for_the_masks_is_said_before_the_work(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 100))
    with pytest.raises(UserError, match=r"free some disk or lower data\.image_size"):
        build_masks(tmp_path, tables_of(targets={"runs": ["1 4"]}), [(9, 9)], Data(rle="runs"), "01 masks")


# --- names --------------------------------------------------------------------------------------------------


def config_of(**data) -> Config:
    return Config(task={"name": "segmentation"}, data=data)


@pytest.mark.parametrize(
    ("data", "columns", "names"),
    [
        ({"train_masks": "masks"}, [], ["mask"]),
        ({"train_masks": "masks", "mask_classes": ("cell", "wall")}, [], ["cell", "wall"]),
        ({"rle": "runs"}, ["runs"], ["mask"]),
        ({"rle": "runs", "mask_classes": ("ship",)}, ["runs"], ["ship"]),
        ({"rle": "runs", "long": "kind"}, ["1", "2", "10"], ["1", "2", "10"]),
        (
            {"rle": "runs", "long": "kind", "mask_classes": ("wall", "cell")},
            ["cell", "wall"],
            ["wall", "cell"],
        ),
    ],
)
def test_classes_are_called_as_the_config_or_the_runs_say(data, columns, names):
    assert mask_classes(config_of(**data), pd.DataFrame(columns=columns)) == names


@pytest.mark.parametrize(
    ("data", "columns", "says"),
    [
        (
            {"train_masks": "masks", "mask_classes": ("cell", "fold")},
            [],
            "data.mask_classes: a class is called 'fold', as a column of our tables is; rename it",
        ),
        ({"train_masks": "masks", "mask_classes": ("coverage.a",)}, [], "a class is called 'coverage.a'"),
        ({"rle": "runs", "long": "kind"}, ["a", "target"], "`kind`: a class is called 'target'"),
        (
            {"rle": "runs", "mask_classes": ("a", "b")},
            ["runs"],
            "data.mask_classes names 2 classes, data.rle=runs holds one; name the column that says the class",
        ),
        (
            {"rle": "runs", "long": "kind", "mask_classes": ("a", "b")},
            ["a", "c"],
            "data.mask_classes names a, b, but `kind` holds a, c; leave data.mask_classes out",
        ),
        ({"rle": "runs", "long": "kind"}, [], "`kind` is empty in every row of train.csv"),
    ],
)
def test_names_that_cannot_be_are_refused(data, columns, says):
    with pytest.raises(UserError) as error:
        mask_classes(config_of(**data), pd.DataFrame(columns=columns))
    assert says in str(error.value)
