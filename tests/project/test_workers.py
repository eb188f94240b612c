"""Batches from processes of their own: the same whatever shared memory holds, and no wait without an end."""

from __future__ import annotations

import time
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.utils.data import Dataset

import src.data.transfer
import src.data.workers
import src.entry
from src.config import UserError
from src.data.transfer import by_value, came_by_value, received, send
from src.data.workers import Watchdog, create_loader


class Batches(Dataset):
    """Batches like those of a training: images as they lie in memory, targets, weights, marks."""

    def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
        drawn = torch.Generator().manual_seed(number)
        images = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8, generator=drawn).permute(0, 3, 1, 2)
        return images, torch.rand(2, 7, generator=drawn), torch.ones(2), torch.ones(2, 1, dtype=torch.bool)


def assert_same(batch, other) -> None:
    for one, two in zip(batch, other, strict=True):
        assert torch.equal(one, two)
        assert (one.dtype, one.stride()) == (two.dtype, two.stride())


@pytest.fixture
def no_shared_memory(monkeypatch):
    monkeypatch.setattr(src.data.transfer, "shared_memory_free", lambda: 0)
    src.data.workers._say_by_value.cache_clear()


def test_a_small_shared_memory_changes_no_batch(no_shared_memory, capsys):
    loader = create_loader(Batches(), range(6), workers=2, pin_memory=False)
    for _ in range(2):
        for number, batch in enumerate(loader):
            assert_same(batch, Batches()[number])
            batch[0].zero_()  # it is the training's own
    assert capsys.readouterr().out.count("/dev/shm") == 1


def test_what_did_not_fit_after_all_is_not_lost(monkeypatch):
    """Another process may have filled it in the meantime; torch would wait for the batch for ever."""

    def full(tensor):
        raise RuntimeError("unable to write to file </torch_1>: No space left on device (28)")

    monkeypatch.setitem(ForkingPickler._extra_reducers, torch.Tensor, full)
    loader = create_loader(Batches(), range(6), workers=2, pin_memory=False)
    for number, batch in enumerate(loader):
        assert_same(batch, Batches()[number])


@pytest.mark.parametrize(("share", "fits"), [(1.01, True), (0.99, False)])
def test_all_that_is_under_way_has_to_fit(monkeypatch, share, fits):
    """Two batches a worker and two with the training, of images 2 x 5 x 4 x 3, of 14 + 2 floats, of 2 marks;
    twice, for others take from it too."""
    batch = 2 * 5 * 4 * 3 + (14 + 2) * 4 + 2
    monkeypatch.setattr(src.data.transfer, "shared_memory_free", lambda: share * 2 * (2 * 3 + 2) * batch)
    worker = type("Info", (), {"num_workers": 3})
    monkeypatch.setattr(src.data.transfer, "get_worker_info", lambda: worker)
    assert came_by_value(send(Batches()[0])) is not fits


def test_outside_of_a_worker_nothing_is_sent(no_shared_memory):
    assert not came_by_value(send(Batches()[0]))


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor(3), torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1), torch.ones(1, 5)],
    ids=["scalar", "permuted", "one row"],
)
def test_by_value_keeps_values_and_memory_layout(tensor):
    assert_same([tensor], received([by_value(tensor)]))


class Broken(Dataset):
    def __init__(self, error: Exception):
        self.error = error

    def __getitem__(self, number: int) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sentence_from_a_process_is_that_sentence(workers):
    loader = create_loader(
        Broken(UserError("train/a.png: it is cut off")), range(6), workers, pin_memory=False
    )
    with pytest.raises(UserError) as caught:
        list(loader)
    assert str(caught.value) == "train/a.png: it is cut off"


def test_an_error_of_ours_in_a_process_is_said_with_what_happened(tmp_path, monkeypatch, capsys):
    """Torch says first where it was caught, and the traceback."""
    monkeypatch.setattr(src.entry, "_PROJECT", tmp_path)
    with pytest.raises(SystemExit), src.entry.plain_errors():
        list(create_loader(Broken(ValueError("seven is not six")), range(6), workers=1, pin_memory=False))
    assert "seven is not six" in capsys.readouterr().err.splitlines()[0]


class Stuck(Dataset):
    def __getitem__(self, number: int) -> torch.Tensor:
        time.sleep(1000 if number == 3 else 0)
        return torch.tensor(number)


def test_processes_that_do_nothing_are_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(src.data.workers, "CHECK", 0.1)
    monkeypatch.setattr(src.data.workers, "PATIENCE", 0.5)
    with pytest.raises(UserError, match=r"runtime\.workers"):
        list(create_loader(Stuck(), range(6), workers=1, pin_memory=False))


class Looks:
    """In place of an event: so many looks, and then the end."""

    def __init__(self, count: int):
        self.count = count

    def wait(self, _: float) -> bool:
        self.count -= 1
        return self.count < 0


SILENT = [(1.0, 100)] * 400
READS = [(1.0, 100 + look) for look in range(400)]
COMPUTES = [(1.0 + look, 100) for look in range(400)]
WAKES_NOW_AND_THEN = [(1.0 + 0.01 * (look % 6 == 0), 100) for look in range(400)]
MOVES_IN_TIME = [(1.0, 100 + look // 100) for look in range(400)]


@pytest.mark.parametrize(
    ("done", "waiting", "barks"),
    [
        (SILENT, True, True),
        (SILENT, False, False),
        (READS, True, False),
        (COMPUTES, True, False),
        (WAKES_NOW_AND_THEN, True, True),
        (MOVES_IN_TIME, True, False),
    ],
    ids=["silent", "silent, but nobody waits", "reads", "computes", "wakes now and then", "moves in time"],
)
def test_only_silence_is_ended(monkeypatch, done, waiting, barks):
    """Ten minutes are 120 looks."""
    watch, left = Watchdog(()), iter(done)
    monkeypatch.setattr(watch, "_done", lambda: next(left))
    watch.ended, watch.waiting = Looks(300), waiting
    watch._watch()
    assert watch.barked is barks


def test_work_of_a_process_is_seen():
    def work() -> None:
        with open("/dev/zero", "rb", buffering=0) as file:
            file.read(10**6)
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        time.sleep(60)

    process = src.data.workers.multiprocessing.get_context("fork").Process(target=work)
    process.start()
    watch, deadline = Watchdog([process]), time.monotonic() + 30
    while not (watch._done()[0] >= 0.2 and watch._done()[1] >= 10**6) and time.monotonic() < deadline:
        time.sleep(0.02)
    seconds, read = watch._done()
    process.kill()
    process.join()
    assert seconds >= 0.2
    assert read >= 10**6
    assert watch._done() == (0.0, 0)
