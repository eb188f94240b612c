"""Images: every usual kind comes out upright in 8-bit RGB, a broken one is named, the cache holds all."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import forget_the_listings
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from src.config import Data, UserError
from src.configfile import load_config
from src.data.damage import damage_in, listening
from src.data.decode import decode, named
from src.data.images import open_images
from src.data.masks import stored_values
from src.data.packing import pack_images
from src.data.prepare import prepare_dataset
from src.data.tables import read_table
from src.kernel.hidden_test import read_images

SIDE = 48


def scene(side: int = SIDE) -> np.ndarray:
    """(side, side, 3) uint8 without any symmetry, so that a turned or mirrored copy is far off."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    red, green, blue = x, y**2, (x * y + np.sin(6 * x)) / 2
    return np.stack([np.clip(c * 255, 0, 255) for c in (red, green, blue)], axis=-1).astype(np.uint8)


def upright(path: Path) -> np.ndarray:
    """What Pillow, the independent reference, makes of a file."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def apart(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def kind(mode: str) -> Image.Image:
    """The scene in one of Pillow's modes; alpha runs from transparent to opaque."""
    image = Image.fromarray(scene()).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(scene()[..., 0]))
    return image


# --- kinds of files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *[("a.png", mode) for mode in ("RGB", "L", "RGBA", "LA", "P", "1")],
        *[("a.jpg", mode) for mode in ("RGB", "L", "CMYK")],
        *[("a.webp", mode) for mode in ("RGB", "RGBA")],
        *[("a.bmp", mode) for mode in ("RGB", "L", "P")],
        *[("a.tif", mode) for mode in ("RGB", "L", "RGBA", "CMYK", "P", "1")],
    ],
)
def test_a_file_of_any_usual_kind_comes_out_as_pillow_sees_it_in_rgb(tmp_path, name, mode):
    kind(mode).save(tmp_path / name)
    decoded = decode(tmp_path / name, Data(image_size=SIDE))
    assert decoded.pixels.dtype == np.uint8
    assert apart(decoded.pixels, upright(tmp_path / name)) <= 2  # libraries round JPEG and CMYK differently
    assert decoded.mode.split()[1] == Image.open(tmp_path / name).mode
    assert (decoded.height, decoded.width) == (SIDE, SIDE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_a_file_that_exif_says_is_turned_comes_out_upright(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(scene()).save(tmp_path / name, exif=exif)
    decoded = decode(tmp_path / name, Data(image_size=SIDE))
    assert apart(decoded.pixels, upright(tmp_path / name)) <= 2
    assert ("turned by EXIF" in decoded.mode) == (orientation != 1)
    if orientation != 1:
        assert apart(decoded.pixels, scene()) > 100  # the test would see a turn that was not made


def test_the_size_of_a_turned_photograph_is_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene()[:20]).save(tmp_path / "a.jpg", exif=exif)
    decoded = decode(tmp_path / "a.jpg", Data(image_size=SIDE))
    assert (decoded.height, decoded.width) == (SIDE, 20)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_16_bit_file_keeps_its_upper_8_bits(tmp_path, name, channels):
    rgb = scene()
    deep = np.concatenate([rgb[..., ::-1], rgb[..., :1]], axis=2)[..., :channels].astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / name), deep)
    expected = np.repeat(rgb[..., 2:], 3, axis=2) if channels == 1 else rgb
    decoded = decode(tmp_path / name, Data(image_size=SIDE))
    assert apart(decoded.pixels, expected) == 0
    assert "16" in decoded.mode


