"""Files are written whole or not at all; a step counts as done only while its recipe and its files hold."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from src import artifacts
from src.artifacts import Step, atomic, digest, read_json, sha256, write_json, write_text, write_yaml
from src.config import UserError
from src.models.architecture import Architecture
from src.models.weights import save_model
from src.training import checkpoint


def make(step: Step, text: str = "result") -> None:
    """Do a step's work: every output holds `text`."""
    step.folder.mkdir(parents=True, exist_ok=True)
    for name in step.outputs:
        write_text(step.folder / name, f"{text} {name}")
    step.done()


def step_of(folder: Path, replaces: bool = False, **recipe) -> Step:
    return Step("a step", folder, ("a.txt", "b.txt"), recipe or {"lr": 0.1}, replaces=replaces)


def later(path: Path) -> None:
    """Move a file's time without its content."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


# --- atomic writes ------------------------------------------------------------------------------------------


def test_a_writer_that_fails_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def write_half():
        with atomic(path) as temporary:
            temporary.write_text("half of the ne")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_half()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"table.csv": "old"}


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # the same disk, or the last step would be a copy
    assert path.read_text() == "new"


def test_json_with_a_nan_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"score": 0.5})
    with pytest.raises(UserError, match=r"metrics\.json: `folds\.1`"):
        write_json(path, {"score": 0.5, "folds": [0.5, float("nan")]})
    assert read_json(path) == {"score": 0.5}


def test_text_comes_back_as_it_was(tmp_path):
    value = {"title": "naïve ✓ ${x}", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    write_yaml(tmp_path / "a.yaml", value)
    import yaml

    assert read_json(tmp_path / "a.json") == value
    assert yaml.safe_load((tmp_path / "a.yaml").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "your quota is used up"),
    ],
)
def test_a_disk_that_refuses_is_one_sentence_with_the_file_and_what_to_do(
    tmp_path, monkeypatch, number, words
):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(artifacts.os, "replace", refuse)
    with pytest.raises(UserError) as caught:
        write_text(path, "new")
    assert str(caught.value).startswith(f"{path}: cannot be written, ")
    assert words in str(caught.value)
    assert path.read_text() == "old"


def save_checkpoint(path):
    checkpoint.save(path, "", {}, {"steps": torch.zeros(10**5)}, torch.device("cpu"))


def save_weights(path):
    architecture = Architecture("test_resnet", 2, 16, (0.5,), (0.5,))
    save_model(path, architecture, {"weight": torch.zeros(10**5)})


@pytest.fixture
def small_files():
    """No file may grow beyond a kilobyte: what a disk without large files, or `ulimit -f`, does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [save_checkpoint, save_weights, lambda path: write_text(path, "new" * 1000)],
    ids=["torch", "safetensors", "text"],
)
def test_a_disk_that_refuses_is_one_sentence_whichever_library_writes(tmp_path, small_files, write):
    path = tmp_path / "artefact"
    write_text(path, "old")
    with pytest.raises(UserError, match="artefact: cannot be written, the disk takes no file so large"):
        write(path)
    assert path.read_text() == "old"


