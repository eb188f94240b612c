"""Two processes on one artefact: one waits for the other, and finds its work done."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from conftest import ROOT

import src.data.images
import src.locks
import src.training.launch
from src.artifacts import atomic, write_text
from src.config import UserError
from src.configfile import load_config
from src.data.prepare import prepare_dataset
from src.locks import alone, lock_file
from src.steps import images_step, run_of, train_step
from src.submission.log import LogRow, log_submission, read_log

FORK = multiprocessing.get_context("fork")


def start(work: Callable, *arguments) -> multiprocessing.Process:
    """A process at work."""
    process = FORK.Process(target=work, args=arguments)
    process.start()
    return process


def both(work: Callable, *each: tuple) -> list[int | None]:
    """Exit codes of processes that work at the same time."""
    running = [start(work, *arguments) for arguments in each]
    for process in running:
        process.join(60)
    return [process.exitcode for process in running]


@pytest.fixture
def held(tmp_path):
    """A folder, and a process that holds its lock until something is sent to it."""
    ours, theirs = FORK.Pipe()

    def hold() -> None:
        with alone(tmp_path / "fold0"):
            theirs.send("held")
            theirs.recv()
            (tmp_path / "done").touch()

    process = start(hold)
    assert ours.recv() == "held"
    yield tmp_path / "fold0", process, ours
    process.kill()
    process.join()


def test_who_comes_second_waits_and_says_for_whom(held, capsys, monkeypatch):
    place, process, pipe = held
    monkeypatch.setattr(src.locks.time, "sleep", lambda _: pipe.send("go on"))
    with alone(place) as waited:
        assert (place.parent / "done").exists()
    assert waited
    said = capsys.readouterr().out
    assert str(place) in said
    assert f"process {process.pid} " in said


def test_who_may_not_wait_is_told_who_is_at_work(held):
    place, process, _ = held
    with pytest.raises(UserError, match=f"process {process.pid} "), alone(place, wait=False):
        pass


def test_the_lock_of_a_killed_process_ends_with_it(held):
    place, process, _ = held
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with alone(place, wait=False) as waited:
        assert not waited


def test_nothing_is_left_behind(tmp_path):
    with alone(tmp_path / "a", tmp_path / "b"):
        assert lock_file(tmp_path / "a").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_worker_has_its_parents_locks_and_keeps_none(tmp_path):
    ours, theirs = FORK.Pipe()

    def work() -> None:
        with alone(tmp_path / "a", wait=False):
            theirs.send("at work")
        theirs.recv()

    with alone(tmp_path / "a"):
        process = start(work)
        assert ours.recv() == "at work"
    with alone(tmp_path / "a", wait=False):  # while it lives
        pass
    ours.send("end")
    process.join()


def test_locks_taken_in_another_order_do_not_wait_for_each_other(tmp_path):
    def work(*names: str) -> None:
        for _ in range(30):
            with alone(*(tmp_path / name for name in names)):
                pass

    assert both(work, ("a", "b", "c"), ("c", "b", "a")) == [0, 0]


def test_only_one_is_within_at_any_time(tmp_path, monkeypatch):
    """Also while the one before removes the lock's file."""
    monkeypatch.setattr(src.locks, "PAUSE", 0.001)

    def work() -> None:
        for _ in range(100):
            with alone(tmp_path / "a"):
                os.mkdir(tmp_path / "within")  # raises where there is one
                os.rmdir(tmp_path / "within")

    assert both(work, (), (), ()) == [0, 0, 0]


def test_a_file_system_without_locks_stops_nobody(tmp_path, capsys, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(src.locks, "_flock", refuse)
    for _ in range(2):
        with alone(tmp_path / "a") as waited:
            assert not waited
    assert capsys.readouterr().out.count(str(tmp_path)) == 1


def test_a_fold_is_trained_once(prepared, monkeypatch, capfd):
    config = load_config(prepared / "configs/baseline.yaml", ["fold=0", "runtime.device=cpu"])
    run, trained = run_of(config), prepared / "trained"

    def train(run, fold, step, device, report) -> None:
        with open(trained, "a") as file:
            file.write("once ")
        time.sleep(0.2)
        for name in step.outputs:
            write_text(step.folder / name, "x")
        step.done()

    monkeypatch.setattr(src.training.launch, "train_fold", train)
    monkeypatch.setattr(src.training.launch, "total_steps", lambda *_: 1)
    monkeypatch.setattr(src.training.launch, "draw_run", lambda _: None)
    assert both(src.training.launch.train_run, (run, (0,)), (run, (0,))) == [0, 0]
    assert trained.read_text() == "once "
    said = capfd.readouterr().out
    assert "fold 0: up to date" in said
    assert "changed by hand" not in said
    assert train_step(run, 0).fresh()


def test_images_are_packed_once(project, monkeypatch):
    config, build = load_config(project / "configs/baseline.yaml", []), src.data.images.build_cache

    def counted(*arguments) -> None:
        with open(project / "packed", "a") as file:
            file.write("once ")
        build(*arguments)

    monkeypatch.setattr(src.data.images, "build_cache", counted)
    assert both(prepare_dataset, (config,), (config,)) == [0, 0]
    assert (project / "packed").read_text() == "once "
    assert images_step(config).fresh()


def test_no_row_of_the_log_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(src.locks, "PAUSE", 0.001)

    def work(first: int) -> None:
        for ref in range(first, first + 10):
            log_submission(tmp_path, LogRow("now", "stack", "csv", 0.9, 0.9, None, ref, ""))

    assert both(work, (0,), (100,)) == [0, 0]
    assert {int(row["ref"]) for row in read_log(tmp_path)} == {*range(10), *range(100, 110)}


def test_two_processes_may_write_one_file(tmp_path):
    """Two folds of a run, trained apart, both write the run's config and curves."""

    def work(text: str) -> None:
        for _ in range(100):
            write_text(tmp_path / "config.yaml", text)

    assert both(work, ("a" * 9999,), ("b" * 9999,)) == [0, 0]
    assert (tmp_path / "config.yaml").read_text() in ("a" * 9999, "b" * 9999)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_half_written_goes_in_time(tmp_path):
    old, new, other = (tmp_path / f".{name}.tmp" for name in ("a[1].pt.7", "a[1].pt.8", "b.pt.7"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    with atomic(tmp_path / "a[1].pt") as temporary:
        temporary.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"a[1].pt", new.name, other.name}


def test_make_keeps_the_order_of_the_stages(tmp_path):
    python: Path = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "begin $1" >> {tmp_path}/log\nsleep 0.1\necho "end $1" >> {tmp_path}/log\n'
    )
    python.chmod(0o755)
    command = ["make", "-C", ROOT, "folds", "train", "oof", "stack", f"PYTHON={python}"]
    processes.run(command, env=processes.environment(MAKEFLAGS="-j8"), check=True)
    scripts = ["01_folds.py", "02_train.py", "03_oof_predict.py", "05_stack.py"]
    expected = [f"{word} {script}" for script in scripts for word in ("begin", "end")]
    assert (tmp_path / "log").read_text().splitlines() == expected
