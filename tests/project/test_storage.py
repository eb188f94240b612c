"""The same images whatever keeps them: one array, tar shards that are read as streams, or no cache at all."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call_stage, forget_the_listings
from PIL import Image

from src.config import Config, Data, UserError
from src.configfile import load_config
from src.data import decode as decoding
from src.data import images as imaging
from src.data import store_writers
from src.data.decode import decode
from src.data.images import ImageStore, open_images
from src.data.loaders import create_sampler, load_fold, training_loader
from src.data.pixels import JoinedStores, ShardImages, decoded, encoded, open_pixels, views
from src.data.sampling import WINDOW, by_shards
from src.data.store_writers import ShardWriter
from src.data.unlabelled import unlabelled_loader
from src.steps import images_step
from src.tasks import create_task

STORAGES = ("packed", "shards", "files")
LOSS = 6.0  # levels that a JPEG may be off a smooth image, or a reduced scale off a shrunk one, at the mean


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Of 16 images, so that a hundred are several."""
    torch.set_num_threads(1)
    for module in ("store_writers", "loaders", "unlabelled"):
        monkeypatch.setattr(f"src.data.{module}.SHARD", 16)


def read(project: Path, *overrides: str) -> Config:
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


def store_of(project: Path, storage: str, *overrides: str) -> ImageStore:
    done = call_stage(project, "01_folds.py", f"data.storage={storage}", *overrides)
    assert (done.returncode, done.stderr) == (0, "")
    return open_images(read(project, f"data.storage={storage}", *overrides))


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) colours without edges, as photographs have between theirs."""
    few = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return cv2.resize(few, (width, height), interpolation=cv2.INTER_CUBIC)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance in levels."""
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


# --- every storage shows the same images --------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(untouched_project, tmp_path_factory) -> dict[str, ImageStore]:
    """The stores of one project, whose files are large JPEGs."""
    import shutil

    project = tmp_path_factory.mktemp("three") / "project"
    shutil.copytree(untouched_project, project)
    for number, path in enumerate(sorted((project / "data" / "raw").glob("*_images/*.png"))):
        Image.fromarray(smooth(100, 140, number)).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writers, "SHARD", 16)
        stores, folds = {}, {}
        for storage in STORAGES:
            stores[storage] = store_of(project, storage)
            folds[storage] = (project / "data" / "folds.csv").read_bytes()
    assert folds["shards"] == folds["files"] == folds["packed"]  # and what lies in them stays comparable
    return stores


@pytest.mark.parametrize("storage", ["shards", "files"])
def test_a_storage_holds_the_images_of_the_packed_one_in_their_order(three, storage):
    packed, store = three["packed"], three[storage]
    assert store.pixels.shape == packed.pixels.shape == (120, 16, 16, 3)
    assert (store.train_ids, store.test_ids) == (packed.train_ids, packed.test_ids)
    assert np.array_equal(store.train, packed.train)
    assert store.train_sizes == packed.train_sizes
    every = np.arange(120)
    assert apart(store.pixels[every], packed.pixels[every]) < LOSS
    assert apart(packed.pixels[every], packed.pixels[every[::-1]]) > 5 * LOSS  # others are told from these
    seen = store.views(every[5:9])
    assert all(np.array_equal(store.pixels[i], seen[i - 5]) for i in range(5, 9))
    assert np.array_equal(store.look(every[5:9]), np.stack(seen))
    np.testing.assert_allclose(store.mean, packed.mean, atol=0.01)
    np.testing.assert_allclose(store.std, packed.std, atol=0.01)


def test_without_a_cache_nothing_of_the_images_is_written(three, tmp_path, project):
    store_of(project, "files")
    config = read(project, "data.storage=files")
    sizes = {path.name: path.stat().st_size for path in images_step(config).folder.iterdir()}
    assert "images.npy" not in sizes
    assert sizes["images.files.parquet"] < 120 * 100


def test_mean_and_std_of_many_are_those_of_a_drawn_part(prepared, monkeypatch):
    whole = store_of(prepared, "shards")
    monkeypatch.setattr(imaging, "COUNTED", 60)
    assert call_stage(prepared, "01_folds.py", "--force", "data.storage=shards").returncode == 0
    part = open_images(read(prepared, "data.storage=shards"))
    assert part.mean != whole.mean
    np.testing.assert_allclose(part.mean, whole.mean, rtol=0.1)


@pytest.mark.parametrize("storage", STORAGES)
def test_all_stages_run_from_every_storage(project, storage):
    chosen = [f"data.storage={storage}", "fold=0"]
    for script in ("01_folds.py", "02_train.py", "03_oof_predict.py"):
        done = call_stage(project, script, *chosen)
        assert (done.returncode, done.stderr) == (0, "")
    table = pd.read_parquet(project / "runs" / "baseline" / "fold0" / "test.parquet")
    assert len(table) == 40
    np.testing.assert_allclose(table.drop(columns="id").sum(axis=1), 1, atol=1e-5)


