"""Whatever is done to a file of ours, it is read as it was or named in one sentence."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from src import reading
from src.artifacts import Step, write_csv, write_json, write_parquet
from src.config import Config, Data, UserError
from src.data.packing import PartialStore, pack_images
from src.data.pixels import open_pixels
from src.data.store_writers import ArrayWriter, ShardWriter
from src.kaggle.receipts import read_receipt, receipt_path
from src.models.weights import load_model, load_weights
from src.reading import ASIDE, Unreadable, made_by, read_array, read_csv, read_json, read_parquet
from src.stamps import check_outputs, recipe_in
from src.submission.log import COLUMNS, log_path, read_log
from src.training import checkpoint

FLIPS = 40


def damages(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """A file cut short, filled with zeros, replaced by other content, and with single bytes flipped."""
    yield "empty", b""
    yield "half", whole[: len(whole) // 2]
    yield "last byte missing", whole[:-1]
    yield "zeros", bytes(len(whole))
    yield "a page", b"<html>502 Bad Gateway</html>"
    yield "a list", b"[1, 2]"
    yield "a number", b"7"
    for place in np.linspace(0, len(whole) - 1, FLIPS).astype(int):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        yield f"byte {place}", bytes(changed)


def outcome(read: Callable, *arguments) -> Any:
    """What a reader gives, or the sentence that it ends in."""
    try:
        return read(*arguments)
    except UserError as error:
        return error


def write_checkpoint(path: Path) -> None:
    torch.manual_seed(0)
    checkpoint.save(path, "print", {"model": nn.Linear(30, 9)}, {"history": [1.5]}, torch.device("cpu"))


def resumed(path: Path) -> list:
    model = nn.Linear(30, 9)
    values = checkpoint.resume(path, "print", {"model": model}, torch.device("cpu"))
    return [values, [p.tolist() for p in model.parameters()], torch.get_rng_state().tolist()]


TABLE = pd.DataFrame({"id": [f"i{k:03d}" for k in range(300)], "fold": np.arange(300) % 5})
TABLE["cat"] = np.random.default_rng(0).random(300, np.float32)

# Of each kind: its name, how it is written, how it is read, and whether a change of content must be seen.
KINDS: dict[str, tuple[str, Callable, Callable, bool]] = {
    "json": (
        "metrics.json",
        lambda path: write_json(path, {"metric": "auc", "folds": [0.5, None]}),
        lambda path: type(read_json(path, metric=str, folds=list)),
        True,
    ),
    "parquet": (
        "oof.parquet",
        lambda path: write_parquet(path, TABLE),
        lambda path: read_parquet(path, ["id", "fold", "cat"]).to_dict(),
        True,
    ),
    "checkpoint": ("checkpoint.pt", write_checkpoint, resumed, True),
    "csv": (
        "folds.csv",
        lambda path: write_csv(path, TABLE),
        lambda path: len(read_csv(path, ("id", "fold"), dtype=str).columns),
        False,
    ),
    "weights": (
        "model.safetensors",
        lambda path: save_file(nn.Linear(3, 2).state_dict(), path),
        lambda path: load_weights(nn.Linear(3, 2), path),
        False,
    ),
    "array": (
        "images.npy",
        lambda path: np.save(path, np.zeros((4, 5, 5, 3), np.uint8)),
        lambda path: read_array(path, 4).shape[1:],
        False,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_as_it_was_or_named_and_set_aside(kind, tmp_path):
    name, write, read, seen = KINDS[kind]
    path = tmp_path / name
    write(path)
    whole, before, refused = path.read_bytes(), read(path), 0
    for what, content in damages(whole):
        path.write_bytes(content)
        found = outcome(read, path)
        if isinstance(found, Unreadable):
            refused += 1
            assert str(path) in str(found), what
            assert not path.exists()
            assert path.with_name(name + ASIDE).read_bytes() == content
        else:
            assert not seen or found == before, what
    assert refused >= 6


def test_a_checkpoint_of_another_network_or_version_is_set_aside(tmp_path):
    path, cpu = tmp_path / "checkpoint.pt", torch.device("cpu")
    others = {
        "another shape": lambda state: state["parts"]["model"].update(weight=torch.zeros(9, 31)),
        "a missing part": lambda state: state["parts"].clear(),
        "a missing key": lambda state: state.pop("fingerprint"),
        "another version": lambda state: state.update(format=1),
        "other settings": lambda state: state.update(fingerprint="other"),
    }
    for what, change in others.items():
        write_checkpoint(path)
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)
        with pytest.raises(Unreadable, match=r"checkpoint\.pt"):
            checkpoint.resume(path, "print", {"model": nn.Linear(30, 9)}, cpu)
        assert not path.exists(), what
    assert checkpoint.resume(path, "print", {}, cpu) is None


def test_a_damaged_stamp_makes_its_step_run_again_and_is_mentioned_once(tmp_path, capsys):
    step = Step("02 train", tmp_path, ("score.json",), {"lr": 0.1}, replaces=True)
    write_json(tmp_path / "score.json", {"score": 0.5})
    step.done()
    whole = step.stamp.read_bytes()
    wrong = {"fingerprint": step.fingerprint, "recipe": {}, "outputs": {"score.json": 3}}
    for content in [*(c for _, c in damages(whole) if c != whole), json.dumps(wrong).encode()]:
        step.stamp.write_bytes(content)
        capsys.readouterr()
        fresh = step.fresh()
        said = capsys.readouterr().out
        assert fresh or step.stamp.name in said or step.why()
        assert step.fresh() == fresh
        assert capsys.readouterr().out == ""
        recipe_in(step.stamp)


def test_an_output_that_is_no_longer_what_was_written_is_named(tmp_path):
    step = Step("02 train", tmp_path / "runs/a/fold1", ("model.safetensors", "score.json"), {})
    model = step.folder / "model.safetensors"
    write_json(step.folder / "score.json", {})
    save_file(nn.Linear(3, 2).state_dict(), model)
    step.done()
    check_outputs(step.stamp)
    status, changed = model.stat(), bytearray(model.read_bytes())
    changed[-1] ^= 1
    model.write_bytes(changed)
    check_outputs(step.stamp, ["score.json"])
    with pytest.raises(UserError, match=r"fold1/model\.safetensors.*make train oof EXP=a"):
        check_outputs(step.stamp)
    assert model.exists()  # somebody wrote it, perhaps just now
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(Unreadable, match=r"model\.safetensors"):
        check_outputs(step.stamp)
    assert not step.fresh()  # so that the command makes it again


@pytest.mark.parametrize("kind", ["submissions/log.csv", "kaggle/receipts/submission.json"])
def test_what_is_known_of_kaggle_is_refused_and_stays_where_it_is(kind, tmp_path):
    config = Config(root=tmp_path)
    path = tmp_path / kind
    assert path in (log_path(tmp_path), receipt_path(config, "submission"))
    if path.suffix == ".csv":
        write_csv(path, pd.DataFrame([dict.fromkeys(COLUMNS, "1")]))
    else:
        write_json(path, {"ref": 7})
    for _, content in damages(path.read_bytes()):
        path.write_bytes(content)
        read = (read_log, tmp_path) if path.suffix == ".csv" else (read_receipt, config, "submission")
        found = outcome(*read)
        assert isinstance(found, list | dict) or str(path) in str(found)
        assert path.read_bytes() == content


def test_a_table_that_claims_more_rows_than_memory_holds_is_refused_by_its_footer(tmp_path, monkeypatch):
    path, n = tmp_path / "oof.parquet", 3_000_000
    pq.write_table(pa.table({"id": pa.nulls(n), "cat": pa.nulls(n)}), path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(reading, "memory_available", lambda: 16 * n - 1)
    monkeypatch.setattr(pd, "read_parquet", lambda *_, **__: pytest.fail("the table was read"))
    with pytest.raises(UserError, match=r"oof\.parquet.*3,000,000 rows"):
        read_parquet(path, ["id", "cat"])
    assert path.exists()


def test_a_model_names_its_file_whatever_its_header_says(tmp_path):
    path = tmp_path / "model.safetensors"
    state = nn.Linear(3, 2).state_dict()
    for metadata in (None, {"architecture": "{"}, {"architecture": "[]"}, {"architecture": '{"depth": 3}'}):
        save_file(state, path, metadata=metadata)
        with pytest.raises(Unreadable, match=r"model\.safetensors"):
            load_model(path)


@pytest.mark.parametrize("storage", ["packed", "shards"])
def test_a_damaged_cache_is_named_and_a_damaged_half_of_one_packed_again(storage, tmp_path):
    import cv2

    data = Data(image_size=16, storage=storage)
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for i, file in enumerate(files):
        cv2.imwrite(str(file), np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    path, shape = tmp_path / "cache" / f"images.{data.ending}", (6, 16, 16, 3)

    def pixels() -> np.ndarray:
        return np.array(open_pixels(path, data, tmp_path)[np.arange(6)])

    def packed() -> np.ndarray:
        pack_images(path, files, shape, data, "01", pytest.fail)
        return pixels()

    expected = packed()
    store = path if storage == "packed" else path.with_suffix("") / "000000.tar"
    for content in [c for _, c in damages(store.read_bytes())][:7]:
        store.write_bytes(content)
        found = outcome(pixels)
        assert "images" in str(found) if isinstance(found, UserError) else np.array_equal(found, expected)
        packed()
    kind = ArrayWriter if storage == "packed" else ShardWriter
    work = PartialStore(path, files, shape, data, kind(path, shape))
    for content in (b"", b"\xff\xfe", b"[]\n[]", b'{"file": 3}'):
        head = json.dumps(work.head()).encode() + b"\n"
        for journal in (content, head + content):
            work.journal.write_bytes(journal)
            if storage == "packed":
                work.store.part.write_bytes(content)
            assert np.array_equal(packed(), expected)


PLACES = {
    "runs/base/fold0/model.safetensors": "make train oof EXP=base",
    "runs/base/fold0/test.parquet": "make oof EXP=base",
    "runs/base/metrics.json": "make oof EXP=base",
    "runs/base-round2/fold0/oof.parquet": "make pseudo EXP=base",
    "runs/base-sweep-0123abcd/fold0/oof.parquet": "make sweep EXP=base",
    "stacks/stack/stacker.json": "make stack",
    "data/cache/64px-pad/index.parquet": "make folds",
    "data/folds.csv": "make folds",
    "kaggle/bundle/members/a.safetensors": "make bundle",
}


@pytest.mark.parametrize("place", PLACES)
def test_the_command_that_makes_a_file_again_is_named(place, tmp_path):
    assert f"`{PLACES[place]}" in made_by(tmp_path / "runs" / "data" / place)


def test_a_checkpoint_keeps_sums_of_its_records(tmp_path):
    """What `checkpoint.resume` relies on: torch writes sums and does not look at them."""
    write_checkpoint(tmp_path / "checkpoint.pt")
    with zipfile.ZipFile(tmp_path / "checkpoint.pt") as archive:
        assert all(entry.CRC for entry in archive.infolist() if entry.file_size)
