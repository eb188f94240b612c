"""Progress where there is no terminal: a plain line now and then, and the time that is left."""

from __future__ import annotations

import pytest

from src import progress
from src.progress import LOG_EVERY, Progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("total", "done", "seconds", "left"),
    [
        (100, 25, 10, "0:00:30"),
        (100, 50, 10, "0:00:10"),
        (100, 100, 10, "0:00:00"),
        (7200, 1, 1, "1:59:59"),
        (1000, 10, 3600, "99:00:00"),
        (60, 59, 118, "0:00:02"),
        (100, 0, 5, "0:08:15"),  # nothing done yet counts as one
        (10, 12, 60, "0:00:00"),  # more than was planned is not less than nothing
        (0, 0, 5, "0:00:00"),
    ],
)
def test_the_time_left_goes_by_the_pace_so_far(clock, total, done, seconds, left):
    with Progress("train", total) as bar:
        bar.step(done)
        clock.now += seconds
        assert bar.remaining() == left


def test_without_a_terminal_a_line_is_printed_every_ten_seconds_and_not_oftener(clock, capsys):
    with Progress("01 images", 100) as bar:
        for _ in range(100):
            clock.now += 1
            bar.step(1, "accuracy 0.9")
    lines = capsys.readouterr().out.splitlines()
    assert LOG_EVERY == 10
    assert len(lines) == 10
    assert lines[0] == "01 images: 10 %, 0:01:30 left  accuracy 0.9"
    assert lines[4] == "01 images: 50 %, 0:00:50 left  accuracy 0.9"
    assert lines[-1] == "01 images: 100 %, 0:00:00 left  accuracy 0.9"


def test_a_line_without_a_note_ends_without_blanks(clock, capsys):
    with Progress("folds", 4) as bar:
        clock.now += 30
        bar.step()
    assert capsys.readouterr().out == "folds: 25 %, 0:01:30 left\n"


def test_quick_work_says_nothing(clock, capsys):
    with Progress("folds", 50) as bar:
        for _ in range(50):
            bar.step()
    said = capsys.readouterr()
    assert said.out + said.err == ""


def test_a_line_of_ones_own_puts_off_the_next_plain_one(clock, capsys):
    with Progress("folds", 50) as bar:
        clock.now += 9
        bar.say("epoch 1")
        clock.now += 9
        bar.step()
        assert not bar.quiet_for_long()
        clock.now += 1
        assert bar.quiet_for_long()
    assert capsys.readouterr().out == "epoch 1\n"


def test_work_that_is_not_needed_leaves_the_total_and_the_time_left(clock):
    with Progress("folds", 100) as bar:
        clock.now += 10
        bar.step(10)
        assert bar.remaining() == "0:01:30"
        bar.skip(50)
        assert bar.remaining() == "0:00:40"