def test_external_images_are_kept_as_the_others_are(project):
    folder = project / "data" / "raw" / "more"
    folder.mkdir()
    for number in range(20):
        Image.fromarray(smooth(32, 32, 1000 + number)).save(folder / f"{number:02}.png")
    chosen = ["pseudo.external=more", "data.near_duplicates=-1"]
    shown = {}
    for storage in STORAGES:
        store_of(project, storage, *chosen)
        config = read(project, f"data.storage={storage}", *chosen)
        store = load_fold(config, create_task(config), 0).store
        assert len(store.extra) == 20
        shown[storage] = store.pixels[store.extra]
    assert apart(shown["shards"], shown["packed"]) < LOSS
    assert np.array_equal(shown["files"], shown["packed"])  # no JPEGs: nothing to leave out


def test_of_two_arrays_that_are_joined_only_what_is_looked_at_is_read():
    first, second = np.zeros((3, 4, 4, 3), np.uint8), np.ones((2, 4, 4, 3), np.uint8)
    seen = views(JoinedStores(first, second), np.array([2, 3]))
    assert np.shares_memory(seen[0], first)
    assert np.shares_memory(seen[1], second)


# --- decoding without a cache -------------------------------------------------------------------------------

FILES = Data(image_size=32, storage="files")


@pytest.mark.parametrize("size", [(300, 400), (64, 200), (63, 63), (40, 500), (32, 32)])
@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_a_reduced_scale_shows_what_the_whole_would(tmp_path, size, fit):
    Image.fromarray(smooth(*size)).save(tmp_path / "a.jpg", quality=95)
    data = FILES.model_copy(update={"fit": fit})
    whole, quick = (decode(tmp_path / "a.jpg", data, hashes=hashes) for hashes in (True, False))
    assert (quick.height, quick.width) == (whole.height, whole.width) == size  # of the file, for masks
    assert quick.mode == whole.mode
    assert apart(quick.pixels, whole.pixels) < LOSS / 2