def test_an_error_that_no_sentence_is_known_for_keeps_its_traceback(tmp_path, monkeypatch):
    def break_off(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(artifacts.os, "fsync", break_off)
    with pytest.raises(OSError, match="input/output error"):
        write_text(tmp_path / "a.txt", "new")


@pytest.mark.parametrize("place", ["file/a.txt", "file/folder/a.txt"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="a file stands where its folder should be"):
        write_text(tmp_path / place, "new")


@pytest.fixture
def lock():
    """`lock(folder)` takes the right to write there; skips where this user may write all the same."""
    locked = []

    def take(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        locked.append(folder)
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere (root): no folder refuses it")
        return folder

    yield take
    for folder in locked:
        folder.chmod(0o700)


def test_a_folder_without_write_permission_is_named(tmp_path, lock):
    folder = lock(tmp_path / "locked")
    with pytest.raises(UserError, match=r"a\.txt: cannot be written, this user has no permission"):
        write_text(folder / "a.txt", "new")


def test_a_stage_that_may_not_write_says_so_with_status_2(project, stage_here, monkeypatch, snapshot):
    before = snapshot(project)
    allowed = Path.mkdir

    def mkdir(self, *args, **kwargs):
        if "cache" in self.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return allowed(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    done = stage_here(project, "01_folds.py")
    assert done.returncode == 2
    assert "cannot be written, this user has no permission to write there" in done.stderr
    assert snapshot(project) == before


def test_a_data_folder_without_write_permission_ends_stage_01_with_status_2(project, stage_here, lock):
    lock(project / "data")
    done = stage_here(project, "01_folds.py")
    assert done.returncode == 2
    assert "no permission" in done.stderr


# --- steps --------------------------------------------------------------------------------------------------


def test_a_step_is_fresh_once_it_is_done_and_stale_for_another_recipe(tmp_path):
    step = step_of(tmp_path / "run", lr=0.1, tta=["identity"], train={"epochs": 3})
    assert not step.fresh()
    assert step.why() == []
    make(step)
    assert step.fresh()
    assert not step.begin()
    other = replace(step, recipe={"lr": 0.2, "tta": ["identity"], "train": {"epochs": 4, "ema": True}})
    assert not other.fresh()
    assert other.why() == ["lr 0.1 -> 0.2", "train.ema None -> True", "train.epochs 3 -> 4"]
    assert other.begin()


def test_the_order_of_a_recipe_and_its_tuples_make_no_difference(tmp_path):
    make(step_of(tmp_path, a=1, b=(1, 2)))
    assert step_of(tmp_path, b=[1, 2], a=1).fresh()


def test_the_stamp_is_written_last_so_outputs_without_one_do_not_count(tmp_path):
    step = step_of(tmp_path / "run")
    make(step)
    step.stamp.unlink()  # as after a kill between the outputs and the stamp
    assert not step.fresh()
    assert step.begin()


def test_a_kill_between_two_outputs_of_a_second_go_does_not_count_as_done(tmp_path):
    old, new = step_of(tmp_path, lr=0.1), step_of(tmp_path, lr=0.2)
    make(old, "old")
    assert new.begin()
    write_text(tmp_path / "a.txt", "new a.txt")  # killed here: the stamp is still the old recipe's
    assert not new.fresh()
    assert not old.fresh()


@pytest.mark.parametrize("text", ["result a.txu", "longer than it was before", ""])
def test_an_output_changed_by_hand_is_noticed(tmp_path, text):
    step = step_of(tmp_path)
    make(step)
    (tmp_path / "a.txt").write_text(text)
    later(tmp_path / "a.txt")
    assert not step.fresh()
    assert step.why() == ["an output is missing or was changed by hand"]


def test_a_missing_output_is_noticed(tmp_path):
    step = step_of(tmp_path)
    make(step)
    (tmp_path / "b.txt").unlink()
    assert not step.fresh()


def test_another_time_with_the_same_content_is_still_fresh(tmp_path):
    step = step_of(tmp_path)
    make(step)
    later(tmp_path / "a.txt")
    assert step.fresh()


@pytest.mark.parametrize("damage", ["", "{", "{}", "[]", "null", '{"fingerprint": 1}'])
def test_a_damaged_stamp_counts_as_none(tmp_path, damage):
    step = step_of(tmp_path)
    make(step)
    step.stamp.write_text(damage)
    assert not step.fresh()
    assert step.why() == []
    assert step.begin()
    assert digest(tmp_path / "a.txt") == sha256(tmp_path / "a.txt")


def test_a_digest_is_the_content_hash_with_and_without_a_stamp(tmp_path):
    step = step_of(tmp_path)
    make(step)
    import hashlib

    content = hashlib.sha256(b"result a.txt").hexdigest()
    assert digest(tmp_path / "a.txt") == content
    step.stamp.unlink()
    assert digest(tmp_path / "a.txt") == content


def test_a_digest_comes_from_the_stamp_only_while_size_and_time_agree(tmp_path):
    step = step_of(tmp_path)
    make(step)
    stamp = json.loads(step.stamp.read_text())
    stamp["outputs"]["a.txt"]["digest"] = "as stamped"
    step.stamp.write_text(json.dumps(stamp))
    assert digest(tmp_path / "a.txt") == "as stamped"
    later(tmp_path / "a.txt")
    assert digest(tmp_path / "a.txt") == sha256(tmp_path / "a.txt")


def test_a_dropped_step_runs_again(tmp_path):
    step = step_of(tmp_path)
    make(step)
    step.drop()
    assert not step.fresh()
    step.drop()  # nothing to forget, nothing to complain of
    assert step.begin()


def test_two_steps_in_one_folder_do_not_disturb_each_other(tmp_path):
    first = Step("first", tmp_path, ("a.txt",), {"lr": 1}, stamp_name="first")
    second = Step("second", tmp_path, ("b.txt",), {"lr": 2}, stamp_name="second")
    make(first)
    make(second)
    second.drop()
    assert (first.fresh(), second.fresh()) == (True, False)


def test_an_up_to_date_step_tells_when_the_code_has_changed_since(tmp_path):
    step = step_of(tmp_path)
    make(step)
    assert step.up_to_date_line() == "a step: up to date"
    write_json(step.stamp, {**step.read_stamp(), "source": "another"})
    assert step.up_to_date_line() == "a step: up to date (src/ has changed since; --force makes it again)"


# --- the one earlier version that is kept -------------------------------------------------------------------


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.txt"))}


OLD, NEW = {"a.txt": "old a.txt", "b.txt": "old b.txt"}, {"a.txt": "new a.txt", "b.txt": "new b.txt"}


def test_a_replaced_folder_is_set_aside_and_comes_back_with_its_settings(tmp_path):
    folder, previous = tmp_path / "fold0", tmp_path / "fold0.previous"
    old, new = step_of(folder, True, lr=0.1), step_of(folder, True, lr=0.2)
    make(old, "old")
    assert new.begin()
    assert not folder.exists()
    assert texts(previous) == OLD
    make(new, "new")
    assert not old.begin()  # nothing to do: it is back
    assert (texts(folder), texts(previous)) == (OLD, NEW)
    assert not new.begin()
    assert (texts(folder), texts(previous)) == (NEW, OLD)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold0", "fold0.previous"]


def test_only_one_earlier_version_is_kept(tmp_path):
    steps = [step_of(tmp_path / "fold0", True, lr=lr) for lr in (0.1, 0.2, 0.3)]
    for step, text in zip(steps, ("one", "two", "three"), strict=True):
        assert step.begin()
        make(step, text)
    assert texts(tmp_path / "fold0.previous")["a.txt"] == "two a.txt"
    assert steps[0].begin()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold0.previous"]


def test_a_mistaken_override_that_was_interrupted_does_not_cost_the_finished_work(tmp_path):
    folder = tmp_path / "fold0"
    old, mistake = step_of(folder, True, lr=0.1), step_of(folder, True, lr=100)
    make(old, "old")
    assert mistake.begin()
    write_text(folder / "a.txt", "half done")  # and killed
    assert not old.begin()
    assert texts(folder) == OLD


def test_a_mistaken_override_that_was_interrupted_at_once_does_not_either(tmp_path):
    folder = tmp_path / "fold0"
    old, mistake = step_of(folder, True, lr=0.1), step_of(folder, True, lr=100)
    make(old, "old")
    assert mistake.begin()
    assert not old.begin()
    assert texts(folder) == OLD


@pytest.mark.parametrize("die_at", range(1, 4))
def test_a_kill_at_any_moment_of_the_swap_loses_nothing(tmp_path, monkeypatch, die_at):
    folder = tmp_path / "fold0"
    old, new = step_of(folder, True, lr=0.1), step_of(folder, True, lr=0.2)
    make(old, "old")
    new.begin()
    make(new, "new")
    moves, move = [], os.replace

    def move_and_die(source, target):
        moves.append(target)
        if len(moves) == die_at:
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.os, "replace", move_and_die)
        with pytest.raises(KeyboardInterrupt):
            old.begin()
    assert not old.begin()
    assert texts(folder) == OLD
    assert not new.begin()
    assert texts(folder) == NEW


def test_force_makes_again_what_was_asked_for_and_spares_what_other_settings_made(tmp_path):
    folder = tmp_path / "fold0"
    old, new = step_of(folder, True, lr=0.1), step_of(folder, True, lr=0.2)
    make(old, "old")
    new.begin()
    make(new, "new")
    old.drop()
    assert old.begin()  # not brought back from beside: it was to be made again
    assert texts(tmp_path / "fold0.previous") == NEW
    make(old, "made again")
    assert not new.begin()
    assert texts(folder) == NEW


def test_a_folder_deleted_by_hand_is_simply_made_again(tmp_path):
    step = step_of(tmp_path / "fold0", True)
    make(step)
    shutil.rmtree(tmp_path / "fold0")
    assert step.begin()
    make(step)
    assert step.fresh()
