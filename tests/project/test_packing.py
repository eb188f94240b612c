"""The image cache is built once: a build that was killed goes on, and believes only what still holds."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.config import Data
from src.data import packing
from src.data.packing import pack_images

N, SIDE = 60, 16
DATA = Data(image_size=SIDE)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Of 16 images, so that 60 are several."""
    monkeypatch.setattr("src.data.store_writers.SHARD", 16)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    (tmp_path / "raw").mkdir()
    paths = [tmp_path / "raw" / f"{number:02}.png" for number in range(N)]
    for number, path in enumerate(paths):
        image = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(path), image)
    return paths


def path_of(folder: Path, data: Data) -> Path:
    return folder / f"images.{data.ending}"


def packed(files: list[Path], folder: Path, data: Data = DATA) -> tuple[dict[str, bytes], list]:
    """The bytes of the store's files, and what is known of its images."""
    shape = (len(files), data.cached_size, data.cached_size, 3)
    path = path_of(folder, data)
    known = pack_images(path, files, shape, data, "test", pytest.fail, files[0].parent)
    left = {path.name, path.with_suffix("").name} if data.storage == "shards" else {path.name}
    assert {path.name for path in folder.iterdir()} == left  # nothing of the work
    whole = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return whole, known


def lines_of(journal: Path) -> int:
    return journal.read_text().count("\n") if journal.exists() else 0


def killed_after(count: int, files: list[Path], folder: Path, data: Data = DATA) -> None:
    """A build in a process of its own that ends without a word at its `count`th image, once the journal, that
    another thread writes, has come near it."""
    path = path_of(folder, data)
    journal = path.with_name(f".{path.name}.journal")
    before = lines_of(journal)

    def build() -> None:
        seen, decode = [], packing.decode

        def last(path, data):
            seen.append(path)
            if len(seen) == count:
                deadline = time.monotonic() + 60
                while lines_of(journal) < before + count - 5 and time.monotonic() < deadline:
                    time.sleep(0.001)
                os._exit(9)
            return decode(path, data)

        packing.decode = last
        shape = (len(files), SIDE, SIDE, 3)
        pack_images(path, files, shape, data, "test", pytest.fail, files[0].parent)

    child = multiprocessing.get_context("fork").Process(target=build)
    child.start()
    child.join()
    assert child.exitcode == 9


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The files that are decoded from here on."""
    seen, decode = [], packing.decode
    monkeypatch.setattr(packing, "decode", lambda path, data: seen.append(path) or decode(path, data))
    return seen


@pytest.fixture
def begun(files, tmp_path) -> Path:
    """The folder of a build that was killed at its 50th image."""
    folder = tmp_path / "begun"
    folder.mkdir()
    killed_after(50, files, folder)
    return folder


@pytest.fixture
def whole(files, tmp_path) -> tuple[bytes, list]:
    (tmp_path / "whole").mkdir()
    return packed(files, tmp_path / "whole")


def test_a_killed_build_goes_on_where_it_was_to_the_same_bytes(files, begun, whole, decoded):
    assert not (begun / "images.npy").exists()
    assert packed(files, begun) == whole
    assert 10 <= len(decoded) < N - 10  # the last lines of the journal may not have reached it


def test_a_build_may_be_killed_again_and_again(files, begun, whole):
    killed_after(3, files, begun)
    assert packed(files, begun) == whole


@pytest.mark.parametrize("storage", ["shards", "files"])
def test_so_may_a_build_of_every_storage(files, tmp_path, decoded, storage):
    data = DATA.model_copy(update={"storage": storage})
    for name in ("whole", "begun"):
        (tmp_path / name).mkdir()
    whole = packed(files, tmp_path / "whole", data)
    for count in (30, 14):
        killed_after(count, files, tmp_path / "begun", data)
    decoded.clear()
    assert packed(files, tmp_path / "begun", data) == whole
    assert 10 <= len(decoded) < N - 30


@pytest.mark.parametrize("damage", ["half", "other", "gone"])
def test_shards_are_believed_up_to_what_was_lost(files, tmp_path, decoded, damage):
    data = DATA.model_copy(update={"storage": "shards"})
    for name in ("whole", "begun"):
        (tmp_path / name).mkdir()
    whole = packed(files, tmp_path / "whole", data)
    killed_after(50, files, tmp_path / "begun", data)
    shard = tmp_path / "begun" / ".images.shards.parquet.part" / "000001.tar"  # images 16 to 31
    content = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        half = content[: len(content) // 2]
        shard.write_bytes(half if damage == "half" else half + bytes(len(content) - len(half)))
    decoded.clear()
    assert packed(files, tmp_path / "begun", data) == whole
    assert set(files[:16]).isdisjoint(decoded)
    assert files[31] in decoded
    assert (files[16] in decoded) == (damage == "gone")


def test_a_file_that_changed_meanwhile_is_decoded_again(files, begun, decoded):
    cv2.imwrite(str(files[0]), np.full((20, 24, 3), 7, np.uint8))
    packed(files, begun)
    assert files[0] in decoded
    assert len(decoded) < N
    assert (np.load(begun / "images.npy")[0] == 7).all()


def test_pixels_that_were_lost_are_decoded_again(files, begun, whole, decoded):
    part = np.lib.format.open_memmap(begun / ".images.npy.part", mode="r+")
    part[1] = 0
    part.flush()
    assert packed(files, begun) == whole
    assert files[1] in decoded
    assert files[0] not in decoded


@pytest.mark.parametrize("change", [{"fit": "pad"}, {"image_size": 12}, {"preprocess": "trim_border"}])
def test_a_build_of_other_pixels_begins_anew(files, begun, decoded, change):
    packed(files, begun, DATA.model_copy(update=change))
    assert len(decoded) == N


def test_other_files_than_before_are_not_taken_for_them(files, begun, decoded):
    packed(files[::-1], begun)
    assert len(decoded) >= N - 1  # one in the very middle might stand where it stood


def test_a_journal_that_was_cut_off_in_a_line_is_read_up_to_it(files, begun, whole, decoded):
    journal = begun / ".images.npy.journal"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:6]) + "\n" + lines[6][:40])
    assert packed(files, begun) == whole
    assert len(decoded) == N - 5
