"""`make data`: whatever the archive holds stays in the raw folder, whatever goes wrong is one sentence."""

from __future__ import annotations

import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
from conftest import ROOT

from src.config import UserError
from src.kaggle import transfer
from src.kaggle.client import Busy
from src.kaggle.unpack import unpack

pytest_plugins = ["kaggle_server.desk"]


def make_archive(path: Path, members: dict[str, bytes], **kinds: int) -> Path:
    """A zip archive of these members; `kinds` gives some a file type of Unix."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (kinds.get(name, stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, content)
    return path


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- unpacking ---


@pytest.mark.parametrize(
    "name",
    ["../evil.csv", "images/../../evil.csv", "/evil.csv", "C:/evil.csv", "..\\evil.csv", "images\\evil.csv"],
)
def test_no_member_may_leave_the_folder_and_nothing_of_such_an_archive_is_unpacked(tmp_path, name):
    archive = make_archive(tmp_path / "a.zip", {"train.csv": b"id\n", name: b"evil"})
    if "\\" in name:  # zipfile writes it with a slash; patch the name in both places where it stands
        archive.write_bytes(archive.read_bytes().replace(name.replace("\\", "/").encode(), name.encode()))
    with pytest.raises(UserError, match=r"its member .*evil\.csv.* nothing of it was unpacked"):
        unpack(archive, tmp_path / "place" / "raw")
    assert everything(tmp_path) == {"a.zip"}


@pytest.mark.parametrize(("kind", "why"), [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is no plain file")])
def test_links_and_devices_are_refused(tmp_path, kind, why):
    archive = make_archive(tmp_path / "a.zip", {"train.csv": b"id\n", "odd": b"/etc/passwd"}, odd=kind)
    with pytest.raises(UserError, match=why):
        unpack(archive, tmp_path / "raw")
    assert everything(tmp_path) == {"a.zip"}


def test_a_link_that_is_there_already_leads_nothing_outside(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="through a link in it"):
        unpack(make_archive(tmp_path / "a.zip", {"images/1.png": b"x"}), tmp_path / "raw")
    assert everything(tmp_path / "elsewhere") == set()


def test_the_raw_folder_itself_may_be_a_link_to_a_larger_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "raw").symlink_to(tmp_path / "disk")
    unpack(make_archive(tmp_path / "a.zip", {"images/1.png": b"x"}), tmp_path / "raw")
    assert everything(tmp_path / "disk") == {"images/1.png"}


def test_the_same_name_twice_is_refused(tmp_path):
    archive = make_archive(tmp_path / "a.zip", {"train.csv": b"1", "train.cs_": b"2"})
    archive.write_bytes(archive.read_bytes().replace(b"train.cs_", b"train.csv"))
    with pytest.raises(UserError, match="stands there twice"):
        unpack(archive, tmp_path / "raw")


def test_equal_files_are_kept_and_others_are_replaced_whole(tmp_path):
    archive = make_archive(tmp_path / "a.zip", {"same.csv": b"1", "other.csv": b"2", "new.csv": b"3"})
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "same.csv").write_bytes(b"1")
    (raw / "other.csv").write_bytes(b"X")  # of the same size
    (raw / "mine.txt").write_bytes(b"kept")
    os.utime(raw / "same.csv", (1, 1))
    done = unpack(archive, raw)
    assert done.written == 2
    assert {name: size for name, (size, _) in done.files.items()} == {
        "same.csv": 1, "other.csv": 1, "new.csv": 1,
    }  # fmt: skip
    assert (raw / "same.csv").stat().st_mtime == 1
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == {
        "same.csv": b"1", "other.csv": b"2", "new.csv": b"3", "mine.txt": b"kept",
    }  # fmt: skip


def test_without_replace_only_a_file_that_is_as_it_came_before_makes_room_for_a_newer_one(tmp_path):
    raw, members = tmp_path / "raw", {"mended.csv": b"old", "untouched.csv": b"old", "gone.csv": b"old"}
    came = unpack(make_archive(tmp_path / "a.zip", members), raw).files
    (raw / "mended.csv").write_bytes(b"OLD")  # of the same size
    (raw / "found.csv").write_bytes(b"of somebody else")
    (raw / "gone.csv").unlink()
    newer = make_archive(tmp_path / "b.zip", dict.fromkeys([*members, "found.csv"], b"new"))
    done = unpack(newer, raw, replace=False, came=came)
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == {
        "mended.csv": b"OLD", "untouched.csv": b"new", "gone.csv": b"new", "found.csv": b"of somebody else",
    }  # fmt: skip
    assert (sorted(done.kept), done.written) == (["found.csv", "mended.csv"], 2)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a", "a/b"], "is a file there, and a folder"),
        (["a/b", "a"], "is a file there, and a folder"),
        (["x" * 300 + ".png"], r"\(304 characters\).* too long"),
        (["é" * 200], "too long"),  # 400 bytes
        (["folder"], r"folder is a folder: move that away"),
    ],
)
def test_a_name_that_no_disk_can_have_is_a_sentence_and_nothing_is_unpacked(tmp_path, names, why):
    (tmp_path / "raw/folder").mkdir(parents=True)
    archive = make_archive(tmp_path / "a.zip", dict.fromkeys(["train.csv", *names], b"1"))
    with pytest.raises(UserError, match=why):
        unpack(archive, tmp_path / "raw")
    assert everything(tmp_path / "raw") == set()


def test_the_longest_name_that_a_disk_takes_is_unpacked_and_a_file_in_the_way_is_named(tmp_path):
    name = "x" * 251 + ".png"
    unpack(make_archive(tmp_path / "a.zip", {name: b"1"}), tmp_path / "raw")
    assert everything(tmp_path / "raw") == {name}
    with pytest.raises(UserError, match=rf"{name}/b: cannot be written, a file stands where"):
        unpack(make_archive(tmp_path / "b.zip", {f"{name}/b": b"1"}), tmp_path / "raw")


def test_a_damaged_member_is_named_and_leaves_nothing_half_written(tmp_path):
    archive = make_archive(tmp_path / "a.zip", {"first.csv": b"fine", "second.csv": b"abcdefgh"})
    archive.write_bytes(archive.read_bytes().replace(b"abcdefgh", b"abcdXfgh", 1))
    with pytest.raises(UserError, match=r"second\.csv.*damaged.*--force"):
        unpack(archive, tmp_path / "raw")
    assert everything(tmp_path / "raw") == {"first.csv"}


def test_an_archive_in_the_archive_is_unpacked_beside_it(tmp_path):
    bare = make_archive(tmp_path / "train.zip", {"1.png": b"a", "2.png": b"b"}).read_bytes()
    whole = make_archive(tmp_path / "test.zip", {"test/3.png": b"c"}).read_bytes()
    evil = make_archive(tmp_path / "evil.zip", {"../4.png": b"d"}).read_bytes()
    raw = tmp_path / "raw"
    done = unpack(make_archive(tmp_path / "a.zip", {"train.zip": bare, "test.zip": whole}), raw)
    assert everything(raw) == {"train.zip", "test.zip", "train/1.png", "train/2.png", "test/3.png"}
    assert done.files.keys() == everything(raw)
    with pytest.raises(UserError, match="outside"):
        unpack(make_archive(tmp_path / "b.zip", {"evil.zip": evil}), raw)
    assert not (raw / "4.png").exists()


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("src.kaggle.unpack._SPARE", 2**62)
    with pytest.raises(UserError, match="the disk has"):
        unpack(make_archive(tmp_path / "a.zip", {"train.csv": b"1"}), tmp_path / "raw")
    assert everything(tmp_path) == {"a.zip"}


# --- with the real client ---


def test_the_files_come_once_and_what_is_missing_comes_again(desk):
    raw = desk.root / "data" / "raw"
    before = (raw / "train.csv").stat().st_mtime_ns
    (raw / "test.csv").unlink()
    said = desk.run("data")
    assert said.code == 0, said.err
    for name in ("train.csv", "test.csv", "sample_submission.csv"):
        assert (raw / name).read_bytes() == (desk.competition.public / name).read_bytes()
    assert (raw / "train.csv").stat().st_mtime_ns == before
    assert "1 of them written anew" in said.out
    assert everything(desk.root / "data" / "download") == {"even-numbers.json"}  # the archive is gone
    assert desk.calls() == ["DownloadDataFiles"]
    assert "up to date" in desk.run("data").out
    assert desk.calls() == []


def test_a_table_mended_by_hand_is_kept_until_force_and_a_withdrawn_file_leaves_the_raw_folder(desk):
    raw, public = desk.root / "data" / "raw", desk.competition.public
    (public / "leak.csv").write_text("id\n")
    assert desk.run("data").code == 0
    (raw / "train.csv").write_text("mended")
    desk.calls()
    said = desk.run("data")
    assert (said.code, desk.calls()) == (0, [])
    assert re.search(r"train\.csv: .*kept.*ARGS=--force", said.out)

    (public / "leak.csv").unlink()
    (desk.store.root / "archives/even-numbers.zip").unlink()
    (raw / "test.csv").unlink()  # so it is downloaded again, though not with --force
    said = desk.run("data")
    assert said.code == 0, said.err
    assert (raw / "train.csv").read_text() == "mended"
    assert re.search(r"train\.csv: .*kept", said.out)
    assert "has withdrawn leak.csv" in said.out
    assert everything(raw) == {"train.csv", "test.csv", "sample_submission.csv"}
    assert (desk.root / "data/download/withdrawn/leak.csv").read_text() == "id\n"

    assert desk.run("data", "--force").code == 0
    assert (raw / "train.csv").read_bytes() == (public / "train.csv").read_bytes()


@pytest.mark.parametrize("status", [403, 503])
def test_a_lost_connection_and_then_an_error_page_cost_nothing_of_what_came(desk, status):
    content = random.Random(0).randbytes(3 * 2**20)
    (desk.competition.public / "big.bin").write_bytes(content)
    desk.store.faults.update({"get_broken": 1, f"get_{status}": 1})
    said = desk.run("data")
    assert said.code == 0, said.err
    assert (desk.root / "data/raw/big.bin").read_bytes() == content
    assert re.search(rf"\({status}\).* 1\.0 MiB of even-numbers\.zip are here", said.out), said.out
    assert desk.store.sent[-1][1] == 2**20  # it went on behind them: the client writes whole mebibytes


def test_a_page_that_an_earlier_call_left_as_the_start_of_the_archive_is_no_start(desk):
    archive = desk.write("data/download/even-numbers.zip", "<!DOCTYPE html><html>403</html>")
    desk.write(f"data/download/{archive.name}.kaggle-partial", "{}")
    (desk.root / "data/raw/test.csv").unlink()
    assert desk.run("data").code == 0
    assert desk.store.sent == [("even-numbers.zip", 0)]


def test_a_disk_that_fills_up_or_is_too_small_is_no_lost_connection(tmp_path, monkeypatch):
    archive = tmp_path / "digits.zip"
    full = "\nConnection error: OSError: [Errno 28] No space left on device\nRetrying in 2.5 seconds..."

    def prints(*_, look, **__):
        look(full)

    monkeypatch.setattr(transfer, "call", prints)
    with pytest.raises(UserError, match=rf"{tmp_path}: cannot be written, the disk is full") as error:
        transfer.fetch("digits", tmp_path, tmp_path / "raw")
    assert not isinstance(error.value, Busy)

    archive.write_bytes(b"PK" + bytes(2**20 - 2))
    transfer.marker_of(archive).write_text('{"size": 10737418240}')
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5 * 2**30))
    full = ""
    with pytest.raises(UserError, match=r"downloading digits\.zip takes 10\.0 GiB, the disk has 5\.0"):
        transfer.fetch("digits", tmp_path, tmp_path / "raw")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=15 * 2**30))
    with pytest.raises(UserError, match=r"with the files that are in it takes 20\.0 GiB"):
        transfer.fetch("digits", tmp_path, tmp_path / "raw")
    assert archive.exists()  # what came is kept


def test_a_killed_download_goes_on_where_it_was(desk):
    content = random.Random(0).randbytes(5 * 2**20)
    (desk.competition.public / "big.bin").write_bytes(content)
    desk.store.faults["get_broken"] = 100
    command = [
        sys.executable,
        "-m",
        "src.commands.data",
        "--config",
        str(desk.root / "configs/baseline.yaml"),
    ]
    client = {"env": dict(os.environ), "cwd": ROOT}  # the desk's server and key are in there
    process = processes.start(command, **client, start_new_session=True, stdout=subprocess.DEVNULL)
    while len(desk.store.sent) < 1:  # half of it is through, and the client waits before its next try
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (desk.root / "data/raw/big.bin").exists()
    desk.store.faults.clear()
    desk.store.sent.clear()
    assert desk.run("data").code == 0
    assert (desk.root / "data/raw/big.bin").read_bytes() == content
    assert [start > 0 for _, start in desk.store.sent][-1:] == [True]


def bad_key(desk, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "wrong")


def stale_token(desk, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "stale")
    monkeypatch.delenv("KAGGLE_KEY")


def rules_not_accepted(desk, monkeypatch):
    desk.competition.rules_accepted = False


def typo(desk, monkeypatch):
    desk.store.competitions.clear()


def answers(status: int):
    def fault(desk, monkeypatch):
        desk.store.faults[f"DownloadDataFiles_{status}"] = 1

    return fault


def unplugged(desk, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")


def a_page(desk, monkeypatch):
    archive = desk.store.root / "archives" / "even-numbers.zip"
    archive.parent.mkdir(parents=True)
    archive.write_text("<!DOCTYPE html><html>Please log in</html>")


FAILURES = {
    "a bad key": (bad_key, r"no key of yours \(401\): it tried KAGGLE_KEY"),
    "a stale token": (
        stale_token,
        r"\(401\): it tried KAGGLE_API_TOKEN of this shell, which comes before any",
    ),
    "rules not accepted": (
        rules_not_accepted,
        r"\(403\): accept its rules .*kaggle.com/competitions/even-numbers",
    ),
    "a typo": (typo, r"\(403\): .*mend competition.slug if that is a typo"),
    "404": (answers(404), r"none of that name on Kaggle \(404\)"),
    "429": (answers(429), r"\(429\): wait some minutes and run the same command again"),
    "503": (answers(503), r"Kaggle has trouble \(503\)"),
    "no network": (unplugged, r"no connection to Kaggle"),
    "a page in place of the archive": (a_page, r"no zip archive .* it was removed"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_goes_wrong_is_one_sentence_and_the_raw_folder_stays_as_it_was(
    desk, monkeypatch, snapshot, name
):
    arrange, sentence = FAILURES[name]
    before = snapshot(desk.root / "data" / "raw")
    arrange(desk, monkeypatch)
    said = desk.run("data")
    assert re.search(sentence, said.sentence), said.sentence
    assert snapshot(desk.root / "data" / "raw") == before
    assert not list((desk.root / "data" / "download").glob("*.json"))