@pytest.mark.parametrize(("size", "scale"), [((300, 400), 8), ((150, 140), 4), ((100, 70), 2), ((63, 63), 1)])
def test_the_scale_is_the_smallest_that_is_large_enough(tmp_path, monkeypatch, size, scale):
    Image.fromarray(smooth(*size)).save(tmp_path / "a.jpg")
    seen, fit = [], decoding.resize_image
    monkeypatch.setattr(
        decoding, "resize_image", lambda pixels, data: seen.append(pixels.shape) or fit(pixels, data)
    )
    decode(tmp_path / "a.jpg", FILES, hashes=False)
    assert seen == [(-(-size[0] // scale), -(-size[1] // scale), 3)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photographs_come_out_upright_at_a_reduced_scale(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth(200, 300)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    whole, quick = (decode(tmp_path / "a.jpg", FILES, hashes=hashes) for hashes in (True, False))
    assert (quick.height, quick.width) == (whole.height, whole.width)
    assert apart(quick.pixels, whole.pixels) < LOSS / 2


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_printers_jpegs_too(tmp_path, mode):
    Image.fromarray(smooth(200, 300)).convert(mode).save(tmp_path / "a.jpg", quality=95)
    whole, quick = (decode(tmp_path / "a.jpg", FILES, hashes=hashes) for hashes in (True, False))
    assert apart(quick.pixels, whole.pixels) < LOSS / 2


def test_own_preprocessing_sees_the_whole_image(tmp_path):
    Image.fromarray(smooth(200, 300)).save(tmp_path / "a.jpg")
    data = FILES.model_copy(update={"preprocess": "trim_border"})
    whole, quick = (decode(tmp_path / "a.jpg", data, hashes=hashes) for hashes in (True, False))
    assert np.array_equal(quick.pixels, whole.pixels)


def test_a_file_that_went_after_stage_01_is_named(project):
    store_of(project, "files")
    path = sorted((project / "data" / "raw" / "train_images").iterdir())[0]
    config = read(project, "data.storage=files")
    store = open_images(config)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: the file cannot be read"):
        store.pixels[np.arange(80)]


# --- shards -------------------------------------------------------------------------------------------------


def test_shards_are_plain_tar_files_of_jpegs(three, untouched_project):
    folder = three["shards"].pixels.folder
    names, images = [], []
    for path in sorted(folder.iterdir()):
        with tarfile.open(path) as file:
            for member in file:
                names.append(member.name)
                images.append(np.asarray(Image.open(file.extractfile(member))))
    assert names == [f"{i:09d}.jpg" for i in range(120)]
    assert len(list(folder.iterdir())) == -(-120 // 16)
    assert apart(np.stack(images), three["shards"].pixels[np.arange(120)]) < 1  # two decoders


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_images_of_any_channels_come_back(channels):
    image = np.repeat(smooth(32, 48)[:, :, :1], channels, axis=2)
    if channels == 3:
        image = smooth(32, 48)
    back = decoded(encoded(image), channels)
    assert back.shape == image.shape
    assert back.dtype == np.uint8
    assert apart(back, image) < (2 if channels in (1, 3) else 1e-9)


def packed_shards(tmp_path: Path, n: int) -> ShardImages:
    store = ShardWriter(tmp_path / "images.shards.parquet", (n, 8, 8, 3))
    store.begin()
    notes = [store.put(i, store.take(i, np.full((8, 8, 3), i, np.uint8))) for i in range(n)]
    store.finish(notes)
    return open_pixels(store.path, Data(image_size=8), tmp_path)


def test_few_shards_are_open_at_a_time_and_none_is_sent_to_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("src.data.pixels.OPEN", 2)
    shards = packed_shards(tmp_path, 80)
    for i in (3, 40, 70, 20, 3):
        assert abs(int(shards.one(i)[0, 0, 0]) - i) <= 1
    assert list(shards.maps) == [1, 0]
    other = pickle.loads(pickle.dumps(shards))
    assert not other.maps
    assert np.array_equal(other[np.arange(80)], shards[np.arange(80)])


@pytest.mark.parametrize("damage", ["gone", "cut", "zeros"])
def test_a_shard_that_is_gone_or_damaged_is_named(tmp_path, damage):
    shards = packed_shards(tmp_path, 40)
    path = shards.folder / "000001.tar"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "cut" else bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"000001\.tar: it .* run `make folds ARGS=--force`"):
        shards[np.arange(40)]


@pytest.mark.parametrize("n", [1, 15, 100, 1000])
def test_an_epoch_shows_every_row_once_and_shard_by_shard(n):
    shards = np.sort(np.random.default_rng(n).integers(0, 60, n))  # as few as one, as many as 60
    orders = [by_shards(shards, np.random.default_rng(seed)) for seed in (0, 1, 0)]
    assert np.array_equal(orders[0], orders[2])
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(n))
        own = shards[order]
        first = {shard: np.flatnonzero(own == shard)[0] for shard in np.unique(own)}
        last = {shard: np.flatnonzero(own == shard)[-1] for shard in np.unique(own)}
        at_once = max(sum(first[s] <= i <= last[s] for s in first) for i in range(n))
        assert at_once <= WINDOW
    if n >= 100:
        assert not np.array_equal(orders[0], orders[1])
        assert len(np.unique(shards[orders[0][:50]])) > min(WINDOW, len(np.unique(shards))) / 2  # mixed well


def test_batches_come_shard_by_shard_unless_identities_or_classes_make_them(prepared):
    store_of(prepared, "shards")
    for more, streams in ((), True), (("train.sampling=balanced",), False):
        config = read(prepared, "data.storage=shards", *more)
        data = load_fold(config, create_task(config), 0)
        assert (create_sampler(data.train, config, 0).shards is not None) == streams
    plain = read(prepared)
    assert create_sampler(load_fold(plain, create_task(plain), 0).train, plain, 0).shards is None


def test_unlabelled_images_come_shard_by_shard_too(prepared, monkeypatch):
    monkeypatch.setattr("src.data.sampling.WINDOW", 1)
    store = store_of(prepared, "shards")
    config = read(prepared, "data.storage=shards", "consistency={}", "train.batch_size=8")
    _, draws = unlabelled_loader(store, config, 5, workers=0, seed=0)
    shards = (store.test // 16)[draws.batches().ravel()]
    assert (np.diff(shards) != 0).sum() == len(np.unique(shards)) - 1


@pytest.mark.parametrize("storage", ["shards", "files"])
def test_workers_change_nothing(prepared, storage):
    store_of(prepared, storage)
    config = read(prepared, f"data.storage={storage}")
    data = load_fold(config, create_task(config), 0)
    shown = []
    for workers in (0, 2):
        loader, sampler = training_loader(data.train, data.store, config, workers, seed=0)
        sampler.epoch = 1
        shown.append([batch[0] for batch in loader])
    assert len(shown[0]) > 1
    assert all(torch.equal(one, other) for one, other in zip(*shown, strict=True))


def test_another_storage_is_another_cache_and_the_packed_one_is_as_it_was(prepared):
    forget_the_listings()
    folders = [images_step(read(prepared, f"data.storage={storage}")).folder.name for storage in STORAGES]
    assert folders == ["16px-stretch", "16px-stretch-shards", "16px-stretch-files"]
    assert images_step(read(prepared)).fresh()