def test_12_bits_in_a_16_bit_file_are_scaled_by_max_value(tmp_path):
    deep = np.linspace(0, 4095, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    decoded = decode(tmp_path / "a.png", Data(image_size=SIDE, max_value=4095))
    expected = np.floor(deep * (255 / 4095) + 0.5)
    assert apart(decoded.pixels, np.repeat(expected[..., None], 3, axis=2)) <= 1
    assert (decoded.pixels.min(), decoded.pixels.max()) == (0, 255)


def test_12_bits_are_squeezed_by_a_hyperbolic_tangent_where_none_is_white(tmp_path):
    deep = np.linspace(0, 4095, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    decoded = decode(tmp_path / "a.png", Data(image_size=SIDE, squeeze=1000))
    expected = np.floor(255 * np.tanh(deep / 1000) + 0.5)
    assert apart(decoded.pixels, np.repeat(expected[..., None], 3, axis=2)) <= 1
    assert decoded.pixels.max() == 255
    assert len(np.unique(decoded.pixels)) == 256


def test_8_bit_images_are_not_squeezed(tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    assert apart(decode(tmp_path / "a.png", Data(image_size=SIDE, squeeze=10)).pixels, scene()) == 0


def test_an_image_larger_than_pillow_trusts_is_data_and_no_attack(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(scene()).save(tmp_path / "a.png")
    assert apart(decode(tmp_path / "a.png", Data(image_size=SIDE)).pixels, scene()) == 0


# --- size ---------------------------------------------------------------------------------------------------


def test_shrinking_averages_over_the_area(tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    decoded = decode(tmp_path / "a.png", Data(image_size=SIDE // 4))
    blocks = scene().reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean(axis=(1, 3))  # (S, S, 3)
    assert np.abs(decoded.pixels - blocks).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(("height", "width"), [(24, 48), (48, 24), (40, 40), (7, 100)])
def test_stretch_fills_the_square_and_pad_keeps_the_shape_on_black(tmp_path, height, width):
    Image.fromarray(np.full((height, width, 3), 200, np.uint8)).save(tmp_path / "a.png")
    stretched = decode(tmp_path / "a.png", Data(image_size=32, fit="stretch")).pixels
    padded = decode(tmp_path / "a.png", Data(image_size=32, fit="pad")).pixels
    assert stretched.shape == padded.shape == (32, 32, 3)
    assert (stretched == 200).all()
    filled = padded.all(axis=2)
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    scale = 32 / max(height, width)
    assert (len(rows), len(columns)) == (round(height * scale), round(width * scale))
    assert filled[np.ix_(rows, columns)].all()
    assert set(np.unique(padded)) <= {0, 200}
    assert abs(rows[0] - (31 - rows[-1])) <= 1  # in the middle
    assert abs(columns[0] - (31 - columns[-1])) <= 1


def test_an_image_smaller_than_the_cache_is_enlarged_without_losing_its_colours(tmp_path):
    Image.fromarray(scene(16)).save(tmp_path / "a.png")
    decoded = decode(tmp_path / "a.png", Data(image_size=64))
    reference = np.asarray(Image.fromarray(scene(16)).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(decoded.pixels.astype(int) - reference.astype(int)).mean() < 2


# --- broken files -------------------------------------------------------------------------------------------


def encoded(name: str, image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP"}[name])
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.98])
def test_a_file_that_ends_early_is_refused_wherever_it_ends(tmp_path, name, keep):
    whole = encoded(name, NOISE)
    path = tmp_path / f"a.{name}"
    path.write_bytes(whole)
    decode(path, Data(image_size=64))
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(UserError, match=r"cut off or damaged|no image that can be read"):
        decode(path, Data(image_size=64))


def test_a_png_with_a_wrong_byte_in_its_middle_is_refused(tmp_path):
    whole = bytearray(encoded("png", NOISE))
    whole[len(whole) // 2] ^= 0x55
    (tmp_path / "a.png").write_bytes(whole)
    with pytest.raises(UserError, match="cut off or damaged"):
        decode(tmp_path / "a.png", Data(image_size=64))


def holed(whole: bytes, fill: bytes = b"\0") -> bytes:
    """A JPEG whose middle third is lost, with its right beginning and end."""
    third = len(whole) // 3
    return whole[:third] + (fill * third)[:third] + whole[2 * third :]


def jpeg(progressive: bool = False, image: np.ndarray = NOISE, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, progressive=progressive)
    return buffer.getvalue()


SCENE = cv2.GaussianBlur(NOISE, (0, 0), 2)
DAMAGED = {
    "zeros": holed(jpeg()),
    "zeros in a smooth one": holed(jpeg(image=cv2.resize(SCENE, (256, 256)))),
    "zeros in a fine one": holed(jpeg(quality=100)),
    "zeros in a progressive one": holed(jpeg(progressive=True)),
    "another file's bytes": holed(jpeg(), np.random.default_rng(0).bytes(7)),
    "a gap": jpeg()[: len(jpeg()) // 2] + jpeg()[len(jpeg()) // 2 + 900 :],
}
WHOLE = {
    "baseline": jpeg(),
    "progressive": jpeg(progressive=True),
    "black": jpeg(image=np.zeros((256, 256, 3), np.uint8)),
    "a camera's padding": jpeg()[:-2] + b"\x12\x34" * 20 + jpeg()[-2:],
}


@pytest.mark.parametrize("content", [*DAMAGED.values(), *WHOLE.values()], ids=[*DAMAGED, *WHOLE])
def test_what_libjpeg_makes_up_is_noticed_though_it_decodes(content):
    with listening() as listener:
        pixels, printed = listener.alone(lambda: cv2.imdecode(np.frombuffer(content, np.uint8), 1))
    assert pixels is not None
    damaged = any(content is one for one in DAMAGED.values())
    assert (damage_in(printed, content) is not None) == damaged


def test_standard_error_is_as_it_was_after_listening(capfd):
    with listening() as listener:
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nlibpng warning: a profile\n" * 3)
        print("of python", file=sys.stderr)
        assert listener.heard() == 3
    os.write(2, b"later\n")
    said = capfd.readouterr().err
    assert "of python\n" in said
    assert said.count("libpng warning: a profile\n") == 1  # once is enough
    assert said.endswith("later\n")
    assert "JPEG" not in said


def test_a_full_pipe_stops_nobody():
    with listening():
        for _ in range(3000):
            with contextlib.suppress(BlockingIOError):
                os.write(2, b"Corrupt JPEG data: premature end of data segment\n")


def test_damaged_jpegs_are_kept_and_named_where_the_config_wants_them(tmp_path, capsys):
    paths = [tmp_path / f"{name}.jpg" for name in ("cut off", "good", "holed", "noise")]
    contents = [jpeg()[: len(jpeg()) // 2], jpeg(), holed(jpeg()), jpeg()]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)

    data = Data(image_size=64, damaged="keep")
    known = pack_images(tmp_path / "keep" / "images.npy", paths, (4, 64, 64, 3), data, "test", pytest.fail)
    assert [one.mode for one in known] == [
        "JPEG RGB, damaged",
        "JPEG RGB",
        "JPEG RGB, damaged",
        "JPEG RGB",
    ]
    pixels = np.load(tmp_path / "keep" / "images.npy")
    assert (pixels[1] == pixels[3]).all()
    assert (pixels[0, :8] == pixels[1, :8]).all()  # as far as it goes
    assert (pixels[0] != pixels[1]).any()
    assert (
        "2 damaged, kept as they decode (data.damaged=keep): cut off.jpg, holed.jpg"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), ValueError("odd"), KeyError("x"), RecursionError("deep"), cv2.error("assert")]
)
@pytest.mark.parametrize("where", ["PIL.Image.open", "cv2.imdecode"])
def test_whatever_a_decoder_raises_is_said_of_the_file(tmp_path, monkeypatch, error, where):
    def fail(*_, **__):
        raise error

    (tmp_path / "a.png").write_bytes(encoded("png", NOISE))
    monkeypatch.setattr(where, fail)
    with pytest.raises(UserError), named(tmp_path / "a.png"):
        decode(tmp_path / "a.png", Data())
    with pytest.raises(UserError):
        stored_values(tmp_path / "a.png")


def test_a_png_with_a_long_description_is_a_good_picture(tmp_path):
    text = PngInfo()
    text.add_text("history", "x" * 3 * 2**20, zip=True)
    Image.fromarray(scene()).save(tmp_path / "a.png", pnginfo=text)
    assert apart(decode(tmp_path / "a.png", Data(image_size=SIDE)).pixels, scene()) == 0


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>429</html>", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_file_that_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match="no image that can be read"):
        decode(tmp_path / "a.jpg", Data())


def test_opencv_giving_nothing_or_an_error_cannot_pass_in_silence(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded("png", NOISE))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(tmp_path / "a.png", Data())

    def too_large(*_):
        raise cv2.error("pixels <= CV_IO_MAX_IMAGE_PIXELS")

    monkeypatch.setattr(cv2, "imdecode", too_large)
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(tmp_path / "a.png", Data())


# --- broken files in a stage --------------------------------------------------------------------------------


def image_of_row(project: Path, role: str, row: int) -> Path:
    """The image of a row, counted as an editor does, the header being row 1."""
    raw = project / "data" / "raw"
    return raw / f"{role}_images" / f"{read_table(raw / f'{role}.csv')['id'].iloc[row - 2]}.png"


def zero_bytes(path: Path) -> str:
    path.write_bytes(b"")
    return "the file is empty (0 bytes)"


def cut_off_png(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-40])
    return "cut off or damaged"


def cut_off_jpeg(path: Path) -> str:
    path.write_bytes(encoded("jpg", NOISE)[:-200])
    return "cut off or damaged"


def jpeg_with_a_hole(path: Path) -> str:
    path.write_bytes(holed(encoded("jpg", NOISE)))
    return "the file is damaged"


def web_page(path: Path) -> str:
    path.write_bytes(b"<html><body>Sign in to download</body></html>")
    return "the file is no image that can be read (is it a web page or a Git LFS pointer?)"


def twelve_bits(path: Path) -> str:
    cv2.imwrite(str(path), np.full((32, 32), 4000, np.uint16))
    return "a 16-bit image, but no such image is brighter than 4000 of 65535; set data.max_value"


def link_to_nowhere(path: Path) -> str:
    path.unlink()
    path.symlink_to(path.with_name("gone.png"))
    return "the file cannot be read (No such file or directory)"


@pytest.mark.parametrize("role", ["train", "test"])
@pytest.mark.parametrize(
    "damage",
    [zero_bytes, cut_off_png, cut_off_jpeg, jpeg_with_a_hole, web_page, twelve_bits, link_to_nowhere],
    ids=lambda f: f.__name__,
)
def test_a_bad_image_ends_the_stage_with_its_name_and_touches_nothing_made_before(
    prepared, stage_here, snapshot, damage, role
):
    path = image_of_row(prepared, role, 9)
    words = damage(path)
    before = snapshot(prepared)
    done = stage_here(prepared, "01_folds.py")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}")
    assert words in done.stderr
    assert damage is twelve_bits or f"(row 9 of the {role} table)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert snapshot(prepared) == before


def test_several_bad_images_are_counted(project, stage_here):
    paths = sorted(image_of_row(project, "train", row) for row in (5, 6, 7))
    for path in paths:
        zero_bytes(path)
    done = stage_here(project, "01_folds.py")
    assert done.returncode == 2
    assert f"3 such files in all: {', '.join(path.name for path in paths)}" in done.stderr


def test_a_file_that_may_not_be_read_is_not_taken_for_trouble_with_writing(project, stage_here, monkeypatch):
    path, read = image_of_row(project, "train", 9), Path.read_bytes

    def refuse(self):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    done = stage_here(project, "01_folds.py")
    assert done.returncode == 2
    assert f"{path} (row 9 of the train table): the file cannot be read (Permission denied)" in done.stderr


def test_a_disk_too_small_for_the_cache_is_said_before_the_work(project, stage_here, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    done = stage_here(project, "01_folds.py")
    assert done.returncode == 2
    assert "free some disk, lower data.image_size, or set data.storage to shards" in done.stderr


def test_12_bit_images_pass_once_they_are_squeezed(project, stage_here):
    twelve_bits(image_of_row(project, "train", 9))
    done = stage_here(project, "01_folds.py", "data.squeeze=2000")
    assert (done.returncode, done.stderr) == (0, "")
    assert (project / "data" / "cache" / "16px-stretch-tanh2000" / "images.npy").exists()


def test_12_bit_images_pass_once_max_value_is_said(project, stage_here):
    twelve_bits(image_of_row(project, "train", 9))
    done = stage_here(project, "01_folds.py", "data.max_value=4095")
    assert (done.returncode, done.stderr) == (0, "")
    assert (project / "data" / "cache" / "16px-stretch-max4095" / "images.npy").exists()


# --- the cache ----------------------------------------------------------------------------------------------


def store_of(project: Path, *overrides: str):
    forget_the_listings()
    config = load_config(project / "configs" / "baseline.yaml", list(overrides))
    prepare_dataset(config)
    return open_images(config)


def test_the_cache_holds_every_row_of_both_tables_in_their_order(project):
    store = store_of(project, "data.image_size=32")  # the size of the files: nothing is resized
    raw = project / "data" / "raw"
    for role, positions, ids in (
        ("train", store.train, store.train_ids),
        ("test", store.test, store.test_ids),
    ):
        assert ids == read_table(raw / f"{role}.csv")["id"].tolist()
        files = np.stack([upright(raw / f"{role}_images" / f"{name}.png") for name in ids])  # (N, S, S, 3)
        assert np.array_equal(store.pixels[positions], files)


def test_mean_and_std_are_those_of_the_training_images_alone(project):
    store = store_of(project, "data.image_size=32")
    folder = project / "data" / "raw" / "train_images"
    pixels = np.stack([upright(path) for path in sorted(folder.iterdir())]) / 255.0  # (N, S, S, 3)
    np.testing.assert_allclose(store.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(store.std, pixels.std(axis=(0, 1, 2)), rtol=1e-9)


def test_mean_and_std_of_coloured_images_are_a_channel_each_in_rgb_order(project):
    for i, path in enumerate(sorted((project / "data" / "raw" / "train_images").iterdir())):
        Image.fromarray(np.full((8, 8, 3), (250, 100 + i % 2 * 20, 0), np.uint8)).save(path)
    store = store_of(project, "data.near_duplicates=-1")
    np.testing.assert_allclose(store.mean, [250 / 255, 110 / 255, 0], rtol=1e-9)
    np.testing.assert_allclose(store.std, [1e-3, 10 / 255, 1e-3], rtol=1e-9)  # never 0: it is divided by


def test_two_builds_give_the_same_bytes(project, stage_here, snapshot):
    assert stage_here(project, "01_folds.py").returncode == 0
    first = {name: content for name, content in snapshot(project / "data").items() if ".stamp." not in name}
    again = stage_here(project, "01_folds.py", "--force")
    second = {name: content for name, content in snapshot(project / "data").items() if ".stamp." not in name}
    assert "120 files" in again.stdout
    assert first == second
    assert {"cache/16px-stretch/images.npy", "folds.csv", "dataset.json", "summary.md"} <= set(first)


def test_an_image_that_two_rows_share_is_stored_once(project):
    path = project / "data" / "raw" / "train.csv"
    table = read_table(path)
    table["file"] = table["id"] + ".png"
    table.loc[5, "file"] = table.loc[3, "file"]
    table.to_csv(path, index=False)
    test = read_table(path.with_name("test.csv"))
    test.assign(file=test["id"] + ".png").to_csv(path.with_name("test.csv"), index=False)
    store = store_of(project, "data.image=file")
    assert len(store.pixels) == 119
    assert store.train[5] == store.train[3]
    assert len(set(store.train)) == 79
    folds = read_table(project / "data" / "folds.csv")
    assert folds.loc[5, "fold"] == folds.loc[3, "fold"]


def test_a_changed_image_is_packed_again(prepared):
    before = store_of(prepared)
    kept = np.array(before.pixels)
    path = image_of_row(prepared, "train", 2)
    Image.fromarray(255 - upright(path)).save(path)
    after = store_of(prepared)
    assert apart(after.pixels[after.train[0]], 255 - kept[before.train[0]]) <= 1
    assert np.array_equal(after.pixels[after.train[1:]], kept[before.train[1:]])


def test_the_summary_counts_the_kinds_of_files(project, stage_here):
    cmyk, turned = image_of_row(project, "train", 2), Image.Exif()
    turned[0x0112] = 3
    Image.fromarray(NOISE).convert("CMYK").save(cmyk, "JPEG")
    Image.fromarray(NOISE[:, ::-1]).save(image_of_row(project, "train", 3), "JPEG", exif=turned)
    assert stage_here(project, "01_folds.py").returncode == 0
    summary = (project / "data" / "summary.md").read_text(encoding="utf-8")
    assert "- kinds of files: PNG L 118, JPEG CMYK 1, JPEG RGB, turned by EXIF 1" in summary
    index = pd.read_parquet(project / "data" / "cache" / "16px-stretch" / "index.parquet")
    assert index["mode"].value_counts().to_dict() == {
        "PNG L": 118,
        "JPEG CMYK": 1,
        "JPEG RGB, turned by EXIF": 1,
    }


# --- arrays and slices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4, 10])
@pytest.mark.parametrize("first", [True, False])
def test_an_array_keeps_its_channels_wherever_their_axis_stands(tmp_path, channels, first):
    array = np.random.default_rng(0).integers(0, 256, (24, 20, channels), dtype=np.uint8)
    np.save(tmp_path / "a.npy", array.transpose(2, 0, 1) if first else array)
    decoded = decode(tmp_path / "a.npy", Data(image_size=12))
    assert decoded.pixels.shape == (12, 12, channels)
    for c in range(channels):
        expected = cv2.resize(array[:, :, c], (12, 12), interpolation=cv2.INTER_AREA)
        assert np.abs(decoded.pixels[:, :, c].astype(int) - expected).max() <= 1


def test_an_array_of_two_axes_is_one_channel_and_max_value_is_white(tmp_path):
    array = np.linspace(0, 2.0, 16 * 16, dtype=np.float32).reshape(16, 16)
    np.save(tmp_path / "a.npy", array)
    decoded = decode(tmp_path / "a.npy", Data(image_size=16, max_value=2.0))
    np.testing.assert_array_equal(
        decoded.pixels[:, :, 0], np.clip(array * 127.5 + 0.5, 0, 255).astype(np.uint8)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_numbers_with_a_sign_are_squeezed_about_mid_grey(tmp_path, dtype):
    array = np.linspace(-9000, 9000, 16 * 16).astype(dtype).reshape(16, 16)
    np.save(tmp_path / "a.npy", array)
    decoded = decode(tmp_path / "a.npy", Data(image_size=16, squeeze=3000.0))
    expected = np.floor((np.tanh(array / 3000.0) + 1) * 127.5 + 0.5)
    assert np.abs(decoded.pixels[:, :, 0] - expected).max() <= 1
    assert (decoded.pixels.min(), decoded.pixels.max()) == (1, 254)  # tanh(3) is not 1 yet
    np.save(tmp_path / "a.npy", np.zeros((8, 8), dtype))
    assert (decode(tmp_path / "a.npy", Data(image_size=8, squeeze=3000.0)).pixels == 128).all()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((24, 20, 11), np.uint8), r"shape \(24, 20, 11\); an image has 10 channels at most"),
        (np.zeros((8,), np.uint8), r"shape \(8,\)"),
        (np.zeros((8, 8), np.float32), "set data.max_value"),
        (np.full((8, 8), np.nan, np.float32), "no finite numbers"),
    ],
)
def test_an_array_that_is_no_image_is_refused_with_the_reason(tmp_path, array, says):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=says):
        decode(tmp_path / "a.npy", Data(image_size=8))


def test_an_array_with_code_inside_is_refused_and_does_not_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{"code": 1}]], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"no \.npy array of numbers"):
        decode(tmp_path / "a.npy", Data(image_size=8))


def test_a_dicom_file_without_pydicom_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    (tmp_path / "a.dcm").write_bytes(b"DICM")
    with pytest.raises(UserError, match="pip install pydicom"):
        decode(tmp_path / "a.dcm", Data())


@pytest.mark.parametrize("white_is_low", [True, False])
def test_a_dicom_slice_is_stretched_and_turned_bright_side_up(tmp_path, monkeypatch, white_is_low):
    from types import ModuleType, SimpleNamespace

    pixels = np.arange(64, dtype=np.int16).reshape(8, 8) * 10 - 300
    kind = "MONOCHROME1" if white_is_low else "MONOCHROME2"
    fake = ModuleType("pydicom")
    fake.dcmread = lambda _: SimpleNamespace(pixel_array=pixels, PhotometricInterpretation=kind)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", fake)
    (tmp_path / "a.dcm").write_bytes(b"DICM")
    decoded = decode(tmp_path / "a.dcm", Data(image_size=8)).pixels[:, :, 0].astype(int)
    rising = np.round((pixels + 300) / 630 * 255)
    assert np.abs(decoded - (255 - rising if white_is_low else rising)).max() <= 1


@pytest.mark.parametrize("white_is_low", [True, False])
def test_a_dicom_slice_is_squeezed_in_its_own_units(tmp_path, monkeypatch, white_is_low):
    from types import ModuleType, SimpleNamespace

    pixels = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    kind = "MONOCHROME1" if white_is_low else "MONOCHROME2"
    fake, scaled = ModuleType("pydicom"), {"RescaleSlope": 2, "RescaleIntercept": -1024}
    fake.dcmread = lambda _: SimpleNamespace(
        pixel_array=pixels, PhotometricInterpretation=kind, BitsStored=12, **scaled
    )
    monkeypatch.setitem(__import__("sys").modules, "pydicom", fake)
    (tmp_path / "a.dcm").write_bytes(b"DICM")
    decoded = decode(tmp_path / "a.dcm", Data(image_size=8, squeeze=2000)).pixels[:, :, 0].astype(int)
    stored = 4095.0 - pixels if white_is_low else pixels.astype(float)
    expected = (np.tanh((2 * stored - 1024) / 2000) + 1) * 127.5
    assert np.abs(decoded - expected).max() <= 1
    scaled.clear()  # a file may name no units
    decoded = decode(tmp_path / "a.dcm", Data(image_size=8, squeeze=2000)).pixels[:, :, 0].astype(int)
    assert np.abs(decoded - (np.tanh(stored / 2000) + 1) * 127.5).max() <= 1


def test_a_kernel_takes_what_decodes_of_a_damaged_image(tmp_path):
    contents = [holed(jpeg()), jpeg()[: len(jpeg()) // 2], jpeg(), b"<html>", b"\xff\xd8\xff"]
    paths = [tmp_path / f"{number}.jpg" for number in range(5)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    store, good, sizes = read_images([*paths, None], Data(image_size=64), None)
    assert good.tolist() == [True, True, True, False, False, False]
    assert sizes[:4] == [(64, 64)] * 3 + [(1, 1)]
    assert store.pixels[1, :16].std() > 20  # its beginning is there
