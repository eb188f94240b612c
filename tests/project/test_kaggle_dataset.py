"""A folder becomes a private dataset: whole, waited for, never sent twice, never believed too early."""

from __future__ import annotations

import json

import pytest

from src.config import UserError
from src.configfile import load_config
from src.kaggle import dataset
from src.kaggle.names import bundle_folder, dataset_ref

pytest_plugins = ["kaggle_server.desk"]

REF = "quickfox/even-numbers-bundle"


@pytest.fixture
def upload(desk):
    """`upload(whole)` sends the desk's bundle of that hash."""

    def send(whole: str) -> dataset.DatasetVersion:
        config = load_config(desk.root / "configs/baseline.yaml")
        return dataset.upload(config, bundle_folder(config), dataset_ref(config), whole, "dataset")

    return send


def held(desk, version: int) -> dict[str, bytes]:
    """What Kaggle serves of a version: path and content."""
    folder = desk.store.datasets[REF].folders[version - 1]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def here(desk) -> dict[str, bytes]:
    folder = desk.root / "kaggle/bundle"
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files.pop("dataset-metadata.json")
    return files


def test_it_is_created_then_versioned_and_the_number_is_waited_for(desk, upload, capsys):
    assert upload(desk.bundle(yes=1)) == dataset.DatasetVersion(REF, 1)
    assert held(desk, 1) == here(desk)
    created = json.loads((desk.root / "kaggle/bundle/dataset-metadata.json").read_text())
    assert created["licenses"] == [{"name": "other"}]
    assert desk.receipt("dataset")["ready"] is True
    assert "CreateDataset" in desk.calls()

    desk.store.looks_until_ready = 3
    whole = desk.bundle(yes=2)
    assert upload(whole) == dataset.DatasetVersion(REF, 2)
    assert held(desk, 2) == here(desk) != held(desk, 1)
    calls = desk.calls()
    assert calls.count("CreateDatasetVersion") == 1
    assert calls[calls.index("CreateDatasetVersion") :].count("GetDatasetStatus") == 3
    assert "blobs_received at version 2" in capsys.readouterr().out

    assert upload(whole).version == 2  # there already
    assert desk.calls() == ["GetDatasetStatus", "GetDataset"]


def test_one_that_is_not_ready_in_time_is_no_success_and_is_not_sent_again(desk, upload, monkeypatch):
    desk.store.looks_until_ready = 10**6
    monkeypatch.setattr(dataset, "HOURS", 0.0)
    whole = desk.bundle()
    with pytest.raises(UserError, match=r"still blobs_received .*sends nothing twice"):
        upload(whole)
    assert desk.receipt("dataset")["ready"] is False
    desk.calls()
    desk.store.datasets[REF].unready = 0
    assert upload(whole).version == 1
    assert set(desk.calls()) == {"GetDatasetStatus", "GetDataset"}


def test_an_upload_broken_half_way_goes_on_and_arrives_whole(desk, upload):
    whole = desk.bundle()
    desk.store.faults["put_broken"] = 2
    upload(whole)
    assert desk.store.faults["put_broken"] == 0
    assert held(desk, 1) == here(desk)


def test_a_file_that_kaggle_does_not_take_is_named_and_the_next_call_sends_all(desk, upload):
    """The client skips such a file, makes the dataset without it, and exits with 0."""
    whole = desk.bundle()
    desk.store.faults["put_refused"] = 1
    with pytest.raises(dataset.Refused, match=r"did not arrive \(1 of 3 file\(s\)\)"):
        upload(whole)
    assert desk.receipt("dataset") == {}
    assert held(desk, 1) != here(desk)
    assert upload(whole).version == 2
    assert held(desk, 2) == here(desk)


def test_a_dataset_that_kaggle_refuses_with_exit_status_0_is_a_failure(desk, upload):
    desk.store.faults["dataset_refused"] = 1
    with pytest.raises(dataset.Refused, match="refuses the dataset: The slug even-numbers-bundle is in use"):
        upload(desk.bundle())
    assert desk.receipt("dataset") == {}


def test_a_secret_is_found_before_the_client_is_even_called(desk, upload):
    whole = desk.bundle()
    desk.write("kaggle/bundle/src/.env", "KAGGLE_KEY=1")
    with pytest.raises(UserError, match=r"src/\.env: looks like a key"):
        upload(whole)
    assert desk.calls() == []
